"""ECG-FM: An Open Electrocardiogram Foundation Model.
arXiv 2408.05178; the released model of the size of BERT-Base.

Input: twelve leads at 500 Hz, each lead to mean 0 and deviation 1 over the whole recording, a constant lead to 0. The model was
trained on 5 s: 10 s are read as two halves.

Embedding: the mean over the tokens of the last layer, 768 numbers; the mean over the two halves.

Names: those of the repository fairseq-signals. The heads of the pre-training are ignored.
"""

from __future__ import annotations

from torch import Tensor

from leadwise.batch import Batch, Signal
from leadwise.encoders.contract import PublishedEncoder, WeightSource
from leadwise.encoders.preprocessing import mean_of_windows, windows
from leadwise.encoders.wav2vec import Wav2Vec
from leadwise.nn.normalize import normalize

STARTS = (0, 2500)  # of the halves, 2,500 samples each
TINY = {"width": 32, "depth": 2, "heads": 4, "hidden": 64}


class Encoder(PublishedEncoder):
    source = WeightSource(
        licence="MIT",
        weights="https://huggingface.co/wanglab/ecg-fm",
        code="https://github.com/Jwoo5/fairseq-signals",
        files={
            "mimic_iv_ecg_physionet_pretrained.pt": (
                "4d0142bcb485eb9f0c7845e0c19ff3463f6ae9d0e458eab69136efe90ceb9b7e",
            )
        },
        trained_on=("mimic_iv_ecg", "ptbxl", "cpsc2018", "cpsc_extra", "georgia", "csn"),
    )
    signal = Signal(rate_hz=500, duration_s=10.0, normalize="lead_zscore")
    entries = ("model",)
    renamed = (("", "model."),)
    ignored = ("mask_emb", "quantizer.*", "project_q.*", "final_proj.*")

    def __init__(self, width: int = 768, depth: int = 12, heads: int = 12, hidden: int = 3072) -> None:
        super().__init__()
        self.width = width
        self.model = Wav2Vec(width=width, depth=depth, heads=heads, hidden=hidden)

    def encode(self, batch: Batch) -> Tensor:
        x = windows(normalize(batch.ecg, batch.observed, "lead_zscore"), 2500, STARTS)
        return mean_of_windows(self.model(x).mean(1), len(STARTS))

"""HuBERT-ECG as a Self-Supervised Foundation Model for Broad and Scalable Cardiac Application.
medRxiv 2024.11.14.24317328; small, base or large, by the width of the weights.

Input: twelve leads, 10 s at 500 Hz. A band-pass from 0.05 to 47 Hz by a filter of 151 taps, run forwards and backwards; each lead
scaled to [-1, 1]; the leads of 5 s one after the other as one signal of 30,000 samples, and that brought to 100 Hz. The model was
trained on 5 s: 10 s are read as two halves.

Embedding: the mean over the tokens of the last layer, 512, 768 or 960 numbers; the mean over the two halves.

Names: those of HubertModel in Hugging Face's transformers, which the repository uses. The heads of the pre-training are ignored.
The repository names its filter only as FIR of order 0.3 s; taps and direction are those of biosppy, which it first used.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import signal as filters
from torch import Tensor

from leadwise.batch import Batch, Signal
from leadwise.encoders.contract import PublishedEncoder, WeightSource
from leadwise.encoders.preprocessing import mean_of_windows, windows, with_numpy
from leadwise.encoders.wav2vec import Wav2Vec

CONVOLUTIONS = ((512, 10, 4), (512, 3, 2), (512, 3, 2), (512, 2, 2), (512, 2, 2))  # channels, kernel size, stride
STARTS = (0, 2500)  # of the halves, 2,500 samples each
SIZES = {  # by width
    512: {"width": 512, "depth": 8, "heads": 8, "hidden": 2048},
    768: {"width": 768, "depth": 12, "heads": 12, "hidden": 3072},
    960: {"width": 960, "depth": 16, "heads": 12, "hidden": 3840},
}
TINY = {"width": 32, "depth": 2, "heads": 4, "hidden": 64, "channels": 16}


class Encoder(PublishedEncoder):
    source = WeightSource(
        licence="CC BY-NC 4.0",
        weights="https://huggingface.co/Edoardo-BS/hubert-ecg-base",
        code="https://github.com/Edoar-do/HuBERT-ECG",
        files={
            "model.safetensors": (
                "05bc1b1317f8e3063811a03fb840f5bf8a85968191e209c0cfbaa0c52c8aa1ae",  # base
                "c78fa955268212f8ed20bc69fb1b882d76a4351df2466061335950949394a4d2",  # small
                "9a0eb8484f73793aa678936984243da92ae80d7b81e2fe77d1ea6dee2bdf5ec2",  # large
            )
        },
        trained_on=("code", "cpsc2018", "cpsc_extra", "ptb", "ptbxl", "georgia", "csn", "hefei", "sph", "mimic_iv_ecg"),
    )
    signal = Signal(rate_hz=500, duration_s=10.0)
    entries = ("model_state_dict",)
    prefixes = ("hubert_ecg.",)
    ignored = ("masked_spec_embed", "final_proj.*", "label_embedding.*")
    renamed = (
        ("feature_extractor.conv_layers.#.conv.", "model.feature_extractor.conv_layers.#.0."),
        ("feature_extractor.conv_layers.#.layer_norm.", "model.feature_extractor.conv_layers.#.2."),
        ("feature_projection.layer_norm.", "model.layer_norm."),
        ("feature_projection.projection.", "model.post_extract_proj."),
        ("encoder.pos_conv_embed.conv.", "model.conv_pos.pos_conv.0."),
        ("encoder.layers.#.attention.", "model.encoder.layers.#.self_attn."),
        ("encoder.layers.#.layer_norm.", "model.encoder.layers.#.self_attn_layer_norm."),
        ("encoder.layers.#.feed_forward.intermediate_dense.", "model.encoder.layers.#.fc1."),
        ("encoder.layers.#.feed_forward.output_dense.", "model.encoder.layers.#.fc2."),
        ("encoder.", "model.encoder."),
    )

    def __init__(
        self, width: int = 768, depth: int = 12, heads: int = 12, hidden: int = 3072, channels: int = 512
    ) -> None:
        super().__init__()
        self.width = width
        convolutions = [(channels, kernel, stride) for _, kernel, stride in CONVOLUTIONS]
        self.model = Wav2Vec(1, convolutions, width, depth, heads, hidden)

    @classmethod
    def sizes_of(cls, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the sizes of the published model with the width of these weights."""
        norm = weights.get("model.encoder.layer_norm.weight")
        return {} if norm is None else SIZES.get(len(norm), {})

    def encode(self, batch: Batch) -> Tensor:
        scaled = with_numpy(batch.ecg, _scale).masked_fill(~batch.observed, 0.0)
        halves = with_numpy(
            windows(scaled, 2500, STARTS), lambda x: filters.decimate(x.reshape(len(x), -1), 5, axis=-1)
        )
        return mean_of_windows(self.model(halves[:, None]).mean(1), len(STARTS))


@cache
def _taps() -> NDArray[np.float64]:
    taps: NDArray[np.float64] = filters.firwin(151, (0.05, 47.0), pass_zero=False, fs=500)
    return taps


def _scale(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Band-pass x (B, L, T), and scale each lead to [-1, 1]."""
    x = filters.filtfilt(_taps(), [1.0], x, axis=-1)
    low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    scaled: NDArray[np.float64] = 2 * (x - low) / (high - low + 1e-8) - 1
    return scaled

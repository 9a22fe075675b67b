"""MERL: Zero-Shot ECG Classification with Multimodal Learning and Test-time Clinical Knowledge Enhancement.
arXiv 2403.06659 (ICML 2024); the ResNet18 encoder.

Input: twelve leads in the order of MIMIC-IV-ECG (aVF before aVL), 10 s at 500 Hz, the whole record scaled to [0, 1].

Embedding: the mean over time of the last stage, 512 numbers, which the repository's linear probe reads.

Names: those of the repository's ResNet. `res18_best_encoder.pth` has the encoder alone, `res18_best_ckpt.pth` the whole model
(its heads and its text encoder are ignored); the name of the second file is assumed.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.batch import Batch, Signal
from leadwise.encoders.contract import PublishedEncoder, WeightSource
from leadwise.encoders.preprocessing import MIMIC_LEADS
from leadwise.nn.normalize import normalize

TINY = {"base": 4}


class Encoder(PublishedEncoder):
    source = WeightSource(
        licence="MIT",
        weights="https://drive.google.com/drive/folders/13wb4DppUciMn-Y_qC2JRWTbZdz3xX0w2",
        code="https://github.com/cheliu-computation/MERL-ICML2024",
        files={
            "res18_best_encoder.pth": ("38ba669c2cc319670c4172d8c292f123e86b8e7106b1a68bb7e10dd89f09daf5",),
            "res18_best_ckpt.pth": (),
        },
        trained_on=("mimic_iv_ecg",),
    )
    signal = Signal(leads=MIMIC_LEADS, rate_hz=500, duration_s=10.0, normalize="merl_minmax")
    entries = ("model_state_dict",)
    prefixes = ("ecg_encoder.",)
    ignored = ("linear.*", "downconv.*", "att_pool_head.*", "linear[12].*", "lm_model.*", "proj_t.*")

    def __init__(self, base: int = 64) -> None:
        super().__init__()
        self.width = 8 * base
        self.conv1 = nn.Conv1d(len(self.signal.leads), base, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm1d(base)
        widths = [base * factor for factor in (1, 1, 2, 4, 8)]
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(_ResNetBlock(before, width, stride), _ResNetBlock(width, width, 1))
            for before, width, stride in zip(widths, widths[1:], (1, 2, 2, 2))
        )

    def encode(self, batch: Batch) -> Tensor:
        x = normalize(batch.ecg, batch.observed, "merl_minmax")
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return x.mean(-1)


class _ResNetBlock(nn.Module):
    """Residual block: two convolutions of three samples with batch norm, and a shortcut."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm1d(width)
        self.conv2 = nn.Conv1d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm1d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(nn.Conv1d(width_in, width, 1, stride, bias=False), nn.BatchNorm1d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))

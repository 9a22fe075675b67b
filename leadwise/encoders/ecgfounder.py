"""ECGFounder: An Electrocardiogram Foundation Model Built on over 10 Million Recordings.
arXiv 2410.04133 (NEJM AI 2025); Net1D, Hong et al. 2020.

Input: twelve leads, 10 s at 500 Hz. As the repository's data sets for fine-tuning do: a notch at 50 Hz, a Butterworth band-pass
of order 4 from 0.67 to 40 Hz, minus the running median of 0.4 s, then the whole record to mean 0 and deviation 1. The
repository's evaluation on PTB-XL has the last step only.

Embedding: the mean over time of the last stage, 1,024 numbers, before the map to the 150 classes.

Names: those of Net1D in the repository. The published network has batch norms that its forward pass does not use (use_bn is off):
their weights are ignored.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import signal as filters
from torch import Tensor, nn

from leadwise.batch import Batch, Signal
from leadwise.encoders.contract import PublishedEncoder, WeightSource
from leadwise.encoders.preprocessing import butterworth, with_numpy
from leadwise.nn.normalize import normalize

WIDTHS = (64, 160, 160, 400, 400, 1024, 1024)  # channels of each stage
BLOCKS = (2, 2, 2, 3, 3, 4, 4)  # blocks of each stage
TINY = {"widths": (16, 32), "blocks": (2, 1), "base": 16}


class Encoder(PublishedEncoder):
    source = WeightSource(
        licence="MIT",
        weights="https://huggingface.co/PKUDigitalHealth/ECGFounder",
        code="https://github.com/PKUDigitalHealth/ECGFounder",
        files={"12_lead_ECGFounder.pth": ("ee199f3781f4ae1f732973267f003da0a759ea12bddb0dd28a77faa60aca7997",)},
        trained_on=("heedb",),
    )
    signal = Signal(rate_hz=500, duration_s=10.0, normalize="record_zscore")
    entries = ("state_dict",)
    ignored = ("dense.*", "first_bn.*", "*.bn[123].*")

    def __init__(
        self, widths: tuple[int, ...] = WIDTHS, blocks: tuple[int, ...] = BLOCKS, base: int = 64, group: int = 16
    ) -> None:
        super().__init__()
        self.width = widths[-1]
        self.first_conv = _SameConv(len(self.signal.leads), base, 16, stride=2)
        self.stage_list = nn.ModuleList(
            _Net1DStage(before, width, n, width // group, first=number == 0)
            for number, (before, width, n) in enumerate(zip((base, *widths), widths, blocks))
        )

    def encode(self, batch: Batch) -> Tensor:
        filtered = with_numpy(batch.ecg, self._filter)
        x = F.silu(self.first_conv(normalize(filtered, batch.observed, "record_zscore")))
        for stage in self.stage_list:
            x = stage(x)
        return x.mean(-1)

    def _filter(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Remove 50 Hz, what is outside 0.67 to 40 Hz, and the running median. x: (B, L, T)."""
        rate_hz = self.signal.rate_hz
        x = filters.filtfilt(*filters.iirnotch(50, 30, rate_hz), x, axis=-1)
        x = butterworth(x, 4, (0.67, 40.0), "bandpass", rate_hz)
        n = int(0.4 * rate_hz) + 1
        baseline = np.stack(
            [filters.medfilt(lead, n) for lead in x.reshape(-1, x.shape[-1])]
        )  # one at a time: 30 times faster
        return x - baseline.reshape(x.shape)


class _SameConv(nn.Module):
    """Convolution whose output has 1 / stride of the input's samples, rounded up; an odd padding has one zero more at the end."""

    def __init__(self, width_in: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width_in, width, kernel, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride, n = self.conv.kernel_size[0], self.conv.stride[0], x.shape[-1]
        padding = max(0, (-(-n // stride) - 1) * stride + kernel - n)
        out: Tensor = self.conv(F.pad(x, (padding // 2, padding - padding // 2)))
        return out


class _Net1DStage(nn.Module):
    """Blocks of one width; the first halves the samples."""

    def __init__(self, width_in: int, width: int, n_blocks: int, groups: int, first: bool) -> None:
        super().__init__()
        self.block_list = nn.ModuleList(
            _Net1DBlock(width if number else width_in, width, 1 if number else 2, groups, first and number == 0)
            for number in range(n_blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block_list:
            x = block(x)
        return x


class _Net1DBlock(nn.Module):
    """Three convolutions, each after a SiLU, and a gate per channel; the shortcut is pooled and its new channels are zeros."""

    def __init__(self, width_in: int, width: int, stride: int, groups: int, first: bool) -> None:
        super().__init__()
        self.stride, self.first = stride, first
        self.conv1 = _SameConv(width_in, width, 1)
        self.conv2 = _SameConv(width, width, 16, stride, groups)
        self.conv3 = _SameConv(width, width, 1)
        self.se_fc1, self.se_fc2 = nn.Linear(width, width // 2), nn.Linear(width // 2, width)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x if self.first else F.silu(x))
        out = self.conv3(F.silu(self.conv2(F.silu(out))))
        out = out * torch.sigmoid(self.se_fc2(F.silu(self.se_fc1(out.mean(-1)))))[..., None]
        if self.stride > 1:
            x = F.max_pool1d(F.pad(x, ((self.stride - 1) // 2, self.stride // 2)), self.stride)
        more = out.shape[1] - x.shape[1]
        shortcut = F.pad(x, (0, 0, more // 2, more - more // 2))
        summed: Tensor = out + shortcut
        return summed

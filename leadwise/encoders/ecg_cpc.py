"""ECG-CPC: the S4 encoder with contrastive predictive coding of the benchmark of ECG foundation models.
arXiv 2509.25095 (ICLR 2026); S4, Gu et al. 2021, arXiv 2111.00396.

Input: twelve leads at 240 Hz, in mV, with no filter and no normalisation. The model reads 2.5 s: 10 s are read as four windows.
Missing leads are 0.

Embedding: the mean over the tokens of the last layer, 512 numbers; the mean over the four windows.

    A      diag(w) - P Q^T, discretised by the bilinear map with the step exp(log_dt); w, P, Q, B, C: one of each conjugate pair
    K(z)   2 / (1 + omega) (c_B - c_P q_B / (1 + q_P)), at the roots of unity omega; c_B, c_P, q_B, q_P: sums of C B, C P, Q B and
           Q P over z - w (S4, appendix C.3). C is stored for a kernel of 1,200 tokens, the length of the training
    layer  norm(x + GLU(W GELU(K * x + D x)))

Names: those of the repository's S4 and of its training, 76 tensors without the head, which is ignored.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.batch import Batch, Signal
from leadwise.encoders.contract import PublishedEncoder, WeightSource
from leadwise.encoders.preprocessing import mean_of_windows, windows

N_SAMPLES = 600  # of a window
STARTS = (0, 600, 1200, 1800)  # of the windows
KERNEL = 1200  # tokens of the stored kernel
TINY = {"width": 16, "depth": 2, "state": 4}


class Encoder(PublishedEncoder):
    source = WeightSource(
        licence="CC BY 4.0",
        weights="https://figshare.com/articles/dataset/ECG-CPC_Checkpoint/30192604",
        code="https://github.com/AI4HealthUOL/ecg-fm-benchmarking",
        files={"last_11597276.ckpt": ("bc253edc6ac279ce2caec86d3c3a21b740e43735ca03be1dc7c50e630b0ad4cf",)},
        trained_on=("heedb",),
    )
    signal = Signal(rate_hz=240, duration_s=10.0)
    entries = ("state_dict",)
    prefixes = ("ts_encoder.",)
    ignored = ("head_ssl.*",)
    renamed = (
        ("encoder.layers.", "convolutions."),
        ("predictor.predictor.s4_layers.#.", "layers.#.s4."),
        ("predictor.predictor.norms.#.", "layers.#.norm."),
    )

    def __init__(self, width: int = 512, depth: int = 4, state: int = 8) -> None:
        super().__init__()
        self.width = width
        self.convolutions = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv1d(
                        width if number else len(self.signal.leads), width, kernel, stride, kernel // 2, bias=False
                    ),
                    nn.BatchNorm1d(width),
                    nn.ReLU(),
                )
                for number, (kernel, stride) in enumerate(((3, 2), (1, 1), (1, 1), (1, 1)))
            )
        )
        self.layers = nn.ModuleList(_S4Layer(width, state) for _ in range(depth))

    def encode(self, batch: Batch) -> Tensor:
        x = self.convolutions(windows(batch.ecg.masked_fill(~batch.observed, 0.0), N_SAMPLES, STARTS))
        for layer in self.layers:
            x = layer(x)
        return mean_of_windows(x.mean(2), len(STARTS))


class _S4Layer(nn.Module):
    def __init__(self, width: int, state: int) -> None:
        super().__init__()
        self.s4, self.norm = _S4(width, state), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, D, N) -> (B, D, N)."""
        out: Tensor = self.norm((x + self.s4(x)).transpose(1, 2)).transpose(1, 2)
        return out


class _S4(nn.Module):
    def __init__(self, width: int, state: int) -> None:
        super().__init__()
        self.D = nn.Parameter(torch.randn(1, width))
        self.kernel = nn.ModuleDict({"kernel": StateSpaceKernel(width, state // 2)})
        self.output_linear = nn.Sequential(_ChannelMap(width, 2 * width), nn.GLU(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, D, N) -> (B, D, N); no token reads a later one."""
        n = x.shape[2]
        kernel = self.kernel["kernel"](n)
        convolved = torch.fft.irfft(torch.fft.rfft(x, 2 * n) * torch.fft.rfft(kernel, 2 * n), 2 * n)[..., :n]
        out: Tensor = self.output_linear(F.gelu(convolved + self.D[0, :, None] * x))
        return out


class _ChannelMap(nn.Module):
    """Linear map of the channels of (B, D, N)."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(width, width_in)), nn.Parameter(torch.randn(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight @ x + self.bias


def _legendre(pairs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return w, P and B (pairs,) of HiPPO-LegS as diagonal plus low rank (S4, appendix C.1): one of each conjugate pair."""
    order = np.arange(2 * pairs)
    b = np.sqrt(2.0 * order + 1)
    p = np.sqrt(order + 0.5)
    a = -np.tril(np.outer(b, b), -1) - np.diag(order + 1.0)
    # a + p p^T is -1/2 plus an antisymmetric matrix, whose eigenvalues are imaginary
    skew = a + np.outer(p, p) + 0.5 * np.eye(2 * pairs)
    frequency, vectors = np.linalg.eigh(-1j * skew)
    half = vectors[:, frequency > 0].conj().T
    w = -0.5 + 1j * frequency[frequency > 0]
    first, second, third = (torch.as_tensor(values.astype(np.complex64)) for values in (w, half @ p, half @ b))
    return first, second, third


class StateSpaceKernel(nn.Module):
    """The convolution kernel of a diagonal-plus-low-rank state space; complex weights are stored as real and imaginary part."""

    omega: Tensor
    z: Tensor

    def __init__(self, width: int, pairs: int, n_tokens: int = KERNEL) -> None:
        super().__init__()
        w, p, b = _legendre(pairs)
        self.w = nn.Parameter(torch.view_as_real(w).repeat(width, 1, 1))
        self.B, self.P, self.Q = (
            nn.Parameter(torch.view_as_real(values).repeat(1, width, 1, 1))
            for values in (b, p, p.conj().resolve_conj())
        )
        self.C = nn.Parameter(0.5**0.5 * torch.randn(1, width, pairs, 2))
        self.log_dt = nn.Parameter(torch.empty(width).uniform_(math.log(0.001), math.log(0.1)))
        # the roots of unity of half a turn, and their bilinear map
        angle = -2 * math.pi / n_tokens * torch.arange(n_tokens // 2 + 1)
        omega = torch.complex(angle.cos(), angle.sin())
        self.register_buffer("omega", torch.view_as_real(omega))
        self.register_buffer("z", torch.view_as_real(2 * (1 - omega) / (1 + omega)))

    def forward(self, n: int) -> Tensor:
        """Return the first n values (D, n) of the kernel of every channel."""
        c, b, p, q, w, omega, z = (
            torch.view_as_complex(weight.contiguous())
            for weight in (self.C, self.B, self.P, self.Q, self.w, self.omega, self.z)
        )
        dt = self.log_dt.exp()
        v = torch.cat([b, p])[:, None] * torch.cat([c, q])  # (2, 2, D, pairs)
        w = w * dt[:, None]
        v, w = v[..., None], w[..., None]
        sums = (v / (z - w) + v.conj() / (z - w.conj())).sum(3) * dt[:, None]  # (2, 2, D, roots)
        (c_b, q_b), (c_p, q_p) = sums
        response = (c_b - q_b * c_p / (1 + q_p)) * 2 / (1 + omega)
        kernel: Tensor = torch.fft.irfft(response)
        return kernel[:, :n]

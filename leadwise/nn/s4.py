"""Diagonal state-space layers (S4D) over time, and an ECG encoder made of them.

S4D: Gu et al. 2022, arXiv 2206.11893; S4: arXiv 2111.00396. Each channel has its own linear system with N states,

    x'(t) = A x(t) + u(t),    y(t) = Re(C x(t)) + D u(t),    A diagonal,

discretised by zero-order hold with a step dt that is learned for each channel. Its output is a convolution with a kernel as long
as the sequence, which costs O(T log T) by FFT and needs no loop over time.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.nn.token_scale import start_at_unit_scale

DT = (
    0.001,
    0.1,
)  # range of dt at the start, log-uniform, in positions: memories of 20 to 2,000 positions (S4D, section 4)


class StateSpace(nn.Module):
    """(B, H, T) -> (B, H, T): one system of `n_states` states for each of H channels.

    States come in conjugate pairs, of which one half is stored. A starts as S4D-Lin: -1/2 + i pi n. Causal: y(t) depends on u up
    to t. Otherwise a second readout C' adds the same system run backwards in time, without u(t), which the first one contains.
    """

    def __init__(self, width: int, n_states: int, causal: bool) -> None:
        """
        Raises:
            ValueError: the number of states is not even.
        """
        super().__init__()
        if n_states < 2 or n_states % 2:
            raise ValueError(
                f"n_states = {n_states} must be an even number of 2 or more: states come in conjugate pairs"
            )
        n_pairs, n_directions = n_states // 2, 1 if causal else 2
        least, most = (math.log(dt) for dt in DT)
        # no name ends in "weight": weight decay and Muon apply to maps between channels only
        self.log_dt = nn.Parameter(least + (most - least) * torch.rand(width))
        self.log_decay = nn.Parameter(torch.full((width, n_pairs), math.log(0.5)))  # of -Re A, which stays positive
        self.frequency = nn.Parameter(math.pi * torch.arange(n_pairs).expand(width, -1).float())  # Im A
        self.readout = nn.Parameter(
            math.sqrt(0.5) * torch.randn(n_directions, width, n_pairs, 2)
        )  # C, real and imaginary
        self.skip = nn.Parameter(torch.randn(width))  # D

    @property
    def dynamics(self) -> list[nn.Parameter]:
        """The parameters of A and dt: a small step of them changes the memory of a state a lot (optim.state_lr_scale)."""
        return [self.log_dt, self.log_decay, self.frequency]

    def forward(self, u: Tensor) -> Tensor:
        """u: (B, H, T) -> (B, H, T), in the precision of the parameters, also under autocast."""
        if torch.compiler.is_exporting():  # ONNX has no FFT of these
            return self._by_sum(u)
        with torch.autocast(u.device.type, enabled=False):  # there is no FFT in bfloat16
            return self._by_fft(u.to(self.log_dt.dtype))

    def kernel(self, length: int) -> Tensor:
        """Response to an impulse, (1 or 2, H, length): after 0, 1, ... positions; of the second direction after 1, 2, ..."""
        # dt A = -decay + i turn, and one step's input weight (exp(dt A) - 1) / A, in real numbers for the export
        dt = self.log_dt.exp()[:, None]  # (H, 1)
        rate, frequency = self.log_decay.exp(), self.frequency  # (H, N / 2)
        decay, turn = dt * rate, dt * frequency
        real = torch.expm1(-decay) * turn.cos() - 2 * (turn / 2).sin().square()  # exact for a small dt
        imaginary = (-decay).exp() * turn.sin()
        size = rate.square() + frequency.square()
        weight_real, weight_imaginary = (
            (frequency * imaginary - rate * real) / size, -(frequency * real + rate * imaginary) / size,
        )  # fmt: skip

        # 2 Re(C weight exp(dt A t)) summed over the pairs, as one product of matrices per channel
        c_real, c_imaginary = self.readout.unbind(-1)  # (1 or 2, H, N / 2)
        gains = torch.cat([
            c_real * weight_real - c_imaginary * weight_imaginary, -(c_real * weight_imaginary + c_imaginary * weight_real),
        ], dim=-1)  # fmt: skip
        time = torch.arange(length, device=dt.device, dtype=dt.dtype)
        fade, angle = (-decay[..., None] * time).exp(), turn[..., None] * time  # (H, N / 2, T)
        waves = torch.cat([fade * angle.cos(), fade * angle.sin()], dim=1)  # (H, N, T)
        return 2 * (gains.transpose(0, 1) @ waves).transpose(0, 1)

    def _by_fft(self, u: Tensor) -> Tensor:
        """`forward` as a product of spectra, padded so that the end of the kernel does not wrap onto the beginning."""
        length = u.shape[-1]
        n = -(-2 * length // 64) * 64  # has small factors, for a fast FFT
        kernel = self.kernel(length)
        response = F.pad(kernel[0], (0, n - length))
        if len(kernel) == 2:  # lags -1, -2, ... are at the end
            response = response + F.pad(kernel[1].flip(-1), (n - length, 0))
        spectrum = torch.fft.rfft(u, n) * torch.fft.rfft(response, n)
        out: Tensor = torch.fft.irfft(spectrum, n)[..., :length] + self.skip[:, None] * u
        return out

    def _by_sum(self, u: Tensor) -> Tensor:
        """`forward` as a plain convolution of each channel: O(T^2), of operations that every ONNX runtime has."""
        length = u.shape[-1]
        kernel = self.kernel(length)
        taps = kernel[0].flip(-1)  # convolutions of networks do not turn the kernel around
        if len(kernel) == 2:
            taps = torch.cat([taps, kernel[1]], dim=-1)
        padded = F.pad(u, (length - 1, length if len(kernel) == 2 else 0))
        return F.conv1d(padded, taps[:, None], groups=len(taps)) + self.skip[:, None] * u


class S4Block(nn.Module):
    """Residual block, pre-norm: state-space layer along time, GELU, and a gated linear map across channels."""

    def __init__(self, width: int, n_states: int, causal: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.states = StateSpace(width, n_states, causal)
        self.mix = nn.Linear(width, 2 * width)  # values and gates

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, D) -> (B, T, D)."""
        along_time = self.states(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return x + F.glu(self.mix(F.gelu(along_time)), dim=-1)


class S4Encoder(nn.Module):
    """(B, L, T) -> (B, N, D): two convolutions within pieces of `stride` samples, then S4 blocks over the pieces, LayerNorm."""

    def __init__(
        self, n_leads: int, width: int, depth: int, n_states: int, stride: int, input_rms: float, causal: bool = False
    ) -> None:
        """
        Args:
            input_rms: root mean square of the ECGs; the pieces start at about 1.
            causal: a position depends on no later sample, so that later ones can be predicted from it.
        """
        super().__init__()
        self.width, self.stride = width, stride
        self.pieces = nn.Conv1d(n_leads, width, stride, stride)
        start_at_unit_scale(self.pieces, input_rms)
        self.mix = nn.Conv1d(width, width, 1)
        self.blocks = nn.ModuleList(S4Block(width, n_states, causal) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def n_positions(self, n_samples: int) -> int:
        """Number of output positions for `n_samples`; a last piece may be incomplete."""
        return -(-n_samples // self.stride)

    def observed(self, observed: Tensor) -> Tensor:
        """observed: (B, L, T) bool -> (B, N) bool, True for positions with an observed sample of any lead."""
        whole = F.pad(observed.any(1), (0, -observed.shape[-1] % self.stride))
        return whole.reshape(whole.shape[0], -1, self.stride).any(-1)

    def latents(self, ecg: Tensor) -> Tensor:
        """ecg: (B, L, T), normalised -> (B, N, D): each piece by itself."""
        pieces = self.pieces(F.pad(ecg, (0, -ecg.shape[-1] % self.stride)))
        out: Tensor = self.mix(F.gelu(pieces)).transpose(1, 2)
        return out

    def context(self, latents: Tensor) -> Tensor:
        """latents (B, N, D) -> (B, N, D): what the blocks read along time."""
        for block in self.blocks:
            latents = block(latents)
        out: Tensor = self.norm(latents)
        return out

    def forward(self, ecg: Tensor) -> Tensor:
        """ecg: (B, L, T), normalised -> (B, N, D)."""
        return self.context(self.latents(ecg))

"""Spectrograms of ECGs from observed samples only, and a small convolutional encoder of them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLOOR = 1e-3  # added to the power before the logarithm, as a share of the power of a whole ECG: less is noise


class Spectrogram(nn.Module):
    """(B, L, T) -> (B, L, F, M): log-power of F frequencies in M frames of each lead, by a short-time Fourier transform.

    Of each frame, the mean of its observed samples is subtracted and unobserved samples are left out, so that a gap has no edge.
    A frame of a lead with less than half of its samples observed is 0. Computed as convolutions, which can be exported to ONNX.
    """

    waves: Tensor
    taper: Tensor

    def __init__(self, rate_hz: int, window_s: float, hop_s: float, highest_hz: float, input_rms: float) -> None:
        """
        Args:
            window_s, hop_s: length of a frame, and from one frame to the next.
            highest_hz: frequencies above it are left out; 0 Hz is, too.
            input_rms: root mean square of the ECGs, to which the power is relative.

        Raises:
            ValueError: a frame that is too short for one frequency.
        """
        super().__init__()
        self.length, self.hop = max(1, round(window_s * rate_hz)), max(1, round(hop_s * rate_hz))
        self.n_frequencies = min(math.floor(highest_hz * self.length / rate_hz), (self.length - 1) // 2)
        if self.n_frequencies < 1:
            raise ValueError(
                f"a frame of {self.length} samples has no frequency up to {highest_hz:g} Hz; use a longer frame or a higher one"
            )
        self.floor = FLOOR * input_rms**2
        time = torch.arange(self.length)
        taper = 0.5 - 0.5 * torch.cos(2 * math.pi * (time + 0.5) / self.length)  # Hann, nowhere 0
        angle = 2 * math.pi * torch.arange(1, self.n_frequencies + 1)[:, None] * time / self.length
        waves = torch.cat([angle.cos(), angle.sin()]) * taper
        self.register_buffer("waves", waves[:, None], persistent=False)  # (2 F, 1, W)
        self.register_buffer("taper", torch.stack([torch.ones(self.length), taper.square()])[:, None], persistent=False)

    def n_frames(self, n_samples: int) -> int:
        """M of a recording of `n_samples`.

        Raises:
            ValueError: it is shorter than a frame.
        """
        if n_samples < self.length:
            raise ValueError(
                f"a frame of the spectrogram has {self.length} samples, and a lead {n_samples}; use a shorter one"
            )
        return (n_samples - self.length) // self.hop + 1

    def forward(self, ecg: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """ecg: (B, L, T), 0 where not observed; observed: (B, L, T) bool -> (B, L, F, M) and (B, L, M) bool, frames of enough."""
        b, n_leads, n_samples = ecg.shape
        with torch.autocast(ecg.device.type, enabled=False):  # sums of many samples
            x = ecg.float().reshape(-1, 1, n_samples)
            real = observed.reshape(-1, 1, n_samples).to(x.dtype)
            count, energy = F.conv1d(real, self.taper, stride=self.hop).chunk(2, dim=1)  # (B L, 1, M) each
            mean = F.conv1d(x, self.taper[:1], stride=self.hop) / count.clamp(min=1)
            # the transform of taper (x - mean) over observed samples
            spectrum = F.conv1d(x, self.waves, stride=self.hop) - mean * F.conv1d(real, self.waves, stride=self.hop)
            cosine, sine = spectrum.chunk(2, dim=1)
            power = (cosine.square() + sine.square()) / energy.clamp(min=1e-6)  # (B L, F, M)
            enough = 2 * count >= self.length
            log_power = (power / self.floor).log1p() * enough
        return log_power.reshape(b, n_leads, self.n_frequencies, -1), enough.reshape(b, n_leads, -1)


class SpectrogramEncoder(nn.Module):
    """(B, L, F, M) -> (B, M, D): convolutions over frequency and time that halve the frequencies, a linear map of each frame."""

    def __init__(self, n_leads: int, n_frequencies: int, channels: int, width: int, depth: int = 3) -> None:
        super().__init__()
        self.width = width
        layers: list[nn.Module] = []
        before, height = n_leads, n_frequencies
        for stage in range(depth):
            after = channels * 2**stage
            layers += [
                nn.Conv2d(before, after, 3, stride=(2, 1), padding=1, bias=False), nn.GroupNorm(1, after), nn.GELU(),
            ]  # fmt: skip
            before, height = after, -(-height // 2)
        self.layers = nn.Sequential(*layers)
        self.project = nn.Linear(before * height, width)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """spectrogram: (B, L, F, M) -> (B, M, D). The norms are of a record by itself."""
        out: Tensor = self.project(self.layers(spectrogram).flatten(1, 2).transpose(1, 2))
        return out


def segment_means(tokens: Tensor, real: Tensor, place: Tensor, n_segments: int) -> tuple[Tensor, Tensor]:
    """Means (B, K, D) of the real tokens (B, N, D) of each of K segments, and (B, K) bool, segments that have one.

    real: (B, N) bool; place: (N,) time of each token, from 0 to 1 of the recording.
    """
    segment = (place * n_segments).long().clamp(max=n_segments - 1)
    member = F.one_hot(segment, n_segments)[None] * real[..., None]  # (B, N, K)
    count = member.sum(1)  # (B, K)
    total = member.to(tokens.dtype).transpose(1, 2) @ tokens
    return total / count.clamp(min=1)[..., None], count > 0

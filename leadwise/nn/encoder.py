"""Four ECG encoders behind one interface: an ECG in, one vector out, or the tokens before pooling.

resnet           ResNet18 over time; the first convolution mixes all leads; one position per 16 samples
vit              one token per patch, for all leads together
lead_time        one token per lead and patch: a linear map between two norms, sine-cosine times, separator tokens per lead
lead_time_conv   one token per lead and patch: convolutions within the patch, learnable times

Unobserved patches have no token in the lead_time encoders and are 0 in the others; means skip them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.batch import Batch, Signal
from leadwise.nn.lead_time import EncoderShape, LeadTimeEncoder
from leadwise.nn.normalize import normalize
from leadwise.nn.patches import ConvTokenizer, NormedTokenizer, patchify
from leadwise.nn.resnet import ResNet18
from leadwise.nn.vit import ViT

Kind = Literal["resnet", "vit", "lead_time", "lead_time_conv"]


@dataclass(frozen=True)
class EncoderSettings:
    """Kind and size of the encoder. `resnet_width` belongs to the ResNet, the other sizes to the other three."""

    encoder: Kind = "resnet"
    resnet_width: int = 64  # channels of the first stage; the feature is eight times as wide
    n_patches: int = 100  # per lead; T must be a multiple of it
    width: int = 192  # token width
    depth: int = 12  # Transformer layers
    heads: int = 3

    @property
    def whole_batch(self) -> str:
        """The setting that forbids gradient accumulation (batch norm needs all records of a process in one pass), or ''."""
        return "method.encoder = 'resnet'" if self.encoder == "resnet" else ""


class EcgEncoder(nn.Module):
    """ECG encoder built from `settings`. `width` is D of its output; crops must begin at a multiple of `grid` samples."""

    def __init__(self, settings: EncoderSettings, signal: Signal) -> None:
        super().__init__()
        self.kind, self.signal, self.n_patches = settings.encoder, signal, settings.n_patches
        n_leads, n_samples = len(signal.leads), signal.n_samples
        self.grid = 1
        # the ResNet has no patches: a crop may begin at any sample
        if self.kind == "resnet":
            self.model: ResNet18 | ViT | LeadTimeEncoder = ResNet18(n_leads, settings.resnet_width)
            self.width = self.model.width
            return
        # the others divide each lead into patches, and crops begin at one
        if n_samples % settings.n_patches:
            raise ValueError(f"n_patches = {settings.n_patches} does not divide the {n_samples} samples of a lead")
        self.grid, self.width = n_samples // settings.n_patches, settings.width
        if self.kind == "vit":
            self.model = ViT(n_leads, n_samples, settings.n_patches, settings.width, settings.depth, settings.heads)
            return
        # one token per lead and patch; the two kinds differ in tokenizer, times and separators
        conv = self.kind == "lead_time_conv"
        shape = EncoderShape(
            n_leads, settings.n_patches, self.grid, settings.width, settings.depth, settings.heads,
            temporal="learnable" if conv else "sincos", separators=not conv,
        )  # fmt: skip
        self.model = LeadTimeEncoder(
            shape,
            ConvTokenizer(self.grid, settings.width, amplitude=True)
            if conv
            else NormedTokenizer(self.grid, settings.width),
        )
        self.norm = nn.LayerNorm(settings.width)

    @property
    def tokenizer(self) -> nn.Module | None:
        """The module that turns the samples of a patch into a token; None for the ResNet."""
        if isinstance(self.model, ViT):
            return self.model.patch
        return self.model.tokenizer if isinstance(self.model, LeadTimeEncoder) else None

    @property
    def last_norm(self) -> nn.LayerNorm | None:
        """The norm of the output vector; None for the ResNet, which ends in a ReLU."""
        if isinstance(self.model, ViT):
            return self.model.norm
        return self.norm if isinstance(self.model, LeadTimeEncoder) else None

    def forward(self, batch: Batch, start: Tensor | None = None) -> Tensor:
        """(B, D) vectors of ECGs in mV; for crops, `start` (B,) is the first sample within the whole recording.

        Raises:
            ValueError: a record has no observed sample, or not one whole observed patch.
        """
        if self.kind in ("lead_time", "lead_time_conv"):
            patches, usable = self.patches(batch)
            assert isinstance(self.model, LeadTimeEncoder)
            out: Tensor = self.norm(self.model(patches, usable, self._first(start)).pooled)
            return out
        tokens, real = self.tokens(batch, start)
        mean = mean_of(tokens, real)
        return self.model.norm(mean) if isinstance(self.model, ViT) else mean

    def tokens(self, batch: Batch, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens before pooling (B, N, D), and (B, N) bool, True where any lead was observed.

        N counts positions of 16 samples in the ResNet and patches in the others; lead_time encoders average over leads.

        Raises:
            ValueError: as `forward`.
        """
        ecg = scaled(batch, self.signal)
        if isinstance(self.model, ResNet18):
            tokens: Tensor = self.model(ecg).transpose(1, 2)  # (B, N, D)
            observed = batch.observed.any(1).float()[:, None]  # (B, 1, T)
            real = F.adaptive_max_pool1d(observed, tokens.shape[1])[:, 0] > 0
            return tokens, real
        if isinstance(self.model, ViT):
            tokens = self.model.tokens(ecg, self._first(start))
            observed = batch.observed.any(1).reshape(len(ecg), tokens.shape[1], -1)
            return tokens, observed.any(-1)
        # lead_time: put the tokens back on the grid of leads and patches, then average over leads
        patches, usable = patchify(ecg, ecg.shape[-1] // self.grid), self._usable(batch)
        encoded = self.model(patches, usable, self._first(start))
        places = torch.zeros(usable.shape, device=ecg.device).flatten(1)  # (B, L N)
        is_real = torch.ones(encoded.index.shape, device=ecg.device) if encoded.real is None else encoded.real.float()
        grid = encoded.tokens.new_zeros(*places.shape, self.width)
        index = encoded.index[..., None].expand(-1, -1, self.width)
        grid = grid.scatter_add(1, index, encoded.tokens * is_real[..., None])
        count = places.scatter_add(1, encoded.index, is_real).reshape(usable.shape).sum(1)  # (B, N)
        total = grid.reshape(*usable.shape, self.width).sum(1)
        return self.norm(total / count.clamp(min=1)[..., None]), count > 0

    def patches(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Normalised patches (B, L, N, P), and (B, L, N) bool, True where every sample was observed: input of lead_time encoders.

        Raises:
            ValueError: as `forward`.
        """
        ecg = scaled(batch, self.signal)
        return patchify(ecg, ecg.shape[-1] // self.grid), self._usable(batch)

    def _first(self, start: Tensor | None) -> Tensor | None:
        return None if start is None else start // self.grid

    def _usable(self, batch: Batch) -> Tensor:
        """(B, L, N) bool, True where every sample of a patch was observed."""
        usable = patchify(batch.observed, batch.observed.shape[-1] // self.grid).all(-1)
        empty = [name for name, any_usable in zip(batch.record, usable.flatten(1).any(-1).tolist()) if not any_usable]
        if empty:
            seconds = self.grid / self.signal.rate_hz
            raise ValueError(
                f"record {empty[0]}: not one whole patch of {seconds:g} s was observed in any lead; leave the recording out"
            )
        return usable


def scaled(batch: Batch, signal: Signal) -> Tensor:
    """Normalised ECG (B, L, T), 0 where unobserved.

    Raises:
        ValueError: a record has no observed sample.
    """
    empty = [
        name for name, any_sample in zip(batch.record, batch.observed.flatten(1).any(-1).tolist()) if not any_sample
    ]
    if empty:
        raise ValueError(f"record {empty[0]}: no sample was observed; leave the recording out")
    return normalize(batch.ecg, batch.observed, signal.normalize)


def mean_of(tokens: Tensor, real: Tensor) -> Tensor:
    """Mean (B, D) of the tokens (B, N, D) that are real (B, N) bool."""
    weight = real[..., None].to(tokens.dtype)
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)


def check_part(part: str, parts: tuple[str, ...]) -> None:
    """Raise ValueError if `part` is not one of the method's `parts`."""
    if part not in parts:
        raise ValueError(f"no part '{part}' in this run; choose from {', '.join(parts)}")

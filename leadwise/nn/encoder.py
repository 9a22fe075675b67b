"""ECG -> one vector, by any of four encoders that a config can name; tokens too, for those that want more than a mean.

resnet           ResNet18 over time, all leads mixed by the first convolution; positions of 16 samples
vit              a token for all leads of a patch
lead_time        a token for each lead and patch, one linear map between two norms, fixed times, marks at each lead's ends
lead_time_conv   a token for each lead and patch by convolutions within the patch, learnable times

Where nothing was observed, lead_time encoders have no token, and the others see 0; no mean is taken over such places.
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
    """Which encoder, and how large. The ResNet has `resnet_width`; the others have the rest."""

    encoder: Kind = "resnet"
    resnet_width: int = 64  # channels of the first stage; the feature has eight times as many
    n_patches: int = 100  # along the promised time; T must be a multiple of it
    width: int = 192  # of a token
    depth: int = 12  # Transformer layers
    heads: int = 3

    @property
    def whole_batch(self) -> str:
        """The setting that needs a process's share of a batch in one pass, for its batch norm; '' if none does."""
        return "method.encoder = 'resnet'" if self.encoder == "resnet" else ""


class EcgEncoder(nn.Module):
    """The encoder of some settings. `width` is D of what it gives, `grid` the samples at which a crop may begin."""

    def __init__(self, settings: EncoderSettings, signal: Signal) -> None:
        super().__init__()
        self.kind, self.signal, self.n_patches = settings.encoder, signal, settings.n_patches
        n_leads, n_samples = len(signal.leads), signal.n_samples
        self.grid = 1
        if self.kind == "resnet":
            self.model: ResNet18 | ViT | LeadTimeEncoder = ResNet18(n_leads, settings.resnet_width)
            self.width = self.model.width
            return
        if n_samples % settings.n_patches:
            raise ValueError(f"n_patches = {settings.n_patches} does not divide the {n_samples} samples of a lead")
        self.grid, self.width = n_samples // settings.n_patches, settings.width
        if self.kind == "vit":
            self.model = ViT(n_leads, n_samples, settings.n_patches, settings.width, settings.depth, settings.heads)
            return
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
        """What makes a token of a patch's samples; the ResNet has no such part."""
        if isinstance(self.model, ViT):
            return self.model.patch
        return self.model.tokenizer if isinstance(self.model, LeadTimeEncoder) else None

    @property
    def last_norm(self) -> nn.LayerNorm | None:
        """The norm that the vector leaves; the ResNet's ends in a ReLU."""
        if isinstance(self.model, ViT):
            return self.model.norm
        return self.norm if isinstance(self.model, LeadTimeEncoder) else None

    def forward(self, batch: Batch, start: Tensor | None = None) -> Tensor:
        """(B, D) vectors of ECGs in mV; `start` (B,) is the sample of the promised time at which a crop begins.

        Raises:
            ValueError: a record of which nothing was observed, or not one whole patch.
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
        """What the encoder makes of each time: (B, N, D), and which of the N times anything was observed at, (B, N) bool.

        The ResNet's N are positions of 16 samples; of lead_time encoders, a time is the mean over its leads.

        Raises:
            ValueError: as `forward`.
        """
        ecg = scaled(batch, self.signal)
        if isinstance(self.model, ResNet18):
            found: Tensor = self.model(ecg).transpose(1, 2)  # (B, N, D)
            seen = batch.observed.any(1).float()[:, None]  # (B, 1, T)
            real = F.adaptive_max_pool1d(seen, found.shape[1])[:, 0] > 0
            return found, real
        if isinstance(self.model, ViT):
            found = self.model.tokens(ecg, self._first(start))
            seen = batch.observed.any(1).reshape(len(ecg), found.shape[1], -1)
            return found, seen.any(-1)
        patches, usable = patchify(ecg, ecg.shape[-1] // self.grid), self._usable(batch)
        encoded = self.model(patches, usable, self._first(start))
        places = torch.zeros(usable.shape, device=ecg.device).flatten(1)  # (B, L N)
        shown = torch.ones(encoded.index.shape, device=ecg.device) if encoded.real is None else encoded.real.float()
        grid = encoded.tokens.new_zeros(*places.shape, self.width)
        at = encoded.index[..., None].expand(-1, -1, self.width)
        grid = grid.scatter_add(1, at, encoded.tokens * shown[..., None])
        count = places.scatter_add(1, encoded.index, shown).reshape(usable.shape).sum(1)  # (B, N)
        total = grid.reshape(*usable.shape, self.width).sum(1)
        return self.norm(total / count.clamp(min=1)[..., None]), count > 0

    def patches(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scaled patches (B, L, N, P), and which were observed from end to end (B, L, N): what lead_time encoders take.

        Raises:
            ValueError: as `forward`.
        """
        ecg = scaled(batch, self.signal)
        return patchify(ecg, ecg.shape[-1] // self.grid), self._usable(batch)

    def _first(self, start: Tensor | None) -> Tensor | None:
        return None if start is None else start // self.grid

    def _usable(self, batch: Batch) -> Tensor:
        """Patches of which every sample was observed, (B, L, N) bool."""
        usable = patchify(batch.observed, batch.observed.shape[-1] // self.grid).all(-1)
        empty = [name for name, some in zip(batch.record, usable.flatten(1).any(-1).tolist()) if not some]
        if empty:
            seconds = self.grid / self.signal.rate_hz
            raise ValueError(f"record {empty[0]}: not one whole patch of {seconds:g} s was observed in any lead")
        return usable


def scaled(batch: Batch, signal: Signal) -> Tensor:
    """The ECG (B, L, T) on the model's scale, 0 where nothing was observed.

    Raises:
        ValueError: a record of which nothing was observed.
    """
    empty = [name for name, some in zip(batch.record, batch.observed.flatten(1).any(-1).tolist()) if not some]
    if empty:
        raise ValueError(f"record {empty[0]}: nothing was observed, so there is nothing to learn or embed")
    return normalize(batch.ecg, batch.observed, signal.normalize)


def mean_of(tokens: Tensor, real: Tensor) -> Tensor:
    """(B, D): the mean of tokens (B, N, D) over those that are real (B, N)."""
    weight = real[..., None].to(tokens.dtype)
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)


def check_part(part: str, parts: tuple[str, ...]) -> None:
    """Nothing, if a method has the part.

    Raises:
        ValueError: it has not.
    """
    if part not in parts:
        raise ValueError(f"no part '{part}' in this run; choose from {', '.join(parts)}")

"""Five ECG encoders behind one interface: an ECG in, one vector out, or the tokens before pooling.

resnet           ResNet18 over time; the first convolution mixes all leads; one position per 16 samples
vit              one token per patch, for all leads together
lead_time        one token per lead and patch: a linear map between two norms, sine-cosine times, separator tokens per lead
lead_time_conv   one token per lead and patch: convolutions within the patch, learnable times
s4               state-space layers over time, in both directions; one position per `s4_stride` samples of all leads

Unobserved patches have no token in the lead_time encoders and are 0 in the others; means skip them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from leadwise.batch import Batch, Signal
from leadwise.nn.lead_time import Encoded, EncoderShape, LeadTimeEncoder
from leadwise.nn.masking import any_in_bins
from leadwise.nn.normalize import normalize
from leadwise.nn.observed import observed_records, usable_patches
from leadwise.nn.patches import ConvTokenizer, NormedTokenizer, patchify
from leadwise.nn.resnet import ResNet18
from leadwise.nn.s4 import S4Encoder
from leadwise.nn.token_scale import signal_rms
from leadwise.nn.vit import ViT

Kind = Literal["resnet", "vit", "lead_time", "lead_time_conv", "s4"]

NO_PATCH = (
    "no patch of any lead was observed completely, so there is nothing to train on or embed; leave the record out"
)


@dataclass(frozen=True)
class EncoderSettings:
    """Kind and size of the encoder. The sizes `resnet_*` and `s4_*` belong to these encoders, the others to the other three."""

    encoder: Kind = "resnet"
    resnet_width: int = 64  # channels of the first stage; the feature is eight times as wide
    n_patches: int = 100  # per lead; T must be a multiple of it
    width: int = 192  # token width
    depth: int = 12  # Transformer layers
    heads: int = 3
    s4_width: int = 512  # channels of the state-space layers
    s4_depth: int = 4  # layers
    s4_states: int = 8  # N, states of each channel
    s4_stride: int = 2  # samples per position

    @property
    def whole_batch(self) -> str:
        """The setting that forbids gradient accumulation (batch norm needs all records of a process in one pass), or ''."""
        return "method.encoder = 'resnet'" if self.encoder == "resnet" else ""


class TokenEncoder(nn.Module):
    """An ECG encoder that has vectors over time: what `PretrainingMethod.token_encoder` returns.

    `width` is D; crops must begin at a multiple of `grid` samples.
    """

    width: int
    grid: int

    def tokens(self, batch: Batch, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, D) of ECGs in mV, and (B, N) bool, True where any lead was observed.

        For crops, `start` (B,) is the first sample within the whole recording.

        Raises:
            ValueError: a record has no observed sample, or not one whole observed patch.
        """
        raise NotImplementedError(f"{type(self).__name__}: `tokens` is missing")

    def pool(self, tokens: Tensor, weight: Tensor) -> Tensor:
        """The weighted mean (B, D) of `tokens` (B, N, D); weight: (B, N), 0 or more."""
        weight = weight.to(tokens.dtype)
        return (tokens * weight[..., None]).sum(1) / weight.sum(1, keepdim=True).clamp(min=1e-6)


class LeadTimeTokens(TokenEncoder):
    """A `LeadTimeEncoder` that a method has by itself, and the norm behind it: the mean over leads of each time's tokens."""

    def __init__(self, model: LeadTimeEncoder, norm: nn.LayerNorm, signal: Signal) -> None:
        super().__init__()
        self.model, self.norm, self.signal = model, norm, signal
        self.width, self.grid = model.shape.width, model.shape.patch_samples

    def tokens(self, batch: Batch, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The tokens of the times of all patches that were observed completely."""
        patches, usable, on_host = _patches_of(batch, self.signal, self.grid)
        first = None if start is None else start // self.grid
        mean, real = _means_over_leads(self.model(patches, usable, first, count=_counts(on_host)), usable)
        return self.norm(mean), real


class WithEcgEncoder(nn.Module):
    """Mixin for a PretrainingMethod with an `EcgEncoder`, from which another run can start."""

    ecg: EcgEncoder

    @property
    def token_encoder(self) -> TokenEncoder:
        """The ECG encoder."""
        return self.ecg


class EcgEncoder(TokenEncoder):
    """ECG encoder built from `settings`. `width` is D of its output; crops must begin at a multiple of `grid` samples."""

    def __init__(self, settings: EncoderSettings, signal: Signal, causal: bool = False) -> None:
        """
        Args:
            causal: only for "s4": a token depends on no later sample, so that later ones can be predicted from it.
        """
        super().__init__()
        self.kind, self.signal, self.n_patches = settings.encoder, signal, settings.n_patches
        n_leads, n_samples = len(signal.leads), signal.n_samples
        self.grid = 1
        # the ResNet and the state-space layers have no patches: a crop may begin at any sample
        if self.kind == "resnet":
            self.model: ResNet18 | S4Encoder | ViT | LeadTimeEncoder = ResNet18(n_leads, settings.resnet_width)
            self.width = self.model.width
            return
        if self.kind == "s4":
            self.model = S4Encoder(
                n_leads, settings.s4_width, settings.s4_depth, settings.s4_states, settings.s4_stride,
                signal_rms(signal.normalize), causal,
            )  # fmt: skip
            self.width = self.model.width
            return
        # the others divide each lead into patches, and crops begin at one
        if n_samples % settings.n_patches:
            raise ValueError(f"n_patches = {settings.n_patches} does not divide the {n_samples} samples of a lead")
        self.grid, self.width = n_samples // settings.n_patches, settings.width
        if self.kind == "vit":
            self.model = ViT(
                n_leads, n_samples, settings.n_patches, settings.width, settings.depth, settings.heads,
                signal_rms(signal.normalize),
            )  # fmt: skip
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
        """The module that turns the samples of a patch into a token; None for encoders without patches."""
        if isinstance(self.model, ViT):
            return self.model.patch
        return self.model.tokenizer if isinstance(self.model, LeadTimeEncoder) else None

    @property
    def last_norm(self) -> nn.LayerNorm | None:
        """The norm of the output vector; None for the ResNet, which ends in a ReLU."""
        if isinstance(self.model, ViT | S4Encoder):
            return self.model.norm
        return self.norm if isinstance(self.model, LeadTimeEncoder) else None

    def n_positions(self, n_samples: int) -> int:
        """Number of tokens N of a recording of `n_samples`, a multiple of `grid`."""
        if isinstance(self.model, ResNet18 | S4Encoder):
            return self.model.n_positions(n_samples)
        return n_samples // self.grid

    def forward(self, batch: Batch, start: Tensor | None = None) -> Tensor:
        """(B, D) vectors of ECGs in mV; for crops, `start` (B,) is the first sample within the whole recording.

        Raises:
            ValueError: a record has no observed sample, or not one whole observed patch.
        """
        if self.kind in ("lead_time", "lead_time_conv"):
            assert isinstance(self.model, LeadTimeEncoder)
            patches, usable, on_host = self.patches_and_host(batch)
            out: Tensor = self.norm(self.model(patches, usable, self._first(start), count=_counts(on_host)).pooled)
            return out
        tokens, real = self.tokens(batch, start)
        mean = mean_of(tokens, real)
        return self.model.norm(mean) if isinstance(self.model, ViT) else mean

    def tokens(self, batch: Batch, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens before pooling (B, N, D), and (B, N) bool, True where any lead was observed.

        N counts positions of 16 samples in the ResNet, of `s4_stride` samples in "s4", and patches in the others; lead_time
        encoders average over leads.

        Raises:
            ValueError: as `forward`.
        """
        if isinstance(self.model, LeadTimeEncoder):
            return self._tokens_of_times(batch, start)
        ecg = scaled(batch, self.signal)
        if isinstance(self.model, ResNet18):
            tokens: Tensor = self.model(ecg).transpose(1, 2)  # (B, N, D)
            return tokens, any_in_bins(batch.observed.any(1), tokens.shape[1])
        if isinstance(self.model, S4Encoder):
            return self.model(ecg), self.model.observed(batch.observed)
        tokens = self.model.tokens(ecg, self._first(start))
        observed = batch.observed.any(1).reshape(ecg.shape[0], tokens.shape[1], -1)
        return tokens, observed.any(-1)

    def _tokens_of_times(self, batch: Batch, start: Tensor | None) -> tuple[Tensor, Tensor]:
        """`tokens` of the lead_time encoders."""
        assert isinstance(self.model, LeadTimeEncoder)
        patches, usable, on_host = self.patches_and_host(batch)
        encoded = self.model(patches, usable, self._first(start), count=_counts(on_host))
        mean, real = _means_over_leads(encoded, usable)
        return self.norm(mean), real

    def pool(self, tokens: Tensor, weight: Tensor) -> Tensor:
        """The weighted mean (B, D) of `tokens` (B, N, D), on the scale of the encoder's vectors; weight: (B, N), 0 or more."""
        mean = super().pool(tokens, weight)
        return self.model.norm(mean) if isinstance(self.model, ViT) else mean

    def patches(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Normalised patches (B, L, N, P), and (B, L, N) bool, True where every sample was observed: input of lead_time encoders.

        Raises:
            ValueError: as `forward`.
        """
        return self.patches_and_host(batch)[:2]

    def patches_and_host(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The same, and which patches were observed as a tensor on the host."""
        return _patches_of(batch, self.signal, self.grid)

    def _first(self, start: Tensor | None) -> Tensor | None:
        return None if start is None else start // self.grid


def _patches_of(batch: Batch, signal: Signal, grid: int) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised patches (B, L, N, P), and (B, L, N) bool, True where every sample was observed: on the device and on the host.

    Raises:
        ValueError: a record has no observed sample, or not one whole observed patch.
    """
    n = batch.ecg.shape[-1] // grid
    patches = patchify(scaled(batch, signal), n)
    usable, on_host = usable_patches(batch, n)
    problem = f"not one whole patch of {grid / signal.rate_hz:g} s was observed in any lead"
    valid = valid_only(patches, on_host.flatten(1).any(-1), batch.record, f"{problem}; leave the recording out")
    return valid, usable, on_host


def _means_over_leads(encoded: Encoded, usable: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over leads of the tokens of each time (B, N, D), and (B, N) bool, times with a token; usable: (B, L, N) bool."""
    # put the tokens back on the grid of leads and patches, then average over leads
    width = encoded.tokens.shape[-1]
    places = torch.zeros(usable.shape, device=usable.device).flatten(1)  # (B, L N)
    is_real = torch.ones_like(encoded.index, dtype=torch.float) if encoded.real is None else encoded.real.float()
    grid = encoded.tokens.new_zeros(*places.shape, width)
    index = encoded.index[..., None].expand(-1, -1, width)
    grid = grid.scatter_add(1, index, encoded.tokens * is_real[..., None])
    count = places.scatter_add(1, encoded.index, is_real).reshape(usable.shape).sum(1)  # (B, N)
    total = grid.reshape(*usable.shape, width).sum(1)
    return total / count.clamp(min=1)[..., None], count > 0


def scaled(batch: Batch, signal: Signal) -> Tensor:
    """Normalised ECG (B, L, T), 0 where unobserved.

    Raises:
        ValueError: a record has no observed sample.
    """
    ecg = normalize(batch.ecg, batch.observed, signal.normalize)
    return valid_only(ecg, observed_records(batch), batch.record, "no sample was observed; leave the recording out")


def valid_only(x: Tensor, valid: Tensor, record: tuple[str, ...], problem: str) -> Tensor:
    """The same x (B, ...), if all of the records are `valid` (B,) bool, which is read: best on the host.

    While a graph is exported: x with NaN for invalid records, because a graph cannot raise. Their embedding is NaN then.

    Raises:
        ValueError: "record NAME: PROBLEM" of the first invalid record.
    """
    if torch.compiler.is_exporting():
        return x.masked_fill(~valid.reshape(-1, *(1,) * (x.ndim - 1)), torch.nan)
    invalid = [name for name, is_valid in zip(record, valid.tolist()) if not is_valid]
    if invalid:
        raise ValueError(f"record {invalid[0]}: {problem}")
    return x


def _counts(on_host: Tensor) -> Tensor | None:
    """(B, L), the usable patches of each lead; None while a graph is exported, which must not depend on them."""
    return None if torch.compiler.is_exporting() else on_host.sum(-1)


def mean_of(tokens: Tensor, real: Tensor) -> Tensor:
    """Mean (B, D) of the tokens (B, N, D) that are real (B, N) bool; 0 for a record without any."""
    weight = real[..., None].to(tokens.dtype)
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)


def check_part(part: str, parts: tuple[str, ...]) -> None:
    """Raise ValueError if `part` is not one of the method's `parts`."""
    if part not in parts:
        raise ValueError(f"no part '{part}' in this run; choose from {', '.join(parts)}")

"""TS-TCC: Time-Series Representation Learning via Temporal and Contextual Contrasting.
arXiv 2106.14112 (IJCAI 2021).

    L = L_TC_s + L_TC_w + 0.7 L_CC

    c_t         context: a Transformer's summary of a view's sequence z up to a random time t
    L_TC_s      from c_t of the strong view, predict the next K of the weak view's z; each prediction must identify its record
                among the whole batch                                                                       (Eq. 1)
    L_TC_w      the same from the weak view to the strong view                                              (Eq. 2)
    L_CC        NT-Xent of the projected c_t of both views, cosine / tau, tau = 0.2                         (Eq. 3)

    weak view   another amplitude and a little noise
    strong view split into up to M pieces, which are put in another order, and more noise

Choices where the paper and its released code disagree, and departures from both (in brackets: the setting that restores the
paper's text):
- The code writes the first channel's shuffled pieces into all channels; here all leads are shuffled, in one order.
- The softmax of L_TC is over the futures of the batch, as printed; in the code it is over the predictions.
- The code's weak view multiplies each sample by its own N(2, sigma) and adds no noise. Here it is one factor per record, around
  1, and noise at the electrodes, so that the relations between leads still hold. The paper's sigmas and M differ between its
  data sets, none of which is an ECG: ours are a choice, in mV, and M = 5 is the code's value for EEG.
- The paper's K is 40 % of the sequence, which would be 125 linear maps for 10 s at 500 Hz; here it is 10, as in the code for
  EEG.
- t is drawn for each record, among the times after which both views have K observed positions; the code draws one t per batch.
  A record without such a time adds nothing to L_TC.
- Leads may be removed from both views; off by default. SMALL removes half of them: with the paper's views alone, after 70 steps
  on the simulated cohort a probe of the features was worse than one of untrained features.
- The encoder is one of five, not the paper's [paper_encoder = true: three small convolutions]. A Transformer's tokens depend on
  the whole view, and the ResNet's on a large part of it, so that predicting the future is easier for them.
- The embedding is the mean of the sequence; the paper's classifier reads the whole sequence.
- The optimiser is AdamW with leadwise's schedule, not Adam at a constant rate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn import augment
from leadwise.nn.encoder import EcgEncoder, EncoderSettings, check_part, mean_of, scaled
from leadwise.nn.heads import Projector
from leadwise.nn.losses import series, view_agreement
from leadwise.nn.masking import any_in_bins
from leadwise.nn.patches import patchify
from leadwise.nn.permute import permute
from leadwise.nn.small_conv import SmallConv
from leadwise.nn.transformer import Transformer
from leadwise.nn.vit import ViT


@dataclass(frozen=True)
class Config(EncoderSettings, MethodConfig):
    paper_encoder: bool = False  # the paper's three convolutions, 128 channels, in place of `encoder`
    # views
    gain: float = 0.1  # weak: one random factor exp(N(0, gain)) for all leads of a record
    weak_noise_mv: float = 0.02  # weak: white noise at each electrode, largest standard deviation
    strong_noise_mv: float = 0.05  # strong: the same
    most_pieces: int = 5  # M, strong: a recording is split into 1 to M pieces
    lead_mask: float = 0.0  # both: probability that a lead is removed, at least one remains; the paper: 0
    # the context c_t
    context_width: int = 100
    context_depth: int = 4  # Transformer layers
    context_heads: int = 4
    context_hidden: int = 64  # hidden width of the feed-forward layers
    n_future: int = 10  # K, predicted positions of the sequence
    hidden_width: int = 64  # of the projector
    out_width: int = 32  # of the projected context
    temperature: float = 0.2  # tau, of L_CC
    w_tc: float = 1.0  # lambda_1, of both temporal terms
    w_cc: float = 0.7  # lambda_2

    def __post_init__(self) -> None:
        check_ranges(self, temperature="> 0", w_tc="> 0", w_cc="> 0", lead_mask="[0, 1)")
        check_ranges(
            self, most_pieces=">= 1", n_future=">= 1", gain=">= 0", weak_noise_mv=">= 0", strong_noise_mv=">= 0"
        )

    @property
    def whole_batch(self) -> str:
        """The setting that forbids gradient accumulation: the projector's batch norm needs all records in one pass."""
        return "method.name = 'ts_tcc'"


# Settings for two CPU cores.
SMALL = {
    "encoder": "resnet", "resnet_width": 12, "context_width": 48, "context_depth": 1, "n_future": 5,
    "gain": 0.2, "lead_mask": 0.5,
}  # fmt: skip
# The smallest settings, for the contract tests.
TINY = {
    "": {"resnet_width": 8, "n_future": 4, "context_width": 16, "context_depth": 1, "hidden_width": 32, "out_width": 16},
    "vit": {
        "encoder": "vit", "n_patches": 10, "width": 32, "depth": 1, "heads": 4, "n_future": 3, "context_width": 16,
        "context_depth": 1, "hidden_width": 32, "out_width": 16,
    },
    "paper": {
        "paper_encoder": True, "n_future": 4, "context_width": 16, "context_depth": 1, "hidden_width": 32, "out_width": 16,
    },
}  # fmt: skip


class Method(PretrainingMethod):
    compares_records = True
    falling_terms = ("L_TC_s", "L_TC_w", "L_CC")
    config: Config
    electrodes: Tensor

    def __init__(
        self, config: Config, signal: Signal, tokenizer: object = None, saved_folder: Path | None = None
    ) -> None:
        super().__init__(config, signal)
        c = config
        self.weights = {"L_TC_s": c.w_tc, "L_TC_w": c.w_tc, "L_CC": c.w_cc}
        if c.paper_encoder:
            self.conv = SmallConv(len(signal.leads), (32, 64, 128), 8, 1, (0.35, 0.0, 0.0))
            self.grid, width, length = 1, self.conv.width, self.conv.n_positions(signal.n_samples)
        else:
            self.ecg = EcgEncoder(c, signal)
            self.grid, width = self.ecg.grid, self.ecg.width
            length = self.ecg.n_positions(signal.n_samples)
        if length <= c.n_future:
            raise ValueError(f"n_future = {c.n_future} must be less than the {length} positions of a sequence")
        self.register_buffer("electrodes", augment.lead_algebra(signal.leads), persistent=False)  # (L, 9)
        self.enter = nn.Linear(width, c.context_width)
        self.cls = nn.Parameter(0.02 * torch.randn(c.context_width))
        self.context = Transformer(
            c.context_width, c.context_depth, c.context_heads, mlp_ratio=c.context_hidden / c.context_width
        )
        self.ahead = nn.Linear(c.context_width, c.n_future * width)  # W_1 to W_K in one map
        self.projector = Projector(c.context_width, c.hidden_width, c.out_width)

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """No terms per record; features of both views: predictions and futures (B, K, D), and projected contexts."""
        strong, real_s = self._sequence(self._strong(batch))
        weak, real_w = self._sequence(self._weak(batch))
        strong, weak = F.normalize(strong, dim=-1), F.normalize(weak, dim=-1)  # (B, N, D)
        t, has_future = self._times(real_s, real_w)
        features = {"has_future": has_future.long()}
        for name, z, real in (("s", strong, real_s), ("w", weak, real_w)):
            context = self._context(z, real, t)
            following = t[:, None] + torch.arange(1, self.config.n_future + 1, device=t.device)  # (B, K)
            features[f"future_{name}"] = z[torch.arange(len(z), device=t.device)[:, None], following]
            features[f"predicted_{name}"] = self.ahead(context).reshape(len(z), self.config.n_future, -1)
            features[f"context_{name}"] = self.projector(context)
        return {}, features

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted terms over the whole batch, including other processes' records."""
        c = self.config
        every = distributed.gather_features(features)
        has_future = every["has_future"].bool()
        local_rows = distributed.local_rows(len(has_future))
        with torch.autocast(has_future.device.type, enabled=False):
            to_weak = series.future_contrast(every["predicted_s"], every["future_w"], has_future, local_rows)
            to_strong = series.future_contrast(every["predicted_w"], every["future_s"], has_future, local_rows)
            contexts = view_agreement.nt_xent(every["context_s"], every["context_w"], c.temperature, local_rows)
        return {"L_TC_s": c.w_tc * to_weak, "L_TC_w": c.w_tc * to_strong, "L_CC": c.w_cc * contexts}

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of ECGs: the mean of the encoder's sequence; any subset of leads may be observed.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        check_part(part, self.parts)
        return mean_of(*self._sequence(batch))

    # --- views and contexts

    def _sequence(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """z (B, N, D), and (B, N) bool, True for positions where any lead was observed."""
        if self.config.paper_encoder:
            z: Tensor = self.conv(scaled(batch, self.signal)).transpose(1, 2)
            return z, any_in_bins(batch.observed.any(1), z.shape[1])
        tokens, real = self.ecg.tokens(batch)
        # the ViT returns its tokens without its last norm
        return self.ecg.model.norm(tokens) if isinstance(self.ecg.model, ViT) else tokens, real

    def _weak(self, batch: Batch) -> Batch:
        """The weak view: gain, little noise, and lead masking."""
        ecg = augment.gain(batch.ecg, self.config.gain)
        return self._masked(replace(batch, ecg=self._noisy(ecg, self.config.weak_noise_mv) * batch.observed))

    def _strong(self, batch: Batch) -> Batch:
        """The strong view: permuted pieces, more noise, and lead masking."""
        ecg, observed = permute(batch.ecg, batch.observed, self.config.most_pieces, self.grid)
        noisy = self._noisy(ecg, self.config.strong_noise_mv) * observed
        return self._masked(replace(batch, ecg=noisy, observed=observed))

    def _masked(self, batch: Batch) -> Batch:
        """The view with some leads removed; at least one remains that suffices for the encoder by itself."""
        if not self.config.lead_mask:
            return batch
        whole = patchify(batch.observed, batch.observed.shape[-1] // self.grid).all(-1).any(-1)  # (B, L)
        whole = torch.where(whole.any(-1, keepdim=True), whole, batch.observed.any(-1))
        ecg, observed = augment.drop_leads(batch.ecg, batch.observed, whole, self.config.lead_mask)
        return replace(batch, ecg=ecg, observed=observed)

    def _noisy(self, ecg: Tensor, largest_mv: float) -> Tensor:
        """The ECG with white noise, drawn at the nine electrodes."""
        silence = torch.zeros(len(ecg), self.electrodes.shape[1], ecg.shape[-1], device=ecg.device)
        return ecg + torch.einsum("le,bet->blt", self.electrodes, augment.noise(silence, largest_mv))

    def _times(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """A random t (B,) for each record, and (B,) bool, True for records that have a valid t; the others get 0.

        t is valid if both views (B, N) have an observed position up to t and K consecutive observed positions after it.
        """
        k = self.config.n_future
        after = (one & other)[:, 1:].unfold(1, k, 1).all(-1)  # (B, N - K)
        until = ((one.cumsum(1) > 0) & (other.cumsum(1) > 0))[:, :-k]
        valid = until & after
        draw = torch.rand(valid.shape, device=valid.device).masked_fill(~valid, -1.0)
        has_future = valid.any(1)
        return torch.where(has_future, draw.argmax(1), 0), has_future

    def _context(self, z: Tensor, real: Tensor, t: Tensor) -> Tensor:
        """c_t (B, C): the output of a class token that attends to the sequence up to t."""
        visible = real & (torch.arange(z.shape[1], device=t.device) <= t[:, None])
        longest = int(t.max()) + 1
        x = torch.cat([self.cls.expand(len(z), 1, -1), self.enter(z[:, :longest])], dim=1)
        out: Tensor = self.context(x, F.pad(visible[:, :longest], (1, 0), value=True))[:, 0]
        return out

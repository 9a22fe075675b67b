"""TS-TCC: Time-Series Representation Learning via Temporal and Contextual Contrasting.
arXiv 2106.14112 (IJCAI 2021).

    L = L_TC_s + L_TC_w + 0.7 L_CC

    c_t         what a Transformer makes of a view's sequence z up to a random time t
    L_TC_s      from c_t of the strong view, the next K of the weak view's z, each among those of the whole batch: Eq. 1
    L_TC_w      the same from the weak view for the strong one: Eq. 2
    L_CC        c_t of both views, projected, find each other among the batch: Eq. 3, cosine / tau, tau = 0.2

    weak view   another amplitude, and a little noise
    strong view cut in up to M pieces, put together in another order, and more noise

Where paper and released code disagree, and where we depart from both (the option that restores it in brackets):
- The code writes the first channel's shuffled pieces into all channels; here all leads are shuffled, in one order.
- The softmax of L_TC is over the futures of the batch, as printed; the code's is over the predictions.
- The code's weak view multiplies each sample by its own N(2, sigma) and adds no noise; here one factor for a record, around 1,
  and noise that reaches the leads by their algebra. Sigmas and M differ from one of the paper's data sets to the next, and
  none is an ECG: ours are a choice, in mV, and M = 5 is the code's for EEG.
- K of the paper is 40 % of the sequence, which would be 125 linear maps for 10 s at 500 Hz; here 10, as in the code for EEG.
- t is drawn for each record, where the code draws one for a batch; of times after which both views have K observed
  positions. A record without such a time adds nothing.
- Leads may be taken away from both views, off by default. SMALL takes half of them: with the paper's views alone, 70 steps on
  the simulated cohort left features that a probe reads less from than from untrained ones.
- Any of four ECG encoders in place of the paper's [paper_encoder = true: three small convolutions]. A Transformer's tokens
  have seen the whole view, and the ResNet's a good part of it: predicting the future asks less of them.
- The embedding is the sequence's mean; the paper's classifier reads all of the sequence.
- AdamW and the house's schedule in place of Adam at a constant rate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn import augment
from leadwise.nn.encoder import (
    EcgEncoder,
    EncoderSettings,
    check_part,
    mean_of,
    scaled,
)
from leadwise.nn.heads import Projector
from leadwise.nn.losses import series, view_agreement
from leadwise.nn.patches import patchify
from leadwise.nn.permute import permute
from leadwise.nn.resnet import ResNet18
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
    most_pieces: int = 5  # M: strong: a recording is cut in 1 to so many
    lead_mask: float = 0.0  # both: chance of each lead to be taken away, one at least stays; the paper: none
    # the context c_t
    context_width: int = 100
    context_depth: int = 4  # Transformer layers
    context_heads: int = 4
    context_hidden: int = 64  # of their feed-forwards
    n_future: int = 10  # K: positions of the sequence to be predicted
    hidden_width: int = 64  # of the projector
    out_width: int = 32  # of the projected context
    temperature: float = 0.2  # tau, of L_CC
    w_tc: float = 1.0  # lambda_1, of both temporal terms
    w_cc: float = 0.7  # lambda_2

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.w_tc <= 0 or self.w_cc <= 0:
            raise ValueError(
                f"temperature, w_tc and w_cc must be positive; got {self.temperature}, {self.w_tc} and {self.w_cc}"
            )
        if not 0 <= self.lead_mask < 1:
            raise ValueError(f"lead_mask lies in [0, 1); got {self.lead_mask}")
        if self.most_pieces < 1 or self.n_future < 1 or min(self.gain, self.weak_noise_mv, self.strong_noise_mv) < 0:
            raise ValueError(
                "most_pieces and n_future are 1 or more, gain, weak_noise_mv and strong_noise_mv 0 or more"
            )

    @property
    def whole_batch(self) -> str:
        """The projector's batch norm needs a process's share of a batch in one pass."""
        return "method.name = 'ts_tcc'"


# A size for two CPU cores.
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
            length = ResNet18.n_positions(signal.n_samples) if c.encoder == "resnet" else c.n_patches
        if length <= c.n_future:
            raise ValueError(
                f"n_future = {c.n_future}, but a sequence has only {length} positions, the first to begin from"
            )
        self.register_buffer("electrodes", augment.lead_algebra(signal.leads), persistent=False)  # (L, 9)
        self.enter = nn.Linear(width, c.context_width)
        self.cls = nn.Parameter(0.02 * torch.randn(c.context_width))
        self.context = Transformer(
            c.context_width, c.context_depth, c.context_heads, mlp_ratio=c.context_hidden / c.context_width
        )
        self.ahead = nn.Linear(c.context_width, c.n_future * width)  # W_1 to W_K, side by side
        self.projector = Projector(c.context_width, c.hidden_width, c.out_width)

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """No term of a record by itself; and of each view what is predicted, what it is to be, and its context."""
        strong, real_s = self._sequence(self._strong(batch))
        weak, real_w = self._sequence(self._weak(batch))
        strong, weak = F.normalize(strong, dim=-1), F.normalize(weak, dim=-1)  # (B, N, D)
        t, seen = self._times(real_s, real_w)
        features = {"seen": seen.long()}
        for name, z, real in (("s", strong, real_s), ("w", weak, real_w)):
            context = self._context(z, real, t)
            following = t[:, None] + torch.arange(1, self.config.n_future + 1, device=t.device)  # (B, K)
            features[f"future_{name}"] = z[torch.arange(len(z), device=t.device)[:, None], following]
            features[f"predicted_{name}"] = self.ahead(context).reshape(len(z), self.config.n_future, -1)
            features[f"context_{name}"] = self.projector(context)
        return {}, features

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted terms over the whole batch, other processes' records too."""
        c = self.config
        every = distributed.gather_features(features)
        seen = every["seen"].bool()
        local_rows = distributed.local_rows(len(seen))
        with torch.autocast(seen.device.type, enabled=False):
            to_weak = series.future_contrast(every["predicted_s"], every["future_w"], seen, local_rows)
            to_strong = series.future_contrast(every["predicted_w"], every["future_s"], seen, local_rows)
            alike = view_agreement.nt_xent(every["context_s"], every["context_w"], c.temperature, local_rows)
        return {"L_TC_s": c.w_tc * to_weak, "L_TC_w": c.w_tc * to_strong, "L_CC": c.w_cc * alike}

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of ECGs: the mean of the encoder's sequence; any subset of leads may be observed.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        check_part(part, self.parts)
        return mean_of(*self._sequence(batch))

    # --- the steps

    def _sequence(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """z (B, N, D), and at which of the N positions anything was observed, (B, N) bool."""
        if self.config.paper_encoder:
            found: Tensor = self.conv(scaled(batch, self.signal)).transpose(1, 2)
            seen = batch.observed.any(1).float()[:, None]  # (B, 1, T)
            return found, F.adaptive_max_pool1d(seen, found.shape[1])[:, 0] > 0
        tokens, real = self.ecg.tokens(batch)
        # the ViT's tokens stand before its last norm
        return self.ecg.model.norm(tokens) if isinstance(self.ecg.model, ViT) else tokens, real

    def _weak(self, batch: Batch) -> Batch:
        ecg = augment.gain(batch.ecg, self.config.gain)
        return self._masked(replace(batch, ecg=self._noisy(ecg, self.config.weak_noise_mv) * batch.observed))

    def _strong(self, batch: Batch) -> Batch:
        ecg, observed = permute(batch.ecg, batch.observed, self.config.most_pieces, self.grid)
        noisy = self._noisy(ecg, self.config.strong_noise_mv) * observed
        return self._masked(replace(batch, ecg=noisy, observed=observed))

    def _masked(self, batch: Batch) -> Batch:
        """The view without some of its leads; one stays that an encoder could do with alone."""
        if not self.config.lead_mask:
            return batch
        whole = patchify(batch.observed, batch.observed.shape[-1] // self.grid).all(-1).any(-1)  # (B, L)
        whole = torch.where(whole.any(-1, keepdim=True), whole, batch.observed.any(-1))
        ecg, observed = augment.drop_leads(batch.ecg, batch.observed, whole, self.config.lead_mask)
        return replace(batch, ecg=ecg, observed=observed)

    def _noisy(self, ecg: Tensor, largest_mv: float) -> Tensor:
        """The ECG with white noise that arises at the electrodes."""
        still = torch.zeros(len(ecg), self.electrodes.shape[1], ecg.shape[-1], device=ecg.device)
        return ecg + torch.einsum("le,bet->blt", self.electrodes, augment.noise(still, largest_mv))

    def _times(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """A random t (B,) of each record: both views (B, N) have something until then, and K positions after it.

        And which records have such a t, (B,) bool; 0 for the others.
        """
        k = self.config.n_future
        after = (one & other)[:, 1:].unfold(1, k, 1).all(-1)  # (B, N - K)
        until = ((one.cumsum(1) > 0) & (other.cumsum(1) > 0))[:, :-k]
        fit = until & after
        draw = torch.rand(fit.shape, device=fit.device).masked_fill(~fit, -1.0)
        seen = fit.any(1)
        return torch.where(seen, draw.argmax(1), 0), seen

    def _context(self, z: Tensor, real: Tensor, t: Tensor) -> Tensor:
        """c_t (B, C): what a token of its own gathers from the sequence up to t."""
        heard = real & (torch.arange(z.shape[1], device=t.device) <= t[:, None])
        longest = int(t.max()) + 1
        x = torch.cat([self.cls.expand(len(z), 1, -1), self.enter(z[:, :longest])], dim=1)
        out: Tensor = self.context(x, F.pad(heard[:, :longest], (1, 0), value=True))[:, 0]
        return out

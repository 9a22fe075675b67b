"""Beat: the ECG tokenizer of Heartcare Suite: Multi-dimensional Understanding of ECG with Raw Multi-lead Signal Modeling.
arXiv 2506.05831 (Findings of CVPR 2026).

    L = w_rec L_rec + w_pred L_pred + w_vq L_vq + w_diversity L_div

    windows   2 s of all leads, each encoded by itself: patches of all leads together, one token each, with positions, and
              learned queries beside them in one Transformer
    codes     the encoded queries, quantised on two levels: the first level codes a query, the second what the first leaves
              (nn/quantize.py). Codebooks are moving averages, dead codes restart, and the gradient passes the quantisation by
              the rotation trick
    L_rec     squared error of the window that decoder A rebuilds from positions and quantised queries
    L_pred    squared error of the second after the window, which decoder B predicts from the same quantised queries
    L_vq      commitment: squared distance of the queries to their codes
    L_div     minus the entropy of the mean soft assignment to the codes, over all windows of the batch

An embedding is the mean over windows of the quantised queries ("backbone"), or how often each code occurs ("codes"). The part
"tokens" has the code numbers themselves, for the language models of `leadwise train-writer`: it is no embedding. Number 0 is a
window that was not observed; code k of level r is 1 + r K + k.

The released code does not do what the paper describes, and this implementation follows the paper:
- The released loss is the reconstruction alone: the quantiser's loss is computed and dropped. Here L_vq is a term of the loss.
- The released training saves another, random tokenizer, and the language model is trained on its tokens. Here the weights of a
  run are those that were trained, and a run folder is read back with a digest.
- The released tokens are computed in the order of a shuffled loader and assigned to reports by row, so tokens and reports do
  not belong together. Here tokens are read by the name of the record.
- The released language model gets new tokens that its low-rank training leaves at their random start. Here the writers train
  the embeddings of the codes.

This implementation departs from the paper as follows (in brackets: the setting that restores the paper's text):
- The paper's levels are named after tokens and queries. Decoder A gets positions and quantised queries only, so both levels
  quantise the queries here; the released code has one level [levels = 1].
- All windows of the signal are used, not the one of best quality, and each window but the last predicts the next one, so
  that the target of decoder B is recorded.
- The target is relative to the record's deviation, so that the weights do not depend on the signal's scale.
- The paper has no weights of the terms. Ours are those of VQ-VAE for L_vq, and half of L_rec for L_pred.
- Linear maps lead from the patches of a query's share of the window to the query, and in decoder A back; in decoder B, two
  layers lead from all queries to the second after the window. Without them, short trainings predict nothing: the
  reconstruction must first find out by attention which query codes which patch [direct = false]. Queries also start at the
  positions of their share.
- Encoded queries are centred before they are quantised: the moving mean of each query is subtracted, and the moving deviation
  divided out. Without it, the first level codes which query it is, and most of a book is not used.
- L_div compares the windows of the batch, as the released code does, with a soft assignment relative to the codes' width.
- Unobserved samples are 0 in the input and no part of any loss. A patch of which nothing was observed has no token, and a
  window without any has no code.
- Blocks have no dropout, and a head has width / heads channels, not 64. The optimiser is AdamW.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal
from leadwise.config import check_ranges
from leadwise.methods.contract import Features, MethodConfig, PretrainingMethod, Terms, nonzero_weights
from leadwise.nn.encoder import check_part, scaled
from leadwise.nn.losses import masked
from leadwise.nn.patches import sincos
from leadwise.nn.quantize import Quantized, ResidualQuantizer
from leadwise.nn.token_scale import signal_rms, start_at_unit_scale
from leadwise.nn.transformer import Transformer


@dataclass(frozen=True)
class Config(MethodConfig):
    windows: int = 5  # W, windows of a recording: 2 s each for 10 s
    n_patches: int = (
        100  # patches per lead of a recording, a multiple of windows: 20 per window, 25 samples each at 250 Hz
    )
    queries: int = 10  # learned queries of a window; each gets one code per level
    levels: int = 2  # R, codebooks, each of which codes what the ones before it leave
    codes: int = 256  # K, codes of each codebook
    width: int = 128  # D, also of the codes
    depth: int = 6  # Transformer layers of the encoder
    heads: int = 8
    decoder_depth: int = 6  # of each decoder
    direct: bool = (
        True  # maps past the attention: from the patches of a query's share to it, and from queries to patches
    )
    ahead: float = 0.5  # part of the next window that decoder B predicts: 1 s
    decay: float = 0.8  # of the codes' moving averages
    dead_below: float = 0.1  # a code with less than this share of the mean use restarts
    w_pred: float = 0.5
    w_vq: float = 0.25
    w_diversity: float = 0.3

    def __post_init__(self) -> None:
        check_ranges(self, windows=">= 2", queries=">= 1", levels=">= 1", codes=">= 2", ahead="(0, 1]")
        check_ranges(self, decay="[0, 1)", dead_below="[0, 1)", w_pred="> 0", w_vq=">= 0", w_diversity=">= 0")
        if self.n_patches % self.windows:
            raise ValueError(f"n_patches = {self.n_patches} must be a multiple of windows = {self.windows}")
        if self.direct and self.n_patches // self.windows % self.queries:
            raise ValueError(
                f"direct = true needs a number of queries that divides the {self.n_patches // self.windows} patches of a window, "
                f"not {self.queries}; change queries, or set direct = false"
            )


SIGNAL = Signal(rate_hz=250, duration_s=10.0, normalize="lead_zscore")  # the paper's: each lead by its own deviation
# Settings for two CPU cores: narrow, and fewer layers.
SMALL = {"width": 64, "depth": 2, "heads": 4, "decoder_depth": 2}
SMALL_OPTIM = {"batch_size": 32, "lr": 2e-3, "optimizer": "muon"}
# The smallest settings, for the contract tests.
TINY = {
    "": {
        "windows": 2, "n_patches": 20, "queries": 5, "codes": 16, "width": 32, "depth": 1, "heads": 4, "decoder_depth": 1,
    },
    "one level": {
        "windows": 2, "n_patches": 20, "queries": 5, "codes": 16, "width": 32, "depth": 1, "heads": 4, "decoder_depth": 1,
        "levels": 1, "w_diversity": 0.0, "ahead": 1.0,
    },
    "paper": {
        "windows": 2, "n_patches": 20, "queries": 3, "codes": 16, "width": 32, "depth": 1, "heads": 4, "decoder_depth": 1,
        "direct": False,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Rebuilt:
    """ECGs on the model's scale, (B, L, T) each."""

    ecg: Tensor  # the input, 0 where not observed
    rebuilt: Tensor  # from the codes of each window
    continued: Tensor  # predicted from the codes of the window before
    is_continued: Tensor  # bool, the observed samples that are predicted: not in the first window


class Method(PretrainingMethod):
    compares_records = True
    parts = ("backbone", "codes", "tokens")
    config: Config

    def __init__(
        self, config: Config, signal: Signal, tokenizer: object = None, saved_folder: Path | None = None
    ) -> None:
        super().__init__(config, signal)
        c = config
        self.weights = nonzero_weights(L_rec=1.0, L_pred=c.w_pred, L_vq=c.w_vq, L_div=c.w_diversity)
        if signal.n_samples % c.n_patches:
            raise ValueError(f"n_patches = {c.n_patches} does not divide the {signal.n_samples} samples of a lead")
        n_inputs = len(signal.leads) * signal.n_samples // c.n_patches
        n = c.n_patches // c.windows  # patches of a window
        self.n_ahead = max(1, round(c.ahead * n))

        # encoder and codes
        self.tokenize = nn.Linear(n_inputs, c.width)
        start_at_unit_scale(self.tokenize, signal_rms(signal.normalize))
        time = sincos(n + self.n_ahead, c.width)
        self.positions = nn.Parameter(time[:n].clone())
        self.queries = nn.Parameter(_query_places(time[:n], c.queries))
        self.collect = nn.Linear(n // c.queries * c.width, c.width) if c.direct else None
        self.encoder = Transformer(c.width, c.depth, c.heads)
        self.quantizer = ResidualQuantizer(c.levels, c.codes, c.queries, c.width, c.decay, c.dead_below)

        # decoder A: the window; decoder B: what follows it
        back = nn.Linear(c.width, n // c.queries * c.width) if c.direct else None
        self.rebuild = _Decoder(c, time[:n], time[:n], n_inputs, back)
        further = _Further(c.queries, c.width, self.n_ahead) if c.direct else None
        self.predict = _Decoder(c, time[n:], time[:n], n_inputs, further)

    @property
    def n_token_ids(self) -> int:
        """The number of different numbers in the part "tokens"."""
        return 1 + self.config.levels * self.config.codes

    # --- the loss

    def local_terms(self, batch: Batch) -> tuple[Terms, Features]:
        """L_rec, L_pred and L_vq, and for L_div the mean soft assignment of each record, "use" (B, R, K), and its weight."""
        # encode and decode
        ecg = scaled(batch, self.signal)
        windows, observed, is_seen = self._windows(ecg, batch.observed)
        quantized = self._quantize(windows, observed, is_seen)
        rebuilt, predicted = self.rebuild(quantized.vectors), self.predict(quantized.vectors[:, :-1])

        # the targets: each window, and the beginning of the next one
        counts = batch.observed.flatten(1).sum(1).clamp(min=1)
        spread = (ecg.square().flatten(1).sum(1) / counts + 1e-6).sqrt()[:, None, None, None]
        target = windows / spread  # (B, W, N, L P)
        after = observed[:, 1:, : self.n_ahead] & is_seen[:, :-1, None, None]
        terms = {
            "L_rec": masked.reconstruction(rebuilt, target, observed),
            "L_pred": self.config.w_pred * masked.reconstruction(predicted, target[:, 1:, : self.n_ahead], after),
        }

        # the quantiser: means over the windows with codes
        weight = is_seen[..., None] / is_seen.sum(1)[:, None, None].clamp(min=1)  # (B, W, 1), 1 in sum
        if self.config.w_vq:
            terms["L_vq"] = self.config.w_vq * (quantized.commitment * weight).mean(-1).sum(1).mean()
        if not self.config.w_diversity:
            return terms, {}
        return terms, {"use": (quantized.soft * weight[..., None, None]).mean(2).sum(1)}

    def batch_terms(self, features: Features) -> Terms:
        """L_div of the whole batch: minus the entropy of the mean assignment, as a share of its largest value."""
        if not features:
            return {}
        mean = distributed.gather(features["use"].float()).mean(0)  # (R, K)
        entropy = -(mean * mean.clamp(min=1e-8).log()).sum(-1)
        largest = torch.log(mean.new_tensor(self.config.codes))
        return {"L_div": -self.config.w_diversity * (entropy / largest).mean()}

    def after_step(self, progress: float) -> None:
        """Move the codes to the vectors of the step, and restart dead ones."""
        self.quantizer.update()

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Return how many of the K codes are in use on the batch, as perplexity / K, the mean over levels."""
        use = self.embed_ecg(batch, "codes").mean(0).reshape(self.config.levels, self.config.codes)
        entropy = -(use * use.clamp(min=1e-12).log()).sum(-1)
        return {"perplexity": float(entropy.exp().mean()) / self.config.codes}

    # --- embeddings and codes

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """Embeddings of whole ECGs; any subset of leads may be observed.

        backbone: (B, Q D), the quantised queries, mean over the observed windows. codes: (B, R K), the share of each code at
        its level. tokens: (B, W Q R), the code numbers as floats, in the order window, query, level.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        check_part(part, self.parts)
        codes, is_seen = self.encode(batch)
        if part == "tokens":
            first = 1 + self.config.codes * torch.arange(self.config.levels, device=codes.device)
            return ((codes + first) * is_seen[..., None, None]).flatten(1).float()
        weight = is_seen / is_seen.sum(1, keepdim=True).clamp(min=1)  # (B, W)
        if part == "codes":
            is_code = codes[..., None] == torch.arange(self.config.codes, device=codes.device)  # (B, W, Q, R, K)
            return (is_code * weight[:, :, None, None, None]).mean(2).sum(1).flatten(1)
        vectors = self.quantizer.lookup(codes)  # (B, W, Q, D)
        return (vectors * weight[..., None, None]).sum(1).flatten(1)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The codes (B, W, Q, R) int64 of each window, and which windows have an observed sample, (B, W) bool."""
        windows, observed, is_seen = self._windows(scaled(batch, self.signal), batch.observed)
        return self._quantize(windows, observed, is_seen).codes, is_seen

    def decode(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """The windows of codes (B, W, Q, R): rebuilt (B, W, L, S), and what follows each of them (B, W, L, A).

        Both are relative to the record's deviation on the model's scale, as the targets of the loss are.
        """
        vectors = self.quantizer.lookup(codes)
        return self._samples(self.rebuild(vectors)), self._samples(self.predict(vectors))

    @torch.no_grad()
    def rebuild_and_continue(self, batch: Batch) -> Rebuilt:
        """The ECGs, rebuilt from their codes, and continued from the codes of the window before, on the model's scale."""
        ecg = scaled(batch, self.signal)
        codes, is_seen = self.encode(batch)
        rebuilt, after = self.decode(codes)
        counts = batch.observed.flatten(1).sum(1).clamp(min=1)
        spread = (ecg.square().flatten(1).sum(1) / counts + 1e-6).sqrt()[:, None, None]

        # windows in a row; what follows the last one was not recorded
        n_ahead, size = after.shape[-1], rebuilt.shape[-1]
        continued, is_continued = torch.zeros_like(rebuilt), torch.zeros_like(rebuilt, dtype=torch.bool)
        continued[:, 1:, :, :n_ahead] = after[:, :-1]
        is_continued[:, 1:, :, :n_ahead] = is_seen[:, :-1, None, None]
        flat = [x.transpose(1, 2).reshape(*ecg.shape[:2], size * self.config.windows) for x in (rebuilt, continued)]
        known = is_continued.transpose(1, 2).reshape(ecg.shape) & batch.observed
        return Rebuilt(ecg, flat[0] * spread, flat[1] * spread, known)

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The ECG (B, L, T) in mV, rebuilt from its codes, and the mask of its observed samples, all of which are rebuilt."""
        out = self.rebuild_and_continue(batch)
        # the model's scale is a level and a factor for each lead, whatever the normalisation
        n = batch.observed.sum(-1, keepdim=True).clamp(min=1)
        level, scale = [], []
        for x in (batch.ecg, out.ecg):
            mean = (x * batch.observed).sum(-1, keepdim=True) / n
            level.append(mean)
            scale.append((((x - mean).square() * batch.observed).sum(-1, keepdim=True) / n).sqrt())
        factor = scale[0] / scale[1].clamp(min=1e-6)
        return (out.rebuilt - level[1]) * factor + level[0], batch.observed

    # --- parts

    def _windows(self, ecg: Tensor, observed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Windows (B, W, N, L P) of the ECG, their observed samples, and which windows have one, (B, W) bool."""
        c = self.config

        def cut(x: Tensor) -> Tensor:
            b, n_leads, n_samples = x.shape
            patches = x.reshape(b, n_leads, c.windows, c.n_patches // c.windows, n_samples // c.n_patches)
            return patches.permute(0, 2, 3, 1, 4).flatten(3)

        samples = cut(observed)
        return cut(ecg), samples, samples.flatten(2).any(-1)

    def _samples(self, patches: Tensor) -> Tensor:
        """Patches (B, W, N, L P) as samples (B, W, L, N P)."""
        by_lead = patches.reshape(*patches.shape[:3], len(self.signal.leads), -1)
        return by_lead.permute(0, 1, 3, 2, 4).flatten(3)

    def _quantize(self, windows: Tensor, observed: Tensor, is_seen: Tensor) -> Quantized:
        """The quantised queries (B, W, Q, D)."""
        b, w = windows.shape[:2]
        tokens = self.tokenize(windows).flatten(0, 1)  # (B W, N, D)
        queries = self.queries.expand(tokens.shape[0], -1, -1).to(tokens.dtype)
        if self.collect is not None:
            queries = self.collect(tokens.unflatten(1, (self.config.queries, -1)).flatten(2)) + self.queries
        tokens = tokens + self.positions
        real = nn.functional.pad(observed.any(-1).flatten(0, 1), (0, self.config.queries), value=True)
        encoded = self.encoder(torch.cat([tokens, queries], dim=1), real)[:, -self.config.queries :]
        vectors = encoded.unflatten(0, (b, w))
        every = None if torch.compiler.is_exporting() else is_seen[..., None].expand(vectors.shape[:3])
        out: Quantized = self.quantizer(vectors, every)
        return out


class _Decoder(nn.Module):
    """Quantised queries (B, W, Q, D) -> patches (B, W, N, L P): learned positions beside the queries in a Transformer."""

    def __init__(
        self, config: Config, places: Tensor, of_window: Tensor, n_outputs: int, direct: nn.Module | None
    ) -> None:
        """
        Args:
            places: (N, D) start of the positions of the patches that are decoded.
            of_window: (M, D) start of the positions of the patches that the queries code.
            direct: map of the queries (B, Q, D) to as many numbers as N tokens have, which are added to the positions.
        """
        super().__init__()
        self.positions = nn.Parameter(places.clone())
        self.places = nn.Parameter(_query_places(of_window, config.queries))
        self.enter = nn.Linear(config.width, config.width)
        self.direct = direct
        self.transformer = Transformer(config.width, config.decoder_depth, config.heads)
        self.leave = nn.Linear(config.width, n_outputs)

    def forward(self, vectors: Tensor) -> Tensor:
        queries = (self.enter(vectors) + self.places).flatten(0, 1)  # (B W, Q, D)
        positions = self.positions.expand(queries.shape[0], -1, -1).to(queries.dtype)
        if self.direct is not None:
            positions = positions + self.direct(vectors.flatten(0, 1)).reshape(positions.shape)
        x = self.transformer(torch.cat([positions, queries], dim=1))[:, : positions.shape[1]]
        out: Tensor = self.leave(x)
        return out.reshape(*vectors.shape[:2], *out.shape[1:])


class _Further(nn.Sequential):
    """Queries of a window (B, Q, D) to N tokens (B, N D) after it, by two layers: any query may decide any token."""

    def __init__(self, n_queries: int, width: int, n_patches: int) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(n_queries * width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, n_patches * width),
        )


def _query_places(positions: Tensor, n_queries: int) -> Tensor:
    """The start (Q, D) of queries that are spread over the window: the mean position of each one's share of (N, D) patches.

    Attention starts with equal weights of queries and keys (nn/transformer.py), so each query first attends to its own share.
    From equal queries, all of them code the mean of the window, and the reconstruction predicts nothing for a long time.
    """
    n = len(positions)
    share = torch.arange(n) * n_queries / n  # of patch n, in queries
    weight = torch.relu(1.5 - (share[None] + 0.5 * n_queries / n - torch.arange(n_queries)[:, None] - 0.5).abs())
    mean = weight @ positions / weight.sum(1, keepdim=True)
    return mean * positions.square().mean().sqrt() / mean.square().mean(1, keepdim=True).sqrt().clamp(min=1e-3)

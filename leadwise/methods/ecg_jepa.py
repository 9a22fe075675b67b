"""ECG-JEPA: Learning General Representation of 12-Lead Electrocardiogram With a Joint-Embedding Predictive Architecture.
arXiv 2410.08559.

    L_JEPA      smooth L1 distance between predicted and target vectors of hidden patches

    tokens      W patch(l, n) + time_n + lead_l
    hidden      the same times in all leads: blocks of consecutive times, or random times [masking]
    CroPA       a token attends to the tokens of its own lead and of its own time only                    [cross_pattern]
    context     the encoder's tokens of visible patches
    target      a momentum copy of the encoder on all patches, each vector normalised to mean 0 and variance 1
    predictor   a narrow Transformer over each lead by itself, with a shared mask embedding in hidden places

Nothing is reconstructed: what is predicted is a vector of the momentum copy, which follows the encoder as an exponential moving
average, m copy + (1 - m) encoder, with m from 0.996 to 1.

Choices where the paper and its released code disagree, and departures from both (in brackets: the setting that restores
theirs):
- The paper's text could be read in part only; sizes, masks and loss are those of the released code.
- All leads of the signal have tokens; theirs are the eight independent ones [signal.leads].
- Hidden times are drawn for each record; in the code one mask serves the batch.
- The predictor knows which lead it predicts. Positions are added once; the code adds them before each block.
- Patches that were not observed completely have no token and are no target.
- m rises along a half cosine, not linearly. Stochastic depth and rotary positions of later versions of the code are left out.
- Lead embeddings are learned; queries and keys of the attention start equal (nn/lead_time.py, nn/transformer.py).
- The optimiser is AdamW with leadwise's schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.batch import Batch, Signal, to_device
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn import masking, momentum
from leadwise.nn.encoder import NO_PATCH, check_part, scaled, valid_only
from leadwise.nn.lead_time import DecoderShape, Encoded, EncoderShape, LeadTimeDecoder, LeadTimeEncoder
from leadwise.nn.losses import masked
from leadwise.nn.observed import usable_patches
from leadwise.nn.patches import LinearTokenizer, patchify
from leadwise.nn.token_scale import signal_rms
from leadwise.nn.transformer import Block


@dataclass(frozen=True)
class Config(MethodConfig):
    n_patches: int = 50  # N, patches per lead: 0.2 s each for 10 s; must divide the number of samples of a lead
    width: int = 768  # D
    depth: int = 12  # Transformer layers
    heads: int = 16
    cross_pattern: bool = True  # attention within a lead and within a time only; false: among all tokens
    masking: Literal["block", "random"] = "block"  # hidden times: n_blocks blocks, or single times
    n_blocks: int = 4
    mask_low: float = 0.175  # least share of the times in a block; with masking = "random" of all hidden times (0.6)
    mask_high: float = 0.225  # the largest (0.7)
    predictor_width: int = 384
    predictor_depth: int = 6
    predictor_heads: int = 12
    momentum: float = 0.996  # m at the first step, 1 at the last

    def __post_init__(self) -> None:
        check_ranges(self, mask_low="(0, 1)", mask_high="(0, 1)", momentum="[0, 1]", n_blocks=">= 1")
        if self.mask_low > self.mask_high:
            raise ValueError(f"mask_low = {self.mask_low:g} is above mask_high = {self.mask_high:g}")


SIGNAL = Signal(rate_hz=250, duration_s=10.0)  # the paper's
# Settings for two CPU cores. Runs have hundreds of steps, not hundreds of thousands, so the copy follows faster;
# random times learn more in them than blocks do.
SMALL = {
    "n_patches": 20, "width": 64, "depth": 4, "heads": 4, "predictor_width": 48, "predictor_depth": 2, "predictor_heads": 2,
    "momentum": 0.98, "masking": "random", "mask_low": 0.6, "mask_high": 0.7,
}  # fmt: skip
SMALL_OPTIM = {"batch_size": 32, "lr": 2e-3}
# The smallest settings, for the contract tests.
TINY = {
    "": {
        "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "predictor_width": 16, "predictor_depth": 1, "predictor_heads": 2,
        "momentum": 0.9,
    },
    "random": {
        "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "predictor_width": 16, "predictor_depth": 1, "predictor_heads": 2,
        "momentum": 0.9, "masking": "random", "mask_low": 0.6, "mask_high": 0.7, "cross_pattern": False,
    },
}  # fmt: skip


class Method(PretrainingMethod):
    falling_terms = ("L_JEPA",)
    config: Config

    def __init__(
        self, config: Config, signal: Signal, tokenizer: object = None, saved_folder: Path | None = None
    ) -> None:
        super().__init__(config, signal)
        c = config
        self.weights = {"L_JEPA": 1.0}
        if signal.n_samples % c.n_patches:
            raise ValueError(f"n_patches = {c.n_patches} does not divide the {signal.n_samples} samples of a lead")
        samples = signal.n_samples // c.n_patches
        shape = EncoderShape(
            len(signal.leads), c.n_patches, samples, c.width, c.depth, c.heads, temporal="sincos",
            cross_pattern=c.cross_pattern,
        )  # fmt: skip
        self.ecg = LeadTimeEncoder(shape, LinearTokenizer(samples, c.width, signal_rms(signal.normalize)))
        self.target = momentum.Teacher(self.ecg)
        narrow = DecoderShape(c.predictor_width, c.predictor_depth, c.predictor_heads, "leadwise")
        self.predictor = LeadTimeDecoder(replace(shape, patch_samples=c.width), narrow)  # vectors in place of samples

    @property
    def compilable_modules(self) -> list[nn.Module]:
        """Modules that torch.compile may compile: the blocks, which draw no random numbers."""
        return [part for part in self.modules() if isinstance(part, Block)]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss, by name."""
        c = self.config
        patches, usable, on_host = self._patches(batch)
        # the host draws and counts, so that a GPU is not waited for
        times = masking.draw_hidden_times(
            on_host.cpu(), c.mask_low, c.mask_high, c.n_blocks if c.masking == "block" else 0
        )
        visible_on_host = on_host & ~times[:, None]
        visible = usable & ~to_device(times, usable.device)[:, None]
        context = self.ecg(patches, visible, count=visible_on_host.sum(-1))
        predicted = self.predictor(context, usable, visible=visible, on_host=on_host)  # (B, L, N, D)
        encoded = self.target(patches, usable, None, None, on_host.sum(-1))
        with torch.autocast(usable.device.type, enabled=False):
            target = F.layer_norm(_on_grid(encoded, usable).float(), (c.width,))
            return {"L_JEPA": masked.latent_prediction(predicted.float(), target, usable & ~visible)}

    def after_step(self, progress: float) -> None:
        """Update the momentum copy."""
        self.target.follow(self.ecg, momentum.rising(progress, self.config.momentum))

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of whole, unmasked ECGs, the mean of the encoder's tokens; any subset of leads may be observed.

        Raises:
            ValueError: an unknown part, or a record without one completely observed patch.
        """
        return self.embed_parts(batch, (part,))[0]

    def embed_parts(self, batch: Batch, parts: Sequence[str]) -> list[Tensor]:
        """Return `embed_ecg` of each of `parts`, from one pass of the encoder."""
        for part in parts:
            check_part(part, self.parts)
        patches, usable, on_host = self._patches(batch)
        count = None if torch.compiler.is_exporting() else on_host.sum(-1)
        pooled: Tensor = self.ecg(patches, usable, count=count).pooled
        return [pooled] * len(parts)

    def _patches(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled patches (B, L, N, P), and which are completely observed (B, L, N), on the device and on the host.

        Raises:
            ValueError: a record has no patch that is.
        """
        n = self.config.n_patches
        patches = patchify(scaled(batch, self.signal), n)
        usable, on_host = usable_patches(batch, n)
        return valid_only(patches, on_host.flatten(1).any(-1), batch.record, NO_PATCH), usable, on_host


def _on_grid(encoded: Encoded, usable: Tensor) -> Tensor:
    """The tokens on the grid of leads and patches, (B, L, N, D); 0 where none was encoded."""
    tokens = encoded.tokens if encoded.real is None else encoded.tokens * encoded.real[..., None]
    grid = tokens.new_zeros(*usable.flatten(1).shape, tokens.shape[-1])
    index = encoded.index[..., None].expand(-1, -1, tokens.shape[-1])
    return grid.scatter_add(1, index, tokens).reshape(*usable.shape, -1)

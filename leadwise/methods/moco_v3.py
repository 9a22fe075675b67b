"""MoCo v3: An Empirical Study of Training Self-Supervised Vision Transformers.
arXiv 2104.02057 (ICCV 2021).

    L_MoCo = ctr(q_1, k_2) + ctr(q_2, k_1),    ctr(q, k) = -2 tau log [exp(q k+ / tau) / sum_k exp(q k / tau)]      Eq. 1

    q    encoder, projector, predictor of a view; k of a momentum encoder and its projector, which no gradient reaches and
         which follow by m k + (1 - m) q, m from 0.99 to 1 by a half cosine. Cosines; the other records of the batch are
         the negatives, without a queue.
    The map from patches to tokens stays as it was drawn at random: learning it, a Transformer is unsteady (section 4.2).

Where we depart from the paper, and why:
- ECGs in place of images: one of four ECG encoders, and views that keep the diagnosis (nn/views.py), both drawn in the same
  way, in place of two different sets of crops and colours.
- The vector is the mean over the encoder's tokens, not a class token; positions are the encoder's.
- With encoder = "resnet", too, a projector of three layers and tau = 0.2; the released code then has two layers and tau = 1.
  A ResNet has no patches, and all of it learns.
- The momentum encoder moves after the optimiser's step, not before the next look: the same, but for the first step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from leadwise import distributed
from leadwise.batch import Batch, Signal
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn import momentum
from leadwise.nn.encoder import Kind
from leadwise.nn.heads import Projector
from leadwise.nn.losses import view_agreement
from leadwise.nn.two_views import Tower, TwoViewSettings, TwoViewsInPairs
from leadwise.nn.views import Views


@dataclass(frozen=True)
class Config(TwoViewSettings, MethodConfig):
    encoder: Kind = "vit"
    hidden_width: int = 4096  # of projector and predictor
    out_width: int = 256  # of q and k
    temperature: float = 0.2  # tau
    momentum: float = 0.99  # m at the first step, 1 at the last
    freeze_patches: bool = True  # the map from patches to tokens stays random

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0 or not 0 <= self.momentum <= 1:
            raise ValueError(
                f"temperature must be positive and momentum in [0, 1]; got {self.temperature} and {self.momentum}"
            )


# A size for two CPU cores. Hundreds of steps, not hundreds of thousands: the momentum encoder has to follow sooner. A ResNet, as
# those beside it have: a small ViT, the paper's own kind, had not left its untrained twin behind after 236 steps (NOTES.md).
SMALL = {"encoder": "resnet", "resnet_width": 16, "hidden_width": 256, "out_width": 128, "momentum": 0.97}
# The smallest settings, for the contract tests.
TINY = {
    "": {"encoder": "resnet", "resnet_width": 8, "hidden_width": 32, "out_width": 16},
    "vit": {"n_patches": 10, "width": 32, "depth": 2, "heads": 4, "hidden_width": 32, "out_width": 16},
    "lead_time_conv": {
        "encoder": "lead_time_conv", "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "hidden_width": 32, "out_width": 16,
    },
}  # fmt: skip


class Method(TwoViewsInPairs, PretrainingMethod):
    config: Config

    def __init__(
        self, config: Config, signal: Signal, tokenizer: object = None, saved_folder: Path | None = None
    ) -> None:
        c = config
        super().__init__(config, signal)
        self.tower = Tower(c, signal, c.hidden_width, c.hidden_width, c.out_width, ends="bare_norm")
        self.view = Views(c, signal, self.tower.ecg.grid)
        self.weights = {"L_MoCo": 1.0}
        if c.freeze_patches and self.tower.ecg.tokenizer is not None:
            self.tower.ecg.tokenizer.requires_grad_(False)
        self.predictor = Projector(c.out_width, c.hidden_width, c.out_width, ends="bare_norm")
        self.teacher = momentum.Teacher(self.tower)

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """No term of a record by itself; and queries and keys of two views of each, (B, D)."""
        features: dict[str, Tensor] = {}
        for number, view in enumerate(self.two_views(batch), start=1):
            features |= {f"q_{number}": self.predictor(self.tower(view)), f"k_{number}": self.teacher(view)}
        return {}, features

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The mean over this process's queries, each among the keys of the whole batch."""
        one = self._find(features["q_1"], features["k_2"])
        other = self._find(features["q_2"], features["k_1"])
        return {"L_MoCo": one + other}

    def after_step(self, progress: float) -> None:
        """The momentum encoder follows."""
        self.teacher.follow(self.tower, momentum.rising(progress, self.config.momentum))

    def _find(self, query: Tensor, key: Tensor) -> Tensor:
        keys = distributed.gather(key.detach().float())
        return view_agreement.momentum_nce(
            query.float(), keys, self.config.temperature, distributed.local_rows(len(keys))
        )

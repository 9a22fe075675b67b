"""BYOL: Bootstrap Your Own Latent, a New Approach to Self-Supervised Learning.
arXiv 2006.07733 (NeurIPS 2020).

    L_BYOL = |q(z_1) - z'_2|^2 + |q(z_2) - z'_1|^2        unit vectors; Eq. 2 and the same with the views exchanged

    z     encoder f and projector g; the predictor q predicts the target network's z' of the other view
    z'    target network, without gradient: an exponential moving average of f and g, xi <- tau xi + (1 - tau) theta after
          each step, with tau from 0.996 to 1 along a half cosine

There are no negatives.

This implementation departs from the paper as follows:
- Inputs are ECGs, not images: one of five ECG encoders, and views that preserve the diagnosis (nn/views.py), both drawn from
  the same distribution, in place of two different sets of crops and colour changes.
- The optimiser is AdamW with leadwise's schedule, not LARS.
- g's last linear map has no bias: q's first batch norm removes it, so it would get no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from leadwise.batch import Batch, Signal
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn import momentum
from leadwise.nn.heads import Projector
from leadwise.nn.losses import view_agreement
from leadwise.nn.two_views import Tower, TwoViews, TwoViewSettings
from leadwise.nn.views import View, Views


@dataclass(frozen=True)
class Config(TwoViewSettings, MethodConfig):
    hidden_width: int = 4096  # of projector and predictor
    out_width: int = 256  # of z
    momentum: float = 0.996  # tau at the first step, 1 at the last

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, momentum="[0, 1]")


# Settings for two CPU cores. Runs have hundreds of steps, not hundreds of thousands, so the target follows faster. Views are
# harder than the default: with the default, the features become worse than those of the untrained encoder (NOTES.md).
SMALL = {
    "encoder": "resnet", "resnet_width": 16, "hidden_width": 256, "out_width": 128, "momentum": 0.99,
    "view_gain": 0.3, "view_wander_mv": 0.3, "view_noise_mv": 0.06, "view_time_mask": 0.3,
}  # fmt: skip
# The smallest settings, for the contract tests.
TINY = {
    "": {"resnet_width": 8, "hidden_width": 32, "out_width": 16},
    "lead_time": {
        "encoder": "lead_time", "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "hidden_width": 32, "out_width": 16,
    },
}  # fmt: skip


class Method(TwoViews, PretrainingMethod):
    config: Config

    def __init__(
        self, config: Config, signal: Signal, tokenizer: object = None, saved_folder: Path | None = None
    ) -> None:
        super().__init__(config, signal)
        self.tower = Tower(config, signal, config.hidden_width, config.out_width, ends="bare")
        self.view = Views(config, signal, self.tower.ecg.grid)
        self.weights = {"L_BYOL": 1.0}
        self.predictor = Projector(config.out_width, config.hidden_width, config.out_width)
        self.target = momentum.Teacher(self.tower)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss, by name. It compares no records, so only the batch norms communicate with other processes."""
        one, other = self.two_views(batch)
        return {"L_BYOL": self._predict(one, other) + self._predict(other, one)}

    def after_step(self, progress: float) -> None:
        """Update the target network."""
        self.target.follow(self.tower, momentum.rising(progress, self.config.momentum))

    def _predict(self, view: View, other: View) -> Tensor:
        """Eq. 2: predict the target network's output for `other` from `view`."""
        prediction = self.predictor(self.tower(view))
        return view_agreement.bootstrap(prediction.float(), self.target(other).float())

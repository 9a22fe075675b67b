"""BYOL: Bootstrap Your Own Latent, a New Approach to Self-Supervised Learning.
arXiv 2006.07733 (NeurIPS 2020).

    L_BYOL = |q(z_1) - z'_2|^2 + |q(z_2) - z'_1|^2      Eq. 2 and its mirror image, of unit vectors; no negatives

    z    encoder f, projector g; q predicts the target's z' of the other view
    z'   of a target network, which no gradient reaches: it follows f and g, xi <- tau xi + (1 - tau) theta, after each step,
         with tau from 0.996 to 1 by a half cosine

Where we depart from the paper, and why:
- ECGs in place of images: one of four ECG encoders, and views that keep the diagnosis (nn/views.py), both drawn in the same
  way, in place of two different sets of crops and colours.
- AdamW and the house's schedule in place of LARS.
- g's last linear map has no bias: q's first batch norm takes it away, and so it could not learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from leadwise.batch import Batch, Signal
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
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum lies in [0, 1]; got {self.momentum}")


# A size for two CPU cores. Hundreds of steps, not hundreds of thousands: the target has to follow sooner. Views are harder than
# the default, or the features fall below those of the untrained encoder (NOTES.md).
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
        """The loss, by name: each record's own, so that nothing is asked of other processes but the batch norms'."""
        one, other = self.two_views(batch)
        return {"L_BYOL": self._predict(one, other) + self._predict(other, one)}

    def after_step(self, progress: float) -> None:
        """The target follows."""
        self.target.follow(self.tower, momentum.rising(progress, self.config.momentum))

    def _predict(self, seen: View, other: View) -> Tensor:
        prediction = self.predictor(self.tower(seen))
        return view_agreement.bootstrap(prediction.float(), self.target(other).float())

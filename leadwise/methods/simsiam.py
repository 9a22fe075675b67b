"""SimSiam: Exploring Simple Siamese Representation Learning.
arXiv 2011.10566 (CVPR 2021).

    L_SimSiam = D(p_1, stop(z_2)) / 2 + D(p_2, stop(z_1)) / 2,    D(p, z) = -cos(p, z)              (Eqs. 1-4)

    z       encoder f and a projector g of three layers: z = g(f(view))
    p       p = h(z), a predictor h with a narrow hidden layer
    stop    no gradient reaches z

There are no negatives and no second network: the stopped gradient alone prevents collapse to one point.

This implementation departs from the paper as follows:
- Inputs are ECGs, not images: one of five ECG encoders, and views that preserve the diagnosis (nn/views.py) in place of crops
  and colour changes.
- The optimiser is AdamW with leadwise's schedule, not SGD. The predictor has the same schedule; the paper keeps its learning
  rate constant.
- The projector's last batch norm neither scales nor shifts, as in the released code; the paper does not specify this.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from leadwise.batch import Batch, Signal
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn.heads import Projector
from leadwise.nn.losses import view_agreement
from leadwise.nn.two_views import Tower, TwoViews, TwoViewSettings
from leadwise.nn.views import Views


@dataclass(frozen=True)
class Config(TwoViewSettings, MethodConfig):
    hidden_width: int = 2048  # of the projector
    out_width: int = 2048  # of z and p
    waist_width: int = 512  # hidden width of the predictor, between z and p


# Settings for two CPU cores. Views are harder than the default: two easy views agree early in training, and without negatives
# the features then become worse than those of the untrained encoder (NOTES.md).
SMALL = {
    "encoder": "resnet", "resnet_width": 16, "hidden_width": 256, "out_width": 256, "waist_width": 64,
    "view_gain": 0.3, "view_wander_mv": 0.3, "view_noise_mv": 0.06, "view_time_mask": 0.3,
}  # fmt: skip
# The smallest settings, for the contract tests.
TINY = {
    "": {"resnet_width": 8, "hidden_width": 32, "out_width": 32, "waist_width": 8},
    "vit": {
        "encoder": "vit", "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "hidden_width": 32, "out_width": 32,
        "waist_width": 8,
    },
}  # fmt: skip


class Method(TwoViews, PretrainingMethod):
    config: Config

    def __init__(
        self, config: Config, signal: Signal, tokenizer: object = None, saved_folder: Path | None = None
    ) -> None:
        c = config
        super().__init__(config, signal)
        self.tower = Tower(c, signal, c.hidden_width, c.hidden_width, c.out_width, ends="bare_norm")
        self.view = Views(c, signal, self.tower.ecg.grid)
        self.weights = {"L_SimSiam": 1.0}
        self.predictor = Projector(c.out_width, c.waist_width, c.out_width)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss, by name. It compares no records, so only the batch norms communicate with other processes."""
        z_1, z_2 = (self.tower(view) for view in self.two_views(batch))
        p_1, p_2 = self.predictor(z_1), self.predictor(z_2)
        one = view_agreement.negative_cosine(p_1.float(), z_2.float())
        other = view_agreement.negative_cosine(p_2.float(), z_1.float())
        return {"L_SimSiam": one / 2 + other / 2}

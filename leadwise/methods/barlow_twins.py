"""Barlow Twins: Self-Supervised Learning via Redundancy Reduction.
arXiv 2103.03230 (ICML 2021).

    L_BT = sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2                                          (Eq. 1)

    C_ij    correlation over the batch of feature i of one view's z with feature j of the other view's z    (Eq. 2)

Equal features of the two views should correlate, different features should not. There are no negatives, no second network and
no stopped gradient.

This implementation departs from the paper as follows:
- Inputs are ECGs, not images: one of five ECG encoders, and views that preserve the diagnosis (nn/views.py), both drawn from
  the same distribution, in place of two different sets of crops and colour changes.
- The optimiser is AdamW with leadwise's schedule, not LARS with a separate learning rate for biases and norms.
- C is Eq. 2 on the gathered rows of all processes, with the batch's own statistics on held-out patients too. The released code
  uses a batch norm instead, which would use running statistics in eval mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from leadwise import distributed
from leadwise.batch import Signal
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn.losses import view_agreement
from leadwise.nn.two_views import Tower, TwoViewSettings, TwoViewsInPairs
from leadwise.nn.views import Views


@dataclass(frozen=True)
class Config(TwoViewSettings, MethodConfig):
    hidden_width: int = 8192  # of the projector's first two layers
    out_width: int = 8192  # of z
    off_diagonal: float = 5e-3  # lambda

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, off_diagonal=">= 0")


# Settings for two CPU cores.
SMALL = {"encoder": "resnet", "resnet_width": 16, "hidden_width": 256, "out_width": 256}
# The smallest settings, for the contract tests.
TINY = {
    "": {"resnet_width": 8, "hidden_width": 32, "out_width": 16},
    "vit": {
        "encoder": "vit", "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "hidden_width": 32, "out_width": 16,
    },
}  # fmt: skip


class Method(TwoViewsInPairs, PretrainingMethod):
    config: Config

    def __init__(
        self, config: Config, signal: Signal, tokenizer: object = None, saved_folder: Path | None = None
    ) -> None:
        super().__init__(config, signal)
        self.tower = Tower(config, signal, config.hidden_width, config.hidden_width, config.out_width, ends="bare")
        self.view = Views(config, signal, self.tower.ecg.grid)
        self.weights = {"L_BT": 1.0}

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of the whole batch, including other processes' records; its value is the same on every process."""
        one, other = (distributed.gather(features[name].float()) for name in ("z_1", "z_2"))
        correlation = view_agreement.cross_correlation(one, other)
        return {"L_BT": view_agreement.redundancy(correlation, self.config.off_diagonal)}

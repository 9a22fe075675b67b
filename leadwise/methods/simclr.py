"""SimCLR: A Simple Framework for Contrastive Learning of Visual Representations.
arXiv 2002.05709 (ICML 2020).

    L_nt_xent   each of 2B views must identify the other view of its record; logits are cosine / tau       (Eq. 1)

This implementation departs from the paper as follows:
- Inputs are ECGs, not images: one of five ECG encoders, and views that preserve the diagnosis (nn/views.py) in place of crops
  and colour changes.
- The optimiser is AdamW with leadwise's schedule, not LARS.
- The first and the second views pass the batch norms one after the other, not as one batch of 2B.
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
    temperature: float = 0.1  # tau
    hidden_width: int = 2048  # of the projector g
    out_width: int = 128  # of z

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, temperature="> 0")


# Settings for two CPU cores.
SMALL = {"encoder": "resnet", "resnet_width": 16, "hidden_width": 256}
# The smallest settings, for the contract tests.
TINY = {
    "": {"resnet_width": 8, "hidden_width": 32, "out_width": 16},
    "vit": {"encoder": "vit", "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "hidden_width": 32, "out_width": 16},
    "s4": {
        "encoder": "s4", "s4_width": 16, "s4_depth": 2, "s4_states": 4, "s4_stride": 4, "hidden_width": 32, "out_width": 16,
    },
    "lead_time": {
        "encoder": "lead_time", "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "hidden_width": 32, "out_width": 16,
    },
    "lead_time_conv": {
        "encoder": "lead_time_conv", "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "hidden_width": 32, "out_width": 16,
    },
}  # fmt: skip


class Method(TwoViewsInPairs, PretrainingMethod):
    config: Config

    def __init__(
        self, config: Config, signal: Signal, tokenizer: object = None, saved_folder: Path | None = None
    ) -> None:
        super().__init__(config, signal)
        self.tower = Tower(config, signal, config.hidden_width, config.out_width)
        self.view = Views(config, signal, self.tower.ecg.grid)
        self.weights = {"L_nt_xent": 1.0}

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss over the whole batch, including other processes' records."""
        one, other = (distributed.gather(features[name].float()) for name in ("z_1", "z_2"))
        local_rows = distributed.local_rows(len(one))
        return {"L_nt_xent": view_agreement.nt_xent(one, other, self.config.temperature, local_rows)}

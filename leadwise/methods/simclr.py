"""SimCLR: A Simple Framework for Contrastive Learning of Visual Representations.
arXiv 2002.05709 (ICML 2020).

    L_nt_xent   of 2B views, each finds the other view of its record: Eq. 1, cosine / tau

Where we depart from the paper, and why:
- ECGs in place of images: one of four ECG encoders, and views that keep the diagnosis (nn/views.py) in place of crops and
  colours.
- AdamW and the house's schedule in place of LARS.
- The first and the second views meet the batch norms one after the other, not as one batch of 2B.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from leadwise import distributed
from leadwise.batch import Signal
from leadwise.nn.losses import view_agreement
from leadwise.nn.two_views import TwoViewSettings, TwoViewsInPairs

NEEDS = ""


@dataclass(frozen=True)
class Config(TwoViewSettings):
    temperature: float = 0.1  # tau
    hidden_width: int = 2048  # of the projector g
    out_width: int = 128  # of z

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive; got {self.temperature}")


# A size for two CPU cores.
SMALL = {"encoder": "resnet", "resnet_width": 16, "hidden_width": 256}


class Method(TwoViewsInPairs):
    def __init__(self, config: Config, signal: Signal, tokenizer: object = None, kept: Path | None = None) -> None:
        super().__init__(config, signal, config.hidden_width, config.out_width)
        self.config, self.weights = config, {"L_nt_xent": 1.0}

    def contrast(self, pairs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss over the whole batch, other processes' records too."""
        one, other = (distributed.gather(pairs[name].float()) for name in ("z_1", "z_2"))
        mine = distributed.mine(len(one))
        return {"L_nt_xent": view_agreement.nt_xent(one, other, self.config.temperature, mine)}

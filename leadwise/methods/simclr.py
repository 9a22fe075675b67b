"""SimCLR: A Simple Framework for Contrastive Learning of Visual Representations.
arXiv 2002.05709 (ICML 2020).

    L_nt_xent   of 2B views, each finds the other view of its record: Eq. 1, cosine / tau

Where we depart from the paper, and why:
- ECGs in place of images: one of four ECG encoders, and views that keep the diagnosis (nn/views.py) in place of crops and
  colours.
- AdamW and the house's schedule in place of LARS.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from leadwise import ranks
from leadwise.batch import Batch, Signal
from leadwise.nn import view_losses
from leadwise.nn.encoder import EcgEncoder, EncoderSettings, check_part
from leadwise.nn.heads import Projector
from leadwise.nn.views import Views, ViewSettings


@dataclass(frozen=True)
class Config(EncoderSettings, ViewSettings):
    temperature: float = 0.1  # tau
    hidden_width: int = 2048  # of the projector g
    out_width: int = 128  # of z

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive; got {self.temperature}")

    @property
    def whole_batch(self) -> str:
        """The projector's batch norm needs a process's share of a batch in one pass."""
        return "method.name = 'simclr'"


# A size for two CPU cores.
SMALL = {"encoder": "resnet", "resnet_width": 16, "hidden_width": 256}


class Method(nn.Module):
    parts = ("backbone",)  # what embed_ecg can return

    def __init__(self, config: Config, signal: Signal, tokenizer: object = None, kept: Path | None = None) -> None:
        super().__init__()
        self.config, self.weights = config, {"L_nt_xent": 1.0}
        self.ecg = EcgEncoder(config, signal)
        self.view = Views(config, signal, self.ecg.grid)
        self.projector = Projector(self.ecg.width, config.hidden_width, config.out_width)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss, by name."""
        _, pairs = self.look(batch)
        return self.contrast(pairs)

    def look(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """No term of a record by itself; and the projections of two views of each, (B, D)."""
        return {}, {name: self._project(batch) for name in ("view_1", "view_2")}

    def contrast(self, pairs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss over the whole batch, other processes' records too."""
        one, other = (ranks.gather(pairs[name].float()) for name in ("view_1", "view_2"))
        mine = ranks.mine(len(one))
        return {"L_nt_xent": view_losses.nt_xent(one, other, self.config.temperature, mine)}

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of ECGs, before the projector; any subset of leads may be observed.

        Raises:
            ValueError: an unknown part, or a record of which nothing was observed.
        """
        check_part(part, self.parts)
        out: Tensor = self.ecg(batch)
        return out

    def _project(self, batch: Batch) -> Tensor:
        view = self.view(batch)
        out: Tensor = self.projector(self.ecg(view.batch, view.start))
        return out

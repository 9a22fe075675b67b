"""What methods of two views share: an encoder with a projector, two random views of each record, and what they embed.

No loss is here: each paper's file says what its two views have to do with each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.batch import Batch, Signal
from leadwise.nn.encoder import EcgEncoder, EncoderSettings, check_part
from leadwise.nn.heads import Ending, Projector
from leadwise.nn.losses import multimodal
from leadwise.nn.views import View, Views, ViewSettings


@dataclass(frozen=True)
class TwoViewSettings(EncoderSettings, ViewSettings):
    """Which encoder, and what a view does to an ECG."""

    @property
    def whole_batch(self) -> str:
        """The projector's batch norm, which all these methods have, needs a process's share of a batch in one pass."""
        return f"method.name = '{type(self).__module__.rpartition('.')[2]}'"  # a method is named as its file


class Tower(nn.Module):
    """An encoder and the projector behind it, of hidden and last `widths`: a view in, z (B, D) out."""

    def __init__(self, settings: EncoderSettings, signal: Signal, *widths: int, ends: Ending = "linear") -> None:
        super().__init__()
        self.ecg = EcgEncoder(settings, signal)
        self.projector = Projector(self.ecg.width, *widths, ends=ends)
        if self.ecg.last_norm is not None:  # the projector's first batch norm takes a shift away: nothing to learn
            self.ecg.last_norm.bias.requires_grad_(False)

    def forward(self, view: View) -> Tensor:
        out: Tensor = self.projector(self.ecg(view.batch, view.start))
        return out


class TwoViews(nn.Module):
    """A method of two views without its objective, for a class that is also a PretrainingMethod. `tower` learns, `view` draws."""

    parts: tuple[str, ...]
    tower: Tower
    view: Views

    def two_views(self, batch: Batch) -> tuple[View, View]:
        """Two random views of each record, of held-out patients too: without them there is no objective."""
        return self.view(batch), self.view(batch)

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of whole ECGs, before the projector; any subset of leads may be observed.

        Raises:
            ValueError: an unknown part, or a record of which nothing was observed.
        """
        check_part(part, self.parts)
        out: Tensor = self.tower.ecg(batch)
        return out

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """How many directions the projections of whole ECGs use: a collapse shows here, and in the loss it may not."""
        z = self.tower.projector(self.tower.ecg(batch))
        return {"effective_rank": multimodal.effective_rank(F.normalize(z.float(), dim=-1))}


class TwoViewsInPairs(TwoViews):
    """The same, where records are set against each other by their two projections."""

    compares_records: ClassVar[bool] = True

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """No term of a record by itself; and z of two views of each, (B, D)."""
        one, other = self.two_views(batch)
        return {}, {"z_1": self.tower(one), "z_2": self.tower(other)}

"""Shared parts of methods that train on two random views of each record: encoder, projector, views and embedding.

It contains no loss: each method file defines its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.batch import Batch, Signal
from leadwise.nn.encoder import EcgEncoder, EncoderSettings, TokenEncoder, check_part
from leadwise.nn.heads import Ending, Projector
from leadwise.nn.losses import multimodal
from leadwise.nn.views import View, Views, ViewSettings


@dataclass(frozen=True)
class TwoViewSettings(EncoderSettings, ViewSettings):
    """Settings of the encoder and of the views."""

    @property
    def whole_batch(self) -> str:
        """The setting that forbids gradient accumulation: the projector's batch norm needs all records in one pass."""
        return f"method.name = '{type(self).__module__.rpartition('.')[2]}'"  # a method has the name of its file


class Tower(nn.Module):
    """An encoder and a projector of the given hidden and output `widths`: a view in, z (B, D) out."""

    def __init__(self, settings: EncoderSettings, signal: Signal, *widths: int, ends: Ending = "linear") -> None:
        super().__init__()
        self.ecg = EcgEncoder(settings, signal)
        self.projector = Projector(self.ecg.width, *widths, ends=ends)
        if (
            self.ecg.last_norm is not None
        ):  # the projector's first batch norm removes a shift: a bias would have no gradient
            self.ecg.last_norm.bias.requires_grad_(False)

    def forward(self, view: View) -> Tensor:
        out: Tensor = self.projector(self.ecg(view.batch, view.start))
        return out


class TwoViews(nn.Module):
    """Mixin for a PretrainingMethod that trains on two views: `tower` is the trained network, `view` draws the views."""

    parts: tuple[str, ...]
    tower: Tower
    view: Views

    @property
    def token_encoder(self) -> TokenEncoder:
        """The ECG encoder of the trained network, from which another run can start."""
        return self.tower.ecg

    def two_views(self, batch: Batch) -> tuple[View, View]:
        """Two random views of each record; validation uses views too, because the objective needs them."""
        return self.view(batch), self.view(batch)

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of whole ECGs, before the projector; any subset of leads may be observed.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        check_part(part, self.parts)
        out: Tensor = self.tower.ecg(batch)
        return out

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Effective rank of the projections of whole ECGs: it reveals a collapse that the loss may not show."""
        z = self.tower.projector(self.tower.ecg(batch))
        return {"effective_rank": multimodal.effective_rank(F.normalize(z.float(), dim=-1))}


class TwoViewsInPairs(TwoViews):
    """TwoViews for methods that compare records by their two projections."""

    compares_records: ClassVar[bool] = True

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """No terms per record; features z_1 and z_2 (B, D), the projections of two views."""
        one, other = self.two_views(batch)
        return {}, {"z_1": self.tower(one), "z_2": self.tower(other)}

"""CLOCS: Contrastive Learning of Cardiac Signals Across Space, Time, and Patients.
arXiv 2005.13249 (ICML 2021).

    L_clocs     of all records in another view, each view finds those of its own patient: cosine / tau, tau = 0.1, mean over
                both directions and all pairs of views (nn/series_losses.py: same_patient)

    cmsc        two views: the halves of the recording, one after the other, all leads
    cmlc        a view for each lead
    cmsmlc      a view for each lead of each half

Where paper and released code disagree, and where we depart from both (the option that restores it in brackets):
- The code overwrites its sum at each pair of views, so that of many only the last one counts; here all count, as in the paper.
- Of two recordings of one patient in a batch, the code takes the one that stands first as the anchor; here both are.
- A record's own pairs and those with the patient's other recordings are two means of equal weight, as in the code: in one
  mean over all pairs, a patient with many recordings would drown the others.
- The paper's encoder sees one lead, for every kind. Here cmsc has an encoder of all leads, as later work has; cmlc and cmsmlc
  share an encoder of one lead among the leads. Any of four ECG encoders in place of the paper's [paper_encoder = true: three
  small convolutions and a linear map; they are padded, so that short signals pass].
- The paper takes frames of 2,500 samples out of longer recordings; here a view is a half of the promised time, or all of it.
- The paper scales each frame to [0, 1]; here the house's millivolts [signal.normalize = "merl_minmax": each view by itself].
- The paper's loss compares the embeddings themselves, and changes nothing in a view. SMALL has a head before the loss and
  changed views (random lead masking, as in later work), off by default: without them, 150 steps on the simulated cohort left
  features that a probe reads less from than from untrained ones.
- A record's embedding is the mean of its views' vectors, each weighted by how much of it was observed; the paper embeds a
  frame of a lead. A view of which nothing was observed is no positive and no negative.
- AdamW and the house's schedule in place of Adam at a constant rate until validation stops to improve.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn import augment
from leadwise.nn.encoder import (
    EcgEncoder,
    EncoderSettings,
    check_part,
    scaled,
)
from leadwise.nn.heads import Head
from leadwise.nn.losses import series
from leadwise.nn.patches import patchify
from leadwise.nn.small_conv import SmallConv
from leadwise.nn.text import numbers

Kind = Literal["cmsc", "cmlc", "cmsmlc"]


@dataclass(frozen=True)
class Config(EncoderSettings, MethodConfig):
    kind: Kind = "cmsc"  # what a patient's views are: segments, leads, or segments of leads
    temperature: float = 0.1  # tau
    paper_encoder: bool = False  # the paper's three convolutions and a linear map in place of `encoder`
    embedding_width: int = 128  # of the paper's encoder, and of what the loss compares; the paper tries 32 to 320
    project: bool = False  # an MLP between the embedding and the loss, which the paper has not
    # what befalls each view while it is learnt from; the paper: nothing
    gain: float = 0.0  # one random factor exp(N(0, gain)) for all leads of a view
    noise_mv: float = 0.0  # white noise, largest standard deviation
    lead_mask: float = 0.0  # chance of each lead to be taken away, one at least stays; for cmsc

    def __post_init__(self) -> None:
        if self.temperature <= 0 or min(self.gain, self.noise_mv) < 0 or not 0 <= self.lead_mask < 1:
            raise ValueError(
                "temperature must be positive, gain and noise_mv 0 or more, lead_mask in [0, 1); got "
                f"{self.temperature}, {self.gain}, {self.noise_mv} and {self.lead_mask}"
            )

    @property
    def whole_batch(self) -> str:
        """The setting that needs a process's share of a batch in one pass, for its batch norm; '' if none does."""
        return "method.paper_encoder = true" if self.paper_encoder else super().whole_batch


# A size for two CPU cores.
SMALL = {
    "kind": "cmsc", "encoder": "resnet", "resnet_width": 16, "project": True, "gain": 0.2, "noise_mv": 0.05, "lead_mask": 0.5,
}  # fmt: skip
NEEDS = "recordings long enough to halve; the better with several of a patient"
# The smallest settings, for the contract tests.
TINY = {
    "": {"resnet_width": 8},
    "lead_time": {
        "encoder": "lead_time", "n_patches": 10, "width": 32, "depth": 1, "heads": 4, "project": True, "embedding_width": 16,
    },
    "cmlc": {"kind": "cmlc", "paper_encoder": True, "embedding_width": 16},
    "cmsmlc": {"kind": "cmsmlc", "encoder": "vit", "n_patches": 10, "width": 32, "depth": 1, "heads": 4},
}  # fmt: skip


class Method(PretrainingMethod):
    compares_records = True
    config: Config

    def __init__(
        self, config: Config, signal: Signal, tokenizer: object = None, saved_folder: Path | None = None
    ) -> None:
        super().__init__(config, signal)
        self.weights = {"L_clocs": 1.0}
        by_lead = config.kind != "cmsc"
        # an encoder of one lead is not told which: it goes by the name of lead I
        self.signal = replace(signal, leads=("I",)) if by_lead else signal
        self.n_segments = 1 if config.kind == "cmlc" else 2
        self.n_views = self.n_segments * (len(signal.leads) if by_lead else 1)
        if self.n_views < 2:
            raise ValueError(
                f"kind = 'cmlc' sets leads against each other, but signal.leads has one: {signal.leads[0]}"
            )
        self.whole_patches = False  # whether a view needs one
        grid, n_samples = 1, signal.n_samples
        if not config.paper_encoder:
            self.ecg = EcgEncoder(config, self.signal)
            grid = self.ecg.grid
            self.whole_patches = config.encoder in ("lead_time", "lead_time_conv")
            if self.n_segments > 1 and grid > 1 and config.n_patches % 2:
                raise ValueError(f"n_patches = {config.n_patches}, but halves of a recording want an even number")
        self.grid, self.n_kept = grid, n_samples // self.n_segments
        if config.paper_encoder:
            self.conv = SmallConv(len(self.signal.leads), (4, 16, 32), 7, 3, (0.1, 0.1, 0.1))
            self.out = nn.Linear(self.conv.width * self.conv.n_positions(self.n_kept), config.embedding_width)
        if config.project:
            width = config.embedding_width if config.paper_encoder else self.ecg.width
            self.head = Head(width, config.embedding_width)

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """No term of a record by itself; and each one's views (B, V, D), which of them were seen, and whose they are."""
        shown, start, seen, _ = self._views(batch)
        views = self._encode(self._changed(shown), start).reshape(*seen.shape, -1)
        views = self.head(views) if self.config.project else views
        return {}, {"views": views, "seen": seen.long(), "patient": numbers(batch.patient).to(views.device)}

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss over the whole batch, other processes' records too."""
        views, seen, patient = (distributed.gather(features[name]) for name in ("views", "seen", "patient"))
        with torch.autocast(views.device.type, enabled=False):  # logits of 10 want float32's digits
            local_rows = distributed.local_rows(len(patient))
            loss = series.same_patient(views.float(), seen.bool(), patient, self.config.temperature, local_rows)
        return {"L_clocs": loss}

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of ECGs: the mean over a record's views; any subset of leads may be observed.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        check_part(part, self.parts)
        shown, start, seen, amount = self._views(batch)
        views = self._encode(shown, start).reshape(*seen.shape, -1)
        weight = (amount * seen).to(views.dtype)[..., None]  # (B, V, 1)
        return (views * weight).sum(1) / weight.sum(1)

    # --- the steps

    def _views(self, batch: Batch) -> tuple[Batch, Tensor, Tensor, Tensor]:
        """Each record's views, as B V records, and the sample at which each begins, (B V,).

        And which of a record's views an encoder can see, (B, V) bool, and how many samples of each were observed, (B, V).
        """
        ecg, observed = self._cut(batch.ecg), self._cut(batch.observed)  # (B, V, L', T')
        n, n_views = ecg.shape[:2]
        amount = observed.sum((2, 3))
        seen = self._whole(observed.flatten(0, 1)).any(-1).reshape(n, n_views)
        # another view of the record stands in for one that was not observed: no loss and no embedding asks for it
        first = seen.long().argmax(1, keepdim=True)
        place = torch.where(seen, torch.arange(n_views, device=ecg.device), first)  # (B, V)
        row = torch.arange(n, device=ecg.device)[:, None]
        start = (place % self.n_segments * self.n_kept).flatten()
        shown = replace(
            batch, ecg=ecg[row, place].flatten(0, 1), observed=observed[row, place].flatten(0, 1), label=None,
            statements=None, **{
                name: tuple(x for x in getattr(batch, name) for _ in range(n_views))
                for name in ("record", "patient", "report")
            },
        )  # fmt: skip
        return shown, start, seen, amount

    def _changed(self, views: Batch) -> Batch:
        """The views as the loss is shown them."""
        c, ecg, observed = self.config, views.ecg, views.observed
        if c.gain:
            ecg = augment.gain(ecg, c.gain)
        if c.noise_mv:
            ecg = augment.noise(ecg, c.noise_mv) * observed
        if c.lead_mask and c.kind == "cmsc":
            ecg, observed = augment.drop_leads(ecg, observed, self._whole(observed), c.lead_mask)
        return replace(views, ecg=ecg, observed=observed)

    def _whole(self, observed: Tensor) -> Tensor:
        """Leads that an encoder could do with alone, (B, L) bool."""
        if not self.whole_patches:
            return observed.any(-1)
        return patchify(observed, observed.shape[-1] // self.grid).all(-1).any(-1)

    def _cut(self, x: Tensor) -> Tensor:
        """(B, L, T) -> (B, V, L', T'): the halves of a recording, its leads, or the halves of its leads."""
        b, n_leads, _ = x.shape
        x = x[..., : self.n_segments * self.n_kept].reshape(b, n_leads, self.n_segments, self.n_kept)
        if self.config.kind == "cmsc":
            return x.transpose(1, 2)
        return x.reshape(b, n_leads * self.n_segments, 1, self.n_kept)

    def _encode(self, batch: Batch, start: Tensor) -> Tensor:
        """(B V, D) vectors of views."""
        if self.config.paper_encoder:
            out: Tensor = self.out(self.conv(scaled(batch, self.signal)).flatten(1))
            return out
        vectors: Tensor = self.ecg(batch, start)
        return vectors

"""CLOCS: Contrastive Learning of Cardiac Signals Across Space, Time, and Patients.
arXiv 2005.13249 (ICML 2021).

    L_clocs     each view must identify, among all records in another view, those of its own patient: cosine / tau, tau = 0.1;
                mean over both directions and all pairs of views (`same_patient` in nn/losses/series.py)

    cmsc        two views: the two halves of the recording, all leads
    cmlc        one view per lead
    cmsmlc      one view per lead and half

Choices where the paper and its released code disagree, and departures from both (in brackets: the setting that restores the
paper's text):
- The code overwrites its sum at each pair of views, so that only the last pair counts; here all pairs count, as in the paper.
- Of two recordings of one patient in a batch, the code uses the first one as the anchor; here both are anchors.
- A record's own pairs and its pairs with the patient's other recordings are two means of equal weight, as in the code: in one
  mean over all pairs, patients with many recordings would dominate.
- The paper's encoder reads one lead, for every kind. Here cmsc has an encoder of all leads, as in later work; cmlc and cmsmlc
  share one single-lead encoder among the leads. The encoder is one of five, not the paper's [paper_encoder = true: three small
  convolutions and a linear map; they are padded, so that short signals are valid].
- The paper cuts frames of 2,500 samples out of longer recordings; here a view is half of the configured duration, or all of it.
- The paper scales each frame to [0, 1]; here the default is mV [signal.normalize = "merl_minmax": each view by itself].
- The paper's loss compares the embeddings themselves and does not change the views. SMALL has a head before the loss and
  changes its views (random lead masking, as in later work); both are off by default. Without them, after 150 steps on the
  simulated cohort a probe of the features was worse than one of untrained features.
- A record's embedding is the mean of its views' vectors, weighted by the number of observed samples; the paper embeds a frame
  of one lead. A view without an observed sample is neither a positive nor a negative.
- The optimiser is AdamW with leadwise's schedule, not Adam at a constant rate until validation stops improving.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn import augment
from leadwise.nn.encoder import EcgEncoder, EncoderSettings, check_part, scaled
from leadwise.nn.heads import Head
from leadwise.nn.losses import series
from leadwise.nn.patches import patchify
from leadwise.nn.small_conv import SmallConv
from leadwise.nn.text import numbers

Kind = Literal["cmsc", "cmlc", "cmsmlc"]


@dataclass(frozen=True)
class Config(EncoderSettings, MethodConfig):
    kind: Kind = "cmsc"  # views of a patient: segments, leads, or segments of leads
    temperature: float = 0.1  # tau
    paper_encoder: bool = False  # the paper's three convolutions and a linear map in place of `encoder`
    embedding_width: int = 128  # of the paper's encoder, and of the head's output; the paper tries 32 to 320
    project: bool = False  # an MLP between the embedding and the loss; the paper has none
    # random changes of each view in training; the paper has none
    gain: float = 0.0  # one random factor exp(N(0, gain)) for all leads of a view
    noise_mv: float = 0.0  # white noise, largest standard deviation
    lead_mask: float = 0.0  # probability that a lead is removed, at least one remains; for cmsc

    def __post_init__(self) -> None:
        check_ranges(self, temperature="> 0", gain=">= 0", noise_mv=">= 0", lead_mask="[0, 1)")

    @property
    def whole_batch(self) -> str:
        """The setting that forbids gradient accumulation (batch norm needs all records of a process in one pass), or ''."""
        return "method.paper_encoder = true" if self.paper_encoder else super().whole_batch


# Settings for two CPU cores.
SMALL = {
    "kind": "cmsc", "encoder": "resnet", "resnet_width": 16, "project": True, "gain": 0.2, "noise_mv": 0.05, "lead_mask": 0.5,
}  # fmt: skip
NEEDS = "recordings long enough to halve; better with several per patient"
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
        # the single-lead encoder does not depend on which lead it encodes: the name I is arbitrary
        self.signal = replace(signal, leads=("I",)) if by_lead else signal
        self.n_segments = 1 if config.kind == "cmlc" else 2
        self.n_views = self.n_segments * (len(signal.leads) if by_lead else 1)
        if self.n_views < 2:
            raise ValueError(
                f"kind = 'cmlc' compares leads with each other, but signal.leads has only {signal.leads[0]}; use 'cmsc'"
            )
        self.whole_patches = False  # whether the encoder needs at least one whole patch of a view
        grid, n_samples = 1, signal.n_samples
        if not config.paper_encoder:
            self.ecg = EcgEncoder(config, self.signal)
            grid = self.ecg.grid
            self.whole_patches = config.encoder in ("lead_time", "lead_time_conv")
            if self.n_segments > 1 and grid > 1 and config.n_patches % 2:
                raise ValueError(f"n_patches must be even for halves of a recording; got {config.n_patches}")
        self.grid, self.n_view_samples = grid, n_samples // self.n_segments
        if config.paper_encoder:
            self.conv = SmallConv(len(self.signal.leads), (4, 16, 32), 7, 3, (0.1, 0.1, 0.1))
            self.out = nn.Linear(self.conv.width * self.conv.n_positions(self.n_view_samples), config.embedding_width)
        if config.project:
            width = config.embedding_width if config.paper_encoder else self.ecg.width
            self.head = Head(width, config.embedding_width)

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """No terms per record; features: views (B, V, D), which of them were observed (B, V), and the patient's id (B,)."""
        views, start, observed, _ = self._views(batch)
        vectors = self._encode(self._changed(views), start).reshape(*observed.shape, -1)
        vectors = self.head(vectors) if self.config.project else vectors
        return {}, {"views": vectors, "observed": observed.long(), "patient": numbers(batch.patient).to(vectors.device)}

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss over the whole batch, including other processes' records."""
        views, observed, patient = (distributed.gather(features[name]) for name in ("views", "observed", "patient"))
        with torch.autocast(views.device.type, enabled=False):  # logits up to 10 need float32 precision
            local_rows = distributed.local_rows(len(patient))
            loss = series.same_patient(views.float(), observed.bool(), patient, self.config.temperature, local_rows)
        return {"L_clocs": loss}

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of ECGs: the mean over a record's views; any subset of leads may be observed.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        check_part(part, self.parts)
        views, start, observed, n_samples = self._views(batch)
        vectors = self._encode(views, start).reshape(*observed.shape, -1)
        weight = (n_samples * observed).to(vectors.dtype)[..., None]  # (B, V, 1)
        return (vectors * weight).sum(1) / weight.sum(1)

    # --- views

    def _views(self, batch: Batch) -> tuple[Batch, Tensor, Tensor, Tensor]:
        """Views of each record as a batch of B V records, and the first sample of each, (B V,).

        Also (B, V) bool, True for views that can be encoded, and (B, V) the number of observed samples of each view.
        """
        ecg, observed = self._split(batch.ecg), self._split(batch.observed)  # (B, V, L', T')
        n, n_views = ecg.shape[:2]
        n_samples = observed.sum((2, 3))
        usable = self._whole(observed.flatten(0, 1)).any(-1).reshape(n, n_views)
        # an unusable view is replaced by another view of the record, so that shapes stay; loss and embedding ignore it
        first = usable.long().argmax(1, keepdim=True)
        place = torch.where(usable, torch.arange(n_views, device=ecg.device), first)  # (B, V)
        row = torch.arange(n, device=ecg.device)[:, None]
        start = (place % self.n_segments * self.n_view_samples).flatten()

        def each(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(name for name in names for _ in range(n_views))

        views = replace(
            batch, ecg=ecg[row, place].flatten(0, 1), observed=observed[row, place].flatten(0, 1), label=None,
            statements=None, wordings=None, target=None, record=each(batch.record), patient=each(batch.patient),
            report=each(batch.report),
        )  # fmt: skip
        return views, start, usable, n_samples

    def _changed(self, views: Batch) -> Batch:
        """The views with the random changes of the settings."""
        c, ecg, observed = self.config, views.ecg, views.observed
        if c.gain:
            ecg = augment.gain(ecg, c.gain)
        if c.noise_mv:
            ecg = augment.noise(ecg, c.noise_mv) * observed
        if c.lead_mask and c.kind == "cmsc":
            ecg, observed = augment.drop_leads(ecg, observed, self._whole(observed), c.lead_mask)
        return replace(views, ecg=ecg, observed=observed)

    def _whole(self, observed: Tensor) -> Tensor:
        """(B, L) bool, True for leads that suffice for the encoder by themselves."""
        if not self.whole_patches:
            return observed.any(-1)
        return patchify(observed, observed.shape[-1] // self.grid).all(-1).any(-1)

    def _split(self, x: Tensor) -> Tensor:
        """Split (B, L, T) into views (B, V, L', T'): halves of a recording, its leads, or halves of its leads."""
        b, n_leads, _ = x.shape
        x = x[..., : self.n_segments * self.n_view_samples].reshape(b, n_leads, self.n_segments, self.n_view_samples)
        if self.config.kind == "cmsc":
            return x.transpose(1, 2)
        return x.reshape(b, n_leads * self.n_segments, 1, self.n_view_samples)

    def _encode(self, batch: Batch, start: Tensor) -> Tensor:
        """(B V, D) vectors of views."""
        if self.config.paper_encoder:
            out: Tensor = self.out(self.conv(scaled(batch, self.signal)).flatten(1))
            return out
        vectors: Tensor = self.ecg(batch, start)
        return vectors

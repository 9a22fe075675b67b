"""Lead names, what a model expects of ECGs and heart images, and the batch that it reads. Shapes and units are defined here.

Shape letters used everywhere: B batch, L leads, T samples, P samples per patch, N patches per lead, D width, K classes,
V vocabulary, S text tokens. Signals are in millivolts, rates in hertz, times in seconds unless the name has another unit.
Heart images are (B, P, D, H, W): P phases of the heartbeat, D slices, H rows and W columns; Q phenotypes are (B, Q).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""The canonical lead order. Leads are found by these names, never by row number."""

SEXES = ("male", "female")
"""The sexes that `Batch.person` distinguishes, by their number there."""

Normalize = Literal["mv", "record_zscore", "lead_zscore", "merl_minmax"]


@dataclass(frozen=True)
class Signal:
    """The input that a model expects: leads, sampling rate, duration and normalisation."""

    leads: tuple[str, ...] = LEADS
    rate_hz: int = 500
    duration_s: float = 10.0
    window: Literal["first", "center"] = "first"  # which part of a longer recording is used
    normalize: Normalize = "mv"  # mv: millivolts minus the lead's median; the others rescale each record

    def __post_init__(self) -> None:
        unknown = [lead for lead in self.leads if lead not in LEADS]
        if unknown or len(set(self.leads)) != len(self.leads) or not self.leads:
            raise ValueError(f"signal.leads = {list(self.leads)}: must be distinct names out of {', '.join(LEADS)}")
        if self.window not in ("first", "center"):
            raise ValueError(f"signal.window = {self.window!r}: must be 'first' or 'center'")
        for name in ("rate_hz", "duration_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"signal.{name} = {getattr(self, name)!r} is out of range: it must be > 0")

    @property
    def n_samples(self) -> int:
        """T, samples per lead."""
        return round(self.rate_hz * self.duration_s)


@dataclass(frozen=True)
class Volume:
    """The heart images that a model expects: phases, slices, pixels, spacing and normalisation. Slice 0 is at the base."""

    phases: tuple[str, ...] = ("ed", "es")  # ed: end of filling, es: end of contraction; "scar": late enhancement
    slices: int = 6
    rows: int = 46
    columns: int = 42
    spacing_mm: tuple[float, float, float] = (10.0, 3.66, 3.66)  # between slices, rows and columns
    normalize: Literal["minmax", "none"] = "minmax"  # minmax: each volume to [0, 1]; none: as the files have it

    def __post_init__(self) -> None:
        if not self.phases or len(set(self.phases)) != len(self.phases) or not all(map(_is_name, self.phases)):
            raise ValueError(
                f"volume.phases = {list(self.phases)}: must be distinct names of lower-case letters, such as ed and es"
            )
        for name in ("slices", "rows", "columns"):
            if getattr(self, name) < 1:
                raise ValueError(f"volume.{name} = {getattr(self, name)!r} is out of range: it must be >= 1")
        if len(self.spacing_mm) != 3 or not all(0.0 < step < math.inf for step in self.spacing_mm):
            raise ValueError(f"volume.spacing_mm = {list(self.spacing_mm)}: must be three distances > 0 in mm")
        if self.normalize not in ("minmax", "none"):
            raise ValueError(f"volume.normalize = {self.normalize!r}: must be 'minmax' or 'none'")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(P, D, H, W): phases, slices, rows, columns."""
        return len(self.phases), self.slices, self.rows, self.columns

    @property
    def voxel_ml(self) -> float:
        """The volume of one voxel in mL."""
        return math.prod(self.spacing_mm) / 1000.0


def _is_name(phase: str) -> bool:
    return phase.isascii() and phase.isidentifier() and phase == phase.lower()


@dataclass(frozen=True)
class Wordings:
    """Texts that can replace a statement of a report: for each of its findings the forms of its text, each a list of texts."""

    findings: tuple[tuple[tuple[str, ...], ...], ...]  # () if the statement has to stay as it is
    is_prompt: bool = True  # whether one of its findings may be the whole report; not so for "abnormal ecg"


@dataclass(frozen=True)
class CommonSamples:
    """Which samples all leads of all records of a batch have, where they have the same ones: known without reading a GPU."""

    observed: torch.Tensor  # (B, L, T) bool, the tensor that is described
    samples: torch.Tensor  # (T,) bool, on the host


@dataclass(frozen=True)
class Batch:
    """B recordings, with the leads, rate and duration of a Signal."""

    ecg: torch.Tensor  # (B, L, T) float32, mV; 0 where not observed
    observed: torch.Tensor  # (B, L, T) bool, False in padding, long gaps and missing leads
    record: tuple[str, ...]  # B record names, for messages
    patient: tuple[str, ...]  # B patient names
    report: tuple[str, ...]  # B report texts, "" if there is none
    label: torch.Tensor | None = None  # (B, K) float32 in {0, 1}
    statements: tuple[tuple[str, ...], ...] | None = None  # the statements of each of the B reports, if requested
    wordings: tuple[tuple[Wordings, ...], ...] | None = None  # of each of these statements, if requested
    target: torch.Tensor | None = None  # (B, D) float32, embeddings by the teacher of a distilled model
    on_host: CommonSamples | None = None  # of a batch on a GPU; see `common`
    volume: torch.Tensor | None = None  # (B, P, D, H, W) float32, heart images as a `Volume` describes; 0 where absent
    has_volume: torch.Tensor | None = None  # (B, P) bool, which phases each of the B recordings has
    phenotype: torch.Tensor | None = None  # (B, Q) float32 in the units of the source, NaN where unknown
    person: torch.Tensor | None = None  # (B, 2) float32: age in years, sex (0 male, 1 female); NaN where unknown

    def __len__(self) -> int:
        return len(self.record)

    @property
    def common(self) -> torch.Tensor | None:
        """(T,) bool on the host, the samples that are observed, if these are the same in all leads; None: not known.

        A copy of the batch with another `observed` does not have it.
        """
        return self.on_host.samples if self.on_host is not None and self.on_host.observed is self.observed else None

    def with_common(self, samples: torch.Tensor | None) -> Batch:
        """The same batch with `common`: `samples` (T,) bool must describe its `observed`. None: the same batch."""
        return self if samples is None else replace(self, on_host=CommonSamples(self.observed, samples))

    def rows(self, begin: int, end: int) -> Batch:
        """The recordings from `begin` up to, not including, `end`."""
        some = slice(begin, end)
        part = Batch(
            self.ecg[some], self.observed[some], self.record[some], self.patient[some], self.report[some],
            None if self.label is None else self.label[some],
            None if self.statements is None else self.statements[some],
            None if self.wordings is None else self.wordings[some],
            None if self.target is None else self.target[some],
            volume=None if self.volume is None else self.volume[some],
            has_volume=None if self.has_volume is None else self.has_volume[some],
            phenotype=None if self.phenotype is None else self.phenotype[some],
            person=None if self.person is None else self.person[some],
        )  # fmt: skip
        return part.with_common(self.common)

    def to(self, device: str | torch.device) -> Batch:
        """The same batch with its tensors on `device`; a copy to a GPU is queued, and a complete batch has `common` there."""
        others: dict[str, Any] = {name: to_device(tensor, device) for name, tensor in self._others.items()}
        ecg = to_device(self.ecg, device)
        common = self.common
        if common is None and ecg.device.type != "cpu" and self.is_complete:
            common = self.observed.new_ones(self.observed.shape[-1])
        complete = common is not None and self.observed.device != ecg.device and bool(common.all())
        # what is all True is written there: it need not be copied
        observed = self.observed.new_ones(ecg.shape, device=device) if complete else to_device(self.observed, device)
        return replace(self, ecg=ecg, observed=observed, on_host=None, **others).with_common(common)

    @property
    def _others(self) -> dict[str, Any]:
        """The tensors besides `ecg` and `observed` that this batch has, by field."""
        tensors = {
            name: getattr(self, name) for name in ("label", "target", "volume", "has_volume", "phenotype", "person")
        }
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    @property
    def is_complete(self) -> bool:
        """Whether every sample is known to be observed. A GPU is not read: False for a batch there without `common`."""
        if self.observed.device.type != "cpu":
            return self.common is not None and bool(self.common.all())
        return bool(self.observed.numpy().all())  # numpy stops at the first False

    def pinned(self) -> Batch:
        """The same batch in memory from which copies to a GPU need no wait; for the threads that read ahead."""
        common = self.observed.new_ones(self.observed.shape[-1]) if self.is_complete else None
        others = {name: tensor.pin_memory() for name, tensor in self._others.items()}
        observed = self.observed if common is not None else self.observed.pin_memory()
        pinned = replace(self, ecg=self.ecg.pin_memory(), observed=observed, on_host=None, **others)
        return pinned.with_common(common)


def to_device(x: torch.Tensor, device: str | torch.device) -> torch.Tensor:
    """`x` on `device`. A copy from the host to a GPU is queued: the host does not wait for what the GPU still computes."""
    import torch

    if torch.device(device).type != "cuda" or x.device.type != "cpu" or not torch.cuda.is_available():
        return x.to(device)
    return (x if x.is_pinned() else x.pin_memory()).to(device, non_blocking=True)

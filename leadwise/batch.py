"""Lead names, the signal that a model expects, and the batch that it reads. Shapes and units are defined here, once.

Shape letters used everywhere: B batch, L leads, T samples, P samples per patch, N patches per lead, D width, K classes,
V vocabulary, S text tokens. Signals are in millivolts, rates in hertz, times in seconds unless the name has another unit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""The canonical lead order. Leads are found by these names, never by row number."""

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
class Wordings:
    """Texts that can replace a statement of a report: for each of its findings the forms of its text, each a list of texts."""

    findings: tuple[tuple[tuple[str, ...], ...], ...]  # () if the statement has to stay as it is
    is_prompt: bool = True  # whether one of its findings may be the whole report; not so for "abnormal ecg"


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

    def __len__(self) -> int:
        return len(self.record)

    def rows(self, begin: int, end: int) -> Batch:
        """The recordings from `begin` up to, not including, `end`."""
        some = slice(begin, end)
        return Batch(
            self.ecg[some], self.observed[some], self.record[some], self.patient[some], self.report[some],
            None if self.label is None else self.label[some],
            None if self.statements is None else self.statements[some],
            None if self.wordings is None else self.wordings[some],
            None if self.target is None else self.target[some],
        )  # fmt: skip

    def to(self, device: str | torch.device) -> Batch:
        """The same batch with its tensors on `device`."""
        label = None if self.label is None else self.label.to(device)
        target = None if self.target is None else self.target.to(device)
        return replace(self, ecg=self.ecg.to(device), observed=self.observed.to(device), label=label, target=target)

"""What a run was trained on, as hashes: `trained_on.json` in the run folder. The file is not part of a shared run.

people    a hash of each training patient, with a random salt of this file
signals   the first digits of the checksum of each training recording's samples, which no name enters

The names of patients are often short numbers, so that a hash without salt is found by hashing all of them. The salt prevents
this where the hashes are known and the salt is not; together with its salt, this file names the patients to anyone who tries
all numbers. Runs of earlier versions have `people` without salt in data.json, and no signals.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leadwise.files import replacing

FILE = "trained_on.json"
N_DIGITS = 12  # hexadecimal, of each hash

_OWN_TABLES = ("folder", "ecg_cmr")  # sources that are not one data set: the same name may be another patient


class TrainedOnError(ValueError):
    """The list of what a run was trained on is damaged; the message names the problem."""


def patient_hash(source: str, patient: str, salt: str = "") -> str:
    """Return a short hash of a patient of a data set, so that a run can list its training patients without naming them."""
    name = f"{salt}/{source}/{patient}" if salt else f"{source}/{patient}"
    return hashlib.sha256(name.encode()).hexdigest()[:N_DIGITS]


@dataclass(frozen=True)
class TrainedOn:
    """Hashes of the patients and of the samples that a run was trained on."""

    people: frozenset[str]
    signals: frozenset[str] | None  # None: not listed, as in runs of earlier versions
    salt: str = ""

    @classmethod
    def of(cls, source: str, patients: Iterable[str], signals: Iterable[str]) -> TrainedOn:
        """Return the hashes of patients of a data set and of samples (their checksums), with a new random salt."""
        salt = secrets.token_hex(16)
        people = frozenset(patient_hash(source, patient, salt) for patient in patients)
        return cls(people, frozenset(checksum[:N_DIGITS] for checksum in signals), salt)

    @classmethod
    def from_json(cls, table: Any) -> TrainedOn:
        """Return what `write` wrote, or the `people` of an earlier version's data.json.

        Raises:
            TrainedOnError: the table has another form.
        """
        fields: dict[str, Any] = table if isinstance(table, dict) else {}
        salt, people, signals = fields.get("salt", ""), fields.get("people", 0), fields.get("signals")
        if not isinstance(salt, str) or not _is_list(people) or not (signals is None or _is_list(signals)):
            raise TrainedOnError("it has no lists of people and signals")
        return cls(frozenset(people), None if signals is None else frozenset(signals), salt)

    @classmethod
    def read(cls, path: Path) -> TrainedOn:
        """Return the content of a file.

        Raises:
            TrainedOnError: the file is damaged.
        """
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:  # also no JSON, and no text
            raise TrainedOnError(str(error)) from None

    def write(self, path: Path) -> None:
        """Write the file."""
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.to_json(), separators=(",", ":")) + "\n", encoding="utf-8")

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads; the hashes are sorted, so that their order shows nothing."""
        signals = None if self.signals is None else sorted(self.signals)
        return {"salt": self.salt, "people": sorted(self.people), "signals": signals}

    def patients(self, source: str, names: Iterable[str]) -> list[str]:
        """Return those of the names of a data set's patients that are in the list."""
        return [name for name in names if patient_hash(source, name, self.salt) in self.people]

    def n_signals(self, checksums: Iterable[str]) -> int | None:
        """Return how many of the samples are in the list; None if the list has no signals."""
        contained = self.contains(checksums)
        return None if contained is None else sum(contained)

    def contains(self, checksums: Iterable[str]) -> list[bool] | None:
        """Return for each of the samples whether it is in the list; None if the list has no signals."""
        if self.signals is None:
            return None
        return [checksum[:N_DIGITS] in self.signals for checksum in checksums]


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


@dataclass(frozen=True)
class ScoredRecordings:
    """Recordings that a run is scored on, as they are compared with what it was trained on."""

    source: str
    fingerprint: str  # of the cohort
    patients: tuple[str, ...]  # each once
    checksums: tuple[str, ...]  # of the samples of each recording
    split: str = "test"  # that is scored
    names_patients: bool = True  # False: the source names none, so that every patient has the name of a recording


@dataclass(frozen=True)
class TrainingOverlap:
    """How much of the recordings that a run is scored on it was trained on."""

    n_tested: int  # patients
    n_patients: int | None  # of them, trained on; None: not known
    n_signals: int | None  # recordings with the samples of a training recording; None: not known
    unknown: str = ""  # why `n_patients` is not known
    split: str = "test"  # that is scored

    @property
    def is_leak(self) -> bool:
        """Whether anything that is scored was trained on."""
        return bool(self.n_patients or self.n_signals)

    @property
    def n_leaked(self) -> int:
        """The number of patients that are known to be in the training, or of recordings if that is larger."""
        return max(self.n_patients or 0, self.n_signals or 0)

    @property
    def sentence(self) -> str:
        """The result in one sentence. Only if patients can be compared, it states that none was trained on."""
        signals = "" if self.n_signals is None else f"{self.n_signals} identical signals"
        if self.n_patients is None:
            known = f"; {signals}" if signals else ""
            return f"Whether persons of the {self.split} split were trained on is unknown by patient ({self.unknown}){known}."
        if self.is_leak:
            also = f", and {signals}" if signals else ""
            return f"{self.n_patients} of the {self.n_tested} persons of the {self.split} split were trained on{also}."
        return f"No person of the {self.split} split was trained on ({self.n_tested} persons{', ' + signals if signals else ''})."

    @property
    def remark(self) -> str:
        """`sentence` where the scores need it: after a leak, and where patients cannot be compared; else ''."""
        return self.sentence if self.is_leak or self.n_patients is None else ""

    def to_json(self) -> dict[str, int | None]:
        """Return both counts under the keys of the commands' results."""
        return {
            "n_people_seen_in_pretraining": self.n_patients,
            "n_signals_seen_in_pretraining": self.n_signals,
        }


def compare(trained_on: TrainedOn | None, provenance: dict[str, Any], tested: ScoredRecordings) -> TrainingOverlap:
    """Return what a run was trained on of the tested recordings.

    Patients can be compared only within one data set that names them. Samples can always be compared, and only equal ones
    are found: another recording of the same person is not.

    Args:
        trained_on: None for a run without the list, such as a downloaded one.
        provenance: the contents of the run's data.json.
    """
    n_tested = len(tested.patients)
    if trained_on is None:
        return TrainingOverlap(n_tested, None, None, "the run does not list what it was trained on", tested.split)
    n_signals = trained_on.n_signals(tested.checksums)
    n_patients = len(trained_on.patients(tested.source, tested.patients))

    # no match is no proof where names cannot be compared
    unknown, source = "", provenance.get("source", tested.source)
    if source != tested.source:
        unknown = f"trained on source {source}, scored on {tested.source}"
    elif not tested.names_patients:
        unknown = f"source {source} does not name patients"
    elif source in _OWN_TABLES and provenance.get("fingerprint", tested.fingerprint) != tested.fingerprint:
        unknown = f"two tables of source {source}"
    if unknown and not n_patients:
        return TrainingOverlap(n_tested, None, n_signals, unknown, tested.split)
    return TrainingOverlap(n_tested, n_patients, n_signals, split=tested.split)

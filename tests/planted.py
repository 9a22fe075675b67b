"""For tests: a small cohort in memory with findings planted in single leads, and a method that sees and names them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leadwise.batch import Batch, Signal
from leadwise.config import Config
from leadwise.data.cohort.cohort import TextColumn
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.trained_on import ScoredRecordings, TrainingOverlap

WORDS = ("alpha", "beta", "gamma", "delta")  # class k plants a wave in lead k
SIGNAL = Signal(rate_hz=100, duration_s=2.0)


class PlantedCohort:
    """The readings of a Cohort: two ECGs a patient, patients in one split each."""

    def __init__(self, n_patients: int = 120, seed: int = 0, shuffled_test_labels: bool = False) -> None:
        rng = np.random.default_rng(seed)
        n = 2 * n_patients
        self.name, self.source, self.fingerprint, self.folder = (
            "planted",
            "nowhere",
            f"cohort{n}-{seed}",
            Path("planted"),
        )
        self.tasks = {"finding": WORDS}
        self.about: dict[str, str] = {}
        self.targets, self.bounds, self.volumes = (), {}, None
        self.patients = TextColumn(pa.chunked_array([[f"p{row // 2:03d}" for row in range(n)]]))
        self.records = TextColumn(pa.chunked_array([[f"r{row:03d}" for row in range(n)]]))
        self.reports = TextColumn(pa.chunked_array([[""] * n]))
        planted = (rng.random((n, len(WORDS))) < 0.35).astype(np.int8)
        time_s = np.arange(200) / 100
        wave = np.sin(2 * np.pi * 5 * time_s + rng.uniform(0, 6, size=(n, 1)))  # (n, T)
        noise = rng.normal(scale=0.1, size=(n, 200, 12))
        noise[:, :, : len(WORDS)] += 0.5 * planted[:, None, :] * wave[:, :, None]
        self.steps = np.rint(noise * 1000).astype(np.int16).transpose(0, 2, 1)  # (n, 12, T), uV
        splits = np.array(["train", "train", "train", "val", "test"])[(np.arange(n) // 2) % 5]
        self.truth = planted.copy()
        if shuffled_test_labels:
            test = np.flatnonzero(splits == "test")
            self.truth[test] = self.truth[rng.permutation(test)]
        self.index = pd.DataFrame({"record": list(self.records), "patient": list(self.patients), "split": splits})

    def __len__(self) -> int:
        return len(self.records)

    @property
    def main_tasks(self) -> dict[str, tuple[str, ...]]:
        return self.tasks

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(self.index.columns)

    def column(self, name: str, rows: np.ndarray) -> pd.Series:
        return self.index[name].iloc[rows]

    def columns(self, names: Sequence[str]) -> list[pa.RecordBatch]:
        zeros = [[0] * 12] * len(self)
        columns = {"n_samples": [200] * len(self), "rate_hz": [100.0] * len(self)}
        return [pa.RecordBatch.from_pydict({name: columns.get(name, zeros) for name in names})]

    def checksums(self, rows: np.ndarray) -> list[str]:
        return [f"{row:064x}" for row in rows]

    def block(self, row: int) -> np.ndarray:
        return self.steps[row]

    def scale(self, row: int) -> tuple[np.ndarray, np.ndarray, float]:
        return np.ones(12), np.zeros(12, dtype=np.int32), 100.0

    def scales(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        uv_per_step, baseline, rate_hz = zip(*(self.scale(row) for row in rows.tolist()))
        n_samples = np.array([self.block(row).shape[1] for row in rows.tolist()])
        return np.array(uv_per_step), np.array(baseline), np.array(rate_hz), n_samples

    def splits(self, rows: np.ndarray) -> np.ndarray:
        return self.index["split"].to_numpy(dtype=np.str_)[rows]

    def rows(self, split: str | None = None, task: str | None = None, min_report_words: int = 0) -> np.ndarray:
        assert task in (None, "finding")
        return np.flatnonzero(np.ones(len(self), bool) if split is None else (self.index["split"] == split).to_numpy())

    def labels(self, task: str, rows: np.ndarray) -> np.ndarray:
        return self.truth[rows]


class SeeingMethod(PretrainingMethod):
    """Embeds an ECG by the spread of its first leads; a blind one by its noise. Random while in training mode."""

    embeds_text = True
    parts = ("backbone", "shared")

    def __init__(self, seeing: bool = True) -> None:
        super().__init__(MethodConfig(), SIGNAL)
        self.seeing = seeing
        self.weight = nn.Parameter(torch.eye(len(WORDS)) if seeing else torch.full((4, 4), 0.5))
        self.unreliable = nn.Dropout(0.5)
        self.n_embedded = self.n_texts = 0

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        assert not torch.is_grad_enabled()
        self.n_embedded += len(batch)
        values = batch.ecg[:, : len(WORDS)].std(dim=-1) if self.seeing else batch.ecg[:, -len(WORDS) :, 7]
        embedding = self.unreliable(values @ self.weight if self.seeing else values)
        return F.normalize(embedding - 0.25, dim=-1) if part == "shared" else embedding

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        self.n_texts += len(texts)
        rows = []
        for text in texts:
            assert text == text.lower()  # cleaned as reports are
            assert text.endswith(".")
            rows.append([float(word in text) + 0.01 for word in WORDS])
        return F.normalize(self.unreliable(torch.tensor(rows)), dim=-1)


class PlantedRun:
    """The readings of a Run."""

    origin, stored, has_untrained, pretraining_data = "", None, True, "unknown"

    def __init__(self, folder: Path | None = None, seeing: bool = True) -> None:
        self.folder, self.name = folder, "seeing" if seeing else "blind"
        self.cache_folder = folder / "embeddings" if folder else None
        self.config = Config(signal=SIGNAL)
        self.method = SeeingMethod(seeing)
        self.fingerprint = f"weights-{self.name}"
        self.known: set[str] = set()  # patients of its training data

    def overlap(self, scored: ScoredRecordings) -> TrainingOverlap:
        return TrainingOverlap(len(scored.patients), len(self.known & set(scored.patients)), 0)

    def untrained(self) -> PlantedRun:
        self.twin = PlantedRun(seeing=False)
        return self.twin

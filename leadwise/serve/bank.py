"""A cohort beside the page: its embeddings, computed once and stored in its folder, and the nearest of its recordings."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.batch import LEADS
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.packing import unpack
from leadwise.data.recordings.recording import Recording
from leadwise.ecg import ECG
from leadwise.evaluate.embed import Features, embed_cohort, usable
from leadwise.evaluate.search import positive_classes
from leadwise.evaluate.text_embeddings import cosines, unit
from leadwise.progress import Progress
from leadwise.run import Run
from leadwise.serve.embedding_map import COLUMNS, map_answer, stored_map
from leadwise.serve.samples import packed
from leadwise.serve.search_index import NearestSearch

log = logging.getLogger(__name__)

FOLDER = "serve"  # in the cohort's folder
_THUMB_HZ = 100
_THUMB_S = 10.0
_THUMB_LEAD = "II"


class Bank:
    """The recordings of a cohort that the run can embed, with their embeddings."""

    def __init__(self, run: Run, cohort: Cohort, progress: Progress | None = None) -> None:
        self.cohort = cohort
        self.run = run
        self.folder: Path = cohort.folder / FOLDER
        self.rows, left_out = usable(run, cohort, np.arange(len(cohort)))
        self.left_out = left_out.line
        backbone = embed_cohort(run, cohort, "backbone", self.rows, progress, self.folder)
        self.unit_vectors: Features = unit(backbone).astype(np.float32)  # (M, D)
        index = f"index-{run.fingerprint[:16]}-{cohort.fingerprint[:16]}.bin"
        self._search = NearestSearch(self.unit_vectors, self.folder / index)
        name = f"map-{run.fingerprint[:16]}-{cohort.fingerprint[:16]}.npz"
        self._map = stored_map(self.folder / name, self.unit_vectors)
        self._shared: Features | None = None
        if run.method.embeds_text:
            self._shared = embed_cohort(run, cohort, "shared", self.rows, progress, self.folder)

    def shared_cosines(self, of_class: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the cosines (M, K) of the recordings to K class vectors."""
        assert self._shared is not None  # of a run with a text encoder
        return cosines(self._shared, of_class)

    def neighbours(self, vector: Features, top: int, show_reports: bool) -> dict[str, Any]:
        """Return the `top` nearest recordings of an embedding (D,), by cosine."""
        query = unit(vector[None])[0].astype(np.float32)
        best, scores = self._search.nearest(query, top)
        rows = self.rows[best]
        labels = positive_classes(self.cohort, rows)
        splits = self.cohort.splits(rows)
        lines = []
        for place, row in enumerate(rows):
            line = {
                "row": int(row),
                "record": self.cohort.records[int(row)],
                "cosine": float(scores[place]),
                "split": str(splits[place]),
                "labels": {task: list(names) for task, names in labels[place].items()},
            }
            lines.append(line | self._report(int(row), show_reports))
        return {"cohort": self.cohort.name, "n": len(self.rows), "index": self._search.name, "rows": lines}

    def state(self, show_reports: bool) -> dict[str, Any]:
        """Return the cohort as /api/state names it."""
        tasks = {task: list(classes) for task, classes in self.cohort.main_tasks.items()}
        return {
            "name": self.cohort.name,
            "n": len(self.cohort),
            "tasks": tasks,
            "columns": [*tasks, "split", *(name for name in COLUMNS if name in self.cohort.column_names), "outlier"],
            "has_reports": any(self.cohort.reports),
            "show_reports": show_reports,
            "map": True,
            "left_out": self.left_out,
        }

    def map(self) -> dict[str, Any]:
        """Return the answer of /api/map."""
        return map_answer(self.cohort, self.rows, self._map)

    def labels(self, row: int, show_reports: bool) -> dict[str, Any]:
        """Return labels of one recording, and its report if that is allowed."""
        labels = positive_classes(self.cohort, np.array([row]))[0]
        return {"labels": {task: list(names) for task, names in labels.items()}} | self._report(row, show_reports)

    def _report(self, row: int, show_reports: bool) -> dict[str, str]:
        return {"report": self.cohort.reports[row]} if show_reports and self.cohort.reports[row] else {}

    def ecg(self, row: int) -> ECG:
        """Return one recording; its derived leads are derived again, so that they are named as such."""
        signal, rate_hz = self.cohort.signal(row)
        origins = self.cohort.column("lead_origin", np.array([row])).iloc[0]
        stored = [k for k, origin in enumerate(origins) if origin == "recorded"]
        leads = tuple(LEADS[k] for k in stored)
        return ECG(Recording("ecg", signal[:, stored].astype(np.float64), leads, rate_hz, format="cohort"))

    def thumb(self, row: int) -> dict[str, Any]:
        """Return the first 10 s of lead II at about 100 Hz, by averages of samples."""
        uv_per_step, baseline, rate_hz = self.cohort.scale(row)
        lead = LEADS.index(_THUMB_LEAD)
        block = self.cohort.block(row)[:, : round(_THUMB_S * rate_hz)]
        values = unpack(block[[lead]], uv_per_step[[lead]], baseline[[lead]])[:, 0]
        step = max(1, round(rate_hz / _THUMB_HZ))
        n = len(values) // step
        with np.errstate(invalid="ignore"):
            means = values[: n * step].reshape(n, step).mean(axis=1)
        return {"rate_hz": rate_hz / step, "lead": _THUMB_LEAD, "samples": packed(means)}

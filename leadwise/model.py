"""`Model`: the Python API of a trained run. ECGs as files, arrays, tables or cohorts in; embeddings and scores out.

    import leadwise as lw
    model = lw.load("runs/mine")
    vectors = model.embed("ecg.xml")
    table = model.zeroshot("ecgs/*.xml", ["atrial fibrillation", "sinus rhythm"], reference="cohorts/mine")

Wherever ECGs are expected, these are accepted: a path, a folder, a pattern with `*`, an `ECG`, an array or tensor (L, T) or
(N, L, T) with `rate_hz`, `leads` and `units`, a list of these, a DataFrame with a column `path`, or a `Cohort` (also its folder).
Research use only: no result supports a decision about a patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from leadwise import hub
from leadwise.batch import Signal
from leadwise.data.formats.given import Given
from leadwise.data.recordings.recording import RecordError
from leadwise.ecg import given_facts
from leadwise.ecg_inputs import as_cohort, collect
from leadwise.evaluate import prompt_calibration, prompt_scores
from leadwise.evaluate.embed import EmbedError, Features, split_parts
from leadwise.evaluate.embed_ecgs import (
    DroppedECG,
    Embeddings,
    OnError,
    batch_of,
    embed_ecgs,
    embed_whole_cohort,
    width_of,
)
from leadwise.evaluate.explain import Explanation, explain
from leadwise.evaluate.findings import calibrated_tasks, top_findings
from leadwise.evaluate.saved_probe import SavedProbe, load_probe
from leadwise.evaluate.search import positive_classes
from leadwise.evaluate.text_embeddings import embed_texts, unit
from leadwise.evaluate.zeroshot import load_prompts
from leadwise.progress import Progress
from leadwise.run import Run


@dataclass(frozen=True)
class _Embedded:
    """Embeddings of N ECGs, and which of them have none."""

    features: Features  # (N, D); a row of NaN for an ECG without an embedding
    names: Sequence[str]
    index: pd.Index | None  # of a DataFrame
    dropped: list[DroppedECG]

    @property
    def rows(self) -> pd.Index:
        """The label of each row of a result."""
        return pd.RangeIndex(len(self.names)) if self.index is None else self.index

    @property
    def refused(self) -> list[str]:
        """For each ECG, the reason why it has no embedding, or ''."""
        reasons = {one.position: one.reason for one in self.dropped}
        return [reasons.get(position, "") for position in range(len(self.names))]

    @property
    def dropped_json(self) -> list[dict[str, Any]]:
        """`dropped` as in the `attrs` of a result."""
        return [one.to_json() for one in self.dropped]


class Model:
    """A trained run, ready to embed and classify. `leadwise.load` returns it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._widths: dict[str, int] = {}  # of the parts, as far as they are known

    @property
    def name(self) -> str:
        """The name of the run: that of its folder."""
        return self.run.name

    @property
    def signal(self) -> Signal:
        """Leads, rate and duration that the run reads; other ECGs are converted."""
        return self.run.config.signal

    @property
    def parts(self) -> tuple[str, ...]:
        """The embeddings that the run has: the values of `part`."""
        return tuple(self.run.method.parts)

    @property
    def embeds_text(self) -> bool:
        """Whether the run has a text encoder: `zeroshot`, `embed_text` and `explain` need it."""
        return self.run.method.embeds_text

    @cached_property
    def fingerprint(self) -> str:
        """A hash of weights and preprocessing: equal for equal embeddings."""
        return self.run.fingerprint

    def columns(self, part: str = "backbone") -> list[str]:
        """Return the names of an embedding's columns, such as backbone0, backbone1 ..."""
        return [f"{name}{k}" for name in split_parts(self.run, part) for k in range(self._width(name))]

    def _width(self, part: str) -> int:
        if part not in self._widths:
            self._widths[part] = width_of(self.run, part)
        return self._widths[part]

    def __repr__(self) -> str:
        method, signal = self.run.config.method["name"], self.signal
        return (
            f"Model({self.name!r}: {method}, {len(signal.leads)} leads, {signal.duration_s:g} s at {signal.rate_hz} Hz, "
            f"parts {', '.join(self.parts)})"
        )

    def embed(
        self,
        ecgs: Any,
        *,
        rate_hz: float | None = None,
        leads: Sequence[str] | None = None,
        units: str | None = None,
        part: str = "backbone",
        window: str | None = None,
        batch_size: int = 64,
        on_error: OnError = "raise",
        path_column: str = "path",
        progress: Progress | None = None,
    ) -> Any:
        """Return embeddings (N, D) float32 of N ECGs: an array, or a DataFrame with the same index for a DataFrame.

        Args:
            ecgs: see the module's docstring; one ECG gives (1, D).
            rate_hz, leads, units: what files do not state; an array needs all three.
            part: one of `parts`, or several joined by "+".
            window: the part of longer recordings: first_10s, center_10s or multi_crop_mean; default: the run's own.
            on_error: "nan" gives a row of NaN for an ECG that cannot be read, is not interpretable or lacks what the run
                needs, and lists it in `.attrs["dropped"]` with the reason; "raise" raises the first such error.
            path_column: the column of a DataFrame with the paths.

        Raises:
            RecordError: an ECG cannot be read, is not interpretable, or rate, leads or units are missing.
            EmbedError: no such part, or the run needs more of an ECG than was observed.
        """
        given = given_facts(rate_hz, leads, units)
        embedded = self._embed(ecgs, given, path_column, part, window, batch_size, progress, on_error)
        if embedded.index is None:
            result: Embeddings | pd.DataFrame = embedded.features.view(Embeddings)
        else:
            result = pd.DataFrame(embedded.features, index=embedded.index, columns=self.columns(part))
        result.attrs = {"dropped": embedded.dropped_json}
        return result

    def embed_text(self, texts: str | Sequence[str]) -> Features:
        """Return unit vectors (K, D) of K texts, in the space of the part "shared". Texts are worded as in a report.

        Raises:
            NoTextEncoderError: the run has no text encoder.
        """
        return embed_texts(self.run, [texts] if isinstance(texts, str) else list(texts))

    def zeroshot(
        self,
        ecgs: Any,
        prompts: Any,
        *,
        reference: Any = None,
        rate_hz: float | None = None,
        leads: Sequence[str] | None = None,
        units: str | None = None,
        window: str | None = None,
        batch_size: int = 64,
        path_column: str = "path",
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """Return a table with one row per ECG and class: how near the ECG is to the texts of the class.

        Columns: ecg, class; cosine to the mean of the class's texts; probability, only if the run has a calibration for exactly
        these prompts (`leadwise calibrate`; `attrs["calibration"]` states what it was fitted on), NaN for a class without one;
        low and high, the range over single texts (NaN with one text); percentile, the percentage of the reference with a lower
        cosine (NaN without a reference); n_prompts; unknown_words, the words that were rare or absent in training; refused, the
        reason if the ECG is not interpretable, with NaN scores. A cosine is not a probability, and its size differs between
        texts: compare percentiles.

        Args:
            prompts: a list of texts, a dict of class to texts, a task with shipped prompts, or a prompt file.
            reference: ECGs to compare with: a cohort, or anything else that `ecgs` can be.
            path_column: the column of a DataFrame with the paths, of `ecgs` and of `reference`.

        Raises:
            NoTextEncoderError: the run has no text encoder.
            PromptError: no such task or file, or an empty text.
            RecordError: rate, leads or units of an array are missing. An ECG that cannot be read is a refused row.
        """
        # texts and ECGs in the shared space
        cohort = as_cohort(reference)
        source = cohort.source if cohort is not None else str(self.run.provenance.get("source", ""))
        if isinstance(prompts, str) and cohort is not None and prompts in cohort.tasks:
            loaded = load_prompts(cohort, prompts, None)  # shipped, or from the dictionary of findings
            wordings = dict(zip(cohort.tasks[prompts], loaded.for_classes(cohort.tasks[prompts])))
        else:
            wordings = prompt_scores.find_wordings(prompts, source)
        self.embed_text("normal ecg.")  # raises without a text encoder, before any ECG is embedded
        given = given_facts(rate_hz, leads, units)
        embedded = self._embed(ecgs, given, path_column, "shared", window, batch_size, progress)
        compared = None
        if reference is not None:
            compared = self._embed(reference, given, path_column, "shared", window, batch_size, progress).features

        # the table, with the reasons of refused ECGs
        table = prompt_scores.score_wordings(self.run, embedded.features, embedded.names, wordings, compared)
        calibration = prompt_calibration.find(self.run, wordings, window)
        if calibration is not None:
            each = table["cosine"].to_numpy().reshape(-1, len(wordings))  # ECG by ECG, classes in their order
            probability = calibration.probabilities(each, list(wordings)).ravel()
            table.insert(list(table.columns).index("cosine") + 1, "probability", probability)
        refused = embedded.refused
        table["refused"] = [refused[position] for position in table.index]
        table.index = embedded.rows[table.index.to_numpy()]
        table.attrs = {"run": self.fingerprint, "dropped": embedded.dropped_json}
        if calibration is not None:
            table.attrs["calibration"] = calibration.about() | {"sentence": calibration.sentence}
        if compared is not None:
            name = cohort.name if cohort is not None else "given ECGs"
            table.attrs["reference"] = {"name": name, "n": int(np.isfinite(compared).all(axis=1).sum())}
        return table

    def findings(
        self,
        ecgs: Any,
        *,
        top: int = 5,
        rate_hz: float | None = None,
        leads: Sequence[str] | None = None,
        units: str | None = None,
        batch_size: int = 64,
        path_column: str = "path",
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """Return the `top` most probable findings of each ECG, over all tasks that the run is calibrated for.

        Tasks that only a part of the recordings has labels of (PTB-XL's form) are left out.

        Columns: ecg, place, finding, probability, share (of the finding in the data of the calibration: a probability near it
        states nothing about this ECG), task, class. `attrs["calibration"]` states what each task was fitted on. An ECG that
        cannot be scored has no row; it is in `attrs["dropped"]` with the reason.

        Raises:
            CalibrationError: the run has no calibration (`leadwise calibrate`).
            EmbedError: `top` is below 1.
            NoTextEncoderError: the run has no text encoder.
        """
        if top < 1:
            raise EmbedError(f"top={top} is too small; it must be 1 or more")
        self.embed_text("normal ecg.")  # raises without a text encoder, before any ECG is embedded
        tasks = calibrated_tasks(self.run)
        given = given_facts(rate_hz, leads, units)
        embedded = self._embed(ecgs, given, path_column, "shared", None, batch_size, progress)
        table = top_findings(self.run, tasks, embedded.features, embedded.names, top)
        table.index = embedded.rows[table.index.to_numpy()]
        fitted = {task: one.calibration.about() for task, one in tasks.items()}
        table.attrs = {"run": self.fingerprint, "dropped": embedded.dropped_json, "calibration": fitted}
        return table

    def predict(
        self,
        ecgs: Any,
        probe: SavedProbe | Path | str,
        *,
        rate_hz: float | None = None,
        leads: Sequence[str] | None = None,
        units: str | None = None,
        batch_size: int = 64,
        path_column: str = "path",
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """Return the probabilities of a saved probe (`leadwise probe --save`): one row per ECG, one column per class.

        The first column is `ecg`; `refused` is the reason where the ECG is not interpretable, with NaN probabilities.

        Raises:
            ProbeError: the probe is damaged, or was fitted on another run.
        """
        fitted = probe if isinstance(probe, SavedProbe) else load_probe(probe)
        fitted.check_run(self.run)
        given = given_facts(rate_hz, leads, units)
        embedded = self._embed(ecgs, given, path_column, fitted.part, fitted.window, batch_size, progress)
        table = fitted.table(embedded.features, embedded.rows)
        table.insert(0, "ecg", embedded.names)
        table.insert(1, "refused", embedded.refused)
        table.attrs = {"run": self.fingerprint, "dropped": embedded.dropped_json}
        return table

    def similar(
        self,
        ecgs: Any,
        bank: Any,
        *,
        top: int = 5,
        part: str = "backbone",
        rate_hz: float | None = None,
        leads: Sequence[str] | None = None,
        units: str | None = None,
        batch_size: int = 64,
        path_column: str = "path",
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """Return the `top` nearest ECGs of a bank for each ECG, by cosine: columns ecg, place, record, cosine.

        If the bank is a cohort, also its split and, for each task, the positive classes.

        Raises:
            EmbedError: `top` is below 1, or an ECG cannot be embedded.
        """
        if top < 1:
            raise EmbedError(f"top={top} is too small; it must be 1 or more")
        given = given_facts(rate_hz, leads, units)
        queries = self._embed(ecgs, given, path_column, part, None, batch_size, progress)
        if queries.dropped:
            raise EmbedError(queries.dropped[0].reason)
        stored = self._embed(bank, given, path_column, part, None, batch_size, progress)
        usable = np.flatnonzero(np.isfinite(stored.features).all(axis=1))
        cosines = unit(queries.features) @ unit(stored.features[usable]).T
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :top]  # (N, top) positions in `usable`

        # the rows, with what a cohort knows of each record
        cohort = as_cohort(bank)
        lines = []
        for query, order in enumerate(nearest):
            numbers = usable[order]
            labels = [{}] * len(order) if cohort is None else positive_classes(cohort, numbers)
            splits = [None] * len(order) if cohort is None else cohort.splits(numbers).tolist()
            for place, (number, at) in enumerate(zip(numbers, order), start=1):
                line = {"ecg": queries.names[query], "place": place}
                line |= {"record": stored.names[number], "cosine": cosines[query, at]}
                line |= {} if cohort is None else {"split": splits[place - 1]}
                lines.append(line | {task: ", ".join(positive) for task, positive in labels[place - 1].items()})
        return pd.DataFrame(lines, index=queries.rows.repeat(nearest.shape[1]))

    def explain(
        self,
        ecg: Any,
        prompt: str | Sequence[str],
        *,
        rate_hz: float | None = None,
        leads: Sequence[str] | None = None,
        units: str | None = None,
        path_column: str = "path",
        progress: Progress | None = None,
    ) -> Explanation:
        """Return how far the cosine of one ECG to a text falls when parts of the ECG are hidden; `.plot()` draws it.

        Raises:
            RecordError: more than one ECG, or one that is not interpretable.
            NoTextEncoderError: the run has no text encoder.
        """
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        inputs = collect(ecg, given_facts(rate_hz, leads, units), path_column)
        if len(inputs) != 1:
            raise RecordError(f"explain takes one ECG; got {len(inputs)}")
        self.embed_text(texts)
        opened = inputs.entries[0].open()
        return explain(self.run, batch_of(opened, self.signal), texts, progress)

    def _embed(
        self,
        ecgs: Any,
        given: Given,
        path_column: str,
        part: str,
        window: str | None,
        batch_size: int,
        progress: Progress | None,
        on_error: OnError = "nan",
    ) -> _Embedded:
        """Return the embeddings of ECGs or of a cohort, with what a table about them needs."""
        cohort = as_cohort(ecgs)
        if cohort is not None:
            features, dropped = embed_whole_cohort(self.run, cohort, part, window, on_error, progress)
            return _Embedded(features, list(cohort.records), None, dropped)
        inputs = collect(ecgs, given, path_column)
        features, dropped = embed_ecgs(self.run, inputs, part, window, batch_size, on_error, progress)
        return _Embedded(features, inputs.names, inputs.index, dropped)

    def save_pretrained(
        self,
        folder: Path | str,
        *,
        card: bool = True,
        people: bool = False,
        license: str | None = None,
        dtype: str | None = None,
    ) -> Path:
        """Write a folder that can be shared and loaded again, without who was trained on; see `hub.save_pretrained`."""
        return hub.save_pretrained(self.run, folder, card, people, license, dtype=dtype)

    def push_to_hub(self, repo_id: str, *, private: bool = True, license: str | None = None) -> str:
        """Upload what `save_pretrained` writes to the hub and return its address; see `hub.push_to_hub`."""
        return hub.push_to_hub(self.run, repo_id, private, license)

    def export_onnx(self, path: Path | str, *, part: str = "backbone") -> Path:
        """Write the encoder as one ONNX file, checked in ONNX Runtime; see `onnx_export.export_onnx`. Needs the extra onnx."""
        from leadwise.onnx_export import export_onnx

        return export_onnx(self.run, path, part)

    @staticmethod
    def from_pretrained(where: Path | str, **options: Any) -> Model:
        """The same as `load`, with the same options."""
        return load(where, **options)


def load(
    where: Path | str,
    *,
    device: str = "auto",
    download: bool = False,
    revision: str | None = None,
    accept_changes: bool = False,
) -> Model:
    """Return a trained model from a run folder, a name that ships with the package, or a hub id "org/name".

    Args:
        device: "auto" (the first GPU, or the CPU), "cpu" or "cuda".
        download: fetch a hub id that is not in the local cache. Without it the network is not used.
        revision: branch, tag or commit of a hub id.
        accept_changes: warn, and raise no error, for files that were changed after the weights were saved.

    Raises:
        HubError: there is no such folder, name or hub id.
        RunError: a missing, changed or damaged file, or weights that do not fit the config.
    """
    return Model(hub.load(where, device, accept_changes, download, revision))

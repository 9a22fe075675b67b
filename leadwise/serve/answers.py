"""Answers of the model about one ECG: embedding, zero-shot scores, occlusion map. Nothing about an ECG is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.batch import LEADS, Signal
from leadwise.data.recordings.recording import RecordError, Recording
from leadwise.ecg import ECG
from leadwise.ecg_inputs import collect
from leadwise.evaluate import prompt_calibration, prompt_scores
from leadwise.evaluate.embed import EmbedError, Features
from leadwise.evaluate.embed_ecgs import batch_of, embed_ecgs
from leadwise.evaluate.explain import explain
from leadwise.evaluate.prompt_calibration import PromptSetCalibration
from leadwise.evaluate.prompts import ClassPrompts, PromptError, shipped
from leadwise.evaluate.text_embeddings import class_vector, cosines, embed_prompts, unit
from leadwise.evaluate.vocabulary import unknown_words
from leadwise.evaluate.zeroshot import load_prompts
from leadwise.model import Model
from leadwise.serve.bank import Bank

_TITLES = {
    "super": "Diagnostic superclasses",
    "sub": "Diagnostic subclasses",
    "diag": "Diagnostic statements",
    "form": "Form statements",
    "rhythm": "Rhythm statements",
    "all": "All statements",
}


class AnswerError(ValueError):
    """A question that cannot be answered; the message is for the user."""


class NotInterpretableError(AnswerError):
    """An ECG of which no model answer is given; the message is the reason."""


@dataclass(frozen=True)
class TaskTexts:
    """The texts of a task's classes as vectors, and what their scores are compared with."""

    wordings: Mapping[str, ClassPrompts]
    vectors: list[Features]  # of each class (P, D)
    of_class: list[NDArray[np.float64]]  # (D,)
    unknown: list[list[str]]  # words of each class
    calibration: PromptSetCalibration | None
    reference: NDArray[np.float64] | None  # cosines of the cohort (M, K), each column ascending


class ModelAnswers:
    """A model, and a cohort if there is one. Its methods are called from one thread at a time."""

    def __init__(self, model: Model, bank: Bank | None = None) -> None:
        self.model = model
        self.bank = bank
        self._texts: dict[str, TaskTexts] = {}
        self._wordings = _tasks(model, bank) if model.embeds_text else {}

    def warm_up(self) -> None:
        """Answer usual questions once, so that the first answer to a user is as fast as the others.

        The texts of tasks without probabilities are embedded at their first use.
        """
        time_s = np.arange(self.model.signal.n_samples) / self.model.signal.rate_hz
        signal = np.full((len(time_s), len(LEADS)), np.nan)
        signal[:, :2] = (np.sin(2 * np.pi * time_s) ** 63)[:, None]  # I and II; the limb leads follow from them
        signal[:, 6:] = signal[:, :1]
        ecg = ecg_of(signal, float(self.model.signal.rate_hz))
        self.embed(ecg, "backbone")
        calibrated = [task["name"] for task in self.tasks if task["calibrated"]]
        for task in calibrated or list(self._wordings)[:1]:
            self.zeroshot(ecg, task, [])

    @cached_property
    def tasks(self) -> list[dict[str, Any]]:
        """Name, title and classes of each task whose texts can be scored, and whether it has probabilities."""
        rows = []
        for task, wordings in self._wordings.items():
            calibration = prompt_calibration.find(self.model.run, wordings)
            title = _TITLES.get(task, task.replace("_", " "))
            rows.append(
                {"name": task, "title": title, "classes": list(wordings), "calibrated": calibration is not None}
            )
        return rows

    def embed(self, ecg: ECG, part: str) -> dict[str, Any]:
        """Return the answer of /api/embed.

        Raises:
            NotInterpretableError: the ECG is not interpretable.
            EmbedError: the run has no such part.
        """
        vector = self._vector(ecg, part)
        return {"part": part, "vector": [float(value) for value in vector], "run": self.model.fingerprint}

    def zeroshot(self, ecg: ECG, task: str, words: Sequence[str]) -> dict[str, Any]:
        """Return the answer of /api/zeroshot: of a task, or of the user's own words.

        Raises:
            AnswerError: the run has no text encoder, or there is no such task.
        """
        self._check_text_encoder()
        texts = self._of_words(words) if words else self._of_task(task)
        answer: dict[str, Any] = {
            "interpretable": True,
            "refusal": "",
            "reference": None,
            "calibration": None,
            "rows": [],
        }
        if self.bank is not None:
            answer["reference"] = {"name": self.bank.cohort.name, "n": len(self.bank.rows)}
        if texts.calibration is not None:
            answer["calibration"] = texts.calibration.about() | {"sentence": texts.calibration.sentence}
        try:
            vector = self._vector(ecg, "shared")[None]
        except NotInterpretableError as reason:
            return answer | {"interpretable": False, "refusal": str(reason)}
        return answer | {"rows": _ordered(self._rows(vector, texts))}

    def _rows(self, vector: Features, texts: TaskTexts) -> list[dict[str, Any]]:
        """Return one row per class, in the order of the classes."""
        scores = cosines(vector, texts.of_class)  # (1, K)
        names = list(texts.wordings)
        probabilities = None if texts.calibration is None else texts.calibration.probabilities(scores, names)[0]
        rows = []
        for k, (name, entry) in enumerate(texts.wordings.items()):
            each = np.asarray(unit(vector) @ unit(texts.vectors[k]).T)[0]
            several = len(each) > 1
            percentile = math.nan
            if texts.reference is not None:
                percentile = float(prompt_scores.percentiles(scores[:, k], texts.reference[:, k])[0])
            probability = math.nan if probabilities is None else float(probabilities[k])
            share = math.nan
            if texts.calibration is not None and math.isfinite(probability):
                share = texts.calibration.positives[name] / texts.calibration.n_records
            rows.append(
                {
                    "class": name,
                    "name": entry.name,
                    "text": entry.prompts[0],
                    "cosine": float(scores[0, k]),
                    "low": float(each.min()) if several else None,
                    "high": float(each.max()) if several else None,
                    "percentile": _number(percentile),
                    "probability": _number(probability),
                    "share": _number(share),
                    "unknown_words": texts.unknown[k],
                }
            )
        return rows

    def explain(self, ecg: ECG, task: str, name: str, words: Sequence[str]) -> dict[str, Any]:
        """Return the answer of /api/explain: how far the cosine to a class falls when parts of the ECG are hidden.

        Raises:
            NotInterpretableError: the ECG is not interpretable, or too little of it was observed.
            AnswerError: the run has no text encoder, or there is no such task or class.
        """
        self._check_text_encoder()
        if words:
            prompts = list(words)
        else:
            wordings = self._task(task)
            if name not in wordings:
                raise AnswerError(f"the task {task} has no such class; it has {', '.join(wordings)}")
            prompts = list(wordings[name].prompts)
        signal = self.model.signal
        try:
            explanation = explain(self.model.run, batch_of(ecg, signal), prompts)
        except (RecordError, EmbedError) as error:
            raise NotInterpretableError(_plain(error)) from None

        # windows in seconds of the recording
        drops, width_s = explanation.map.drop, explanation.map.window_s
        start_s = window_start_s(signal, ecg.duration_s)
        end_s = min(start_s + signal.duration_s, ecg.duration_s)
        windows: list[dict[str, Any]] = []
        for lead, row in zip(signal.leads, drops):
            for number, drop in enumerate(row):
                begin_s = start_s + number * width_s
                if np.isfinite(drop) and begin_s < end_s:
                    end = round(min(begin_s + width_s, end_s), 4)
                    windows.append({"lead": lead, "start_s": round(begin_s, 4), "end_s": end, "drop": float(drop)})
        leads = [{"name": lead, "drop": _number(float(drop))} for lead, drop in explanation.leads.items()]
        return {
            "text": prompts[0],
            "cosine": float(explanation.score),
            "leads": leads,
            "windows": windows,
            "largest": max((abs(window["drop"]) for window in windows), default=0.0),
            "is_reliable": explanation.is_reliable,
        }

    def neighbours(self, ecg: ECG, top: int, show_reports: bool) -> dict[str, Any]:
        """Return the answer of /api/neighbours.

        Raises:
            NotInterpretableError: the ECG is not interpretable.
            AnswerError: there is no cohort.
        """
        if self.bank is None:
            raise AnswerError("there is no cohort to search; start the server with --cohort FOLDER")
        return self.bank.neighbours(self._vector(ecg, "backbone"), top, show_reports)

    def cosine(self, first: ECG, second: ECG) -> float | None:
        """Return the cosine of the embeddings of two ECGs; None if one is not interpretable."""
        try:
            vectors = unit(np.stack([self._vector(ecg, "backbone") for ecg in (first, second)]))
        except NotInterpretableError:
            return None
        return float(vectors[0] @ vectors[1])

    def _vector(self, ecg: ECG, part: str) -> Features:
        """Return the embedding (D,) of an ECG."""
        if ecg.refusal:
            raise NotInterpretableError(f"not interpretable: {ecg.refusal}")
        try:
            features, _ = embed_ecgs(self.model.run, collect(ecg), part)
        except RecordError as error:
            raise NotInterpretableError(_plain(error)) from None
        vector: Features = features[0]
        return vector

    def _check_text_encoder(self) -> None:
        if not self.model.embeds_text:
            raise AnswerError(
                f"the run {self.model.name} has no text encoder; start the server with another run (--run)"
            )

    def _task(self, task: str) -> Mapping[str, ClassPrompts]:
        if task not in self._wordings:
            raise AnswerError(f"there is no such task; choose {', '.join(self._wordings)}, or pass words")
        return self._wordings[task]

    def _of_task(self, task: str) -> TaskTexts:
        """Return the texts of a task; computed once."""
        if task not in self._texts:
            self._texts[task] = self._embedded(self._task(task))
        return self._texts[task]

    def _of_words(self, words: Sequence[str]) -> TaskTexts:
        """Return the user's own words, each a class; not stored."""
        return self._embedded(prompt_scores.find_wordings(list(words)))

    def _embedded(self, wordings: Mapping[str, ClassPrompts]) -> TaskTexts:
        vectors = embed_prompts(self.model.run, list(wordings.values()))
        of_class = [class_vector(texts) for texts in vectors]
        unknown = [
            list(dict.fromkeys(word for text in entry.prompts for word in unknown_words(self.model.run, text)))
            for entry in wordings.values()
        ]
        calibration = prompt_calibration.find(self.model.run, wordings)
        reference = None if self.bank is None else np.sort(self.bank.shared_cosines(of_class), axis=0)
        return TaskTexts(wordings, vectors, of_class, unknown, calibration, reference)


def ecg_of(signal: NDArray[np.float64], rate_hz: float) -> ECG:
    """Return the ECG of samples (T, 12) in mV in LEADS order, NaN = missing. It has no name of a file."""
    return ECG(Recording("ecg", signal, LEADS, rate_hz, format="array"))


def window_start_s(signal: Signal, duration_s: float) -> float:
    """Return where the part of a recording begins that a model reads, in seconds."""
    return max(0.0, duration_s - signal.duration_s) / 2 if signal.window == "center" else 0.0


def _tasks(model: Model, bank: Bank | None) -> dict[str, Mapping[str, ClassPrompts]]:
    """Return the wordings of each task: those of the cohort, of the data set that the run was trained on, then all others."""
    tasks: dict[str, Mapping[str, ClassPrompts]] = {}
    if bank is not None:
        for task, classes in bank.cohort.main_tasks.items():
            try:
                loaded = load_prompts(bank.cohort, task, None)
                tasks[task] = dict(zip(classes, loaded.for_classes(classes)))
            except PromptError:
                continue  # a task without texts cannot be scored
    source = str(model.run.provenance.get("source", ""))
    stems = [path.stem for path in shipped()]
    for stem in sorted(stems, key=lambda stem: not stem.startswith(f"{source}_")):
        name = stem.removeprefix(f"{source}_")
        if name not in tasks:
            tasks[name] = prompt_scores.find_wordings(name, source)
    return tasks


def _ordered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows by probability, else by percentile, else as they are; rows without the number last."""
    for key in ("probability", "percentile"):
        if any(row[key] is not None for row in rows):
            return sorted(rows, key=lambda row: -math.inf if row[key] is None else row[key], reverse=True)
    return rows


def _plain(error: ValueError) -> str:
    """Return an error of the library without the placeholder name and the remedies of other callers."""
    text = str(error).removeprefix("record ecg: ")
    return text.partition("; leave it out")[0].partition("; choose another window")[0]


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

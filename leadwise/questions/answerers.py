"""Answers to questions: by a probe of a frozen run, by the reports of a trained writer, by a server, or by frequency alone.

probe      logistic regressions on the run's embeddings, fitted on the training split, their strength chosen on validation
writer     what the report of a trained writer states, read by the labeller of reports
server     a chat model gets facts about the ECG, the question and its options; it gets no name and no sample
majority   how frequent findings and ranges are in the training split
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.evaluate import logistic_regression
from leadwise.evaluate.embed import Features
from leadwise.evaluate.metrics.f1 import best_thresholds
from leadwise.generate.labeller import label_report
from leadwise.generate.lexicon import findings_of_code
from leadwise.generate.writers.server import ChatServer, InvalidAnswer
from leadwise.progress import Progress
from leadwise.questions.beliefs import Beliefs, Floats
from leadwise.questions.question import Question
from leadwise.questions.truth import QUANTITIES, Truth, range_of

INSTRUCTION = (
    "You answer a question about ECGs from facts that a computer extracted; facts has one entry for each ECG, in order. Use only "
    "these facts. findings lists probabilities and the frequency of each finding among other ECGs. measurements are in bpm, ms "
    "and degrees. reports_of_similar_ecgs belong to other patients. options has the possible answers by letter. Answer with one "
    'JSON object and nothing else: {"answer": ["A"]}, with one letter, or all that apply if the question asks for a list.'
)
_FENCE = re.compile(r"^\s*```(?:json)?\s*(.*?)\s*```\s*$", re.S)


# ------------------------------------------------------------------------------------------------- frequency and probe


def prior_odds(train: Truth) -> Floats:
    """Return the log odds (K,) of the frequency of each finding in training."""
    share = (train.labels.sum(axis=0) + 0.5) / (len(train.rows) + 1)
    return np.asarray(np.log(share / (1 - share)), dtype=np.float64)


def majority(train: Truth, truth: Truth) -> Beliefs:
    """Return what the training split believes about every ECG: the most frequent findings together, and the frequent ranges."""
    n, prior = len(truth.rows), prior_odds(train)
    sets, counts = np.unique(train.labels, axis=0, return_counts=True)
    listed = np.repeat(sets[counts.argmax()][None] > 0, n, axis=0)
    ranges = {
        name: np.repeat(_shares(values, len(QUANTITIES[name][2]) + 1)[None], n, axis=0)
        for name, values in train.ranges.items()
    }
    # evidence is relative to the prior, which is all that is known here: the odds themselves decide
    return Beliefs(
        truth.records, truth.classes, np.repeat(prior[None], n, axis=0), np.zeros_like(prior), listed, ranges
    )


def _shares(values: NDArray[np.int64], n: int) -> Floats:
    return np.bincount(values[values >= 0], minlength=n)[:n].astype(np.float64)


class Probe:
    """Logistic regressions for findings and ranges, fitted on embeddings of the training split."""

    def __init__(self, train: Truth, train_features: Features, val: Truth, val_features: Features) -> None:
        self.prior = prior_odds(train)
        self.model = logistic_regression.fit(train_features, train.labels, val_features, val.labels)
        self.thresholds = np.nan_to_num(best_thresholds(val.labels, self.model.scores(val_features)), nan=np.inf)
        self.ranges = {}
        for name, values in train.ranges.items():
            n = len(QUANTITIES[name][2]) + 1
            own, held_out = values >= 0, val.ranges[name] >= 0
            if len(set(values[own])) > 1 and len(set(val.ranges[name][held_out])) > 1:
                one_hot, other = (np.eye(n, dtype=np.int8)[x] for x in (values[own], val.ranges[name][held_out]))
                fitted = logistic_regression.fit(train_features[own], one_hot, val_features[held_out], other)
                never = ~one_hot.any(axis=0)  # a range without training recordings is never chosen
                self.ranges[name] = fitted, np.where(never, -np.inf, 0.0)

    def believe(self, truth: Truth, features: Features) -> Beliefs:
        """Return the beliefs about N ECGs from their embeddings (N, D)."""
        odds = self.model.scores(features)
        ranges = {name: fitted.scores(features) + never for name, (fitted, never) in self.ranges.items()}
        return Beliefs(truth.records, truth.classes, odds, self.prior, odds >= self.thresholds, ranges)


# --------------------------------------------------------------------------------------------------------- reports


def believe_reports(truth: Truth, source: str, texts: Sequence[str]) -> Beliefs:
    """Return what written reports state about N ECGs: a finding or number that a report does not state is not believed.

    Args:
        source: the data set, whose classes the lexicon of reports knows.
        texts: N reports.
    """
    meant = [_findings(source, name, truth.meanings[name]) for name in truth.classes]
    listed = np.zeros((len(texts), len(truth.classes)), dtype=bool)
    ranges = {name: np.zeros((len(texts), len(starts) + 1)) for name, (_, _, starts) in QUANTITIES.items()}
    for row, text in enumerate(texts):
        labels = label_report(text)
        stated = labels.stated()
        listed[row] = [any(keys <= stated for keys in alternatives) for alternatives in meant]
        for name, value in labels.numbers.items():
            if name in ranges:
                ranges[name][row, range_of(name, value)] = 1.0
    odds = np.where(listed, 1.0, -1.0)
    return Beliefs(truth.records, truth.classes, odds, np.zeros(len(truth.classes)), listed, ranges)


def _findings(source: str, name: str, meaning: str) -> list[frozenset[str]]:
    """Return sets of findings of the lexicon, one of which a report must state for a class; [] if the lexicon has none."""
    known = [frozenset({key}) for key in findings_of_code(source, name)]
    stated = label_report(meaning).stated()
    return known or ([stated] if stated else [])


# ----------------------------------------------------------------------------------------------------------- server


def ask_server(
    server: ChatServer,
    questions: Sequence[Question],
    facts: dict[str, dict[str, Any]],
    progress: Progress | None = None,
) -> list[tuple[int, ...]]:
    """Return the places of the options that a server chooses.

    Args:
        facts: name of a record -> facts about its ECG (`leadwise.generate.facts`); the names are not sent.

    Raises:
        WriterError: the server does not answer.
    """
    chosen = []
    for number, question in enumerate(questions, start=1):
        letters = _letters(len(question.options))
        content = {
            "facts": [facts.get(name, {}) for name in question.records],
            "question": question.text,
            "options": dict(zip(letters, question.options)),
        }

        def parse(
            text: str, letters: Sequence[str] = letters, several: bool = question.kind == "list"
        ) -> tuple[int, ...]:
            return _parsed(text, letters, several)

        def pack(places: tuple[int, ...], letters: Sequence[str] = letters) -> dict[str, Any]:
            return {"answer": [letters[place] for place in places]}

        chosen.append(server.answer(INSTRUCTION, content, parse, pack))
        if progress is not None:
            progress("ask the server", number, len(questions))
    return chosen


def _letters(n: int) -> list[str]:
    """Return N names of options: A to Z, then AA, AB, ..."""
    letters = string.ascii_uppercase
    return [letters[k] if k < 26 else letters[k // 26 - 1] + letters[k % 26] for k in range(n)]


def _parsed(text: str, letters: Sequence[str], several: bool) -> tuple[int, ...]:
    """Return the places of the options in an answer.

    Raises:
        InvalidAnswer: it is no JSON object with known letters, or not one letter where one is required.
    """
    fenced = _FENCE.match(text)
    try:
        answer = json.loads(fenced[1] if fenced else text)["answer"]
        places = sorted(
            {letters.index(str(one).strip().upper()) for one in ([answer] if isinstance(answer, str) else answer)}
        )
    except (ValueError, KeyError, TypeError):
        raise InvalidAnswer("its answer is no JSON object with letters of options") from None
    if not several and len(places) != 1:
        raise InvalidAnswer("its answer is not one option")
    return tuple(places)

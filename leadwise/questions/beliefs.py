"""What is believed about each ECG, and the option that follows from it for a question."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leadwise.questions.question import Question

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Beliefs:
    """Beliefs about N ECGs.

    The options of presence and choice questions are drawn so that a finding's frequency says nothing about the answer; so the
    evidence, the odds of a finding relative to those of its frequency, answers them.
    """

    records: Sequence[str]  # N names
    classes: Sequence[str]
    odds: Floats  # (N, K) log odds of each finding
    prior: Floats  # (K,) log odds of the frequency in training
    listed: NDArray[np.bool_]  # (N, K) which findings are listed
    ranges: Mapping[str, Floats]  # quantity -> (N, ranges) score of each range

    def of_others(self, others: NDArray[np.integer]) -> Beliefs:
        """Return beliefs in which each of the N ECGs is replaced with another of them."""
        ranges = {name: scores[others] for name, scores in self.ranges.items()}
        return Beliefs(self.records, self.classes, self.odds[others], self.prior, self.listed[others], ranges)


def answer(beliefs: Beliefs, questions: Sequence[Question], seed: int = 0) -> list[tuple[int, ...]]:
    """Return the places of the chosen options of each question. Equal scores are decided by lot, by seed and question."""
    place = {name: number for number, name in enumerate(beliefs.records)}
    number_of = {name: number for number, name in enumerate(beliefs.classes)}
    chosen = []
    for question in questions:
        rows = [place[name] for name in question.records]
        if question.kind == "list":
            listed = [number_of[key] for key in question.keys]
            chosen.append(tuple(k for k, number in enumerate(listed) if beliefs.listed[rows[0], number]))
            continue
        scores = _scores(beliefs, question, rows, number_of)
        best = np.flatnonzero(scores == scores.max())
        lot = np.random.default_rng(
            [seed, zlib.crc32("|".join((*question.records, *question.keys, question.about)).encode())]
        )
        chosen.append((int(best[0] if len(best) == 1 else lot.choice(best)),))
    return chosen


def _scores(beliefs: Beliefs, question: Question, rows: list[int], number_of: Mapping[str, int]) -> Floats:
    """Return the score of each option of a question with one right option."""
    odds, prior = beliefs.odds[rows], beliefs.prior
    if question.kind == "presence":
        k = number_of[question.about]
        evidence = float(odds[0, k] - prior[k])
        return np.array([evidence if key == "yes" else -evidence for key in question.keys])
    if question.kind == "choice":
        numbers = [number_of[key] for key in question.keys]
        return np.asarray(odds[0, numbers] - prior[numbers])
    if question.kind == "range":
        scores = beliefs.ranges.get(question.about)
        if scores is None:
            return np.zeros(len(question.keys))
        return np.asarray(scores[rows[0], [int(key) for key in question.keys]])

    # a statement about two ECGs: the log probability that it is true, relative to that of the frequencies
    values = []
    for key in question.keys:
        kind, _, name = key.partition(" ")
        k = number_of[name]
        values.append(_log_true(kind, odds[0, k], odds[1, k]) - _log_true(kind, prior[k], prior[k]))
    return np.array(values)


def _log_true(kind: str, first: float, second: float) -> float:
    """Return log P(statement) of independent findings with these log odds in the first and the second ECG."""
    signs = {"new": (-1, 1), "gone": (1, -1), "both": (1, 1)}[kind]
    return float(-np.logaddexp(0, -signs[0] * first) - np.logaddexp(0, -signs[1] * second))

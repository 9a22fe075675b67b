"""Questions from what is known about ECGs, in the spirit of Heartcare-Bench (arXiv 2506.05831); texts and templates are ours.

presence   a finding that the ECG has, and one that it does not have: yes or no
choice     which of four findings the ECG has: one that it has, three that it does not have
range      in which range heart rate, PR interval and QRS duration are
list       all findings of the task, of which the ECG has some
change     which of four statements about two ECGs of one patient is true: a finding is new, is gone, or is in both

Findings that an ECG does not have are drawn in proportion to their frequency, and those that it has in proportion to one minus
it, so that how frequent a finding is hardly tells whether it is the answer. Options are shuffled. All draws depend on the seed
and the record's place alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from leadwise.questions.question import KINDS, Kind, Question, QuestionError
from leadwise.questions.truth import QUANTITIES, Truth, range_names

N_OPTIONS = 4
CHANGES = {"new": "{} is new in the second ECG", "gone": "{} is gone in the second ECG", "both": "{} is in both ECGs"}


def make_questions(truth: Truth, seed: int = 0, kinds: Sequence[Kind] = KINDS) -> list[Question]:
    """Return the questions about N recordings, in their order.

    Raises:
        QuestionError: there is none.
    """
    share = truth.labels.mean(axis=0, dtype=np.float64) if len(truth.rows) else np.zeros(len(truth.classes))
    questions: list[Question] = []
    second = _second_of_pairs(truth.patients)
    for place in range(len(truth.rows)):
        rng = np.random.default_rng([seed, place])
        makers = {
            "presence": lambda p=place, r=rng: _presence(truth, p, share, r),
            "choice": lambda p=place, r=rng: _choice(truth, p, share, r),
            "range": lambda p=place, r=rng: _ranges(truth, p, r),
            "list": lambda p=place, r=rng: _list(truth, p, r),
            "change": lambda p=place, r=rng: _change(truth, p, second.get(p), share, r),
        }
        for kind in KINDS:  # all draw, so that a question does not depend on the other kinds
            own = makers[kind]()
            questions += own if kind in kinds else []
    if not questions:
        raise QuestionError(
            f"there is no question about {len(truth.rows)} recordings; choose another --split or --kinds"
        )
    return questions


def _presence(truth: Truth, place: int, share: NDArray[np.float64], rng: np.random.Generator) -> list[Question]:
    """A question about a finding that the ECG has, and one about another finding."""
    chosen = [*_present(truth, place, share, rng), *_absent(truth, place, share, 1, rng)]
    if len(chosen) < 2:
        return []
    questions = []
    for k in chosen:
        name = truth.classes[k]
        options = [("yes", "yes"), ("no", "no")]
        right = "yes" if truth.labels[place, k] else "no"
        text = f"Does this ECG have the following finding: {truth.meanings[name]}?"
        questions.append(_question("presence", (truth.records[place],), name, text, options, (right,), rng))
    return questions


def _choice(truth: Truth, place: int, share: NDArray[np.float64], rng: np.random.Generator) -> list[Question]:
    present, absent = _present(truth, place, share, rng), _absent(truth, place, share, N_OPTIONS - 1, rng)
    if not present or len(absent) < N_OPTIONS - 1:
        return []
    options = [(truth.classes[k], truth.meanings[truth.classes[k]]) for k in (*present, *absent)]
    text = "Which of these findings does this ECG have?"
    right = truth.classes[present[0]]
    return [_question("choice", (truth.records[place],), right, text, options, (right,), rng)]


def _ranges(truth: Truth, place: int, rng: np.random.Generator) -> list[Question]:
    questions = []
    for quantity, values in truth.ranges.items():
        if values[place] < 0:
            continue
        options = [(str(number), name) for number, name in enumerate(range_names(quantity))]
        text = f"In which range is the {QUANTITIES[quantity][0]} of this ECG?"
        right = (str(values[place]),)
        questions.append(_question("range", (truth.records[place],), quantity, text, options, right, rng))
    return questions


def _list(truth: Truth, place: int, rng: np.random.Generator) -> list[Question]:
    options = [(name, truth.meanings[name]) for name in truth.classes]
    right = [name for name, has in zip(truth.classes, truth.labels[place]) if has]
    if not right:
        return []
    text = "Which findings does this ECG have? List all of them."
    return [_question("list", (truth.records[place],), "", text, options, right, rng)]


def _change(
    truth: Truth, place: int, other: int | None, share: NDArray[np.float64], rng: np.random.Generator
) -> list[Question]:
    """A question about the ECG at `place` and a later one of the same patient, if there is one."""
    if other is None:
        return []
    # a true statement, a change if there is one; then three false ones about findings as frequent as others
    before, after = truth.labels[place] > 0, truth.labels[other] > 0
    kind_of = {
        int(k): "new" if after[k] > before[k] else "gone" if before[k] > after[k] else "both"
        for k in np.flatnonzero(before | after)
    }
    changed = [k for k, kind in kind_of.items() if kind != "both"]
    candidates = changed or [*kind_of]
    if not candidates:
        return []
    k = int(rng.choice(candidates))
    right = f"{kind_of[k]} {truth.classes[k]}"
    keys = {right: None}
    weight = share + 1e-9
    for _ in range(200):
        wrong, kind = int(rng.choice(len(weight), p=weight / weight.sum())), str(rng.choice([*CHANGES]))
        if len(keys) == N_OPTIONS:
            break
        if kind_of.get(wrong) != kind:
            keys[f"{kind} {truth.classes[wrong]}"] = None
    if len(keys) < N_OPTIONS:
        return []
    options = []
    for key in keys:
        kind, _, name = key.partition(" ")
        options.append((key, CHANGES[kind].format(truth.meanings[name])))
    text = "These are two ECGs of one patient. Which statement is true?"
    records = (truth.records[place], truth.records[other])
    return [_question("change", records, truth.classes[k], text, options, (right,), rng)]


def _question(
    kind: Kind,
    records: tuple[str, ...],
    about: str,
    text: str,
    options: Sequence[tuple[str, str]],
    right: Sequence[str],
    rng: np.random.Generator,
) -> Question:
    """Return a question with its (key, text) options shuffled."""
    order = rng.permutation(len(options))
    keys = tuple(options[k][0] for k in order)
    answer = tuple(place for place, key in enumerate(keys) if key in right)
    return Question(kind, records, about, text, tuple(options[k][1] for k in order), keys, answer)


def _present(truth: Truth, place: int, share: NDArray[np.float64], rng: np.random.Generator) -> list[int]:
    """Return one of the findings of an ECG, if it has any; a rare one more often, as the others are drawn less often."""
    weight = np.where(truth.labels[place] > 0, 1.0 - share + 1e-6, 0.0)
    return [int(rng.choice(len(weight), p=weight / weight.sum()))] if weight.any() else []


def _absent(truth: Truth, place: int, share: NDArray[np.float64], n: int, rng: np.random.Generator) -> list[int]:
    """Return N different findings that an ECG does not have, drawn by how frequent they are; fewer if there are not so many."""
    weight = np.where(truth.labels[place] > 0, 0.0, share)
    n = min(n, int((weight > 0).sum()))
    return [int(k) for k in rng.choice(len(weight), n, replace=False, p=weight / weight.sum())] if n else []


def _second_of_pairs(patients: Sequence[str]) -> dict[int, int]:
    """Return for the first ECG of each patient with several the place of the second."""
    places: dict[str, list[int]] = {}
    for place, patient in enumerate(patients):
        places.setdefault(patient, []).append(place)
    return {some[0]: some[1] for some in places.values() if len(some) > 1}

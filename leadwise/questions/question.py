"""A question about one or two ECGs with its options, and files of questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from leadwise.files import replacing

Kind = Literal["presence", "choice", "range", "list", "change"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GROUPS: dict[Kind, str] = {
    "presence": "closed: is it present?",
    "choice": "closed: which of four?",
    "range": "closed: which range?",
    "list": "open: list the findings",
    "change": "comparison: what changed?",
}
"""What each kind of question is called in tables."""


class QuestionError(ValueError):
    """Questions that cannot be made or answered; the message names the cohort or setting and the remedy."""


@dataclass(frozen=True)
class Question:
    """A question with options, of which one is right; of "list", any number. It contains no report and no name of a patient."""

    kind: Kind
    records: tuple[str, ...]  # names: one, or two of one patient in the order of the cohort
    about: str  # class or quantity, or ""
    text: str
    options: tuple[str, ...]  # in the order in which they are offered
    keys: tuple[
        str, ...
    ]  # of each option: yes or no, a class, the number of a range, or "new CLASS", "gone CLASS", "both CLASS"
    answer: tuple[int, ...]  # places of the right options, ascending

    @property
    def chance(self) -> float:
        """The expected score of a random option; of "list", the share of right options, which listing all scores as precision."""
        return len(self.answer) / len(self.options) if self.kind == "list" else 1 / len(self.options)


def write_questions(path: Path, questions: Sequence[Question]) -> None:
    """Write one JSON object per line; the file is replaced atomically."""
    with replacing(path) as part:
        part.write_text("".join(json.dumps(asdict(one)) + "\n" for one in questions), encoding="utf-8")


def read_questions(path: Path) -> list[Question]:
    """Return the questions of a file that `write_questions` wrote.

    Raises:
        QuestionError: a line is no question.
    """
    questions = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            table = json.loads(line)  # of bytes: a line that is not UTF-8 is one of the errors below
            lists = {name: tuple(table[name]) for name in ("records", "options", "keys", "answer")}
            one = Question(**{**table, **lists})
            if one.kind not in KINDS or len(one.options) != len(one.keys):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise QuestionError(
                f"{path}: line {number} is no question; write the file again with --questions"
            ) from None
        questions.append(one)
    return questions


def score(question: Question, chosen: Sequence[int]) -> float:
    """Return 1 for the right option and 0 for another one; of "list", F1 of the listed options, 1 if both lists are empty."""
    right, own = set(question.answer), set(chosen)
    if question.kind != "list":
        return float(own == right)
    return 2 * len(own & right) / (len(own) + len(right)) if own or right else 1.0

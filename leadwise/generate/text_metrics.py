"""Word overlap of generated reports with their references: BLEU, ROUGE-L, METEOR without WordNet, CIDEr-D.

All of them ignore case and lie in [0, 1], except CIDEr-D in [0, 10]. An empty generated report scores 0 and counts.
A report with "left" in place of "right" scores high, though its diagnosis is wrong: `finding_metrics` compares what the
reports state.

BLEU, ROUGE-L and METEOR need the extra `reports`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leadwise.generate.pairs import ReportScoreError, check_pairs

_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W_]+(?:'[^\W_]*)?")
_MAX_N = 4
_SIGMA_WORDS = 6.0  # of the length penalty of CIDEr-D


@dataclass(frozen=True)
class TextScores:
    """Word-overlap metrics of a set of generated reports."""

    bleu: tuple[float, float, float, float]  # BLEU-1 to BLEU-4, corpus level
    rouge_l: float  # mean over reports
    meteor: float  # mean over reports; without WordNet
    cider_d: float  # mean over reports; in [0, 10]
    n_reports: int
    n_empty: int  # generated reports without a word
    n_training_reports: int  # behind the document frequencies of CIDEr-D

    def to_json(self) -> dict[str, Any]:
        rest = {name: value for name, value in vars(self).items() if name not in ("bleu", "meteor")}
        bleu = {f"bleu_{n}": value for n, value in enumerate(self.bleu, start=1)}
        return {**bleu, "meteor_without_wordnet": self.meteor, **rest}

    def row(self) -> dict[str, Any]:
        """Return the table row."""
        return {
            **{f"BLEU-{n}": value for n, value in enumerate(self.bleu, start=1)},
            "ROUGE-L": self.rouge_l,
            "METEOR (no WordNet)": self.meteor,
            "CIDEr-D": self.cider_d,
            "empty": self.n_empty,
        }


def score_texts(references: Sequence[str], generated: Sequence[str], training_reports: Iterable[str]) -> TextScores:
    """Return all word-overlap metrics of N generated reports.

    Args:
        references: N reports, not empty.
        generated: N reports; an empty one scores 0.
        training_reports: the reports of the training split, for the document frequencies of CIDEr-D.

    Raises:
        ReportScoreError: the numbers differ, a reference is empty, there are no training reports, or the extra `reports`
            is not installed.
    """
    check_pairs(references, generated)
    frequencies = CiderD(training_reports)
    return TextScores(
        bleu=bleu(references, generated),
        rouge_l=float(np.mean(rouge_l(references, generated))),
        meteor=float(np.mean(meteor(references, generated))),
        cider_d=float(np.mean(frequencies.scores(references, generated))),
        n_reports=len(references),
        n_empty=sum(not words(text) for text in generated),
        n_training_reports=frequencies.n_documents,
    )


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case, without punctuation; a decimal number is one word."""
    return _WORD.findall(text.lower())


def bleu(references: Sequence[str], generated: Sequence[str]) -> tuple[float, float, float, float]:
    """Return BLEU-1 to BLEU-4 at corpus level, in [0, 1] (sacrebleu).

    Tokeniser 13a, lower case, n-grams up to n with equal weights, brevity penalty, no smoothing: without any common
    n-gram, BLEU-n is 0.

    Raises:
        ReportScoreError: as in `score_texts`.
    """
    check_pairs(references, generated)
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise _missing("sacrebleu") from error
    scores = [
        BLEU(lowercase=True, tokenize="13a", smooth_method="none", max_ngram_order=n, force=True)
        .corpus_score(list(generated), [list(references)])
        .score
        for n in range(1, _MAX_N + 1)
    ]
    one, two, three, four = (float(score) / 100 for score in scores)
    return one, two, three, four


def rouge_l(references: Sequence[str], generated: Sequence[str]) -> list[float]:
    """Return ROUGE-L of each report: the F1 of the longest common subsequence of words (rouge-score).

    Lower case; every character but a-z and 0-9 separates words; no stemming; a report is one sequence.

    Raises:
        ReportScoreError: as in `score_texts`.
    """
    check_pairs(references, generated)
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise _missing("rouge-score") from error
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    return [float(scorer.score(*pair)["rougeL"].fmeasure) for pair in zip(references, generated)]


class _NoWordNet:
    """A WordNet without synonyms: METEOR then matches equal words and equal stems only."""

    def synsets(self, word: str) -> list[Any]:
        return []


def meteor(references: Sequence[str], generated: Sequence[str]) -> list[float]:
    """Return METEOR without WordNet of each report (nltk): words match if they, or their Porter stems, are equal.

    Lower case, the tokens of `words`; recall weighs nine times as much as precision; the penalty for m matches in c chunks is
    0.5 (c / m)^3. No corpus is needed. Values are not those of METEOR with synonyms.

    Raises:
        ReportScoreError: as in `score_texts`.
    """
    check_pairs(references, generated)
    try:
        from nltk.stem.porter import PorterStemmer
        from nltk.translate.meteor_score import single_meteor_score
    except ImportError as error:
        raise _missing("nltk") from error
    stemmer, synonyms = PorterStemmer(), _NoWordNet()
    scores = []
    for reference, text in zip(references, generated):
        tokens = words(reference), words(text)
        scores.append(float(single_meteor_score(*tokens, stemmer=stemmer, wordnet=synonyms)) if all(tokens) else 0.0)
    return scores


class CiderD:
    """CIDEr-D with document frequencies from the training reports (Vedantam et al. 2015, equations 2 to 4).

    The frequencies do not depend on the test set, so that values of different test sets can be compared. N-grams of 1 to 4
    words (`words`: lower case, no stemming) are weighted by tf-idf; an n-gram that no training report has counts as
    if one had it. Similarity: clipped cosine, with a Gaussian penalty (sigma of 6 words) on the difference in length,
    averaged over n, times 10. With a single reference per ECG.
    """

    def __init__(self, training_reports: Iterable[str]) -> None:
        """Count in how many training reports each n-gram occurs.

        Raises:
            ReportScoreError: there is no training report.
        """
        self._documents: Counter[tuple[str, ...]] = Counter()
        self.n_documents = 0
        for text in training_reports:
            self._documents.update(set(_ngrams(words(text))))
            self.n_documents += 1
        if not self.n_documents:
            raise ReportScoreError("CIDEr-D needs the reports of the training split; there is none")

    def scores(self, references: Sequence[str], generated: Sequence[str]) -> list[float]:
        """Return CIDEr-D of each report, in [0, 10].

        Raises:
            ReportScoreError: the numbers differ, or a reference is empty.
        """
        check_pairs(references, generated)
        return [self._score(words(reference), words(text)) for reference, text in zip(references, generated)]

    def _score(self, reference: Sequence[str], text: Sequence[str]) -> float:
        expected, actual = self._weights(reference), self._weights(text)
        penalty = math.exp(-((len(reference) - len(text)) ** 2) / (2 * _SIGMA_WORDS**2))
        total = 0.0
        for ours, theirs in zip(actual, expected):
            norm = math.hypot(*ours.values()) * math.hypot(*theirs.values())
            common = sum(min(ours[gram], weight) * weight for gram, weight in theirs.items() if gram in ours)
            total += penalty * common / norm if norm else 0.0
        return 10 * total / _MAX_N

    def _weights(self, tokens: Sequence[str]) -> list[dict[tuple[str, ...], float]]:
        """Return the tf-idf of the n-grams of a text, for n = 1 to 4."""
        by_length: list[dict[tuple[str, ...], float]] = [{} for _ in range(_MAX_N)]
        for gram, count in _ngrams(tokens).items():
            idf = math.log(self.n_documents / max(1, self._documents[gram]))
            by_length[len(gram) - 1][gram] = count * idf
        return by_length


def _ngrams(tokens: Sequence[str]) -> Counter[tuple[str, ...]]:
    """Return how often each n-gram of 1 to 4 words occurs."""
    return Counter(
        tuple(tokens[begin : begin + n]) for n in range(1, _MAX_N + 1) for begin in range(len(tokens) - n + 1)
    )


def _missing(package: str) -> ReportScoreError:
    return ReportScoreError(f"{package} is not installed; pip install 'leadwise[reports]'")

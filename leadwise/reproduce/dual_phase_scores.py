"""The acceptance lines of `dual_phase`, each with a verdict, and its tables, from the scores of the arms.

Structural and functional phenotypes are apart, as in the paper. Values are means over the seeds. Differences are paired: 95 %
intervals over the same resamplings of the test people, each with seeds drawn with replacement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from leadwise.evaluate.metrics.bootstrap import gain, mean_of_drawn_repeats, percentile_interval
from leadwise.evaluate.metrics.score import Score
from leadwise.evaluate.regress import TOLERANCE, FeatureScores, IntervalEstimate, difference
from leadwise.evaluate.volume_retrieval import Oracle

Line = dict[str, Any]

RANDOM, MASKED = "random encoder", "masked ECG"
ED, ES = "ED only", "ES only"
BOTH, FROM_RANDOM = "ED + ES", "ED + ES, from random weights"
WITHOUT_DS, SHUFFLED, HALF = "ED + ES, w_DS = 0", "shuffled pairs", 'ED + ES, es = "half"'
CMR, CMR_HALF = "CMR encoder", 'CMR encoder, es = "half"'
RATE, CRAFTED = "heart rate alone", "hand-crafted features"

STRUCTURAL = ("lvedv", "lvesv", "lvmass", "rvedv", "rvesv")
FUNCTIONAL = ("lvsv", "lvef", "rvsv", "rvef")
PHENOTYPES = STRUCTURAL + FUNCTIONAL
FOUR = ("lvedv", "lvesv", "lvef", "lvmass")  # of the acceptance lines
DIRECTION = "ECG → ED + ES"  # of the acceptance lines
POOL = 256

PAPER = {"functional phenotypes": "+9.2 %", "outcomes": "+0.7 %"}  # the abstract's readable numbers


@dataclass(frozen=True)
class Recall:
    """Recall of one arm in one direction and pool size; means over seeds."""

    values: dict[int, float]  # k -> recall
    standard_error: dict[int, float]  # over test people and seeds
    median_rank: float


@dataclass(frozen=True)
class DualPhaseScores:
    """Everything that is measured."""

    phenotypes: dict[str, FeatureScores]  # by arm, from the ECG; also the controls
    images: dict[str, FeatureScores]  # CMR and CMR_HALF: from the images
    retrieval: dict[str, dict[tuple[str, int], Recall]]  # arm -> (direction, pool size)
    outcomes: dict[str, Score]  # arm -> AUROC of the outcomes
    bounds: dict[str, float]
    oracle: Oracle
    ef_shift: float
    n_in_training: int = 0  # people that probes are fitted or scored on, and that a run was trained on
    both_first: FeatureScores | None = None  # ED + ES with the first seed alone; None: there is one seed


@dataclass(frozen=True)
class Verdict:
    """One acceptance line."""

    criterion: str
    measured: str
    holds: bool | None  # None: it cannot be judged here


def verdicts(scores: DualPhaseScores) -> list[Verdict]:
    """Return the acceptance lines in their order."""
    p, lines = scores.phenotypes, []
    both, masked = p[BOTH], p[MASKED]

    # 1: the images contain the phenotypes
    image = scores.images[CMR]
    of_image = {name: _of(image, name) for name in FOUR}
    lines.append(
        Verdict(
            "1. R² from the images above 0.75 for EDV, ESV, EF and mass",
            ", ".join(f"{name} {value:.2f}" for name, value in of_image.items()),
            bool(min(of_image.values()) > 0.75),
        )
    )

    # 2: the images teach the ECG encoder
    above = difference(both, masked, FOUR)
    lines.append(
        Verdict(
            "2a. ED + ES above masked ECG by 0.08 or more in the mean of the four, interval above 0",
            _signed(above),
            above.value >= 0.08 and above.interval[0] > 0,
        )
    )
    reconstruction = difference(masked, p[RANDOM], FOUR)
    lines.append(
        Verdict("2b. Masked ECG not below the random encoder", _signed(reconstruction), reconstruction.value >= 0)
    )

    lines.append(_bounds_verdict(scores))

    # 4 and 5: retrieval, and the control without pairs
    lines += _retrieval_verdicts(scores)
    lost = difference(p[SHUFFLED], masked, FOUR)
    lines.insert(
        -1,
        Verdict(
            "5a. Shuffled pairs within 0.08 of masked ECG, where they start", _signed(lost), abs(lost.value) <= 0.08
        ),
    )

    # 6: what systole adds
    systole = difference(both, p[ED], ["lvef"])
    lines.append(Verdict("6. EF: ED + ES above ED only by 0.04 or more", _signed(systole), systole.value >= 0.04))

    # 7: the middle frame
    lines.append(
        Verdict(
            '7. es = "half" biases the measured EF by about -5 points',
            f"{scores.ef_shift:+.1f} points; R² of EF from the images "
            f"{_of(scores.images[CMR_HALF], 'lvef'):.2f}, with the smallest volume {_of(image, 'lvef'):.2f}",
            -6.5 <= scores.ef_shift <= -3.5,
        )
    )

    # 8: the probes
    lines.append(
        Verdict(
            "8. Probes are fitted and scored on people outside pre-training",
            f"{scores.n_in_training} of these people were in the training of a run",
            scores.n_in_training == 0,
        )
    )
    return lines


def _bounds_verdict(scores: DualPhaseScores) -> Verdict:
    """Return the verdict on every phenotype of every row: nothing is better than possible."""
    wanted = f"3. No R² from the ECG more than {TOLERANCE} above its bound, any phenotype of any row"
    above = [
        (
            float(arm.r2[q]) - scores.bounds[target],
            f"{target} by {name} {arm.r2[q]:.3f}, bound {scores.bounds[target]:.3f}",
        )
        for name, arm in scores.phenotypes.items()
        for q, target in enumerate(arm.targets)
        if target in scores.bounds
    ]
    if not above:
        return Verdict(wanted, "no bound is known", None)
    too_high = [text for excess, text in above if excess > TOLERANCE]
    return Verdict(wanted, "; ".join(too_high) or f"none is; the closest is {max(above)[1]}", not too_high)


def _retrieval_verdicts(scores: DualPhaseScores) -> list[Verdict]:
    """Return the verdicts on ECG → image retrieval; the oracle limits every arm and every direction from the ECG."""
    key = DIRECTION, POOL
    wanted = "4. R@10 in pools of 256 at least 5 times chance; that of no arm above the oracle by more than 2 standard errors"
    at_chance = "5b. Retrieval after shuffled pairs at chance: R@10 in pools of 256 below twice chance"
    recall, shuffled = scores.retrieval[BOTH].get(key), scores.retrieval[SHUFFLED].get(key)
    if recall is None or shuffled is None:
        text = f"fewer than {POOL} test people"
        return [Verdict(wanted, text, None), Verdict(at_chance, text, None)]
    chance, best = 10 / POOL, scores.oracle.get(POOL, {}).get(10)
    highest, name = max(
        (one.values[10] - 2 * one.standard_error[10], f"{arm}, {direction}")
        for arm, by_key in scores.retrieval.items()
        for (direction, size), one in by_key.items()
        if size == POOL and direction.startswith("ECG →")
    )
    measured = f"{_with_error(recall)}, chance {chance:.3f}, oracle {'unknown' if best is None else f'{best:.3f}'}"
    if best is not None and highest > best:
        measured += f"; above the oracle: {name}"
    holds = recall.values[10] >= 5 * chance and (best is None or highest <= best)
    return [
        Verdict(wanted, measured, holds),
        Verdict(at_chance, f"{_with_error(shuffled)}, chance {chance:.3f}", shuffled.values[10] < 2 * chance),
    ]


def _with_error(recall: Recall) -> str:
    return f"{recall.values[10]:.3f} (SE {recall.standard_error[10]:.3f})"


# ---------------------------------------------------------------------------------------------------------- tables


def verdict_lines(lines: Sequence[Verdict]) -> list[Line]:
    """Return the acceptance lines as a table."""
    words = {True: "holds", False: "does not hold here", None: "cannot be judged here"}
    return [{"criterion": one.criterion, "measured": one.measured, "verdict": words[one.holds]} for one in lines]


def summary(lines: Sequence[Verdict]) -> str:
    """Return one sentence that counts the lines."""
    judged = [one for one in lines if one.holds is not None]
    failed = [one.criterion.split(".")[0] for one in judged if not one.holds]
    without = f"; not {', '.join(failed)}" if failed else ""
    return f"{len(judged) - len(failed)} of {len(lines)} acceptance lines hold{without}."


def phenotype_lines(scores: DualPhaseScores) -> list[Line]:
    """Return a row for each arm with R² by phenotype, then the bound and the images."""
    lines = []
    for name, arm in {**scores.phenotypes, **scores.images}.items():
        value, (low, high) = _mean(arm, FOUR)
        line: Line = {"arm": name, "mean of EDV, ESV, EF, mass": f"{value:.3f} ({low:.3f} to {high:.3f})"}
        line |= {"structural": f"{_mean(arm, STRUCTURAL)[0]:.3f}", "functional": f"{_mean(arm, FUNCTIONAL)[0]:.3f}"}
        line |= {target: f"{_of(arm, target):.2f}" for target in PHENOTYPES}
        lines.append({**line, "mean of nine, by seed": " ".join(f"{value:.3f}" for value in arm.repeat_r2)})
    if all(target in scores.bounds for target in PHENOTYPES):
        means = {name: np.mean([scores.bounds[t] for t in names]) for name, names in _GROUPS.items()}
        line = {"arm": "bound: the best from any ECG", **{name: f"{value:.3f}" for name, value in means.items()}}
        lines.append({**line, **{target: f"{scores.bounds[target]:.2f}" for target in PHENOTYPES}})
    return lines


_GROUPS = {"mean of EDV, ESV, EF, mass": FOUR, "structural": STRUCTURAL, "functional": FUNCTIONAL}


def ablation_lines(scores: DualPhaseScores) -> list[Line]:
    """Return a row for each paired difference to ED + ES, by group of phenotypes.

    An arm that was trained with the first seed only is compared with that seed of ED + ES.
    """
    arms, lines = scores.phenotypes, []
    groups = {**_GROUPS, "EF": ("lvef",)}
    for other in (RANDOM, MASKED, ED, ES, WITHOUT_DS, FROM_RANDOM, SHUFFLED, HALF):
        both, seeds = arms[BOTH], str(len(arms[BOTH].repeat_r2))
        if scores.both_first is not None and len(arms[other].repeat_r2) < len(both.repeat_r2):
            both, seeds = scores.both_first, "the first"
        cells = {name: _signed(difference(both, arms[other], targets)) for name, targets in groups.items()}
        lines.append({"difference": f"{BOTH} minus {other}", "seeds": seeds, **cells})
    return lines


def retrieval_lines(scores: DualPhaseScores) -> list[Line]:
    """Return a row for each arm, direction and pool size, then chance and the oracle."""
    lines: list[Line] = []
    for name, by_key in scores.retrieval.items():
        for (direction, size), recall in by_key.items():
            cells = {f"R@{k}": f"{value:.3f}" for k, value in recall.values.items()}
            lines.append(
                {"pool": size, "arm": name, "direction": direction, **cells, "median rank": f"{recall.median_rank:.1f}"}
            )
    for size in dict.fromkeys(line["pool"] for line in lines):
        chance = {f"R@{k}": f"{k / size:.3f}" for k in (1, 5, 10)}
        lines.append({"pool": size, "arm": "chance", "direction": "", **chance, "median rank": f"{(size + 1) / 2:.1f}"})
        if size in scores.oracle:
            best = {f"R@{k}": f"{value:.3f}" for k, value in scores.oracle[size].items()}
            lines.append({"pool": size, "arm": "likelihood oracle", "direction": DIRECTION, **best, "median rank": ""})
    return sorted(lines, key=lambda line: line["pool"])


def paper_lines(scores: DualPhaseScores) -> list[Line]:
    """Return the paper's readable numbers beside ours, which are relative gains too."""
    arms = scores.phenotypes
    lines: list[Line] = []
    for other in (MASKED, ED):
        both, reference = (_mean(arms[name], FUNCTIONAL)[0] for name in (BOTH, other))
        structural = [_mean(arms[name], STRUCTURAL)[0] for name in (BOTH, other)]
        of_other = f"ours, over {other}"
        lines += [
            {"quantity": "functional phenotypes", "compared": of_other, "ours": _percent(both, reference),
             "from, to": f"mean R² {reference:.3f}, {both:.3f}", "paper": PAPER["functional phenotypes"]},
            {"quantity": "structural phenotypes", "compared": of_other, "ours": _percent(*structural),
             "from, to": f"mean R² {structural[1]:.3f}, {structural[0]:.3f}", "paper": ""},
        ]  # fmt: skip
        if scores.outcomes:
            above, (low, high) = gain(scores.outcomes[BOTH], scores.outcomes[other])
            after, before = scores.outcomes[BOTH].macro, scores.outcomes[other].macro
            change = f"macro AUROC {before:.3f}, {after:.3f} (difference {above:+.3f}, {low:+.3f} to {high:+.3f})"
            lines.append({"quantity": "outcomes", "compared": of_other, "ours": _percent(after, before),
                          "from, to": change, "paper": PAPER["outcomes"]})  # fmt: skip
    return lines


def bars_of(scores: DualPhaseScores) -> list[Line]:
    """Return the rows of the figure: R² of each phenotype by the main arms, and the bound."""
    rows: list[Line] = []
    for target in PHENOTYPES:
        for name in (RANDOM, MASKED, ED, BOTH):
            one = scores.phenotypes[name].scores[target]["r2"]
            low, high = one.interval
            rows.append({"name": target, "group": name, "value": one.value, "low": low, "high": high})
        rows.append({"name": target, "group": "bound", "value": scores.bounds.get(target)})
    return rows


def _mean(arm: FeatureScores, targets: Sequence[str]) -> tuple[float, tuple[float, float]]:
    value, replicates = arm.on(targets)
    low, high = np.nanpercentile(replicates, (2.5, 97.5))
    return value, (float(low), float(high))


def _of(arm: FeatureScores, target: str) -> float:
    return float(arm.r2[arm.targets.index(target)])


def _signed(one: IntervalEstimate) -> str:
    return f"{one.value:+.3f} ({one.interval[0]:+.3f} to {one.interval[1]:+.3f})"


def _percent(value: float, reference: float) -> str:
    return f"{100 * (value / reference - 1):+.1f} %" if reference > 0 else "the reference is not above 0"


def over_seeds(scores: Sequence[Score]) -> Score:
    """Return the mean over seeds of scores of the same resamplings; each of these has its own draw of seeds."""
    replicates = mean_of_drawn_repeats(np.stack([one.replicates for one in scores]))
    macro = float(np.mean([one.macro for one in scores]))
    per_class = {
        name: None if value is None else float(np.mean([one.per_class[name] for one in scores]))
        for name, value in scores[0].per_class.items()
    }
    interval = percentile_interval(replicates)
    return replace(
        scores[0], macro=macro, interval=interval, per_class=per_class, class_interval={}, replicates=replicates
    )


def recall_of(by_seed: Sequence[Mapping[str, Any]]) -> Recall:
    """Return the mean over seeds of the stored recall of one direction and pool size.

    The standard error has both variances: that over people, and that of the mean over seeds.
    """
    ks, errors = [int(k) for k in by_seed[0]["recall"]], {}
    for k in ks:
        values = [one["recall"][str(k)] for one in by_seed]
        of_seeds = float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0
        of_people = float(np.mean([one["standard_error"][str(k)] ** 2 for one in by_seed]))
        errors[k] = float(np.sqrt(of_people + of_seeds))
    return Recall(
        {k: float(np.mean([one["recall"][str(k)] for one in by_seed])) for k in ks},
        errors,
        float(np.mean([one["median_rank"] for one in by_seed])),
    )

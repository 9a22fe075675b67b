"""Who has what: a population of patients, what lasts in each of them, and what a single ECG of theirs shows.

Prevalences are dealt like cards within each split, not tossed like coins, so that even a small cohort holds every
finding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leadwise.data.simulator.findings import compatible, completed
from leadwise.data.simulator.heart import DOWER, Array

SPLITS = (("train", 0.70), ("val", 0.15), ("test", 0.15))
MOST_ECGS = 4  # of one patient; the fewest are 2

# share of the patients, and what lasts in them; ISCHAEMIC is no finding but a readiness for acute ones
_CONDITIONS: tuple[tuple[float, tuple[str, ...]], ...] = (
    (0.175, ("HEALTHY",)),
    (0.062, ("CRBBB",)),
    (0.018, ("CRBBB", "LAFB")),
    (0.068, ("CLBBB",)),
    (0.045, ("LAFB",)),
    (0.055, ("WPW",)),
    (0.048, ("LVH",)),
    (0.035, ("LVH", "STRAIN")),
    (0.062, ("RVH",)),
    (0.055, ("LVOLT",)),
    (0.060, ("IMI",)),
    (0.065, ("AMI",)),
    (0.022, ("LAD",)),
    (0.016, ("RAD",)),
    (0.088, ("LNGQT",)),
    (0.155, ("ISCHAEMIC",)),
)
_SECOND = ("CRBBB", "LAFB", "IMI", "AMI", "LVH", "LVOLT", "LNGQT", "LAD")  # a few patients have one of these besides
_SECOND_SHARE = 0.12

# rhythm the patient tends to, share of the patients, share of such a patient's ECGs that show it (else sinus rhythm)
_TENDENCIES: tuple[tuple[str, float, float], ...] = (
    ("SR", 0.325, 1.0),
    ("SBRAD", 0.13, 0.8),
    ("STACH", 0.105, 0.8),
    ("AFIB", 0.12, 0.9),
    ("AFLT", 0.085, 0.75),
    ("SVTAC", 0.085, 0.7),
    ("PACE", 0.065, 1.0),
    ("AVB3", 0.085, 0.75),
)
_SINUS_TENDENCIES: tuple[tuple[str, float, float], ...] = (
    ("SR", 0.80, 1.0),
    ("SBRAD", 0.10, 0.8),
    ("STACH", 0.10, 0.8),
)

_ACUTE = {"STEI": 0.30, "STEA": 0.34, "STD": 0.18, "INVT": 0.18}  # weights; the last two also come with other findings
_ACUTE_SHARE = {"ISCHAEMIC": 0.9, "IMI": 0.3, "AMI": 0.3, "LAFB": 0.3, "LAD": 0.3}  # of the ECGs of such patients


@dataclass(frozen=True)
class Person:
    """One patient: a body, a heart, and what lasts in it."""

    number: int
    split: str
    n_ecgs: int
    age_years: int
    sex: str  # "F" or "M"
    transform: Array  # (8, 3) how the leads of heart.SEEN look at this heart
    lasting: frozenset[str]  # chronic findings, with HEALTHY, STRAIN and ISCHAEMIC among them
    rhythm: str  # the rhythm the patient tends to
    rhythm_share: float  # how often it shows
    slow_av: bool  # tends to a long PR interval
    ectopy: str  # "PAC", "PVC" or ""
    traits: Array  # (10,) uniform: where this heart sits in each range of beats.py
    shape: Array  # (8, 3) standard normal: how its waves differ from the textbook's


@dataclass(frozen=True)
class Presentation:
    """What one ECG shows."""

    findings: frozenset[str]
    rhythm: str  # the one of findings.RHYTHMS
    ventricular_escape: bool = False  # under a third degree block: the escape beats come from the ventricle
    variant: float = 0.0  # uniform: which form of a finding that has several


def populate(n_records: int, seed: int) -> list[Person]:
    """Patients with `n_records` ECGs in all, 2 to 4 each (the last may have fewer)."""
    rng = np.random.default_rng([seed, 0])
    n_ecgs = rng.integers(2, MOST_ECGS + 1, n_records)
    n_people = int(np.searchsorted(np.cumsum(n_ecgs), n_records)) + 1
    n_ecgs = n_ecgs[:n_people]
    n_ecgs[-1] -= int(n_ecgs.sum()) - n_records
    edges = np.rint(np.cumsum([share for _, share in SPLITS]) * n_people).astype(int)
    splits = np.array([SPLITS[k][0] for k in np.searchsorted(edges, np.arange(n_people), side="right")])
    rng.shuffle(splits)
    dealt = np.empty((n_people, 5))
    for split, _ in SPLITS:
        mine = np.flatnonzero(splits == split)
        for column in range(dealt.shape[1]):
            dealt[mine, column] = (rng.permutation(len(mine)) + rng.random(len(mine))) / max(len(mine), 1)
    return [_person(k, str(splits[k]), int(n_ecgs[k]), dealt[k], seed) for k in range(n_people)]


def present(person: Person, rng: np.random.Generator) -> Presentation:
    """What one more ECG of this patient shows: lasting findings where the rhythm lets them, and what comes and goes."""
    tendency = person.rhythm if rng.random() < person.rhythm_share else "SR"
    found = {tendency} if tendency not in ("SBRAD", "STACH") else {"SR", tendency}
    rhythm = "SR" if "SR" in found else tendency
    escape = rhythm == "AVB3" and bool(rng.random() < 0.4)

    def add(code: str, chance: float = 1.0) -> None:
        if rng.random() < chance and compatible(code, frozenset(found)):
            found.add(code)

    lasting = person.lasting - {"HEALTHY", "STRAIN", "ISCHAEMIC"}
    if not escape:  # a ventricular escape beat says nothing about how the ventricles conduct
        for code in sorted(lasting, key=lambda code: code == "LNGQT"):
            add(code, 0.85 if code == "LNGQT" else 1.0)
        if "LVH" in found and "STRAIN" in person.lasting and compatible("STD", frozenset(found)):
            found |= {"STD", "INVT"}
    add("LPR", 0.8 if person.slow_av else 0.0)
    if person.ectopy:
        add(person.ectopy, 0.85)
    if not escape and not {"STD", "INVT"} & found:
        _add_acute(person, rng, found)
    return Presentation(completed(frozenset(found)), rhythm, escape, float(rng.random()))


def _add_acute(person: Person, rng: np.random.Generator, found: set[str]) -> None:
    chance = max((_ACUTE_SHARE.get(code, 0.0) for code in person.lasting), default=0.0)
    able = [code for code in _ACUTE if compatible(code, frozenset(found))]
    if rng.random() < chance and able:
        found.add(able[_pick([_ACUTE[code] for code in able], rng.random())])


def _person(number: int, split: str, n_ecgs: int, dealt: Array, seed: int) -> Person:
    rng = np.random.default_rng([seed, 1, number])
    shares, conditions = zip(*_CONDITIONS)
    lasting = set(conditions[_pick(shares, dealt[0])])
    plain = bool(lasting & {"HEALTHY", "WPW"})
    if not plain and dealt[1] < _SECOND_SHARE:
        first = frozenset(lasting - {"STRAIN", "ISCHAEMIC"})
        able = [code for code in _SECOND if code not in first and compatible(code, first)]
        if able and "ISCHAEMIC" not in lasting:
            lasting.add(str(rng.choice(able)))
    table = _SINUS_TENDENCIES if plain else _TENDENCIES
    rhythm, _, rhythm_share = table[_pick([share for _, share, _ in table], dealt[2])]
    age = rng.normal(36, 11) if plain else rng.normal(66, 12)
    return Person(
        number=number,
        split=split,
        n_ecgs=n_ecgs,
        age_years=int(np.clip(age, 18, 95)),
        sex=str(rng.choice(["F", "M"])),
        transform=DOWER * (1 + 0.07 * rng.standard_normal((8, 3))) + 0.02 * rng.standard_normal((8, 3)),
        lasting=frozenset(lasting),
        rhythm=rhythm,
        rhythm_share=rhythm_share,
        slow_av=bool(not plain and dealt[3] < 0.19),
        ectopy="" if plain or dealt[4] >= 0.30 else ("PVC" if dealt[4] < 0.135 else "PAC"),
        traits=rng.random(10),
        shape=rng.standard_normal((8, 3)),
    )


def _pick(shares: Sequence[float], dealt: float) -> int:
    place = int(np.searchsorted(np.cumsum(shares) / sum(shares), dealt, side="right"))
    return min(place, len(shares) - 1)

"""The simulated population: patients, their chronic findings, and the findings of each of their ECGs.

Conditions are assigned by stratified quantiles within each split, not independently, so that even a small cohort
contains every finding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leadwise.data.simulator.findings import compatible, with_implied_findings
from leadwise.data.simulator.heart import DOWER, Array

SPLITS = (("train", 0.70), ("val", 0.15), ("test", 0.15))
MOST_ECGS = 4  # of one patient; the minimum is 2

# share of the patients, and their chronic findings; ISCHAEMIC is not a finding but a tendency to acute ones
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
_SECOND = ("CRBBB", "LAFB", "IMI", "AMI", "LVH", "LVOLT", "LNGQT", "LAD")  # some patients have one of these in addition
_SECOND_SHARE = 0.12

# usual rhythm, share of the patients, share of such a patient's ECGs with this rhythm (the others: sinus rhythm)
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

_ACUTE = {"STEI": 0.30, "STEA": 0.34, "STD": 0.18, "INVT": 0.18}  # weights; the last two also occur with other findings
_ACUTE_SHARE = {"ISCHAEMIC": 0.9, "IMI": 0.3, "AMI": 0.3, "LAFB": 0.3, "LAD": 0.3}  # of the ECGs of such patients


@dataclass(frozen=True)
class Patient:
    """One patient: the heart, its projection on the leads, and the chronic findings."""

    number: int
    split: str
    n_ecgs: int
    age_years: int
    sex: str  # "F" or "M"
    transform: Array  # (8, 3) from this heart's vector to heart.INDEPENDENT_LEADS
    lasting: frozenset[str]  # chronic findings, including HEALTHY, STRAIN and ISCHAEMIC
    rhythm: str  # the usual rhythm
    rhythm_share: float  # share of the ECGs with it
    slow_av: bool  # usually a long PR interval
    ectopy: str  # "PAC", "PVC" or ""
    traits: Array  # (10,) uniform: position of this heart in each range of beats.py
    shape: Array  # (8, 3) standard normal: deviation of its waves from the textbook


@dataclass(frozen=True)
class Presentation:
    """The findings of one ECG."""

    findings: frozenset[str]
    rhythm: str  # the one of findings.RHYTHMS
    ventricular_escape: bool = False  # in a third degree block: the escape beats start in the ventricle
    variant: float = 0.0  # uniform: selects the form of a finding that has several


def draw_patients(n_records: int, seed: int) -> list[Patient]:
    """Return patients with `n_records` ECGs in total, 2 to 4 each (the last may have fewer)."""
    rng = np.random.default_rng([seed, 0])
    n_ecgs = rng.integers(2, MOST_ECGS + 1, n_records)
    n_patients = int(np.searchsorted(np.cumsum(n_ecgs), n_records)) + 1
    n_ecgs = n_ecgs[:n_patients]
    n_ecgs[-1] -= int(n_ecgs.sum()) - n_records

    # splits by patient
    edges = np.rint(np.cumsum([share for _, share in SPLITS]) * n_patients).astype(int)
    splits = np.array([SPLITS[k][0] for k in np.searchsorted(edges, np.arange(n_patients), side="right")])
    rng.shuffle(splits)

    # stratified quantiles within each split, which decide the conditions
    quantiles = np.empty((n_patients, 5))
    for split, _ in SPLITS:
        members = np.flatnonzero(splits == split)
        for column in range(quantiles.shape[1]):
            quantiles[members, column] = (rng.permutation(len(members)) + rng.random(len(members))) / max(
                len(members), 1
            )
    return [_draw_patient(k, str(splits[k]), int(n_ecgs[k]), quantiles[k], seed) for k in range(n_patients)]


def draw_presentation(patient: Patient, rng: np.random.Generator) -> Presentation:
    """Draw the findings of one ECG: chronic findings that the rhythm allows, and transient ones."""
    tendency = patient.rhythm if rng.random() < patient.rhythm_share else "SR"
    findings = {tendency} if tendency not in ("SBRAD", "STACH") else {"SR", tendency}
    rhythm = "SR" if "SR" in findings else tendency
    escape = rhythm == "AVB3" and bool(rng.random() < 0.4)

    def add(code: str, chance: float = 1.0) -> None:
        if rng.random() < chance and compatible(code, frozenset(findings)):
            findings.add(code)

    # chronic findings
    lasting = patient.lasting - {"HEALTHY", "STRAIN", "ISCHAEMIC"}
    if not escape:  # a ventricular escape beat does not depend on the conduction system
        for code in sorted(lasting, key=lambda code: code == "LNGQT"):
            add(code, 0.85 if code == "LNGQT" else 1.0)
        if "LVH" in findings and "STRAIN" in patient.lasting and compatible("STD", frozenset(findings)):
            findings |= {"STD", "INVT"}

    # transient findings
    add("LPR", 0.8 if patient.slow_av else 0.0)
    if patient.ectopy:
        add(patient.ectopy, 0.85)
    if not escape and not {"STD", "INVT"} & findings:
        _add_acute(patient, rng, findings)
    return Presentation(with_implied_findings(frozenset(findings)), rhythm, escape, float(rng.random()))


def _add_acute(patient: Patient, rng: np.random.Generator, findings: set[str]) -> None:
    chance = max((_ACUTE_SHARE.get(code, 0.0) for code in patient.lasting), default=0.0)
    possible = [code for code in _ACUTE if compatible(code, frozenset(findings))]
    if rng.random() < chance and possible:
        findings.add(possible[_pick_by_share([_ACUTE[code] for code in possible], rng.random())])


def _draw_patient(number: int, split: str, n_ecgs: int, quantiles: Array, seed: int) -> Patient:
    rng = np.random.default_rng([seed, 1, number])
    # chronic findings, and in some patients a second one
    shares, conditions = zip(*_CONDITIONS)
    lasting = set(conditions[_pick_by_share(shares, quantiles[0])])
    plain = bool(lasting & {"HEALTHY", "WPW"})
    if not plain and quantiles[1] < _SECOND_SHARE:
        first = frozenset(lasting - {"STRAIN", "ISCHAEMIC"})
        possible = [code for code in _SECOND if code not in first and compatible(code, first)]
        if possible and "ISCHAEMIC" not in lasting:
            lasting.add(str(rng.choice(possible)))

    # usual rhythm and age
    table = _SINUS_TENDENCIES if plain else _TENDENCIES
    rhythm, _, rhythm_share = table[_pick_by_share([share for _, share, _ in table], quantiles[2])]
    age = rng.normal(36, 11) if plain else rng.normal(66, 12)
    return Patient(
        number=number,
        split=split,
        n_ecgs=n_ecgs,
        age_years=int(np.clip(age, 18, 95)),
        sex=str(rng.choice(["F", "M"])),
        transform=draw_transform(rng),
        lasting=frozenset(lasting),
        rhythm=rhythm,
        rhythm_share=rhythm_share,
        slow_av=bool(not plain and quantiles[3] < 0.19),
        ectopy="" if plain or quantiles[4] >= 0.30 else ("PVC" if quantiles[4] < 0.135 else "PAC"),
        traits=rng.random(10),
        shape=rng.standard_normal((8, 3)),
    )


def draw_transform(rng: np.random.Generator) -> Array:
    """Draw the (8, 3) transform from one heart's vector to heart.INDEPENDENT_LEADS: Dower's, with individual deviations."""
    return DOWER * (1 + 0.07 * rng.standard_normal((8, 3))) + 0.02 * rng.standard_normal((8, 3))


def _pick_by_share(shares: Sequence[float], quantile: float) -> int:
    place = int(np.searchsorted(np.cumsum(shares) / sum(shares), quantile, side="right"))
    return min(place, len(shares) - 1)

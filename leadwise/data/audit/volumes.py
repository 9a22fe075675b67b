"""Checks of heart images: phases that are exchanged, turned or incomplete, and brightness that depends on the split.

The checks of the index read every recording; those of the images read the same sample of recordings as the checks of ECGs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from leadwise.data.audit.finding import Example, Finding, Severity, column_codes, first_examples, split_codes
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import SPLITS
from leadwise.data.cohort.volume_store import VolumeStore
from leadwise.data.volumes.heart_image import LV_BLOOD, MYOCARDIUM

FLIPS = {"slices": (0,), "rows": (1,), "columns": (2,), "rows and columns": (1, 2)}  # of (D, H, W)
_BETTER = 0.1  # by which a turned ES agrees better with ED, as a correlation of images
_BETTER_MASK = 0.05  # the same as a share of equal voxels of centred masks; unturned simulated hearts have up to 0.02
_FEW = 20  # volumes in a split, with fewer its brightness is not compared
_TIED = 0.15  # AUROC of the split by brightness, from 0.5
_N_SE = 4.0  # standard errors that this must exceed too


@dataclass(frozen=True)
class _VolumeMeasures:
    """Measurements of n recordings with heart images; (n,) or (n, P)."""

    row: np.ndarray
    brightness: np.ndarray  # mean intensity of each phase, NaN where absent
    constant: np.ndarray  # the number of phases with one value
    blank_slices: np.ndarray  # slices with one value, of all phases
    flip: np.ndarray  # how ES is turned against ED, '' if it is not
    from_apex: np.ndarray  # whether the left ventricle is larger in the last slices than in the first
    cut_off: np.ndarray  # whether the heart reaches the edge of the image


def check_volumes(
    cohort: Cohort, rows: np.ndarray, progress: Callable[[int, int], None] | None = None
) -> list[Finding]:
    """Return the findings on a cohort's heart images; [] for a cohort without. `rows` are the recordings that are read."""
    if cohort.volumes is None:
        return []
    store = cohort.volume_store
    findings = [*_check_presence(cohort, store), *_check_sizes(cohort, store), *_check_copies(cohort, store)]
    measures = _measure(store, rows[store.present[rows].any(axis=1)], progress)
    findings += _check_images(cohort, store, measures)
    return [*findings, *_check_brightness(cohort, store, measures)]


# -------------------------------------------------------------------------------------------------------- the index


def _check_presence(cohort: Cohort, store: VolumeStore) -> list[Finding]:
    """Recordings without some phases, images of unknown orientation, and slices outside of the files' stacks."""
    findings, present, phases = [], store.present, store.geometry.phases
    incomplete = np.flatnonzero(~present.all(axis=1))
    if len(incomplete):
        listed = Counter(
            ", ".join(phase for phase, has in zip(phases, line) if not has) for line in present[incomplete]
        )
        counts = "; ".join(f"{n} without {names}" for names, n in listed.most_common())
        message = (
            f"Recordings that lack a heart image: {counts}. They are retained and marked; a method that needs the phase "
            "does not use them."
        )
        findings.append(_finding(cohort, "heart images absent", "note", incomplete, len(cohort), message))
    left_out = store.left_out
    if left_out:
        counts = ", ".join(f"{n} {reason.replace('_', ' ')}" for reason, n in left_out.items())
        message = (
            f"Heart images that were left out when the cohort was prepared: {counts}. volumes_left_out.csv lists each with "
            "its reason."
        )
        findings.append(Finding("heart images left out", "warning", sum(left_out.values()), 0, "heart images", message))
    unknown = np.flatnonzero((present & ~store.matrix("volume_oriented")).any(axis=1))
    if len(unknown):
        message = (
            "The files do not state the orientation of the heart in the patient, so that base and apex may be "
            "exchanged. Look at the pictures, and convert the images again with their orientation."
        )
        findings.append(
            _finding(cohort, "orientation of heart images unknown", "warning", unknown, len(cohort), message)
        )
    n_slices = store.matrix("volume_slices")
    short = np.where(present, store.geometry.slices - n_slices, 0)
    lacking = np.flatnonzero((short > 0).any(axis=1))
    if len(lacking):
        details = [
            ", ".join(f"{phase} {n}" for phase, n, has in zip(phases, n_slices[row], present[row]) if has)
            for row in lacking
        ]
        message = (
            f"The stacks do not cover all {store.geometry.slices} slices; the others are empty. Store fewer slices, or fetch "
            "what is missing of the stack."
        )
        findings.append(_finding(cohort, "missing slices", "warning", lacking, len(cohort), message, details))
    return findings


def _check_sizes(cohort: Cohort, store: VolumeStore) -> list[Finding]:
    """ES with more LV blood than ED, by the masks and by the phenotypes."""
    findings = []
    phases = store.geometry.phases
    if "ed" in phases and "es" in phases:
        blood = store.matrix("volume_blood_ml")
        ed, es = blood[:, phases.index("ed")], blood[:, phases.index("es")]
        findings += _check_larger(cohort, "by the masks", ed, es)
    if {"lvedv", "lvesv"} <= set(cohort.targets):
        ed, es = cohort.phenotypes(("lvedv", "lvesv"), np.arange(len(cohort))).T
        findings += _check_larger(cohort, "by the phenotypes", ed, es)
    return findings


def _check_larger(cohort: Cohort, how: str, ed: np.ndarray, es: np.ndarray) -> list[Finding]:
    rows = np.flatnonzero(es > ed)  # False where one of them is NaN
    if not len(rows):
        return []
    details = [f"ED {ed[row]:.0f} mL, ES {es[row]:.0f} mL" for row in rows]
    message = f"ES has more LV blood than ED {how}: the phases are exchanged, or a mask is wrong. Correct the table or the mask."
    n_known = int(np.isfinite(ed - es).sum())
    return [_finding(cohort, f"ES larger than ED {how}", "error", rows, n_known, message, details)]


def _check_copies(cohort: Cohort, store: VolumeStore) -> list[Finding]:
    """The same heart images in recordings of different patients."""
    rows = np.flatnonzero(store.present.any(axis=1))
    codes, patients = column_codes(cohort, "volume_sha256")[rows], column_codes(cohort, "patient")[rows]
    order = np.argsort(codes, kind="stable")
    same = (codes[order][1:] == codes[order][:-1]) & (patients[order][1:] != patients[order][:-1])
    copies = np.sort(rows[order[1:][same]])
    if not len(copies):
        return []
    message = (
        "Recordings with the heart images of another patient. A model that is trained on one of them and scored on the other "
        "is scored too high. Correct the paths of the table."
    )
    return [_finding(cohort, "heart images of another patient", "error", copies, len(rows), message)]


# ------------------------------------------------------------------------------------------------------- the images


def _measure(store: VolumeStore, rows: np.ndarray, progress: Callable[[int, int], None] | None) -> _VolumeMeasures:
    """Measure the heart images of some rows, one recording in memory at a time."""
    phases, n_phases = store.geometry.phases, len(store.geometry.phases)
    pair = (phases.index("ed"), phases.index("es")) if {"ed", "es"} <= set(phases) else None
    brightness = np.full((len(rows), n_phases), np.nan)
    constant, blank = np.zeros(len(rows), dtype=int), np.zeros(len(rows), dtype=int)
    from_apex, cut_off, flips = np.zeros(len(rows), dtype=bool), np.zeros(len(rows), dtype=bool), []
    for number, row in enumerate(rows.tolist()):
        volumes, masks, has, masked = store.read(row), store.mask(row), store.present[row], store.masked[row]
        for phase in np.flatnonzero(has):
            values = volumes[phase]
            brightness[number, phase] = values.mean()
            if phases[phase] == "scar":  # a heart without late enhancement is empty
                continue
            is_blank = values.min(axis=(1, 2)) == values.max(axis=(1, 2))
            constant[number] += values.min() == values.max()
            blank[number] += is_blank.sum()
        if masked.any():
            first = int(np.flatnonzero(masked)[0])
            from_apex[number] = _is_from_apex(masks[first])
            cut_off[number] = _is_cut_off(masks[first])
        flips.append("" if pair is None or not has[list(pair)].all() else _flip(volumes, masks, masked, pair))
        if progress is not None:
            progress(number + 1, len(rows))
    return _VolumeMeasures(rows, brightness, constant, blank, np.array(flips, dtype=np.str_), from_apex, cut_off)


def _flip(volumes: np.ndarray, masks: np.ndarray, masked: np.ndarray, pair: tuple[int, int]) -> str:
    """How ES must be turned to agree much better with ED: one of FLIPS; '' if it agrees as it is."""
    ed, es = pair
    if masked[ed] and masked[es]:
        # a heart that is only at another place agrees with its mirror image too: both are compared in the middle
        one, other, agreement, least = _in_the_middle(masks[ed]), _in_the_middle(masks[es]), _equal_share, _BETTER_MASK
    else:
        one, other, agreement, least = volumes[ed], volumes[es], _correlation, _BETTER
    as_it_is = agreement(one, other)
    scores = {name: agreement(one, np.flip(other, axes)) for name, axes in FLIPS.items()}
    best = max(scores, key=scores.__getitem__)
    return best if scores[best] > as_it_is + least else ""


def _in_the_middle(mask: np.ndarray) -> np.ndarray:
    """A mask (D, H, W), moved by whole pixels so that the mean position of its heart is in the middle of the image."""
    places = np.nonzero(mask)[1:]
    if not len(places[0]):
        return mask
    steps = [round((size - 1) / 2 - float(place.mean())) for size, place in zip(mask.shape[1:], places)]
    return np.roll(mask, steps, axis=(1, 2))


def _equal_share(one: np.ndarray, other: np.ndarray) -> float:
    """The share of equal labels among the voxels where either mask has heart."""
    heart = (one > 0) | (other > 0)
    return float((one == other)[heart].mean()) if heart.any() else 0.0


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    a, b = one.ravel() - one.mean(), other.ravel() - other.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else 0.0


def _is_from_apex(mask: np.ndarray) -> bool:
    """Whether a mask (D, H, W) has clearly more left ventricle in its last slices than in its first."""
    area = np.isin(mask, (LV_BLOOD, MYOCARDIUM)).sum(axis=(1, 2))
    used = area[area > 0]
    third = len(used) // 3
    return bool(third and used[-third:].sum() > 1.25 * used[:third].sum())


def _is_cut_off(mask: np.ndarray) -> bool:
    """Whether the heart reaches the first or last row or column."""
    return bool(mask[:, [0, -1]].any() or mask[:, :, [0, -1]].any())


def _check_images(cohort: Cohort, store: VolumeStore, measures: _VolumeMeasures) -> list[Finding]:
    """Images with one value, empty slices, turned phases, stacks from the apex, and hearts that are cut off."""
    rows, n = measures.row, len(measures.row)
    turned = measures.flip != ""
    checks: list[tuple[str, Severity, np.ndarray, str, list[str]]] = [
        (
            "constant heart images", "error", measures.constant > 0,
            "A heart image has one value in all voxels: the stored part of the file is empty. Correct the mask, or store a "
            "larger part.", [],
        ),
        (
            "orientation of ED and ES differs", "error", turned,
            "ES agrees with ED only when it is turned. A model cannot compare the phases, and left and right ventricle are "
            "exchanged in one of them. Convert both with the same orientation.",
            [f"{flip} turned" for flip in measures.flip[turned]],
        ),
        (
            "empty slices", "warning", (measures.blank_slices > 0) & (measures.constant == 0),
            "Slices with one value in all pixels. Store fewer slices, or fetch what is missing of the stack.",
            [f"{k} slices" for k in measures.blank_slices[(measures.blank_slices > 0) & (measures.constant == 0)]],
        ),
        (
            "slices from the apex", "warning", measures.from_apex,
            "The left ventricle is larger in the last slices than in the first, so that the stack may begin at the apex. Slice "
            "0 belongs to the base. Correct the orientation of the files.", [],
        ),
        (
            "heart cut off", "warning", measures.cut_off,
            "The mask reaches the edge of the stored image. Store more rows and columns, or a larger spacing.", [],
        ),
    ]  # fmt: skip
    return [
        _finding(cohort, title, severity, rows[has_fault], n, message, details)
        for title, severity, has_fault, message, details in checks
        if has_fault.any()
    ]


def _check_brightness(cohort: Cohort, store: VolumeStore, measures: _VolumeMeasures) -> list[Finding]:
    """Intensities that reveal the split: images of different scanners or of a different preparation."""
    findings = []
    split = split_codes(cohort)[measures.row]
    for place, phase in enumerate(store.geometry.phases):
        for code, name in enumerate(SPLITS[1:], start=1):
            train, other = (measures.brightness[split == one, place] for one in (0, code))
            train, other = train[np.isfinite(train)], other[np.isfinite(other)]
            if min(len(train), len(other)) < _FEW:
                continue
            auroc = _auroc(train, other)
            error = np.sqrt((len(train) + len(other) + 1) / (12.0 * len(train) * len(other)))
            if abs(auroc - 0.5) <= max(_TIED, _N_SE * error):
                continue
            message = (
                f"The brightness of {phase} separates split {name} from train (AUROC {max(auroc, 1 - auroc):.2f}; medians "
                f"{np.median(train):.3g} and {np.median(other):.3g}): scanner, site or preparation differ between the "
                "splits. Split the patients at random, or prepare all images in the same way."
            )
            title = f"brightness of heart images differs between splits ({phase}, {name})"
            findings.append(Finding(title, "warning", len(other), len(train) + len(other), "heart images", message))
    return findings


def _auroc(low: np.ndarray, high: np.ndarray) -> float:
    """The share of pairs in which the value of `high` is larger; ties count half."""
    ordered = np.sort(low)
    below, up_to = np.searchsorted(ordered, high, side="left"), np.searchsorted(ordered, high, side="right")
    return float((below + up_to).mean() / (2 * len(low)))


def _finding(
    cohort: Cohort,
    title: str,
    severity: Severity,
    rows: np.ndarray,
    of: int,
    message: str,
    details: list[str] | None = None,
) -> Finding:
    examples: tuple[Example, ...] = first_examples(cohort, rows.tolist(), details or ())
    return Finding(title, severity, len(rows), of, "recordings", message, examples)

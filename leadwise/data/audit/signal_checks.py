"""Checks of the measured recordings: units, sampling rates, noise, copied or misnamed leads, near-duplicates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from leadwise.data.audit import beat_matching, near_duplicates, patients
from leadwise.data.audit.beat_matching import Beats
from leadwise.data.audit.finding import Finding, Severity, first_examples
from leadwise.data.audit.signals import Measures
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.recordings import lead_algebra
from leadwise.data.recordings.quality import PLAUSIBLE_MV

TYPICAL_MV = (0.2, 5.0)  # range of the median recording of a cohort in mV; near 1 in real cohorts
TYPICAL_BPM = (45.0, 130.0)  # median heart rate of a cohort at rest
POSSIBLE_BPM = (25.0, 250.0)  # of one recording
RESTING_BPM = 72.0
COMMON_RATES_HZ = (100, 125, 200, 240, 250, 256, 257, 300, 360, 400, 480, 500, 512, 600, 1000, 1024, 2000)
END_HZ = 60.0  # a resting electrocardiograph records up to 100 Hz and more
LOUD = 0.01  # share of the power: mains hum that is visible on paper
_ENOUGH = 10  # recordings at a sampling rate, before their median heart rate is checked
_OFTEN = 0.05  # share of the recordings, above which a finding becomes more severe


def check_signals(cohort: Cohort, measures: Measures, indexed_order: np.ndarray) -> list[Finding]:
    """Return findings on the measured recordings; `indexed_order` (n,) are the index's lead order results for them."""
    rate_hz = np.array([cohort.scale(int(row))[2] for row in measures.row])
    return [
        *_check_units(cohort, measures),
        *_check_rates(cohort, measures, rate_hz),
        *_check_bandwidth(cohort, measures, rate_hz),
        *_check_hum(cohort, measures),
        *_check_leads(cohort, measures, indexed_order),
    ]


def _finding(
    cohort: Cohort, m: Measures, check: str, severity: Severity, places: np.ndarray, details: list[str], message: str
) -> list[Finding]:
    """Return one finding on the measured recordings at `places`, or none if `places` is empty."""
    if not len(places):
        return []
    examples = first_examples(cohort, m.row[places], details)
    return [Finding(check, severity, len(places), len(m.row), "measured recordings", message, examples)]


def _check_units(cohort: Cohort, m: Measures) -> list[Finding]:
    """A finding on the whole cohort if its median range is implausible, else on single recordings."""
    size = m.range_mv
    if not np.isfinite(size).any():
        return []
    typical = float(np.nanmedian(size))

    # the median recording is implausible: the unit of the whole cohort is probably wrong
    if not TYPICAL_MV[0] <= typical <= TYPICAL_MV[1]:
        message = f"The median recording spans {typical:.3g} mV, but an ECG spans about 1 mV. Check the unit."
        worst = np.argsort(-np.abs(np.log(np.maximum(size, 1e-9))), kind="stable")
        details = [f"{size[place]:.3g} mV" for place in worst]
        findings = _finding(cohort, m, "units", "error", worst, details, message)
        return [Finding(**{**vars(finding), "n": len(m.row)}) for finding in findings]

    # single recordings, furthest from the median first
    odd = np.flatnonzero((size < PLAUSIBLE_MV[0]) | (size > PLAUSIBLE_MV[1]))
    odd = odd[np.argsort(-np.abs(np.log(np.maximum(size[odd], 1e-9) / typical)), kind="stable")]
    details = [f"{size[place]:.3g} mV" for place in odd]
    severity: Severity = "error" if len(odd) > _OFTEN * len(size) else "warning"
    low, high = PLAUSIBLE_MV
    message = (
        f"These recordings span less than {low:g} or more than {high:g} mV; the median of the cohort is {typical:.2g} mV. "
        "Check their unit."
    )
    return _finding(cohort, m, "units", severity, odd, details, message)


def _check_rates(cohort: Cohort, m: Measures, rate_hz: np.ndarray) -> list[Finding]:
    """Findings on sampling rates with an implausible median heart rate, and on single implausible heart rates."""
    findings = []

    # a wrong sampling rate scales all heart rates, so that their median is implausible for a resting cohort
    for stated in np.unique(rate_hz).tolist():
        of_rate = np.flatnonzero((rate_hz == stated) & np.isfinite(m.beats_bpm))
        if len(of_rate) < _ENOUGH:
            continue
        typical = float(np.median(m.beats_bpm[of_rate]))
        if TYPICAL_BPM[0] <= typical <= TYPICAL_BPM[1]:
            continue
        likely = min(COMMON_RATES_HZ, key=lambda rate: abs(np.log(rate / (stated * RESTING_BPM / typical))))
        message = (
            f"At the stated {stated:g} Hz the median heart rate is {typical:.0f} beats/min, too "
            f"{'fast' if typical > RESTING_BPM else 'slow'} for resting ECGs. At {likely} Hz it would be "
            f"{typical * likely / stated:.0f} beats/min. Check the sampling rate."
        )
        details = [f"{m.beats_bpm[place]:.0f} beats/min" for place in of_rate]
        findings += _finding(cohort, m, f"rate of {stated:g} Hz", "error", of_rate, details, message)

    # single recordings
    low, high = POSSIBLE_BPM
    odd = np.flatnonzero((m.beats_bpm < low) | (m.beats_bpm > high))
    odd = odd[np.argsort(-np.abs(np.log(m.beats_bpm[odd] / RESTING_BPM)), kind="stable")]
    details = [f"{m.beats_bpm[place]:.0f} beats/min" for place in odd]
    message = (
        f"The estimated heart rate is below {low:g} or above {high:g} beats/min: noise, broad beats counted twice, or a wrong "
        "sampling rate."
    )
    return [*findings, *_finding(cohort, m, "heart rate", "warning", odd, details, message)]


def _check_bandwidth(cohort: Cohort, m: Measures, rate_hz: np.ndarray) -> list[Finding]:
    ends = np.flatnonzero((m.end_hz <= END_HZ) & (m.end_hz < 0.25 * rate_hz))
    ends = ends[np.argsort(m.end_hz[ends], kind="stable")]
    details = [f"ends at {m.end_hz[place]:.0f} of {rate_hz[place] / 2:g} Hz" for place in ends]
    severity: Severity = "warning" if len(ends) > _OFTEN * len(m.row) else "note"
    message = (
        f"Almost no power above {END_HZ:g} Hz, although the sampling rate allows it: these recordings were upsampled or "
        "strongly filtered. A model may learn to recognise them by this."
    )
    return _finding(cohort, m, "upsampled or filtered", severity, ends, details, message)


def _check_hum(cohort: Cohort, m: Measures) -> list[Finding]:
    loud = np.flatnonzero(m.hum_share > LOUD)
    loud = loud[np.argsort(-m.hum_share[loud], kind="stable")]
    details = [f"{m.hum_share[place]:.0%} of the power at {m.hum_hz[place]:.0f} Hz" for place in loud]
    n_50, n_60 = (int((m.hum_hz == line).sum()) for line in (50.0, 60.0))
    message = (
        f"More than {LOUD:.0%} of the power is mains hum. A mains line is detected at 50 Hz in {n_50} recordings and at 60 Hz "
        f"in {n_60}."
    )
    severity: Severity = "warning" if len(loud) > _OFTEN * len(m.row) else "note"
    return _finding(cohort, m, "mains hum", severity, loud, details, message)


def _check_leads(cohort: Cohort, m: Measures, indexed: np.ndarray) -> list[Finding]:
    """Findings on samples whose lead order differs from the index, and on leads that are copies of each other."""
    good = (lead_algebra.OK, lead_algebra.UNCHECKED)
    changed = np.flatnonzero(~np.isin(m.order, good) & np.isin(indexed, good))
    message = (
        "The index marks the lead order as correct, but the samples break III = II - I and the related equations. "
        "Run `leadwise prepare --verify` on this cohort."
    )
    title = "lead order differs from the index"
    findings = _finding(cohort, m, title, "error", changed, m.order[changed].tolist(), message)
    twins = np.flatnonzero(m.twins != "")
    message = "Two recorded leads contain the same samples: one was copied over the other."
    return [*findings, *_finding(cohort, m, "identical leads", "warning", twins, m.twins[twins].tolist(), message)]


KINDS: tuple[tuple[str, str, str, Severity], ...] = (  # result of the comparison, check, message, worst severity
    (
        near_duplicates.SAME,
        "near-duplicate signals",
        "These recordings are equal except for scale, offset, rounding, or where they begin and end. ",
        "error",
    ),
    (
        near_duplicates.ALIKE,
        "similar signals",
        "These recordings are alike beat for beat: copies that were resampled, filtered, inverted or changed in their leads, "
        "or two very regular rhythms. Compare them first; the following holds for copies. ",
        "warning",
    ),
)


def check_near_duplicates(cohort: Cohort, m: Measures, sample_codes: np.ndarray) -> list[Finding]:
    """Return findings on recordings that are copies of each other, but not bit for bit.

    `sample_codes` (n,) are equal for exact copies, which another check reports; such pairs are skipped here.
    """
    comparison = near_duplicates.PairComparison()
    kinds: dict[tuple[int, int], str] = {}
    for (one, other), how in _candidates(m.sketch, m.beats).items():
        pair = int(m.row[one]), int(m.row[other])
        if sample_codes[pair[0]] != sample_codes[pair[1]]:
            kinds[pair] = comparison.kind((cohort, pair[0]), (cohort, pair[1]), *how)
    findings = []
    for kind, check, message, worst in KINDS:
        groups = _connected([pair for pair, pair_kind in kinds.items() if pair_kind == kind])
        findings += patients.copy_findings(cohort, groups, check, len(m.row), message, worst)
    return findings


def _candidates(sketches: np.ndarray, beats: Sequence[Beats]) -> dict[tuple[int, int], tuple[list[float], bool]]:
    """Return pairs of measured recordings to compare: at which lags (s), and whether also from their beginnings."""
    by_beats, by_shape = beat_matching.candidates(beats), set(near_duplicates.candidate_pairs(sketches))
    return {pair: (by_beats.get(pair, []), pair in by_shape) for pair in sorted(by_beats.keys() | by_shape)}


def _connected(pairs: list[tuple[int, int]]) -> list[np.ndarray]:
    """Return the groups of rows that pairs connect, largest first."""
    group_of: dict[int, set[int]] = {}
    for one, other in pairs:
        group = group_of.get(one, {one}) | group_of.get(other, {other})
        group_of.update(dict.fromkeys(group, group))
    groups = {min(group): group for group in group_of.values()}
    arrays = [np.array(sorted(groups[first])) for first in sorted(groups)]
    return sorted(arrays, key=lambda rows: -len(rows))


def check_near_overlap(cohort: Cohort, m: Measures, other: Cohort, other_measures: Measures) -> list[Finding]:
    """Return findings on measured recordings of two cohorts that are copies of each other, but not bit for bit."""
    n, comparison = len(m.row), near_duplicates.PairComparison()
    both = _candidates(np.concatenate([m.sketch, other_measures.sketch]), [*m.beats, *other_measures.beats])
    pairs = {
        (int(m.row[one]), int(other_measures.row[two - n])): how for (one, two), how in both.items() if one < n <= two
    }
    kinds = {(one, two): comparison.kind((cohort, one), (other, two), *how) for (one, two), how in pairs.items()}
    findings = []
    for kind, check, message, worst in KINDS:
        table = np.array([pair for pair, pair_kind in kinds.items() if pair_kind == kind], np.int64).reshape(-1, 2)
        shared = (table[:, 0], table[:, 1])
        findings += patients.overlap_findings(cohort, other, shared, f"{check} in {other.name}", message, worst)
    return findings

"""What the measures of a sample of recordings mean: units, rates, noise, leads copied or renamed, near copies."""

from __future__ import annotations

import numpy as np

from leadwise.data.audit import near_duplicates, people
from leadwise.data.audit.finding import Finding, Severity, examples
from leadwise.data.audit.signals import Measures
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.recordings import lead_algebra
from leadwise.data.recordings.quality import PLAUSIBLE_MV

TYPICAL_MV = (0.2, 5.0)  # the median recording of a cohort in mV; real cohorts lie near 1
TYPICAL_BPM = (45.0, 130.0)  # the median beat rate of a cohort at rest
POSSIBLE_BPM = (25.0, 250.0)  # of one recording
RESTING_BPM = 72.0
COMMON_RATES_HZ = (100, 125, 200, 240, 250, 256, 257, 300, 360, 400, 480, 500, 512, 600, 1000, 1024, 2000)
END_HZ = 60.0  # an electrocardiograph at rest records to 100 Hz and more
LOUD = 0.01  # of the power: a mains line that a person sees
_ENOUGH = 10  # recordings at a rate, before their median is judged
_OFTEN = 0.05


def judge(cohort: Cohort, measures: Measures, indexed_order: np.ndarray) -> list[Finding]:
    """Findings of some recordings of a cohort; `indexed_order` (n,) are the index's own verdicts on these."""
    rate_hz = np.array([cohort.scale(int(row))[2] for row in measures.row])
    return [
        *_units(cohort, measures),
        *_rates(cohort, measures, rate_hz),
        *_upsampled(cohort, measures, rate_hz),
        *_hum(cohort, measures),
        *_order(cohort, measures, indexed_order),
    ]


def _finding(
    cohort: Cohort, m: Measures, check: str, severity: Severity, places: np.ndarray, details: list[str], said: str
) -> list[Finding]:
    """One finding on some places of the measures, if there are any."""
    if not len(places):
        return []
    shown = examples(cohort, m.row[places], details)
    return [Finding(check, severity, len(places), len(m.row), "recordings looked at", said, shown)]


def _units(cohort: Cohort, m: Measures) -> list[Finding]:
    size = m.range_mv
    if not np.isfinite(size).any():
        return []
    typical = float(np.nanmedian(size))
    odd = np.flatnonzero((size < PLAUSIBLE_MV[0]) | (size > PLAUSIBLE_MV[1]))
    odd = odd[np.argsort(-np.abs(np.log(np.maximum(size[odd], 1e-9) / typical)), kind="stable")]
    details = [f"{size[place]:.3g} mV" for place in odd]
    found = []
    if not TYPICAL_MV[0] <= typical <= TYPICAL_MV[1]:
        said = f"The median recording ranges over {typical:.3g} mV; an ECG does over about 1 mV. Is the unit right?"
        worst = np.argsort(-np.abs(np.log(np.maximum(size, 1e-9))), kind="stable")
        worst_details = [f"{size[place]:.3g} mV" for place in worst]
        found = _finding(cohort, m, "units", "error", worst, worst_details, said)
        return [Finding(**{**vars(finding), "n": len(m.row)}) for finding in found]
    severity: Severity = "error" if len(odd) > _OFTEN * len(size) else "warning"
    low, high = PLAUSIBLE_MV
    said = f"Their leads range over less than {low:g} or more than {high:g} mV, the cohort's over {typical:.2g}: another unit?"
    return _finding(cohort, m, "units", severity, odd, details, said)


def _rates(cohort: Cohort, m: Measures, rate_hz: np.ndarray) -> list[Finding]:
    """A rate whose recordings beat, at the median, as no resting cohort does; single recordings that beat too fast."""
    found = []
    for stated in np.unique(rate_hz).tolist():
        of_rate = np.flatnonzero((rate_hz == stated) & np.isfinite(m.beats_bpm))
        if len(of_rate) < _ENOUGH:
            continue
        typical = float(np.median(m.beats_bpm[of_rate]))
        if TYPICAL_BPM[0] <= typical <= TYPICAL_BPM[1]:
            continue
        likely = min(COMMON_RATES_HZ, key=lambda rate: abs(np.log(rate / (stated * RESTING_BPM / typical))))
        said = (
            f"Stated at {stated:g} Hz, half of them beat {'faster' if typical > RESTING_BPM else 'slower'} than "
            f"{typical:.0f} a minute. At {likely} Hz they would beat {typical * likely / stated:.0f} a minute: is the rate right?"
        )
        details = [f"{m.beats_bpm[place]:.0f} a minute" for place in of_rate]
        found += _finding(cohort, m, f"rate of {stated:g} Hz", "error", of_rate, details, said)
    low, high = POSSIBLE_BPM
    odd = np.flatnonzero((m.beats_bpm < low) | (m.beats_bpm > high))
    odd = odd[np.argsort(-np.abs(np.log(m.beats_bpm[odd] / RESTING_BPM)), kind="stable")]
    details = [f"{m.beats_bpm[place]:.0f} a minute" for place in odd]
    said = (
        f"They seem to beat slower than {low:g} or faster than {high:g} a minute: noise, broad beats counted twice, or a "
        "wrong rate."
    )
    return [*found, *_finding(cohort, m, "heart rate", "warning", odd, details, said)]


def _upsampled(cohort: Cohort, m: Measures, rate_hz: np.ndarray) -> list[Finding]:
    ends = np.flatnonzero((m.end_hz <= END_HZ) & (m.end_hz < 0.25 * rate_hz))
    ends = ends[np.argsort(m.end_hz[ends], kind="stable")]
    details = [f"ends at {m.end_hz[place]:.0f} of {rate_hz[place] / 2:g} Hz" for place in ends]
    severity: Severity = "warning" if len(ends) > _OFTEN * len(m.row) else "note"
    said = (
        f"Next to no power above {END_HZ:g} Hz, though the rate could hold it: upsampled, or filtered hard. "
        "A model may learn to tell these from others."
    )
    return _finding(cohort, m, "upsampled or filtered", severity, ends, details, said)


def _hum(cohort: Cohort, m: Measures) -> list[Finding]:
    loud = np.flatnonzero(m.hum_share > LOUD)
    loud = loud[np.argsort(-m.hum_share[loud], kind="stable")]
    details = [f"{m.hum_share[place]:.0%} of the power at {m.hum_hz[place]:.0f} Hz" for place in loud]
    n_50, n_60 = (int((m.hum_hz == line).sum()) for line in (50.0, 60.0))
    said = f"More than {LOUD:.0%} of the power is mains hum. A line stands out at 50 Hz in {n_50}, at 60 Hz in {n_60}."
    severity: Severity = "warning" if len(loud) > _OFTEN * len(m.row) else "note"
    return _finding(cohort, m, "mains hum", severity, loud, details, said)


def _order(cohort: Cohort, m: Measures, indexed: np.ndarray) -> list[Finding]:
    """Samples whose lead order is not what the index says, and leads that are copies of each other."""
    good = (lead_algebra.OK, lead_algebra.UNCHECKED)
    turned = np.flatnonzero(~np.isin(m.order, good) & np.isin(indexed, good))
    said = "The index says that III = II - I and its kin hold, the samples do not: `leadwise prepare --verify` this cohort."
    found = _finding(cohort, m, "lead order, samples against index", "error", turned, m.order[turned].tolist(), said)
    twins = np.flatnonzero(m.twins != "")
    said = "Two recorded leads hold the same samples: one was copied over another."
    return [*found, *_finding(cohort, m, "leads that are copies", "warning", twins, m.twins[twins].tolist(), said)]


KINDS: tuple[tuple[str, str, str, Severity], ...] = (  # likeness, check, what it is, and the worst it can mean
    (near_duplicates.SAME, "near-duplicate signals", "Equal but for scale, offset or rounding. ", "error"),
    (
        near_duplicates.ALIKE,
        "signals alike",
        "Beat for beat alike: resampled or filtered copies, or two very regular hearts. Look; if copies: ",
        "warning",
    ),
)


def near_copies(cohort: Cohort, m: Measures, copied: np.ndarray) -> list[Finding]:
    """Recordings that are the same but for scale, offset, rate or rounding. `copied` (n,) are codes of the samples.

    Pairs with the same code are copies to the bit and told elsewhere.
    """
    pairs = [(int(m.row[one]), int(m.row[other])) for one, other in near_duplicates.candidates(m.sketch)]
    pairs = [(one, other) for one, other in pairs if copied[one] != copied[other]]
    kinds = [near_duplicates.compare((cohort, one), (cohort, other)) for one, other in pairs]
    found = []
    for kind, check, said, worst in KINDS:
        alike = _joined([pair for pair, its_kind in zip(pairs, kinds) if its_kind == kind])
        found += people.judge_copies(cohort, alike, check, len(m.row), said, worst)
    return found


def _joined(pairs: list[tuple[int, int]]) -> list[np.ndarray]:
    """Groups of all that pairs connect, the largest first."""
    group_of: dict[int, set[int]] = {}
    for one, other in pairs:
        joined = group_of.get(one, {one}) | group_of.get(other, {other})
        group_of.update(dict.fromkeys(joined, joined))
    groups = {min(group): group for group in group_of.values()}
    parts = [np.array(sorted(groups[first])) for first in sorted(groups)]
    return sorted(parts, key=lambda part: -len(part))


def near_overlap(cohort: Cohort, m: Measures, other: Cohort, theirs: Measures) -> list[Finding]:
    """Recordings of two cohorts that are the same but for scale, offset, rate or rounding, of those looked at."""
    n = len(m.row)
    both = near_duplicates.candidates(np.concatenate([m.sketch, theirs.sketch]))
    pairs = [(int(m.row[one]), int(theirs.row[two - n])) for one, two in both if one < n <= two]
    kinds = [near_duplicates.compare((cohort, one), (other, two)) for one, two in pairs]
    found = []
    for kind, check, said, worst in KINDS:
        table = np.array([pair for pair, its_kind in zip(pairs, kinds) if its_kind == kind], np.int64).reshape(-1, 2)
        shared = (table[:, 0], table[:, 1])
        found += people.judge_overlap(cohort, other, shared, f"{check} in {other.name}", said, worst)
    return found

"""Leaks planted between training and test data, each of which the audit of a cohort or another command must find.

`rows` returns a row for each kind of leak: how many were planted, and each one that was not found. Tests plant a few on
simulated ECGs; a prepared cohort of real ECGs can take their place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import recovery
from api_run import write_run
from evidence import Row as Evidence
from scipy.signal import butter, resample_poly, sosfilt, sosfiltfilt

from leadwise import run as runs
from leadwise.batch import LEADS
from leadwise.data.audit.audit import audit_cohort
from leadwise.data.audit.beat_matching import find_beats
from leadwise.data.audit.finding import MOST_EXAMPLES, Finding
from leadwise.data.audit.near_duplicates import centred
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.prepare import write
from leadwise.data.sources import simulated
from leadwise.data.sources.folder import Options, read_source
from leadwise.data.sources.source import Row, Source
from leadwise.evaluate import prompt_calibration
from leadwise.evaluate.calibrate import run_calibration
from leadwise.evaluate.embed import embed_cohort, scored_recordings
from leadwise.evaluate.zeroshot import run_zeroshot
from leadwise.foreign.opening import open_encoder
from leadwise.generate.reporting import open_writer, write_reports
from leadwise.generate.training import train_writer
from leadwise.trained_on import TrainedOn, compare

RATE_HZ = 500  # of the simulated ECGs
MOST_MISSED = 0.1
Copy = Callable[
    [np.ndarray, float, np.random.Generator], tuple[np.ndarray, float]
]  # (T, 12) mV and rate to those of a copy


def _with_noise(ecg: np.ndarray, rate_hz: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    return ecg + 0.1 * ecg.std(axis=0) * rng.standard_normal(ecg.shape), rate_hz  # 20 dB


def _with_wander(ecg: np.ndarray, rate_hz: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    time_s = np.arange(len(ecg))[:, None] / rate_hz
    return ecg + 0.3 * np.sin(2 * np.pi * 0.25 * time_s + rng.uniform(0, 6, 12)), rate_hz


def _filtered(ecg: np.ndarray, rate_hz: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    return sosfiltfilt(butter(3, (0.5, 40), "band", fs=rate_hz, output="sos"), ecg, axis=0), rate_hz


def _filtered_by_device(ecg: np.ndarray, rate_hz: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    return sosfilt(butter(2, (0.5, 40), "band", fs=rate_hz, output="sos"), ecg, axis=0), rate_hz  # shifts phases


def _resampled(ecg: np.ndarray, rate_hz: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    at_100_hz = resample_poly(ecg, 1, 5, axis=0) if rate_hz == 500 else ecg
    return resample_poly(at_100_hz, 5, 2, axis=0), 250.0


def _rederived(ecg: np.ndarray, rate_hz: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    copy = ecg.copy()
    i, ii = copy[:, 0], copy[:, 1]
    copy[:, 2:6] = np.stack([ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2], axis=1)
    return np.round(copy, 2), rate_hz


def _without_a_lead(ecg: np.ndarray, rate_hz: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    copy = ecg.copy()
    copy[:, rng.integers(6, 12)] = np.nan
    return copy, rate_hz


def _in_8_bits(ecg: np.ndarray, rate_hz: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    step = np.abs(ecg).max() / 127
    return np.round(ecg / step) * step, rate_hz


def _much_changed(ecg: np.ndarray, rate_hz: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    return _filtered(-ecg[round(0.4 * rate_hz) :, rng.permutation(12)], rate_hz, rng)


def _cut(begin_s: float, end_s: float) -> Copy:
    return lambda ecg, rate_hz, rng: (ecg[round(begin_s * rate_hz) : round(end_s * rate_hz)], rate_hz)


# another patient's recording that is a copy; found by the audit's checks of samples
COPIES: dict[str, Copy] = {
    "same ECG of two patients, gain changed": lambda ecg, rate_hz, rng: (0.5 * ecg, rate_hz),
    "same ECG of two patients, leads with gains of their own": lambda ecg, rate_hz, rng: (ecg * rng.uniform(0.5, 2, 12), rate_hz),
    "same ECG of two patients, leads permuted": lambda ecg, rate_hz, rng: (ecg[:, rng.permutation(12)], rate_hz),
    "same ECG of two patients, resampled 500, 100, 250 Hz": _resampled,
    "same ECG of two patients, 7 of 10 s": _cut(1.0, 8.0),
    "same ECG of two patients, 0.3 s later": _cut(0.3, 10.0),
    "overlapping parts of one ECG: 0 to 10 s and 3 to 10 s": _cut(3.0, 10.0),
    "same ECG of two patients, noise of 20 dB added": _with_noise,
    "same ECG of two patients, baseline wander added": _with_wander,
    "same ECG of two patients, filtered 0.5 to 40 Hz": _filtered,
    "same ECG of two patients, filtered by a device": _filtered_by_device,
    "same ECG of two patients, inverted": lambda ecg, rate_hz, rng: (-ecg, rate_hz),
    "same ECG of two patients, limb leads computed again": _rederived,
    "same ECG of two patients, one lead missing": _without_a_lead,
    "same ECG of two patients, 8 bits": _in_8_bits,
    "same ECG of two patients, later, inverted, permuted and filtered": _much_changed,
}  # fmt: skip

# one patient under two names
NAMES: dict[str, tuple[str, str]] = {
    "patient's name in other case": ("PxA{}", "pXa{}"),
    "patient's name with white space": ("q{}", "q {}"),
    "patient's name with other separators": ("r-1-{}", "r_1/{}"),
    "patient's number with leading zeros": ("{}", "000{}"),
    "patient's number with .0": ("{}", "{}.0"),
    "patient's number with a prefix": ("{}", "patient-{}"),
}


@dataclasses.dataclass(frozen=True)
class Base:
    """ECGs to plant leaks in: samples (T, 12) mV and rates."""

    ecgs: list[np.ndarray]
    rate_hz: float


def base_ecgs(folder: Path, n: int, cohort: Path | None = None) -> Base:
    """Return `n` ECGs of different patients: of a cohort, or simulated ones."""
    if cohort is None:
        simulated.simulate(folder / "simulated", 5 * n, 11)
        write(simulated.read_source(folder / "simulated"), folder / "base")
    opened = Cohort.open(folder / "base" if cohort is None else cohort)
    patients = np.array(list(opened.patients))
    first = [
        int(row) for row in np.sort(np.unique(patients, return_index=True)[1]) if _is_usable(*opened.signal(int(row)))
    ]
    chosen = np.sort(np.random.default_rng(5).choice(first, n, replace=False))
    signals = [opened.signal(int(row)) for row in chosen]
    rate_hz = signals[0][1] if cohort is not None else RATE_HZ
    return Base(
        [_at_rate(np.nan_to_num(values), stated, rate_hz)[: round(10 * rate_hz)] for values, stated in signals], rate_hz
    )


def _is_usable(ecg: np.ndarray, rate_hz: float) -> bool:
    """Ten seconds with ten beats: of fewer, parts share fewer than five."""
    beats = find_beats(centred(ecg[: round(10 * rate_hz)].T), rate_hz)
    return len(ecg) >= 10 * rate_hz and len(beats.times_s) >= 10


def _at_rate(ecg: np.ndarray, rate_hz: float, wanted_hz: float) -> np.ndarray:
    ratio = Fraction(wanted_hz / rate_hz).limit_denominator(100)
    return ecg if ratio == 1 else resample_poly(ecg, ratio.numerator, ratio.denominator, axis=0)


def make_cohort(folder: Path, ecgs: dict[str, tuple[np.ndarray, float]], rows: dict[str, dict[str, object]]) -> Cohort:
    """Return a cohort of ECGs by record, with the fields of their rows."""
    folder.mkdir(parents=True)
    table = []
    for record, (values, rate_hz) in ecgs.items():
        np.save(folder / f"{record}.npy", values.astype(np.float32))
        fields = {"patient": record, "split": "train"} | rows.get(record, {})
        path = folder / f"{record}.npy"
        table.append(Row(record, path, leads=LEADS, rate_hz=rate_hz, units="mV", **fields))  # type: ignore[arg-type]
    write(Source("made", table), folder / "out", min_report_words=0)
    return Cohort.open(folder / "out")


def names_both(findings: tuple[Finding, ...] | list[Finding], one: str, other: str) -> bool:
    """Return whether an error or a warning names both records in one example."""
    texts = [str(example) for finding in findings for example in finding.examples if finding.severity != "note"]
    return any(
        {one, other} <= set(text.replace("(", " ").replace(",", " ").replace(")", " ").split()) for text in texts
    )


def copied_signals(folder: Path, base: Base, n_each: int) -> list[Evidence]:
    """Plant `n_each` copies of each kind into a cohort of the base ECGs, the copy in test under another patient."""
    rng = np.random.default_rng(3)
    ecgs = {f"a{k}": (ecg, base.rate_hz) for k, ecg in enumerate(base.ecgs)}
    plan = [(what, k % len(base.ecgs)) for k, what in enumerate(what for what in COPIES for _ in range(n_each))]
    missed: dict[str, list[str]] = {what: [] for what in COPIES}
    # as many in a cohort as a finding has examples, so that each copy must be named
    for begin in range(0, len(plan), MOST_EXAMPLES):
        part = plan[begin : begin + MOST_EXAMPLES]
        planted = {f"b{k}": COPIES[what](base.ecgs[k], base.rate_hz, rng) for what, k in part}
        cohort = make_cohort(folder / str(begin), ecgs | planted, {record: {"split": "test"} for record in planted})
        findings = audit_cohort(cohort, 0).findings
        for what, k in part:
            missed[what] += [] if names_both(findings, f"a{k}", f"b{k}") else [f"a{k} and b{k}"]
    # of many on real ECGs, one in ten may be missed
    return [
        Evidence(
            what, n_each, tuple(pairs) if len(pairs) > MOST_MISSED * n_each else (),
            f"{n_each - len(pairs)} of {n_each} found by the audit's comparison of samples",
        )
        for what, pairs in missed.items()
    ]  # fmt: skip


def false_alarms(folder: Path, base: Base) -> Evidence:
    """Count the pairs of the base ECGs, all of different patients, that the audit takes for copies."""
    cohort = make_cohort(folder, {f"a{k}": (ecg, base.rate_hz) for k, ecg in enumerate(base.ecgs)}, {})
    wrong = [f for f in audit_cohort(cohort, 0).findings if "signals" in f.check and f.severity != "note"]
    faults = tuple(f"{f.check}: {example}" for f in wrong for example in f.examples)
    return Evidence("no alarm: ECGs of different patients", len(base.ecgs), faults)


def names_of_patients(folder: Path, base: Base) -> list[Evidence]:
    """Plant one patient under two names, in two splits, for each way of writing."""
    ecgs, rows = {}, {}
    for k, (one, other) in enumerate(NAMES.values()):
        for record, name, split in ((f"a{k}", one, "train"), (f"b{k}", other, "test")):
            ecgs[record] = (base.ecgs[len(ecgs) % len(base.ecgs)] + 0.001 * len(ecgs), base.rate_hz)
            rows[record] = {"patient": name.format(417 + k), "split": split}
    findings = [f for f in audit_cohort(make_cohort(folder, ecgs, rows), 1).findings if "written" in f.check]
    return [
        Evidence(
            what,
            1,
            () if names_both(findings, f"a{k}", f"b{k}") else (f"a{k} and b{k}",),
            "found by the audit's check of names",
        )
        for k, what in enumerate(NAMES)
    ]


def refused_or_warned(folder: Path, base: Base) -> list[Evidence]:
    """Leaks that `prepare` refuses or warns of."""
    ecg = (base.ecgs[0], base.rate_hz)
    other = (base.ecgs[1], base.rate_hz)
    evidence = []
    middle = len(ecg[0]) // 2
    halves = {"a": (ecg[0][:middle], ecg[1]), "b": (ecg[0][middle:], ecg[1])}
    torn: dict[str, dict[str, object]] = {"a": {"patient": "p7"}, "b": {"patient": "p7", "split": "test"}}
    for what, ecgs, rows, expected in (
        ("one patient in train and test", {"a": ecg, "b": other}, torn, ("p7",)),
        ("two halves of one ECG, one patient", halves, torn, ("p7",)),
        (
            "same ECG of two patients, uV written as mV",
            {"a": ecg, "b": (1000 * ecg[0], ecg[1])},
            {"b": {"split": "test"}},
            ("b",),
        ),
        ("same ECG of two patients, to the bit", {"a": ecg, "b": ecg}, {"b": {"split": "test"}}, ("a", "b")),
    ):
        try:
            make_cohort(folder / what.replace(" ", "-"), ecgs, rows)
            message = ""
        except CohortError as error:
            message = str(error)
        words = set(re.split(r"[\s(),:;.]+", message))
        faults = () if set(expected) <= words else (f"the error is {message!r}",)
        evidence.append(Evidence(what, 1, faults, "refused by prepare"))

    # a patient without a name in one row of a table
    table = folder / "table"
    table.mkdir()
    for record, (values, _) in (("a", ecg), ("b", other)):
        np.save(table / f"{record}.npy", values.astype(np.float32))
    (table / "manifest.csv").write_text("path,patient,split\na.npy,p7,train\nb.npy,,test\n")
    with warnings_of("leadwise.data.sources.folder") as warnings:
        read_source(table / "manifest.csv", Options(leads=LEADS, rate_hz=base.rate_hz, units="mV"))
    warned = any("1 recordings name no patient (row 3)" in text for text in warnings)
    evidence.append(Evidence("a row without its patient", 1, () if warned else ("no warning",), "warned of by prepare"))
    return evidence


def copied_report(folder: Path, base: Base) -> Evidence:
    """A long report of a test recording, copied to a training recording of another patient."""
    long = " ".join(f"word{k}" for k in range(30))
    ecgs = {name: (base.ecgs[k], base.rate_hz) for k, name in enumerate("abcd")}
    rows = {
        "a": {"report": long},
        "b": {"report": long, "split": "test"},
        "c": {"report": "sinus rhythm"},
        "d": {"report": "sinus rhythm"},
    }
    findings = [
        f for f in audit_cohort(make_cohort(folder, ecgs, rows), 1).findings if f.check == "long reports in two splits"
    ]
    texts = [str(example) for finding in findings for example in finding.examples]
    is_named = texts == ["a (30 words, train, like b in test)"]
    return Evidence(
        "report of a test recording in train",
        1,
        () if is_named else (f"examples {texts}",),
        "found by the audit's check of reports",
    )


def overlap_with_pretraining(folder: Path, base: Base) -> list[Evidence]:
    """Test recordings that a run was trained on: by patient, by samples, and near-copies in the cohort of the training."""
    ecgs = {f"a{k}": (ecg, base.rate_hz) for k, ecg in enumerate(base.ecgs[:6])}
    training = make_cohort(folder / "training", ecgs, {})
    everyone = np.arange(len(training))
    hashes = TrainedOn.of(training.source, training.patients.distinct(everyone), training.checksums(everyone))
    test = {f"a{k}": {"split": "test"} for k in range(2)}
    planted = {
        "a0": ecgs["a0"],
        "a1": (_with_noise(*ecgs["a1"], np.random.default_rng(1))),
        "c": (base.ecgs[7], base.rate_hz),
    }
    scored = make_cohort(folder / "scored", planted, test | {"c": {"split": "test"}})

    evidence = []
    for what, provenance, expected in (
        ("pretraining patients in the test split", {"source": "made"}, (2, 1)),
        ("pretraining samples in the test split of another source", {"source": "elsewhere"}, (2, 1)),
    ):
        overlap = compare(hashes, provenance, scored_recordings(scored, scored.rows("test")))
        faults = () if (overlap.n_patients, overlap.n_signals) == expected and overlap.is_leak else (overlap.sentence,)
        evidence.append(Evidence(what, 1, faults, "found by every command that scores, from trained_on.json"))
    findings = audit_cohort(scored, 0, against=training).findings
    faults = tuple(name for name in ("a0", "a1") if not names_both(findings, name, name))
    evidence.append(Evidence("a noisy copy in the cohort of the pretraining", 2, faults, "found by check --against"))
    return evidence


PROMPTS = """
source = "made"
task = "own"
[classes]
a = {name = "a", rich = ["normal sinus rhythm."], short = ["normal ecg."]}
b = {name = "b", rich = ["atrial fibrillation."], short = ["atrial fibrillation."]}
"""
WRITER = (
    "writer.width=16", "writer.depth=1", "writer.heads=2", "writer.vectors=2", "writer.vocabulary=320",
    "writer.max_tokens=24", "writer.positions=32", "optim.batch_size=8", "optim.steps=1", "log.keep=last",
)  # fmt: skip


@contextlib.contextmanager
def warnings_of(name: str) -> Iterator[list[str]]:
    """The messages that a module logs in the block."""
    texts: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield texts
    finally:
        logger.removeHandler(handler)


def labelled_cohort(
    folder: Path, base: Base, numbers: Sequence[int], splits: Sequence[str], patient: str, source: str
) -> Cohort:
    """Return a cohort of ECGs of the base with labels, and a report that names each."""
    folder.mkdir(parents=True)
    table = []
    for number, split in zip(numbers, splits, strict=True):
        path = folder / f"e{number}.npy"
        np.save(path, base.ecgs[number].astype(np.float32))
        labels = {"own": {"a": number % 2, "b": 1 - number % 2}}
        facts = {"leads": LEADS, "rate_hz": base.rate_hz, "units": "mV"}
        report = f"normal sinus rhythm. study {number}."
        table.append(Row(path.stem, path, f"{patient}{number}", split, report, labels, **facts))  # type: ignore[arg-type]
    write(Source(source, table, {"own": ("a", "b")}), folder / "out")
    return Cohort.open(folder / "out")


def in_what_was_fitted(folder: Path, base: Base) -> list[Evidence]:
    """Test recordings among those of a calibration, a bank of reports, a trained writer, and embeddings of a file."""
    run = runs.load(write_run(folder / "run"))
    fitted = labelled_cohort(folder / "fitted", base, range(20), ["train"] * 8 + ["val"] * 12, "p", "made")
    # e19 and e7 are copies under another patient's name, e21 to e23 are new
    numbers, splits = (0, 1, 19, 7, 20, 21, 22, 23), ("train", "train", *["test"] * 6)
    scored = labelled_cohort(folder / "scored", base, numbers, splits, "q", "elsewhere")
    same = labelled_cohort(folder / "same", base, (20, 21), ("test", "test"), "q", "made")
    evidence = []

    # the calibration of a run
    (folder / "prompts.toml").write_text(PROMPTS)
    prompt_calibration.write(run, run_calibration(run, fitted, "val", ["own"], folder / "prompts.toml"))
    for what, cohort, expected in (
        (
            "test signals in the recordings of a calibration",
            scored,
            "on an unknown number (trained on source made, scored on elsewhere) of the 6 persons that are scored here, and on 1 "
            "identical signals",
        ),
        ("no alarm: other recordings than those of a calibration", same, ""),
    ):
        remark = run_zeroshot(run, cohort, "own", prompts_path=_prompts_for(folder, cohort)).calibration_remark
        faults = () if (expected in remark if expected else "too low" not in remark) else (remark or "no calibration",)
        evidence.append(Evidence(what, 1, faults, "stated by zeroshot, from calibrated_on.json"))

    # the bank of `report --writer retrieve`
    with warnings_of("leadwise.generate.bank") as warned:
        table = write_reports(run, open_writer("retrieve", run, fitted), scored, "test")
    own = table["report"][table["ecg"] == "e7"].item()
    faults = () if "study 7" not in own and any("1 of the 6 ECGs" in text for text in warned) else (f"{own} {warned}",)
    evidence.append(
        Evidence(
            "a test recording in the bank of reports, under another patient",
            1,
            faults,
            "not used, and warned of by report",
        )
    )

    # a trained writer
    writer = train_writer(run, fitted, folder / "writer", WRITER)
    overlap = writer.overlap(scored_recordings(scored, scored.rows("test")))
    faults = () if (overlap.n_patients, overlap.n_signals) == (None, 1) else (overlap.sentence,)
    evidence.append(
        Evidence(
            "a test recording in the training of a writer", 1, faults, "stated by score-writer, from trained_on.json"
        )
    )

    # embeddings of another program, in a file
    vectors = np.random.default_rng(0).normal(size=(len(scored), 8)).astype(np.float32)
    names = np.array(list(scored.records), dtype=np.str_)
    for what, copies in (
        ("equal embeddings of a test and a training recording in a file", 1),
        ("no alarm: embeddings of a file", 0),
    ):
        vectors[3] = vectors[0] if copies else vectors[3] + 1
        path = folder / f"{copies}.npz"
        np.savez(path, record=names, embedding=vectors)
        with warnings_of("leadwise.data.stored_embeddings") as warned:
            embed_cohort(open_encoder(path), scored)
        right = any("1 of the 6 recordings of val and test have exactly the embedding" in text for text in warned)
        faults = () if right == bool(copies) and len(warned) == copies else (f"{warned}",)
        evidence.append(Evidence(what, 1, faults, "warned of where a command reads both splits of the file"))
    return evidence


def _prompts_for(folder: Path, cohort: Cohort) -> Path:
    path = folder / f"{cohort.source}.toml"
    path.write_text(PROMPTS.replace('"made"', f'"{cohort.source}"'))
    return path


def rows(
    folder: Path, n_each: int = 3, n_base: int = 40, cohort: Path | None = None, n_numbers: int = 0
) -> list[Evidence]:
    """Plant every leak and return a row for each kind; with a cohort, on its ECGs.

    Args:
        n_numbers: that are tried as names of patients on published files; 0: none.
    """
    base = base_ecgs(folder, n_base, cohort)
    return [
        *refused_or_warned(folder / "refused", base),
        *names_of_patients(folder / "names", base),
        *copied_signals(folder / "copies", base, n_each),
        copied_report(folder / "report", base),
        *overlap_with_pretraining(folder / "overlap", base),
        *in_what_was_fitted(folder / "fitted", base),
        false_alarms(folder / "clean", base),
        *(recovery.rows(folder / "recovery", n_numbers) if n_numbers else ()),
    ]

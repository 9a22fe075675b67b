"""`leadwise check` finds, names and counts every planted fault, finds no error in a clean cohort, and prints no report."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import config_table
from page_order import assert_pictures_first
from scipy.signal import resample_poly
from typer.testing import CliRunner

from leadwise import config as settings
from leadwise import run as runs
from leadwise.batch import LEADS
from leadwise.cli import app
from leadwise.data.audit import near_duplicates
from leadwise.data.audit.audit import Audit, audit_cohort
from leadwise.data.audit.finding import Finding
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError, sha256
from leadwise.data.cohort.prepare import write
from leadwise.data.sources import simulated
from leadwise.data.sources.source import Row, Source
from leadwise.pages import audit as audit_page
from leadwise.pictures import histogram
from leadwise.trained_on import patient_hash

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
RATE_HZ = 250
SECRET = "patient says something private"
N = 60
Change = Callable[[dict[str, np.ndarray], list[Row]], None]


def heart(seed: int, rate_hz: int = RATE_HZ, duration_s: float = 10.0) -> np.ndarray:
    """Return an ECG (T, 12) mV: irregular beats of QRS and T, eight leads of different sizes, four computed from I and II."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(duration_s * rate_hz)) / rate_hz
    beats = np.cumsum(rng.uniform(0.7, 1.0, 20)) - rng.uniform(0, 0.8)
    qrs = sum(np.exp(-(((t - beat) / 0.012) ** 2)) for beat in beats)
    wave = sum(np.exp(-(((t - beat - 0.28) / 0.05) ** 2)) for beat in beats)
    own = rng.uniform(0.5, 1.5, 8)[:, None] * qrs + rng.uniform(0.1, 0.4, 8)[:, None] * wave
    own = own + 0.005 * rng.normal(size=own.shape)
    i, ii = own[:2]
    return np.stack([i, ii, ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2, *own[2:]]).T


def make_cohort(folder: Path, change: Change | None = None, name: str = "made", first: int = 0) -> Cohort:
    """Return a cohort of 60 clean recordings of 30 patients, into which `change` may plant faults."""
    signals = {f"r{k:02d}": heart(k) for k in range(first, first + N)}
    rows = [
        Row(
            record=record,
            path=folder / f"{record}.npy",
            patient=f"p{(first + k) // 2:02d}",
            split="train" if k < 24 else "val" if k < 36 else "test",
            report=f"Sinus rhythm; Study {k}",
            labels={"rhythm": {"sr": k % 2, "af": 1 - k % 2}},
            extra={"age": 40.0 + k},
            leads=LEADS,
            rate_hz=RATE_HZ,
            units="mV",
        )
        for k, record in enumerate(signals)
    ]
    if change is not None:
        change(signals, rows)
    folder.mkdir(parents=True)
    for record, values in signals.items():
        np.save(folder / f"{record}.npy", values.astype(np.float32))
    write(Source(name, rows, {"rhythm": ("sr", "af")}), folder / "out", shard_records=25)
    return Cohort.open(folder / "out")


def altered(cohort: Cohort, column: str, values: dict[str, str]) -> Cohort:
    """Return the cohort with edited cells in its index, as another program could leave it; `write` refuses such faults."""
    path = cohort.folder / "index.parquet"
    table = pq.read_table(path)
    names = table["record"].to_pylist()
    cells = [values.get(record, cell) for record, cell in zip(names, table[column].to_pylist())]
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(cells, table.schema.field(column).type)), path)
    described = json.loads((cohort.folder / "cohort.json").read_text())
    described["index"] |= {"size": path.stat().st_size, "sha256": sha256([path])}
    (cohort.folder / "cohort.json").write_text(json.dumps(described))
    return Cohort.open(cohort.folder)


def finding_of(result: Audit, begin: str) -> Finding:
    (finding,) = (finding for finding in result.findings if finding.check.startswith(begin))
    return finding


def names(finding: Finding) -> list[str]:
    return [example.record for example in finding.examples]


def with_row(rows: list[Row], record: str, **changes: object) -> None:
    (place,) = (k for k, row in enumerate(rows) if row.record == record)
    rows[place] = dataclasses.replace(rows[place], **changes)


# ------------------------------------------------------------------------------------------------------------- clean


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return make_cohort(tmp_path_factory.mktemp("sound") / "a")


def test_a_sound_cohort_has_no_error_and_no_warning(sound: Cohort) -> None:
    result = audit_cohort(sound)
    assert [f for f in result.findings if f.severity != "note"] == []
    assert len(result.measures.row) == N
    counts = {(c.name, *c.positive, *c.negative) for c in result.classes}
    assert counts == {("sr", 12, 6, 12, 12, 6, 12), ("af", 12, 6, 12, 12, 6, 12)}
    assert np.abs(np.nanmedian(result.measures.beats_bpm) - 60 / 0.85) < 8


def test_a_simulated_cohort_has_no_error(tmp_path: Path) -> None:
    simulated.simulate(tmp_path / "ecgs", 60, 3)
    write(simulated.read_source(tmp_path / "ecgs"), tmp_path / "cohort")
    result = audit_cohort(Cohort.open(tmp_path / "cohort"))
    assert result.count("error") == 0, [f for f in result.findings if f.severity == "error"]


# ------------------------------------------------------------------------------------------------------ planted faults


def plant(signals: dict[str, np.ndarray], rows: list[Row]) -> None:
    """One fault a recording."""
    t = np.arange(2500) / RATE_HZ
    signals["r00"][:, LEADS.index("V2")] = 0.3
    signals["r01"][300:1500, LEADS.index("V6")] = np.nan
    signals["r02"][300:400, LEADS.index("V1")] = np.nan
    signals["r03"][700, 8] = 30.0
    signals["r04"][:, [4, 5]] = signals["r04"][:, [5, 4]]
    signals["r05"][:, LEADS.index("V3")] = signals["r05"][:, LEADS.index("V4")]
    signals["r06"] = resample_poly(heart(6, 100), 5, 2, axis=0)
    signals["r07"] += 0.1 * np.sin(2 * np.pi * 60 * t)[:, None] * np.array([1, 1, 0, -1, 0.5, 0.5] + 6 * [1])
    signals["r08"] *= 40
    signals["r09"] = signals["r09"][:750]
    with_row(rows, "r10", extra={"age": 300.0})
    with_row(rows, "r11", labels={"rhythm": {"sr": 1}})
    signals["r12"] = 0.5 * signals["r40"] + 0.2  # train, of a patient in test
    signals["r14"] = 2.0 * signals["r15"]  # of one patient
    signals["r16"] = resample_poly(signals["r50"], 2, 1, axis=0)
    with_row(rows, "r16", rate_hz=2.0 * RATE_HZ)
    with_row(rows, "r18", extra={"age": None})
    with_row(rows, "r20", report="")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cohort, Audit]:
    cohort = make_cohort(tmp_path_factory.mktemp("planted") / "a", plant)
    return cohort, audit_cohort(cohort)


@pytest.mark.parametrize(
    ("check", "severity", "n", "records", "detail"),
    [
        ("flat leads", "warning", 1, ["r00"], "V2"),
        ("missing samples", "warning", 1, ["r01"], "up to 48%"),
        ("gaps", "note", 1, ["r02"], "V1"),
        ("implausible amplitudes", "warning", 2, ["r08", "r03"], "30 mV; above the limit in V3"),
        ("lead order", "warning", 1, ["r04"], "aVL/aVF swapped"),
        ("identical leads", "warning", 1, ["r05"], "V3 = V4"),
        ("upsampled", "note", 1, ["r06"], "of 125 Hz"),
        ("mains hum", "note", 1, ["r07"], "at 60 Hz"),
        ("units", "warning", 1, ["r08"], "mV"),
        ("odd length", "warning", 1, ["r09"], "3 s"),
        ("near-duplicate signals, patients", "error", 2, ["r12"], "train, like r40 in test"),
        ("near-duplicate signals of one", "warning", 2, ["r14"], "train, like r15 in train"),
        ("similar signals", "warning", 2, ["r16"], "train, like r50 in test"),
        ("task rhythm, labels partly known", "warning", 1, ["r11"], "1 of 2 known"),
        ("without a report", "note", 1, ["r20"], ""),
    ],
)
def test_each_planted_fault_is_found_named_and_counted(
    planted: tuple[Cohort, Audit], check: str, severity: str, n: int, records: list[str], detail: str
) -> None:
    finding = finding_of(planted[1], check)
    assert (finding.severity, finding.n, names(finding)) == (severity, n, records)
    assert detail in finding.examples[-1].detail


def test_ages_out_of_range_and_not_known_are_told_apart(planted: tuple[Cohort, Audit]) -> None:
    wrong, unknown = (f for f in planted[1].findings if f.check == "ages")
    assert (wrong.severity, names(wrong), wrong.examples[0].detail) == ("warning", ["r10"], "300 years")
    assert (unknown.severity, unknown.n) == ("note", 1)


def test_errors_come_first(planted: tuple[Cohort, Audit]) -> None:
    order = ["error", "warning", "note"]
    places = [order.index(f.severity) for f in planted[1].findings]
    assert places == sorted(places)
    assert places[0] == 0


def test_patients_in_two_splits_and_copies_to_the_bit(tmp_path: Path) -> None:
    def copy(signals: dict[str, np.ndarray], rows: list[Row]) -> None:
        signals["r01"] = signals["r00"]  # of one patient, as `write` allows
        signals["r05"] = signals["r04"]

    cohort = make_cohort(tmp_path / "a", copy)
    result = audit_cohort(cohort)
    own = finding_of(result, "duplicate signals")
    assert (own.severity, own.n, names(own)) == ("warning", 4, ["r00", "r04"])
    assert not any(f.check.startswith(("near", "similar signals")) for f in result.findings)
    result = audit_cohort(altered(cohort, "split", {"r01": "test"}))
    torn = finding_of(result, "patients across splits")
    assert (torn.severity, torn.n, torn.of, names(torn)) == ("error", 1, 30, ["r00"])
    assert torn.examples[0].detail == "patient p00 in train, test"
    foreign, own = (f for f in result.findings if f.check.startswith("duplicate signals"))
    assert (foreign.severity, foreign.n, str(foreign.examples[0])) == ("error", 2, "r00 (train, like r01 in test)")
    assert (own.severity, own.n, names(own)) == ("warning", 2, ["r04"])


def test_an_index_that_does_not_fit_its_samples_is_an_error(tmp_path: Path) -> None:
    def swap(signals: dict[str, np.ndarray], rows: list[Row]) -> None:
        signals["r04"][:, [4, 5]] = signals["r04"][:, [5, 4]]

    cohort = altered(make_cohort(tmp_path / "a", swap), "lead_order", {"r04": "ok"})
    finding = finding_of(audit_cohort(cohort), "lead order")
    assert (finding.severity, finding.n, names(finding)) == ("error", 1, ["r04"])


def test_a_wrong_rate_is_named_with_the_likely_one(tmp_path: Path) -> None:
    def misstate(signals: dict[str, np.ndarray], rows: list[Row]) -> None:
        for k, row in enumerate(list(rows)):
            signals[row.record] = heart(k, 100)
            with_row(rows, row.record, rate_hz=500.0)

    finding = finding_of(audit_cohort(make_cohort(tmp_path / "a", misstate)), "rate of 500 Hz")
    assert finding.severity == "error"
    assert finding.n > N / 2
    assert "At 100 Hz" in finding.message


def test_a_wrong_unit_of_the_whole_cohort_is_an_error(tmp_path: Path) -> None:
    def other_unit(signals: dict[str, np.ndarray], rows: list[Row]) -> None:
        for values in signals.values():
            values *= 0.015  # a larger unit is refused when the cohort is prepared

    finding = finding_of(audit_cohort(make_cohort(tmp_path / "a", other_unit)), "units")
    assert (finding.severity, finding.n) == ("error", N)


def test_classes_that_cannot_be_scored_and_equal_ones_are_named(tmp_path: Path) -> None:
    def label(signals: dict[str, np.ndarray], rows: list[Row]) -> None:
        for k, row in enumerate(list(rows)):
            positive = int(k in (0, 3, 50))  # nothing in val, one in test
            with_row(rows, row.record, labels={"rhythm": {"sr": positive, "af": positive}})

    result = audit_cohort(make_cohort(tmp_path / "a", label))
    lone = finding_of(result, "task rhythm, cannot be scored in val")
    assert (lone.severity, lone.n, lone.of) == ("warning", 2, 2)
    assert "sr, af" in lone.message
    assert "sr 1, af 1" in finding_of(result, "task rhythm, few positives in test").message
    assert "sr = af" in finding_of(result, "task rhythm, equal classes").message
    assert finding_of(result, "task rhythm, all labels 0").n == N - 3


@pytest.mark.parametrize("names", [("Northern", "Southern", "Small"), (1.0, 2.0, 3.0)])
def test_a_class_that_one_site_alone_has_is_named(tmp_path: Path, names: tuple[str | float, ...]) -> None:
    north, south, small = names

    def place(signals: dict[str, np.ndarray], rows: list[Row]) -> None:
        for k, row in enumerate(list(rows)):
            site = small if k < 6 else None if k < 10 else north if k < 32 else south
            labels = {"sr": int(k < 22), "af": k % 2}  # no sr at the last site: 12 in the first, and at the small one
            with_row(rows, row.record, labels={"rhythm": labels}, extra={"age": 40.0 + k, "site": site})

    alone = finding_of(audit_cohort(make_cohort(tmp_path / "a", place), 1), "task rhythm, classes at some sites only")
    assert (alone.severity, alone.n, alone.of) == ("warning", 1, 2)
    north, south = ("Northern", "Southern") if isinstance(north, str) else ("1", "2")
    assert f"the site: sr (12 at site {north}, none of 28 at site {south})." in alone.message


def test_a_class_that_may_be_absent_at_a_site_by_chance_is_not_reported(tmp_path: Path) -> None:
    def place(signals: dict[str, np.ndarray], rows: list[Row]) -> None:
        for k, row in enumerate(list(rows)):
            labels = {"sr": int(k < 12), "af": k % 2}  # at B, four were to be expected: none says little
            with_row(
                rows, row.record, labels={"rhythm": labels}, extra={"site": "A" if k < 45 else "B" if k < 59 else " "}
            )

    result = audit_cohort(make_cohort(tmp_path / "a", place), 1)
    assert not any("sites only" in finding.check for finding in result.findings)


def test_ages_that_are_all_the_same_are_doubted(tmp_path: Path) -> None:
    def twelve(signals: dict[str, np.ndarray], rows: list[Row]) -> None:
        for row in list(rows):
            with_row(rows, row.record, extra={"age": 12.0})  # the number of leads, read from the wrong field

    finding = finding_of(audit_cohort(make_cohort(tmp_path / "a", twelve)), "ages")
    assert finding.severity == "warning"
    assert "12" in finding.message


# --------------------------------------------------------------------------------------------------------- two cohorts


@pytest.mark.slow
def test_what_two_cohorts_share_is_reported(sound: Cohort, tmp_path: Path) -> None:
    ours, theirs = sound, make_cohort(tmp_path / "b", first=40)  # r40 ... r59 are in test here, in train there
    result = audit_cohort(ours, against=theirs)
    for what in ("patients", "record names", "signals", "files"):
        shared = finding_of(result, f"{what} shared with out, in another split")
        assert (shared.severity, shared.n, names(shared)[0]) == ("error", 20, "r40"), what
    assert shared.examples[0].detail == "test; in out: r40 in train"
    other = Cohort.open(theirs.folder)
    other.source = "elsewhere"  # there p20 is another patient, and r40 another recording
    kinds = {
        f.check.split(" shared")[0] for f in audit_cohort(ours, 1, against=other).findings if "shared with" in f.check
    }
    assert kinds == {"signals", "files"}


@pytest.mark.slow
def test_near_copies_in_another_cohort_are_found(sound: Cohort, tmp_path: Path) -> None:
    def scale(signals: dict[str, np.ndarray], rows: list[Row]) -> None:
        signals["r60"] = 0.7 * heart(59)

    ours = sound
    theirs = make_cohort(tmp_path / "b", scale, name="other", first=60)
    finding = finding_of(audit_cohort(ours, against=theirs), "near-duplicate signals in out, in another split")
    assert (finding.severity, str(finding.examples[0])) == ("error", "r59 (test; in out: r60 in train)")


def test_the_same_split_of_both_is_a_warning(sound: Cohort, tmp_path: Path) -> None:
    ours, theirs = sound, Cohort.open(shutil.copytree(sound.folder, tmp_path / "out"))
    result = audit_cohort(ours, 10, against=theirs)
    assert result.count("error") == 0
    assert finding_of(result, "patients shared with out, in the same split").severity == "warning"
    with pytest.raises(CohortError, match="compared with itself"):
        audit_cohort(ours, against=ours)


def test_training_patients_of_a_run(sound: Cohort, tmp_path: Path) -> None:
    cohort = sound
    config = settings.typed(settings.Config, config_table(cohort.folder))
    people = [patient_hash("made", patient) for patient in ("p00", "p29", "p77")]
    run = runs.create(config, cohort.reports, tmp_path / "run", {"people": people})
    result = audit_page.check_cohort(cohort, run=run, n_sampled=4)
    scored = finding_of(result.audit, "training patients of run, in val or test")
    assert (scored.severity, scored.n, names(scored)) == ("error", 1, ["r58"])
    assert finding_of(result.audit, "training patients of run, in train").n == 1
    assert result.failed
    assert result.to_json()["run"] == "run"
    (tmp_path / "run" / "data.json").unlink()
    blind = finding_of(audit_page.check_cohort(cohort, run=run, n_sampled=4).audit, "training patients of run")
    assert blind.severity == "warning"


# -------------------------------------------------------------------------------------------------------------- looks


def test_the_sample_is_bounded_and_the_index_read_in_full(planted: tuple[Cohort, Audit]) -> None:
    cohort, _whole = planted
    calls: list[tuple[str, int, int]] = []
    few = audit_cohort(cohort, 5, progress=lambda *call: calls.append(call))
    assert len(few.measures.row) == 5
    assert calls[-1] == ("measure samples", 5, 5)
    assert finding_of(few, "flat leads").n == 1
    assert len(few.rate_hz) == N
    assert np.array_equal(audit_cohort(cohort, 5).measures.row, few.measures.row)
    with pytest.raises(CohortError, match="cannot measure -1 recordings"):
        audit_cohort(cohort, -1)


def test_the_shortest_recordings_and_single_leads_can_be_measured(tmp_path: Path) -> None:
    def cut(signals: dict[str, np.ndarray], rows: list[Row]) -> None:
        for k, n_samples in enumerate((2, 5, 20, 60, 130)):
            signals[f"r{k:02d}"] = signals[f"r{k:02d}"][700 : 700 + n_samples]
        signals["r06"] = signals["r06"][:, :1]
        with_row(rows, "r06", leads=("V4",))
        signals["r08"] = signals["r08"][:, :2]
        with_row(rows, "r08", leads=("I", "II"))

    result = audit_cohort(make_cohort(tmp_path / "a", cut))
    assert finding_of(result, "odd length").n == 5 - n_dropped(tmp_path)
    assert names(finding_of(result, "leads not recorded")) == ["r06", "r08"]
    assert finding_of(result, "lead order not checked").n >= 2


def n_dropped(folder: Path) -> int:
    """Recordings that `write` left out, such as two samples that do not move."""
    return len((folder / "a" / "out" / "dropped.csv").read_text().splitlines()) - 1


def test_columns_come_in_pieces_that_make_the_whole(planted: tuple[Cohort, Audit]) -> None:
    cohort, _ = planted
    parts = list(cohort.columns(["record", "n_samples"], n_rows=7))
    assert max(len(part) for part in parts) <= 7
    assert [name for part in parts for name in part["record"].to_pylist()] == list(cohort.records)
    assert set(cohort.index.columns) == set(cohort.column_names)


def test_shape_vectors_ignore_scale_rate_and_rounding_and_separate_patients() -> None:
    one, stranger = (near_duplicates.shape_vector(heart(k).T, RATE_HZ) for k in (1, 2))
    resampled = near_duplicates.shape_vector(resample_poly(heart(1), 2, 5, axis=0).T, 100)
    coarse = near_duplicates.shape_vector(np.round(3 * heart(1).T / 0.02) * 0.02 - 1.0, RATE_HZ)
    assert one @ resampled > near_duplicates.MIN_SHAPE_CORRELATION
    assert one @ coarse > near_duplicates.MIN_SHAPE_CORRELATION
    assert one @ stranger < 0.8
    assert near_duplicates.candidate_pairs(np.array([[1, 9], [2, 8], [1, 7], [1, 8]], dtype=np.uint32)) == [
        (0, 2),
        (0, 3),
        (1, 3),
        (2, 3),
    ]


@pytest.mark.slow
def test_page_table_and_json_show_the_worst_and_no_report(tmp_path: Path) -> None:
    def plant_reports(signals: dict[str, np.ndarray], rows: list[Row]) -> None:
        plant(signals, rows)
        for k in range(30, 45):
            with_row(rows, f"r{k}", report=SECRET)

    cohort = make_cohort(tmp_path / "a", plant_reports)
    done = CliRunner().invoke(
        app,
        [
            "check",
            str(cohort.folder),
            "-o",
            str(tmp_path / "c.html"),
            "--json",
            str(tmp_path / "c.json"),
            "--per-class",
        ],
    )
    assert done.exit_code == 1, done.output
    page, report = (tmp_path / "c.html").read_text(), json.loads((tmp_path / "c.json").read_text())
    assert_pictures_first(page)
    (same,) = (f for f in report["findings"] if f["check"] == "duplicate reports")
    assert same["n"] == 15
    assert "the largest has 15" in same["said"]
    assert "r30" in same["examples"][0]["record"]
    assert report["n_errors"] == 1
    assert report["percentiles"]["rate_hz"]["50"] == RATE_HZ
    assert {row["class"] for row in report["classes"]} == {"sr", "af"}
    assert "near-duplicate" in done.output
    assert "classes by split" in done.output
    for text in (page, html.unescape(page), json.dumps(report), done.output):
        assert not re.search("private|patient says|sinus rhythm", text, re.I)
    assert "http" not in page.replace("http-equiv", "")
    assert '<td class="bad">error</td>' in page
    pictures = re.findall(r'alt="ECG of (\w+) on paper grid"', page)
    assert {"r00", "r03", "r04", "r12"} <= set(pictures)
    assert len(pictures) == len(set(pictures)) <= audit_page.N_PICTURES


def test_the_command_ends_well_where_there_is_no_error(sound: Cohort) -> None:
    done = CliRunner().invoke(app, ["check", str(sound.folder), "--sample", "4"])
    assert done.exit_code == 0, done.output
    assert "60 recordings, samples of 4 measured; 0 errors, 0 warnings" in done.output


def test_histograms_count_everything_once() -> None:
    values = np.array([1.0] * 3 + [2.0] * 5 + [np.nan])
    spread = np.geomspace(0.1, 10, 200)
    figure = histogram.draw(
        [
            histogram.Panel("few", values),
            histogram.Panel("many", spread, (0.5, 2.0), log=True),
            histogram.Panel("none", []),
        ]
    )
    few, many, none = figure.axes
    assert [bar.get_height() for bar in few.patches] == [3, 5]
    assert [tick.get_text() for tick in few.get_xticklabels()] == ["1", "2"]
    assert few.texts[0].get_text() == "1 not drawn"
    heights = [bar.get_height() for bar in many.patches if bar.get_gid() == "bars-1"]
    assert sum(heights) == 200
    assert many.get_xscale() == "log"
    assert none.texts[0].get_text() == "no values"
    with pytest.raises(ValueError, match="no histogram"):
        histogram.draw([])


# ---------------------------------------------------------------------------------------------------------------- real


def real(folder: Path, files: list[Path]) -> Audit:
    rows = [Row(file.stem, file, file.stem, "train") for file in files]
    write(Source("real", rows), folder)
    return audit_cohort(Cohort.open(folder), 10)


@pytest.mark.real
@pytest.mark.skipif(not (SHARED / "data" / "cpsc_2018").is_dir(), reason="the real ECGs are not beside this checkout")
def test_spikes_of_real_recordings_are_named(tmp_path: Path) -> None:
    result = real(tmp_path / "cpsc", sorted((SHARED / "data" / "cpsc_2018").glob("A*.hea")))
    finding = finding_of(result, "implausible amplitudes")
    assert names(finding) == ["A1388", "A0061"]
    assert "V6" in finding.examples[1].detail


@pytest.mark.real
@pytest.mark.skipif(not (SHARED / "data" / "chapman").is_dir(), reason="the real ECGs are not beside this checkout")
def test_flat_chest_leads_of_real_recordings_are_named(tmp_path: Path) -> None:
    result = real(tmp_path / "csn", sorted((SHARED / "data" / "chapman").rglob("JS*.hea")))
    finding = finding_of(result, "flat leads")
    assert set(names(finding)) == {"JS11438", "JS20004", "JS20008", "JS45542", "JS45544", "JS45551"}

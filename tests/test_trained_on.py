"""Whether test recordings were trained on: by patient where names can be compared, and by samples."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import config_table

from leadwise import run as runs
from leadwise import trained_on
from leadwise.config import Config, typed
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.sources.source import Row, Source
from leadwise.evaluate.embed import scored_recordings, training_overlap
from leadwise.pages.audit import check_cohort
from leadwise.run import Run, RunError
from leadwise.trained_on import ScoredRecordings, TrainedOn, TrainedOnError, TrainingOverlap, compare
from leadwise.training import loop

SUMS = tuple(f"{k:064x}"[::-1] for k in range(1, 9))


def scored(source: str = "a", patients: tuple[str, ...] = ("1", "2"), **changes) -> ScoredRecordings:
    return dataclasses.replace(ScoredRecordings(source, "index", patients, SUMS[:2]), **changes)


def test_the_file_round_trips_and_hides_the_patients(tmp_path: Path) -> None:
    hashes = TrainedOn.of("a", ("1", "2", "3"), SUMS[:4])
    hashes.write(tmp_path / "trained_on.json")
    assert TrainedOn.read(tmp_path / "trained_on.json") == hashes
    assert hashes.patients("a", ("2", "4", "1")) == ["2", "1"]
    assert hashes.patients("b", ("2",)) == []
    assert hashes.n_signals([*SUMS[3:5], SUMS[0], SUMS[0]]) == 3

    # without the salt, counting finds nothing, and two runs on the same patients have no hash in common
    table = json.loads((tmp_path / "trained_on.json").read_text())
    counted = {trained_on.patient_hash("a", str(number)) for number in range(1000)}
    assert not counted & set(table["people"])
    other = TrainedOn.of("a", ("1", "2", "3"), SUMS[:4])
    assert not other.people & hashes.people
    assert other.signals == hashes.signals
    assert table["people"] == sorted(table["people"])


def test_a_large_list_is_small_and_fast(tmp_path: Path) -> None:
    hashes = TrainedOn(frozenset(), frozenset(f"{k:012x}" for k in range(50_000)))
    hashes.write(tmp_path / "list.json")
    assert (tmp_path / "list.json").stat().st_size < 50_000 * 15 + 100


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"people": 3}', '{"people": [1]}', '{"people": [], "signals": "x"}', "\udcff"]
)
def test_a_damaged_list_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(TrainedOnError):
        TrainedOn.read(tmp_path / "list.json")


def test_patients_are_compared_within_one_source_only() -> None:
    hashes = TrainedOn.of("a", ("1", "3"), (SUMS[1], SUMS[5]))
    same = compare(hashes, {"source": "a"}, scored())
    assert (same.n_patients, same.n_signals) == (1, 1)
    assert same.sentence == "1 of the 2 persons of the test split were trained on, and 1 identical signals."
    other = compare(hashes, {"source": "a"}, scored("b"))
    assert (other.n_patients, other.n_signals, other.is_leak) == (None, 1, True)
    assert "unknown by patient (trained on source a, scored on b); 1 identical signals." in other.sentence


def test_no_person_is_stated_only_where_it_can_be_known() -> None:
    hashes = TrainedOn.of("a", ("3",), (SUMS[5],))
    known = compare(hashes, {"source": "a"}, scored())
    assert known.sentence == "No person of the test split was trained on (2 persons, 0 identical signals)."
    assert (known.remark, known.is_leak) == ("", False)
    unknown = [
        compare(hashes, {"source": "b"}, scored()),  # another source
        compare(hashes, {"source": "a"}, scored(names_patients=False)),  # each recording its own patient
        compare(TrainedOn.of("folder", ("3",), ()), {"source": "folder", "fingerprint": "x"}, scored("folder")),
        compare(TrainedOn.of("ecg_cmr", ("3",), ()), {"source": "ecg_cmr", "fingerprint": "x"}, scored("ecg_cmr")),
        compare(None, {"source": "a"}, scored()),  # a downloaded run
    ]
    for overlap in unknown:
        assert overlap.n_patients is None
        assert "No person" not in overlap.sentence
        assert "unknown by patient" in overlap.sentence
        assert overlap.remark == overlap.sentence
    assert unknown[-1].to_json() == {"n_people_seen_in_pretraining": None, "n_signals_seen_in_pretraining": None}
    assert (
        compare(
            TrainedOn.of("folder", ("3",), ()), {"source": "folder", "fingerprint": "index"}, scored("folder")
        ).n_patients
        == 0
    )


def test_signals_of_unknown_runs_are_not_counted() -> None:
    old = TrainedOn(frozenset({trained_on.patient_hash("a", "1")}), None)
    overlap = compare(old, {"source": "a"}, scored())
    assert (overlap.n_patients, overlap.n_signals) == (1, None)
    assert TrainingOverlap(5, 0, None).sentence == "No person of the test split was trained on (5 persons)."
    assert TrainingOverlap(5, 0, 0, split="val").sentence.startswith("No person of the val split was trained on")


# ------------------------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def trained(cohort_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return loop.pretrain(typed(Config, config_table(cohort_folder, steps=1)), tmp_path_factory.mktemp("runs") / "run")


def test_a_run_stores_counts_in_data_json_and_hashes_beside_it(trained: Run, cohort_folder: Path) -> None:
    data = json.loads((trained.folder / "data.json").read_text())
    assert set(data) == {"cohort", "source", "fingerprint", "n_people", "n_signals"}
    assert (data["n_people"], data["n_signals"]) == (20, 40)
    hashes = TrainedOn.read(trained.folder / "trained_on.json")
    assert (len(hashes.people), len(hashes.signals)) == (20, 40)
    cohort = Cohort.open(cohort_folder)
    train, test = cohort.rows("train"), cohort.rows("test")
    assert training_overlap(trained, cohort, test) == TrainingOverlap(5, 0, 0)
    assert training_overlap(trained, cohort, train) == TrainingOverlap(20, 20, 40)


def test_the_same_people_from_another_source_are_found_by_their_signals(
    trained: Run, cohort_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The training recordings come in through another source, under other names, as test data."""
    first = Cohort.open(cohort_folder)
    rows = []
    for row in [*first.rows("train")[:6].tolist(), *first.rows("test")[:2].tolist()]:
        samples, rate_hz = first.signal(row)
        np.save(tmp_path / f"{row}.npy", samples.astype(np.float64))
        rows.append(Row(f"x{row}", tmp_path / f"{row}.npy", f"q{row}", "test", leads=None, rate_hz=rate_hz, units="mV"))
    rows = [dataclasses.replace(row, leads=tuple(trained.config.signal.leads)) for row in rows]
    write(Source("elsewhere", rows), tmp_path / "out", min_report_words=0)
    second = Cohort.open(tmp_path / "out")
    overlap = training_overlap(trained, second, second.rows("test"))
    assert (overlap.n_patients, overlap.n_signals) == (None, 6)
    assert "6 identical signals. Its scores on out are too high" in caplog.text

    report = check_cohort(second, run=trained, n_sampled=4)
    findings = {finding.check: finding for finding in report.audit.findings}
    copies = findings["training signals of run, in val or test"]
    assert (copies.severity, copies.n, copies.of) == ("error", 6, 8)
    unknown = findings["training patients of run"]
    assert unknown.severity == "warning"
    assert "Unknown by patient: trained on source folder, scored on elsewhere. 6 identical signals." in unknown.message


def test_a_run_without_the_list_and_one_of_an_earlier_version(
    trained: Run, cohort_folder: Path, tmp_path: Path
) -> None:
    cohort = Cohort.open(cohort_folder)
    people = [trained_on.patient_hash(cohort.source, name) for name in cohort.patients.distinct(cohort.rows("val"))]
    config = trained.config
    old = runs.create(config, ["sinus rhythm"], tmp_path / "old", {"source": cohort.source, "people": people})
    scored_rows = scored_recordings(cohort, np.arange(len(cohort)))
    assert old.training_hashes == TrainedOn(frozenset(people), None)
    assert old.trained_on(cohort.source, ["p20", "p00"]) == ["p20"]
    assert old.overlap(scored_rows).n_patients == 5
    shared = runs.create(config, ["sinus rhythm"], tmp_path / "shared", {"source": cohort.source, "n_people": 3})
    assert shared.training_hashes is None
    assert "does not list what it was trained on" in shared.overlap(scored_rows).sentence
    (tmp_path / "shared" / "trained_on.json").write_text("{")
    with pytest.raises(RunError, match=r"trained_on\.json is damaged .*; copy the run folder again"):
        shared.overlap(scored_rows)

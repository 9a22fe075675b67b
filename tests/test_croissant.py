"""Croissant metadata of a cohort: every file with its checksum, every column, and nothing about a person."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leadwise.cli import app
from leadwise.data import croissant
from leadwise.data.cohort.cohort import Cohort


@pytest.fixture(scope="module")
def described(cohort_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The metadata of the small cohort, written by the command."""
    target = tmp_path_factory.mktemp("croissant") / "croissant.json"
    words = ["describe", str(cohort_folder), "-o", str(target), "--licence", "CC BY 4.0", "--date", "2026-11-27"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "the cohort states no citation, url" in done.output
    return json.loads(target.read_text())


def test_every_file_has_its_checksum(described: dict, cohort_folder: Path) -> None:
    files = {one["name"]: one for one in described["distribution"]}
    assert set(files) == {"cohort.json", "index.parquet", "samples-00000.npy"}
    for name, one in files.items():
        content = (cohort_folder / name).read_bytes()
        assert one["sha256"] == hashlib.sha256(content).hexdigest()
        assert one["contentSize"] == f"{len(content)} B"


def test_every_column_is_a_field(described: dict, cohort_folder: Path) -> None:
    fields = {one["name"]: one for one in described["recordSet"][0]["field"]}
    assert tuple(fields) == Cohort.open(cohort_folder).column_names
    assert fields["rate_hz"]["dataType"] == "sc:Float"
    assert fields["uv_per_step"]["repeated"] is True
    assert fields["label.own.afib"]["description"].startswith("label of class afib in task own")


def test_what_is_stated_is_in_it(described: dict) -> None:
    assert described["license"] == "CC BY 4.0"
    assert described["datePublished"] == "2026-11-27"
    assert "citeAs" not in described
    assert "60 twelve-lead ECGs (40 train, 10 val, 10 test)" in described["description"]


def test_the_source_is_cited(cohort_folder: Path) -> None:
    cohort = Cohort.open(cohort_folder)
    cohort.about = {
        "title": "A set",
        "licence": "CC0",
        "citation": "Doe 2020",
        "url": "https://a.org",
        "doi": "10.1/2",
        "version": "1.2.3",
    }
    table = croissant.describe(cohort, {"licence": "CC BY 4.0"})
    assert (table["license"], table["citeAs"], table["version"]) == ("CC BY 4.0", "Doe 2020", "1.2.3")
    assert table["sameAs"] == "https://doi.org/10.1/2"


def test_no_report_and_no_patient_is_in_it(described: dict, cohort_folder: Path) -> None:
    cohort = Cohort.open(cohort_folder)
    text = json.dumps({key: value for key, value in described.items() if key != "@context"})
    assert not [report for report in set(cohort.reports) if report and report in text]
    assert not [patient for patient in set(cohort.patients) if f'"{patient}"' in text or f" {patient}" in text]
    assert not [record for record in cohort.records if record in text]


def test_a_file_of_another_kind_is_not_overwritten(cohort_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "notes.json"
    target.write_text('{"mine": 1}')
    done = CliRunner().invoke(app, ["describe", str(cohort_folder), "-o", str(target)])
    assert done.exit_code == 2
    assert target.read_text() == '{"mine": 1}'
    assert CliRunner().invoke(app, ["describe", str(cohort_folder), "-o", str(tmp_path / "new.json")]).exit_code == 0
    assert CliRunner().invoke(app, ["describe", str(cohort_folder), "-o", str(tmp_path / "new.json")]).exit_code == 0
    wrong = CliRunner().invoke(app, ["describe", str(cohort_folder), "-o", str(tmp_path / "b.json"), "--date", "today"])
    assert wrong.exit_code == 2
    assert "it must be a date, such as 2026-11-27" in " ".join(wrong.output.replace("│", " ").split())


def test_the_reference_library_reads_it(cohort_folder: Path, tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="the extra `croissant-check` is not installed")
    for name in ("cohort.json", "index.parquet", "samples-00000.npy"):
        (tmp_path / name).write_bytes((cohort_folder / name).read_bytes())
    facts = {"licence": "CC BY 4.0", "citation": "Doe 2020", "url": "https://example.org"}
    target = tmp_path / "croissant.json"
    target.write_text(json.dumps(croissant.describe(Cohort.open(cohort_folder), facts)))
    dataset = mlcroissant.Dataset(str(target))
    assert not dataset.metadata.ctx.issues.errors
    assert not dataset.metadata.ctx.issues.warnings
    rows = list(dataset.records("recordings"))
    assert len(rows) == 60
    assert {row["recordings/split"] for row in rows} == {b"train", b"val", b"test"}

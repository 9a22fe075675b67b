"""Data sets by name: a new file is found by every command, its options are typed, and each mistake is one clear error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from leadwise.batch import LEADS
from leadwise.cli import app
from leadwise.data import sources
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.sources import catalogue

CLINIC = '''"""A clinic: one array for each ECG, labels in the names of the files.

More text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from leadwise.batch import LEADS
from leadwise.data.sources.source import Row, Source, split_by_hash
from leadwise.data.tasks import Task, class_names

TASKS = (Task("clinic_rhythm", "Clinic: the rhythm in the name of a file.", {"sr": "sinus rhythm", "af": "fibrillation"}),)


@dataclass(frozen=True)
class Options:
    rate_hz: float = field(default=100.0, metadata={"help": "sampling rate in Hz"})
    years: tuple[int, ...] = field(default=(2019, 2020), metadata={"help": "years of recording"})
    table: Path | None = field(default=None, metadata={"help": "another table"})
    unit: Literal["mV", "uV"] = field(default="mV", metadata={"help": "unit of the arrays"})
    strict: bool = field(default=False, metadata={"help": "whether to be strict"})


def read_source(folder: Path, options: Options | None = None) -> Source:
    options = options or Options()
    rows = [
        Row(
            path.stem, path, path.stem, split_by_hash(path.stem),
            labels={"clinic_rhythm": {name: int(name in path.stem) for name in ("sr", "af")}},
            leads=LEADS, rate_hz=options.rate_hz, units=options.unit,
        )
        for path in sorted(Path(folder).glob("*.npy"))
    ]
    return Source("clinic", rows, class_names(TASKS))
'''


@pytest.fixture
def clinic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of 30 ECGs, and a new source file `clinic.py` that reads it: nothing else is edited."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "clinic.py").write_text(CLINIC)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path / "more")])
    monkeypatch.delitem(sys.modules, "leadwise.data.sources.clinic", raising=False)
    rng = np.random.default_rng(0)
    folder = tmp_path / "ecgs"
    folder.mkdir()
    for number in range(30):
        np.save(folder / f"{'sr' if number % 2 else 'af'}{number:02d}.npy", 1000 * rng.normal(size=(500, 12)))
    return folder


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def text_of(result: Result) -> str:
    """The output of a command without the frame and the line breaks of a message."""
    return " ".join(result.output.replace("│", " ").split())


def test_a_new_source_is_prepared_listed_and_probed_by_its_name(clinic: Path, tmp_path: Path) -> None:
    assert "clinic" in catalogue.source_names()
    done = call("prepare", "clinic", clinic, "rate_hz=250", "unit=uV", "years=2020,2021", "-o", tmp_path / "cohort")
    assert done.exit_code == 0, done.output
    cohort = Cohort.open(tmp_path / "cohort", verify=True)
    assert (cohort.source, len(cohort), cohort.signal(0)[1]) == ("clinic", 30, 250)
    assert 2 < abs(cohort.signal(0)[0]).max() < 6  # mV
    rows = cohort.rows(task="clinic_rhythm")  # what `probe --task clinic_rhythm` takes
    assert cohort.labels("clinic_rhythm", rows).sum(axis=0).tolist() == [15, 15]
    for name in ("clinic", "clinic_rhythm"):
        listed = call("tasks", name)
        assert listed.exit_code == 0, listed.output
        assert "clinic_rhythm of clinic: 2 classes" in text_of(listed)
        assert "sinus rhythm" in listed.output
    assert " clinic_rhythm " in call("tasks").output


def test_help_shows_the_options_of_a_source(clinic: Path) -> None:
    every = call("prepare", "--help")
    assert every.exit_code == 0
    assert "clinic, cpsc2018, csn, ecg_cmr, ecgbench, folder, mimic_iv_ecg, ptbxl, simulated" in text_of(every)
    one = text_of(call("prepare", "clinic", "--help"))
    assert "A clinic: one array for each ECG, labels in the names of the files." in one
    assert "More text" not in one
    for words in (
        "rate_hz= sampling rate in Hz (a number) [default: 100]",
        "years= years of recording (whole numbers with commas between)",
        "unit= unit of the arrays (one of mV, uV) [default: mV]",
        "table= another table (a path)",
        "--allow-missing",
    ):
        assert words in one
    assert "Options of csn, each given as key=value after PATH: none" in text_of(call("prepare", "csn", "--help"))
    for name in catalogue.source_names():
        assert all(row["help"] for row in catalogue.option_rows(name)), name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rate=250"], "source clinic has no option rate; did you mean 'rate_hz'?"),
        (["colour=red"], "source clinic has no option colour; known: rate_hz, years, table, unit, strict"),
        (["rate_hz=fast"], "source clinic: option rate_hz is 'fast'; it must be a number: sampling rate in Hz"),
        (["rate_hz="], "option rate_hz is ''; it must be a number"),
        (["years=2019,x"], "option years is '2019,x'; it must be whole numbers with commas between"),
        (["unit=V"], "option unit is 'V'; it must be one of mV, uV: unit of the arrays"),
        (["strict=perhaps"], "option strict is 'perhaps'; it must be true or false"),
        (["rate_hz=1", "--rate-hz", "2"], "option rate_hz is given twice; give it once"),
        (["250"], "'250' is not key=value"),
        (["--reports", "x.csv"], "source clinic has no option reports; known: rate_hz, years"),
    ],
)
def test_a_wrong_option_is_one_clear_error(clinic: Path, tmp_path: Path, words: list[str], message: str) -> None:
    wrong = call("prepare", "clinic", clinic, *words, "-o", tmp_path / "cohort")
    assert wrong.exit_code == 2
    assert message in text_of(wrong)
    assert not (tmp_path / "cohort").exists()


def test_options_are_typed(clinic: Path) -> None:
    pairs = [("rate_hz", "1e2"), ("years", "2019, 2021"), ("table", "a b/c.csv"), ("strict", "true"), ("unit", "uV")]
    options = catalogue.parse_options("clinic", pairs)
    assert (options.rate_hz, options.years, options.table) == (100.0, (2019, 2021), Path("a b/c.csv"))
    assert (options.strict, options.unit) == (True, "uV")
    assert catalogue.parse_options("clinic", []) == catalogue.find_source("clinic").Options()


def test_flags_of_earlier_versions_are_the_same_as_options(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(500, 12)))
    (tmp_path / "mine.csv").write_text("path\na.npy\n")
    flags = ("--leads", ",".join(LEADS), "--rate-hz", "250", "--units", "mV")
    words = (f"leads={','.join(LEADS)}", "rate-hz=250", "units=mV")
    for name, given in (("flags", flags), ("words", words)):
        done = call("prepare", "folder", tmp_path / "mine.csv", *given, "-o", tmp_path / name)
        assert done.exit_code == 0, done.output
    assert Cohort.open(tmp_path / "flags").fingerprint == Cohort.open(tmp_path / "words").fingerprint


def test_a_file_that_is_no_source_is_named(clinic: Path, tmp_path: Path) -> None:
    (tmp_path / "more" / "draft.py").write_text('"""A draft."""\nTASKS = ()\n')
    with pytest.raises(CohortError, match=r"source draft: .*draft\.py does not define Options, read_source; add it"):
        catalogue.find_source("draft")
    with pytest.raises(CohortError, match="no source 'clinik'; did you mean 'clinic'"):
        catalogue.find_source("clinik")


def test_names_are_listed_without_importing_a_source() -> None:
    program = (
        "import sys; from leadwise.data.sources import catalogue; print(*catalogue.source_names()); "
        "print(*(name for name in sys.modules if name.startswith('leadwise.data.sources.')))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    names, imported = (line.split() for line in out.splitlines())
    assert names == ["cpsc2018", "csn", "ecg_cmr", "ecgbench", "folder", "mimic_iv_ecg", "ptbxl", "simulated"]
    assert set(imported) == {"leadwise.data.sources.catalogue", "leadwise.data.sources.source"}

"""PTB-XL: labels by name, splits by fold; golden counts on the official tables where they lie beside the checkout."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from typer.testing import CliRunner

from leadwise.batch import LEADS
from leadwise.cli import app
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.prepare import write
from leadwise.data.sources import ptbxl
from leadwise.data.sources.ptbxl import PTBXL, Options, read_source

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
STATEMENTS = """,description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass
NORM,normal ECG,1.0,,,NORM,NORM
NDT,T abnormalities,1.0,1.0,,STTC,STTC
NST_,ST changes,1.0,1.0,,STTC,NST_
1AVB,first degree block,1.0,,,CD,_AVB
PVC,premature complex,,1.0,,,
SR,sinus rhythm,,,1.0,,
AFIB,atrial fibrillation,,,1.0,,
"""


def line(number: int, codes: str, fold: int = 1, **changes: object) -> dict[str, object]:
    return {
        "ecg_id": number, "patient_id": 1000.0 + number, "age": 50.0, "sex": 0, "height": "", "site": 2.0,
        "report": "sinusrhythmus", "scp_codes": codes, "strat_fold": fold,
        "filename_lr": f"records100/00000/{number:05d}_lr", "filename_hr": f"records500/00000/{number:05d}_hr",
    } | changes  # fmt: skip


def tree(folder: Path, lines: list[dict[str, object]], rates: tuple[int, ...] = (100,)) -> Path:
    """A small PTB-XL in its own layout, waveforms included."""
    pd.DataFrame(lines).to_csv(folder / "ptbxl_database.csv", index=False)
    (folder / "scp_statements.csv").write_text(STATEMENTS)
    rng = np.random.default_rng(0)
    for entry in lines:
        for rate_hz in rates:
            path = folder / str(entry["filename_lr" if rate_hz == 100 else "filename_hr"])
            path.parent.mkdir(parents=True, exist_ok=True)
            wfdb.wrsamp(
                path.name, fs=rate_hz, units=["mV"] * 12, sig_name=[lead.upper() for lead in LEADS],
                d_signal=rng.integers(-900, 900, (rate_hz * 10, 12)), fmt=["16"] * 12, adc_gain=[1000.0] * 12,
                baseline=[0] * 12, write_dir=str(path.parent),
            )  # fmt: skip
    return folder


LINES = [
    line(1, "{'NORM': 100.0, 'SR': 0.0}"),
    line(2, "{'NST_': 50.0, '1AVB': 0.0, 'AFIB': 0.0}", fold=9, age=300.0, sex=1),
    line(7, "{'PVC': 100.0}", fold=10, age=np.nan, patient_id=1002.0),
    line(8, "{}", fold=8, site=np.nan),
]
LINES[2]["patient_id"] = 2002.0


def test_labels_are_found_by_name_whatever_the_likelihood(tmp_path: Path) -> None:
    source = read_source(tree(tmp_path, LINES, ()))
    actual = {
        row.record: {task: {name for name, value in classes.items() if value} for task, classes in row.labels.items()}
        for row in source.rows
    }
    assert actual == {
        "00001": {"super": {"NORM"}, "sub": {"NORM"}, "rhythm": {"SR"}, "diag": {"NORM"}, "all": {"NORM", "SR"}},
        "00002": {
            "super": {"STTC", "CD"},
            "sub": {"NST", "AVB"},
            "form": {"NST"},
            "rhythm": {"AFIB"},
            "diag": {"NST", "1AVB"},
            "all": {"NST", "1AVB", "AFIB"},
        },
        "00007": {"form": {"PVC"}, "all": {"PVC"}},
        "00008": {"all": set()},
    }
    assert source.tasks == {task: tuple(names) for task, names in PTBXL.items()}
    assert [len(names) for names in source.tasks.values()] == [5, 23, 19, 12, 44, 71]
    assert [row.split for row in source.rows] == ["train", "val", "test", "train"]
    assert [row.patient for row in source.rows] == ["1001", "1002", "2002", "1008"]
    assert [row.extra["age"] for row in source.rows] == [50.0, 90.0, None, 50.0]
    assert [row.extra["sex"] for row in source.rows] == ["male", "female", "male", "male"]
    assert [row.extra["site"] for row in source.rows] == ["2", "2", "2", None]
    assert source.rows[1].extra["fold"] == 9


def test_commands_without_a_task_use_the_tasks_that_do_not_repeat_others(tmp_path: Path) -> None:
    folder = tmp_path / "ptbxl"
    folder.mkdir()
    write(read_source(tree(folder, LINES)), tmp_path / "out")
    cohort = Cohort.open(tmp_path / "out")
    assert tuple(cohort.main_tasks) == ("super", "sub", "form", "rhythm")
    assert tuple(cohort.tasks) == (*cohort.main_tasks, "diag", "all")
    assert cohort.labels("all", cohort.rows(task="all")).shape == (len(cohort), 71)


def test_min_likelihood_is_an_option(tmp_path: Path) -> None:
    strict = read_source(tree(tmp_path, LINES, ()), Options(min_likelihood=50))
    assert strict.rows[1].labels["super"] == {"NORM": 0, "MI": 0, "STTC": 1, "CD": 0, "HYP": 0}
    assert strict.rows[1].labels["rhythm"]["AFIB"] == 1  # its likelihood 0 means that none was stated
    assert strict.rows[1].labels["all"] == dict.fromkeys(PTBXL["all"], 0) | {"NST": 1, "AFIB": 1}  # not 1AVB
    assert "super" not in read_source(tmp_path, Options(min_likelihood=60)).rows[1].labels
    assert strict.settings == {"min_likelihood": 50}
    for wrong in (-1, 101, float("nan")):
        with pytest.raises(CohortError, match=f"min_likelihood is {wrong}; it must be within 0 to 100"):
            Options(min_likelihood=wrong)


@pytest.mark.parametrize(("rates", "suffix"), [((), "_lr"), ((100,), "_lr"), ((500,), "_hr"), ((100, 500), "_hr")])
def test_the_rate_follows_the_files_that_are_there(tmp_path: Path, rates: tuple[int, ...], suffix: str) -> None:
    folder = tree(tmp_path, LINES[:2], rates)
    assert all(row.path.name.endswith(suffix) for row in read_source(folder).rows)
    assert read_source(folder, Options(rate_hz=100)).rows[0].path.name == "00001_lr"
    assert read_source(folder, Options(rate_hz=500)).rows[0].path.name == "00001_hr"
    assert read_source(folder, Options(rate_hz=500.0)).rows[0].path.name == "00001_hr"
    for wrong in (250, 100.5, 0, float("nan"), float("inf")):
        with pytest.raises(CohortError, match=f"100 or 500 Hz, rate_hz is {wrong}; give one of these"):
            Options(rate_hz=wrong)


def test_reports_from_another_file(tmp_path: Path) -> None:
    folder = tree(tmp_path, LINES, ())
    texts = tmp_path / "texts.csv"
    texts.write_text("ecg_id,text\n2,Sinus rhythm; Normal ECG\n1,\n99999,not here\n")
    assert [row.report for row in read_source(folder, Options(reports=texts)).rows] == [
        "",
        "Sinus rhythm; Normal ECG",
        "",
        "",
    ]
    assert read_source(folder).rows[0].report == "sinusrhythmus"
    texts.write_text("ecg_id,text,diagnosis\n2,x,y\n")
    with pytest.raises(CohortError, match=r"texts\.csv: unknown columns diagnosis"):
        read_source(folder, Options(reports=texts))
    texts.write_text("ecg_id,words\n2,x\n")
    with pytest.raises(CohortError, match="no column text"):
        read_source(folder, Options(reports=texts))
    texts.write_text("ecg_id,text\n2,x\n2,y\n")
    with pytest.raises(CohortError, match="ecg_id 2 appears twice"):
        read_source(folder, Options(reports=texts))


def plus_tree(folder: Path, statements: dict[int, str], mapping: str) -> Path:
    """The label tables of PTB-XL+ in their own layout."""
    (folder / "labels" / "mapping").mkdir(parents=True)
    lists = pd.DataFrame({"ecg_id": list(statements), "statements": list(statements.values())})
    lists.to_csv(folder / "labels" / "12sl_statements.csv", index=False)
    (folder / "labels" / "mapping" / "12slv23ToSNOMED.csv").write_text(mapping, encoding="utf-8-sig")
    return folder


MAPPING = """StatementNumber,Acronym,FullText,id1,name1,
22,NSR,Normal sinus rhythm,1,x,
19,SRTH,Sinus rhythm,1,x,
101,OCC,with occasional,1,x,
102,PAC,premature atrial complexes,1,x,
700,AU,", age undetermined",1,x,
701,IMI,Inferior infarct,1,x,
900,NML,Normal ECG,1,x,
,,,,,
"""


def test_reports_of_12sl_from_the_files_of_ptb_xl_plus(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tree(tmp_path, LINES, ())
    lists = {7: "['SRTH', 'OCC', 'PAC', '2ST', 'IMI', 'AU']", 1: "['NSR', 'NML']", 99999: "['NML']", 8: "[]"}
    plus = plus_tree(tmp_path / "plus", lists, MAPPING)
    options = Options(reports=Path("12sl"), plus=plus)
    assert [row.report for row in read_source(folder, options).rows] == [
        "Normal sinus rhythm; Normal ECG",
        "",
        "Sinus rhythm with occasional premature atrial complexes; Inferior infarct, age undetermined",
        "",
    ]
    assert "no text for the acronyms 2ST (1 times)" in caplog.text
    given = [str(folder), f"plus={plus}", "reports=12sl"]
    done = CliRunner().invoke(app, ["prepare", "ptbxl", *given, "-o", str(tmp_path / "c"), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert read_source(folder, Options(reports=Path("12sl"), plus=plus / "labels")).rows[0].report.startswith("Normal")


def test_mistakes_with_ptb_xl_plus_are_clear_errors(tmp_path: Path) -> None:
    folder = tree(tmp_path, LINES, ())
    for options in ({"reports": Path("12sl")}, {"plus": tmp_path}, {"plus": tmp_path, "reports": Path("x.csv")}):
        with pytest.raises(CohortError, match=r"reports=12sl and plus=FOLDER.* belong together; give both or neither"):
            Options(**options)
    with pytest.raises(CohortError, match=r"12sl_statements\.csv is missing; give the folder that contains PTB-XL\+"):
        read_source(folder, Options(reports=Path("12sl"), plus=tmp_path))
    plus = plus_tree(tmp_path / "plus", {1: "NSR NML"}, MAPPING)
    with pytest.raises(CohortError, match=r"PTB-XL\+ record 1: statements is not a list of acronyms"):
        read_source(folder, Options(reports=Path("12sl"), plus=plus))


@pytest.mark.real
@pytest.mark.skipif(not SHARED.is_dir(), reason="the official tables do not lie beside this checkout")
def test_the_reports_of_12sl_are_those_of_the_published_statement_table(tmp_path: Path) -> None:
    home = SHARED / "data" / "ptb-xl-plus"
    table = pd.read_csv(home / "ptbxl_12sl_text.csv")
    lists = {int(number): str(text.split(" ")) for number, text in zip(table["ecg_id"], table["acronyms"])}
    plus = plus_tree(tmp_path, lists, (home / "12slv23ToSNOMED.csv").read_text(encoding="utf-8-sig"))
    assert ptbxl._read_12sl(plus) == ptbxl._read_texts(home / "ptbxl_12sl_text.csv")
    assert len(lists) == 21_799


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scp_codes": "{'NORM': 100.0, 'WHAT': 0.0}"}, "record 3: SCP code 'WHAT' is not in scp_statements"),
        ({"scp_codes": "__import__('os').getcwd()"}, "record 3: scp_codes is not a dictionary"),
        ({"scp_codes": "['NORM']"}, "record 3: scp_codes is not a dictionary"),
        ({"scp_codes": "{'NORM': 'yes'}"}, "record 3: scp_codes is not a dictionary"),
        ({"strat_fold": 11}, "record 3: strat_fold is 11"),
        ({"strat_fold": "sinus rhythm, normal"}, "record 3: strat_fold is a longer text"),
        ({"patient_id": np.nan}, "record 3: it has no patient_id"),
        ({"filename_lr": "../../etc/passwd"}, "record 3: the path '../../etc/passwd' leaves"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    lines = [*LINES, line(3, "{'NORM': 100.0}") | changes]
    pd.DataFrame(lines).to_csv(tmp_path / "ptbxl_database.csv", index=False)
    (tmp_path / "scp_statements.csv").write_text(STATEMENTS)
    with pytest.raises(CohortError, match=message):
        read_source(tmp_path)


def test_missing_or_foreign_tables_are_errors(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"ptbxl_database\.csv is missing"):
        read_source(tmp_path)
    pd.DataFrame(LINES).drop(columns="scp_codes").to_csv(tmp_path / "ptbxl_database.csv", index=False)
    with pytest.raises(CohortError, match="no column scp_codes"):
        read_source(tmp_path)
    tree(tmp_path, LINES, ())
    (tmp_path / "scp_statements.csv").write_text(STATEMENTS.replace("STTC,NST_", "STTC,ODD_"))
    with pytest.raises(CohortError, match="class 'ODD'"):
        read_source(tmp_path)


def test_a_tree_becomes_a_cohort_with_the_files_own_samples(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    folder = tree(tmp_path / "raw", LINES)
    ledger = write(read_source(folder), tmp_path / "cohort", min_report_words=0)
    assert (ledger.n_total, ledger.kept) == (4, 4)
    cohort = Cohort.open(tmp_path / "cohort", verify=True)
    for row, entry in enumerate(LINES):
        signal, rate_hz = cohort.signal(row)
        expected = wfdb.rdrecord(str(folder / str(entry["filename_lr"]))).p_signal
        assert rate_hz == 100
        np.testing.assert_array_equal(signal, expected.astype(np.float32))
    np.testing.assert_array_equal(cohort.rows(task="super"), [0, 1])
    np.testing.assert_array_equal(cohort.labels("super", np.array([1, 0])), [[0, 0, 1, 1, 0], [1, 0, 0, 0, 0]])


def test_prepare_takes_min_likelihood_and_writes_it_down(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    words = ["prepare", "ptbxl", str(tree(tmp_path / "raw", LINES)), "-o", str(tmp_path / "cohort")]
    done = CliRunner().invoke(app, [*words, "--min-likelihood", "50"])
    assert done.exit_code == 0, done.output
    cohort = Cohort.open(tmp_path / "cohort")
    np.testing.assert_array_equal(cohort.labels("super", np.array([1])), [[0, 0, 1, 0, 0]])
    assert json.loads((tmp_path / "cohort" / "cohort.json").read_text())["settings"]["min_likelihood"] == 50


@pytest.mark.real
@pytest.mark.skipif(not SHARED.is_dir(), reason="the official tables do not lie beside this checkout")
def test_golden_counts_of_the_official_tables(tmp_path: Path) -> None:
    facts = json.loads((SHARED / "reference" / "protocol_facts.json").read_text())["tasks"]
    source = read_source(SHARED / "data" / "ptb-xl-metadata", Options(rate_hz=500))
    assert len(source.rows) == 21_799
    for task in ("super", "sub", "form", "rhythm"):
        expected = facts[f"ptbxl_{task}"]
        for split in ("train", "val", "test"):
            rows = [row for row in source.rows if row.split == split and task in row.labels]
            assert len(rows) == expected["rows"][split], (task, split)
            counts = {name: sum(row.labels[task][name] for row in rows) for name in source.tasks[task]}
            assert counts == {name: by_split[split] for name, by_split in expected["positives"].items()}, (task, split)

    # the statements one by one, counted by the codes of the table
    n_diag = Counter(row.split for row in source.rows if "diag" in row.labels)
    assert n_diag == {"train": 17_084, "val": 2_146, "test": 2_158}
    assert all("all" in row.labels for row in source.rows)
    columns = ["NORM", "ASMI", "IMI", "1AVB", "3AVB", "ISC", "NST", "NDT", "INJIL", "SR", "STE", "PSVT", "PRC(S)"]
    totals = {name: sum(row.labels["all"][name] for row in source.rows) for name in columns}
    assert list(totals.values()) == [9514, 2357, 2676, 793, 16, 1272, 767, 1825, 15, 16748, 28, 24, 10]
    assert all(sum(row.labels["all"][name] for row in source.rows) > 0 for name in PTBXL["all"])
    of_diag = {
        name: sum(row.labels["diag"][name] for row in source.rows if "diag" in row.labels) for name in PTBXL["diag"]
    }
    assert of_diag == {name: sum(row.labels["all"][name] for row in source.rows) for name in PTBXL["diag"]}
    with pytest.raises(CohortError, match="21799 of 21799 recordings have a missing file"):
        write(source, tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [
        "dropped.csv"
    ]  # with the reasons, no cohort

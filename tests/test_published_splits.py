"""Published splits: columns by name, records by file name; golden counts if the files are beside the checkout."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split
from split_files import NAMES, csn, named, own_splits, ptbxl

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.label_subset import subset
from leadwise.data.published_splits import (
    PublishedCohort,
    PublishedError,
    match_records,
    read_published,
    tasks,
)
from leadwise.data.sources.ptbxl import PTBXL
from leadwise.evaluate.metrics.auroc import auroc

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
SPLITS = SHARED / "data" / "merl-splits"
real = [
    pytest.mark.real,
    pytest.mark.skipif(not SPLITS.is_dir(), reason="the published splits are not beside this checkout"),
]


def test_columns_go_by_name_whatever_their_order(tmp_path: Path) -> None:
    other = ("CD", "NORM", "HYP", "STTC", "MI")
    published = read_published(ptbxl(tmp_path, {"val": other, "test": other[::-1]}), "super")
    assert published.classes == NAMES
    assert published.columns == {"train": NAMES, "val": other, "test": other[::-1]}
    for part, split in enumerate(published.splits.values()):
        np.testing.assert_array_equal(split.labels, np.eye(5))  # record k has class k, in our order
        assert split.records == tuple(f"{100 * part + k + 1:05d}" for k in range(5))
    reordered = read_published(tmp_path, "super", classes=other)
    np.testing.assert_array_equal(reordered.splits["test"].labels.argmax(axis=1), [other.index(name) for name in NAMES])
    assert reordered.fingerprint == published.fingerprint


def test_statements_go_by_token_and_the_columns_as_published_on_request(tmp_path: Path) -> None:
    statements = {"train": ["1AVB", "VB,AF", "AFIB"], "val": ["AVB"], "test": ["SB,AF"]}
    classes = ("AF", "VB", "AVB", "AFIB")
    folder = csn(tmp_path, statements, classes)
    exact = read_published(folder, "csn").splits["train"]
    np.testing.assert_array_equal(exact.labels, [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]])
    assert exact.records == ("JS00001", "JS00002", "JS00003")
    as_published = read_published(folder, "csn", labels="merl_substring").splits["train"]
    np.testing.assert_array_equal(as_published.labels, [[0, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 1]])
    with pytest.raises(PublishedError, match="labels merl_substring exist only for csn; use exact for task super"):
        read_published(ptbxl(tmp_path), "super", labels="merl_substring")


def test_cpsc_records_go_by_file_name_and_never_by_number(tmp_path: Path) -> None:
    (tmp_path / "icbeb").mkdir()
    for number, split in enumerate(("train", "val", "test"), start=1):
        line = {"patient_id": number, "ecg_id": number, "filename": f"A{4900 - number}", "NORM": 1, "STE": 0}
        pd.DataFrame([line]).to_csv(tmp_path / "icbeb" / f"icbeb_{split}.csv", index=False)
    published = read_published(tmp_path, "cpsc2018")
    assert [split.records for split in published.splits.values()] == [("A4899",), ("A4898",), ("A4897",)]
    assert published.classes == ("NORM", "STE")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val": {"WHAT": 1}}, r"super_class_val\.csv: unknown class WHAT; the task has NORM, MI"),
        ({"test": {"filename_hr": "records500/00000/00001_hr"}}, r"_test\.csv: record 00001 is in split 'train' too"),
        ({"train": {"filename_hr": "records500/00000/00002_hr"}}, r"_train\.csv: record 00002 occurs twice"),
        ({"test": {"patient_id": 3.0}}, r"_test\.csv: patient 3\.0 is in split 'train' too"),
        ({"val": {"MI": 2}}, r"_val\.csv, line 2: class MI is '2', not 0 or 1"),
        ({"val": {"MI": ""}}, r"_val\.csv, line 2: class MI is '', not 0 or 1"),
        (
            {"train": {"filename_hr": "../00001.dat"}},
            r"_train\.csv, line 2: filename_hr '../00001.dat' names no recording",
        ),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, changes: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(PublishedError, match=message):
        read_published(ptbxl(tmp_path, None, **changes), "super")


def test_missing_files_columns_and_tasks_are_errors(tmp_path: Path) -> None:
    with pytest.raises(PublishedError, match=r"ptbxl_super_class_train\.csv is missing; --splits is the folder"):
        read_published(tmp_path, "super")
    with pytest.raises(PublishedError, match="no published splits for task 'findings'; choose from super, sub"):
        read_published(tmp_path, "findings")
    ptbxl(tmp_path, {"val": NAMES[:4]})
    with pytest.raises(PublishedError, match=r"_val\.csv: no column for class HYP"):
        read_published(tmp_path, "super")
    path = tmp_path / "ptbxl" / "super_class" / "ptbxl_super_class_val.csv"
    pd.read_csv(path).drop(columns="filename_hr").to_csv(path, index=False)
    with pytest.raises(PublishedError, match=r"_val\.csv: no column filename_hr"):
        read_published(tmp_path, "super")
    path.write_text("")
    with pytest.raises(PublishedError, match=r"_val\.csv cannot be read as a CSV \(EmptyDataError\)"):
        read_published(tmp_path, "super")


@pytest.fixture
def named_cohort(cohort_folder: Path) -> Cohort:
    return named(cohort_folder)


def test_a_cohort_has_the_published_rows_in_the_files_order(tmp_path: Path, named_cohort: Cohort) -> None:
    published = read_published(own_splits(tmp_path, named_cohort), "csn", classes=named_cohort.tasks["own"])
    matched = match_records(published, named_cohort)
    np.testing.assert_array_equal(matched.rows, np.arange(59, 19, -1))
    assert (matched.counts, matched.missing) == (
        {"train": 30, "val": 4, "test": 6},
        {"train": 0, "val": 0, "test": 0},
    )
    view = PublishedCohort(named_cohort, published)
    np.testing.assert_array_equal(view.rows(task="csn", split="val"), [29, 28, 27, 26])
    assert view.splits(np.array([59, 20, 29])).tolist() == ["train", "test", "val"]
    np.testing.assert_array_equal(
        view.labels("csn", np.array([25])), [[name in ("mi", "afib") for name in view.tasks["csn"]]]
    )
    np.testing.assert_array_equal(view.rows(task="own"), np.arange(60))
    for task in ("csn", "own", None):
        with pytest.raises(CohortError, match="no split 'tset'; it is one of train, val, test"):
            view.rows("tset", task)
    np.testing.assert_array_equal(view.labels("own", view.rows()), named_cohort.labels("own", np.arange(60)))
    assert view.fingerprint == named_cohort.fingerprint  # the same samples: embeddings are shared
    with pytest.raises(CohortError, match="record JS00003 is in no published split of task csn"):
        view.labels("csn", np.array([3]))


def test_what_the_cohort_lacks_is_counted_and_logged(
    tmp_path: Path, named_cohort: Cohort, caplog: pytest.LogCaptureFixture
) -> None:
    folder = own_splits(tmp_path, named_cohort)
    path = folder / "chapman" / "chapman_test.csv"
    path.write_text(path.read_text().replace("JS00022", "JS90022"))
    published = read_published(folder, "csn", classes=named_cohort.tasks["own"])
    with caplog.at_level(logging.WARNING):
        view = PublishedCohort(named_cohort, published)
    assert view.matched.missing == {"train": 0, "val": 0, "test": 1}
    assert "lacks 1 of the 40 published records of task csn" in caplog.text
    with pytest.raises(PublishedError, match="none of the published records of task super is in it"):
        match_records(read_published(ptbxl(tmp_path), "super"), named_cohort)


def facts() -> dict:
    return json.loads((SHARED / "reference" / "protocol_facts.json").read_text())["tasks"]


class TestGolden:
    pytestmark = real

    @pytest.mark.parametrize("task", tasks())
    def test_rows_positives_and_column_orders(self, task: str) -> None:
        known = facts()[task if task in ("csn", "cpsc2018") else f"ptbxl_{task}"]
        rule = "merl_substring" if task == "csn" else "exact"
        published = read_published(SPLITS, task, labels=rule)
        assert {split: len(part.records) for split, part in published.splits.items()} == known["rows"]
        assert {split: list(columns) for split, columns in published.columns.items()} == known["label_order"]
        for split, part in published.splits.items():
            counts = dict(zip(published.classes, part.labels.sum(axis=0).tolist()))
            assert counts == {name: by_split[split] for name, by_split in known["positives"].items()}

    def test_sub_classes_are_found_by_name_though_the_files_differ(self) -> None:
        test = read_published(SPLITS, "sub").splits["test"]
        counts = dict(zip(PTBXL["sub"], test.labels.sum(axis=0).tolist()))
        assert (counts["AVB"], counts["ISC"], counts["RAO/RAE"]) == (82, 128, 10)

    def test_csn_exact_tokens_against_substrings(self) -> None:
        exact, substring = (read_published(SPLITS, "csn", labels=rule) for rule in ("exact", "merl_substring"))
        known = facts()["csn"]["positives_exact_token"]
        totals = {}
        for published in (exact, substring):
            both = sum(part.labels.sum(axis=0) for part in published.splits.values())
            totals[published.rule] = dict(zip(published.classes, both.tolist()))
        for split, part in exact.splits.items():
            counts = dict(zip(exact.classes, part.labels.sum(axis=0).tolist()))
            assert counts == {name: by_split[split] for name, by_split in known.items()}
        for name, counts in {"VB": (3, 916), "AF": (3340, 4753), "ST": (5154, 6338)}.items():
            assert (totals["exact"][name], totals["merl_substring"][name]) == counts

    def test_an_oracle_of_the_true_csn_labels_against_the_published_columns(self) -> None:
        exact, substring = (
            read_published(SPLITS, "csn", labels=rule).splits["test"].labels for rule in ("exact", "merl_substring")
        )
        assert 100 * np.nanmean(auroc(substring, exact)) == pytest.approx(95.34, abs=0.005)

    def test_cpsc_splits_are_sklearns_two_stages_over_the_ids(self) -> None:
        files = {
            split: pd.read_csv(SPLITS / "icbeb" / f"icbeb_{split}.csv")["ecg_id"] for split in ("train", "val", "test")
        }
        rest, test = train_test_split(np.arange(1, 6878), test_size=0.2, random_state=42)
        train, val = train_test_split(rest, test_size=0.1, random_state=42)
        for ids, split in ((train, "train"), (val, "val"), (test, "test")):
            np.testing.assert_array_equal(files[split], ids)
        published = read_published(SPLITS, "cpsc2018")
        totals = sum(part.labels.sum(axis=0) for part in published.splits.values())
        assert dict(zip(published.classes, totals.tolist())) == {
            "AFIB": 1221, "VPC": 700, "NORM": 918, "1AVB": 722, "CRBBB": 1857, "STE": 220, "PAC": 616, "CLBBB": 236,
            "STD": 869,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("task", "sizes"),
        [("super", (170, 1708)), ("sub", (170, 1708)), ("form", (71, 719)), ("rhythm", (168, 1683)),
         ("cpsc2018", (49, 495)), ("csn", (165, 1654))],
    )  # fmt: skip
    def test_subset_sizes(self, task: str, sizes: tuple[int, int]) -> None:
        n = len(read_published(SPLITS, task).splits["train"].records)
        assert (len(subset(n, 0.01, 42)), len(subset(n, 0.1, 42))) == sizes
        drawn, _ = train_test_split(np.arange(n), train_size=0.01, random_state=42)
        np.testing.assert_array_equal(subset(n, 0.01, 42), drawn)

    def test_classes_that_the_published_one_percent_lacks(self) -> None:
        lacking = {"sub": {"PMI"}, "rhythm": {"TRIGU", "SVTAC", "PSVT", "AFLT"}, "cpsc2018": {"STE"}}
        for task, names in lacking.items():
            published = read_published(SPLITS, task)
            train = published.splits["train"].labels
            drawn = train[subset(len(train), 0.01, 42)]
            assert {name for name, occurs in zip(published.classes, drawn.any(axis=0)) if not occurs} == names

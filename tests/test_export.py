"""Tables as CSV and LaTeX: all values, the best in bold, special characters escaped."""

import csv
import io
import re

import pytest

from leadwise.evaluate import export
from leadwise.evaluate.export import ExportError

ROWS = [
    {"fraction": 0.01, "features": "trained", "n": 32, "macro": 0.79071, "low": 0.775, "high": 0.805, "ece": 0.1391},
    {"fraction": 0.01, "features": "50%_&", "n": 32, "macro": 0.56, "low": 0.541, "high": 0.58, "ece": 0.1389},
    {"fraction": 1.0, "features": "trained", "n": 3293, "macro": 0.8814, "low": 0.866, "high": 0.895, "ece": 0.034},
    {"fraction": 1.0, "features": "other", "n": 3293, "macro": None, "low": None, "high": None, "ece": 0.03},
]


def cells(text):
    """Return the cells of the table, row by row."""
    return [line.removesuffix(r" \\").split(" & ") for line in text.splitlines() if line.endswith(r"\\")]


def test_csv_preserves_all_values():
    rows = [*ROWS, {"fraction": 1.0, "features": 'a "quoted", name', "extra": 0.1 + 0.2}]
    back = list(csv.DictReader(io.StringIO(export.to_csv(rows))))
    assert list(back[0]) == ["fraction", "features", "n", "macro", "low", "high", "ece", "extra"]
    assert [row["features"] for row in back] == [row["features"] for row in rows]
    assert float(back[4]["extra"]) == 0.1 + 0.2
    assert float(back[0]["macro"]) == 0.79071
    assert (back[3]["macro"], back[0]["extra"]) == ("", "")


def test_latex_is_a_booktabs_tabular_with_intervals_and_the_best_in_bold():
    text = export.to_latex(ROWS, best={"macro": True, "ece": False}, within="fraction")
    lines = text.splitlines()
    assert lines[0] == r"\begin{tabular}{rlrrr}"
    assert (lines[1], lines[-2], lines[-1]) == (r"\toprule", r"\bottomrule", r"\end{tabular}")
    assert lines.count(r"\midrule") == 2  # below the header, and between the fractions
    header, first, second, third, fourth = cells(text)
    assert header == ["fraction", "features", "n", "macro", "ece"]
    assert first == ["0.01", "trained", "32", r"\textbf{0.791} {\footnotesize [0.775, 0.805]}", r"\textbf{0.139}"]
    assert second[1] == r"50\%\_\&"
    assert second[4] == r"\textbf{0.139}"  # equal to three decimals
    assert third[3].startswith("0.881 ")  # a group of one row
    assert (fourth[3], fourth[4]) == ("--", r"\textbf{0.030}")


def test_the_best_of_the_whole_table_or_of_each_row_is_bold():
    text = export.to_latex(ROWS, best={"macro": True})
    assert re.findall(r"\\textbf\{(.*?)\}", text) == ["0.881"]
    pair = [{"class": "NORM", "a": 0.9, "b": 0.8, "difference": -0.1, "low": -0.2, "high": 0.05, "p_holm": 0.00012}]
    (line,) = cells(export.to_latex(pair, across=("a", "b")))[1:]
    assert line[1:3] == [r"\textbf{0.900}", "0.800"]
    assert line[3] == r"$-$0.100 {\footnotesize [$-$0.200, 0.050]}"
    assert line[4] == "0.00012"
    (tied,) = cells(export.to_latex([{"class": "x", "a": 0.5, "b": 0.5001}], across=("a", "b")))[1:]
    assert tied[1:] == [r"\textbf{0.500}", r"\textbf{0.500}"]


def test_each_number_has_its_own_interval():
    score = {"macro": 0.8, "low": 0.7, "high": 0.9}
    rows = [
        {**score, "difference": None, "difference_low": None, "difference_high": None},
        {**score, "difference": -0.1, "difference_low": -0.15, "difference_high": -0.05},
        {**score, "difference": 0.2},  # whose interval is not known
    ]
    header, *lines = cells(export.to_latex(rows))
    assert header == ["macro", "difference"]
    assert {line[0] for line in lines} == {r"0.800 {\footnotesize [0.700, 0.900]}"}
    assert [line[1] for line in lines] == ["--", r"$-$0.100 {\footnotesize [$-$0.150, $-$0.050]}", "0.200"]


def test_columns_can_be_hidden_and_unknown_ones_are_refused():
    assert cells(export.to_latex(ROWS, hidden=("n", "ece")))[0] == ["fraction", "features", "macro"]
    with pytest.raises(ExportError, match="no column 'auprc'; it has fraction, features"):
        export.to_latex(ROWS, best={"auprc": True})
    for make in (export.to_csv, export.to_latex):
        with pytest.raises(ExportError, match="no rows"):
            make([])


def test_every_special_character_is_escaped():
    plain = export.escape(r"\ & % $ # _ { } ~ ^ < >")
    assert plain == (
        r"\textbackslash{} \& \% \$ \# \_ \{ \} \textasciitilde{} \textasciicircum{} \textless{} \textgreater{}"
    )


def test_files_are_written_atomically(tmp_path):
    export.write(tmp_path / "new" / "t.csv", "a\n1\n")
    assert (tmp_path / "new" / "t.csv").read_text() == "a\n1\n"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["t.csv"]

"""Text tables as programs write them: separators, decimals, headers, units, index and time columns, either way round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leadwise.batch import LEADS
from leadwise.data.formats import csv, reading
from leadwise.data.recordings.recording import RecordError, Recording

GIVEN: dict[str, Any] = {"rate_hz": 250, "units": "mV"}
VALUES = np.round(np.random.default_rng(0).normal(size=(200, 3)), 4)
NAMES = ["I", "II", "V1"]


def lines(
    values: np.ndarray = VALUES, separator: str = ",", decimal: str = ".", names: list[str] | None = NAMES
) -> list[str]:
    rows = [separator.join(f"{value:.4f}".replace(".", decimal) for value in row) for row in values]
    return ([separator.join(names)] if names else []) + rows


def read(folder: Path, text: str | list[str], name: str = "a.csv", encoding: str = "utf-8", **given: Any) -> Recording:
    text = text if isinstance(text, str) else "\n".join(text) + "\n"
    (folder / name).write_bytes(text.encode(encoding))
    return reading.read(folder / name, **(GIVEN | given))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", " ", ", ", "   "])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
def test_separators(tmp_path: Path, separator: str, named: bool, name: str) -> None:
    text = lines(separator=separator, names=NAMES if named else None)
    recording = read(tmp_path, text, name, leads=None if named else NAMES)
    assert recording.leads == tuple(NAMES)
    np.testing.assert_allclose(recording.signal, VALUES)


@pytest.mark.parametrize("separator", [";", "\t", "|", " "])
def test_decimal_commas(tmp_path: Path, separator: str) -> None:
    np.testing.assert_allclose(read(tmp_path, lines(separator=separator, decimal=",")).signal, VALUES)


def test_decimal_commas_in_quotes_and_in_one_column(tmp_path: Path) -> None:
    quoted = ['"I","II"', *(f'"{a},5","{b},25"' for a, b in ((0, 1), (-2, 3), (4, -5)))]
    np.testing.assert_allclose(read(tmp_path, quoted).signal, [[0.5, 1.25], [-2.5, 3.25], [4.5, -5.25]])
    one = ["I", *(f"{value},5" for value in range(100))]
    np.testing.assert_allclose(read(tmp_path, one).signal[:, 0], np.arange(100) + 0.5)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    names = ["I (\u00b5V)", "II (\u00b5V)", "V1 (\u00b5V)"]
    recording = read(tmp_path, lines(VALUES * 1000, names=names), encoding=encoding)
    np.testing.assert_allclose(recording.signal, VALUES)


@pytest.mark.parametrize(
    "names",
    [["i", "ii", "v1"], ["Lead I", "Lead II", "Lead V1"], ["ECG I", "ECG II", "ECG V1"], ['"I"', '"II"', '"V1"'],
     ["MDC_ECG_LEAD_I", "MDC_ECG_LEAD_II", "MDC_ECG_LEAD_V1"], ["lead_i", "lead_ii", "lead_v1"]],
)  # fmt: skip
def test_spellings_of_names(tmp_path: Path, names: list[str]) -> None:
    assert read(tmp_path, lines(names=names)).leads == tuple(NAMES)


@pytest.mark.parametrize(
    "header",
    [["I (mV)", "II [uV]", "V1_nV"], ["I mV", "II/uV", "V1 (nanovolt)"]],
)
def test_a_unit_in_a_name_is_that_of_its_column(tmp_path: Path, header: list[str]) -> None:
    values = VALUES * [1, 1e3, 1e6]
    np.testing.assert_allclose(read(tmp_path, lines(values, names=header), units=None).signal, VALUES, atol=1e-9)
    np.testing.assert_allclose(read(tmp_path, lines(values, names=header), units="V").signal, VALUES, atol=1e-9)


def test_a_row_of_units(tmp_path: Path) -> None:
    text = lines(VALUES * 1000)
    text.insert(1, "uV,uV,uV")
    np.testing.assert_allclose(read(tmp_path, text, units=None).signal, VALUES)
    text[1] = "uV,NU,uV"
    with pytest.raises(RecordError, match="unit 'NU', which is not a voltage"):
        read(tmp_path, text)
    text[0] = "I,resp,V1"  # a column that is not used vetoes nothing
    np.testing.assert_allclose(read(tmp_path, text, units=None).signal, VALUES[:, [0, 2]])


def test_columns_that_are_not_leads(tmp_path: Path) -> None:
    text = ["beat,I,II,note", *(f"N,{a},{b},text {k}" for k, (a, b) in enumerate(VALUES[:, :2]))]
    recording = read(tmp_path, text)
    assert (recording.leads, recording.unused) == (("I", "II"), ("beat", "note"))
    np.testing.assert_allclose(recording.signal, VALUES[:, :2])


@pytest.mark.parametrize("header", ["", "index", "Unnamed: 0", "sample"])
def test_an_index_column_is_not_used(tmp_path: Path, header: str) -> None:
    text = [f"{header},{','.join(NAMES)}", *(f"{k},{line}" for k, line in enumerate(lines(names=None)))]
    recording = read(tmp_path, text)
    assert (recording.leads, recording.unused) == (tuple(NAMES), ())
    np.testing.assert_allclose(recording.signal, VALUES)
    np.testing.assert_allclose(read(tmp_path, text, leads=["V1", "V2", "V3"]).signal, VALUES)
    assert read(tmp_path, text, leads=["-", "V1", "V2", "-"]).leads == ("V1", "V2")  # or as many as columns


def test_pandas_without_names(tmp_path: Path) -> None:
    with_index = [",0,1,2", *(f"{k},{line}" for k, line in enumerate(lines(names=None)))]
    np.testing.assert_allclose(read(tmp_path, with_index, leads=NAMES).signal, VALUES)
    without = ["0,1,2", *lines(names=None)]
    np.testing.assert_allclose(read(tmp_path, without, leads=NAMES).signal, VALUES)


@pytest.mark.parametrize(
    ("header", "step", "rate_hz"),
    [("time", 0.002, 500), ("Time (s)", 0.004, 250), ("time_ms", 2, 500), ("t", 2, 500), ("Time [ms]", 1, 1000),
     ("seconds", 1 / 360, 360), ("zeit", 1 / 300, 300)],
)  # fmt: skip
def test_a_time_column_states_the_rate(tmp_path: Path, header: str, step: float, rate_hz: float) -> None:
    text = [f"{header},{','.join(NAMES)}", *(f"{k * step:.3f},{line}" for k, line in enumerate(lines(names=None)))]
    recording = read(tmp_path, text, rate_hz=None)
    assert (recording.rate_hz, recording.leads, recording.unused) == (rate_hz, tuple(NAMES), ())
    np.testing.assert_allclose(recording.signal, VALUES)
    (remark,) = read(tmp_path, text, rate_hz=100).remarks
    assert remark == f"its time column has {rate_hz} Hz; the given 100 Hz are not used"


def test_a_time_column_that_states_no_rate(tmp_path: Path) -> None:
    for header, times in (("time", np.arange(200)), ("time (s)", np.r_[np.arange(100), np.arange(150, 250)] / 100)):
        text = [f"{header},{','.join(NAMES)}", *(f"{t:g},{line}" for t, line in zip(times, lines(names=None)))]
        with pytest.raises(RecordError, match="does not state the sampling rate"):
            read(tmp_path, text, rate_hz=None)
        assert "the given rate is used" in read(tmp_path, text).remarks[0]


def test_a_time_column_without_name(tmp_path: Path) -> None:
    text = [f"{k * 0.004:.3f},{line}" for k, line in enumerate(lines(names=None))]
    recording = read(tmp_path, text, leads=NAMES)
    assert recording.rate_hz == 250
    np.testing.assert_allclose(recording.signal, VALUES)


@pytest.mark.parametrize("names", [NAMES, ["I (mV)", "II (mV)", "V1 (mV)"]])
def test_one_row_per_lead(tmp_path: Path, names: list[str]) -> None:
    named = [f"{name},{line}" for name, line in zip(names, lines(VALUES.T, names=None))]
    recording = read(tmp_path, named, units="mV" if names is NAMES else None)
    assert recording.leads == tuple(NAMES)
    np.testing.assert_allclose(recording.signal, VALUES)
    headed = ["lead," + ",".join(map(str, range(200))), *named]
    np.testing.assert_allclose(read(tmp_path, headed).signal, VALUES)
    unnamed = lines(VALUES.T, names=None)
    np.testing.assert_allclose(read(tmp_path, unnamed, leads=NAMES).signal, VALUES)
    with pytest.raises(RecordError, match="does not name its channels: no lead is known; name each of its 3 channels"):
        read(tmp_path, unnamed)


def test_empty_cells_are_missing_samples(tmp_path: Path) -> None:
    text = ["I,II,V1", "0.1,,", "0.2,NaN,", ",,", "0.3,0.4,null", "0.5,0.6,0.7", ",,", ",,"]
    expected = [[0.1, np.nan, np.nan], [0.2, np.nan, np.nan], [np.nan] * 3, [0.3, 0.4, np.nan], [0.5, 0.6, 0.7]]
    np.testing.assert_array_equal(read(tmp_path, text).signal, expected)


def test_what_spreadsheets_and_programs_add(tmp_path: Path) -> None:
    plain = lines(separator=";")
    added = [
        "sep=;",
        "# exported by a program",
        "",
        *(line + ";" for line in plain[:100]),
        "",
        *(line + ";" for line in plain[100:]),
        ";;;",
    ]
    np.testing.assert_allclose(read(tmp_path, added).signal, VALUES)
    by_numpy = ["# I,II,V1", *lines(names=None)]
    np.testing.assert_allclose(read(tmp_path, by_numpy).signal, VALUES)
    by_r = [lines()[0], *(f"{k + 1},{line}" for k, line in enumerate(lines(names=None)))]
    np.testing.assert_allclose(read(tmp_path, by_r).signal, VALUES)
    preamble = ["Patient ID: 1", "Rate: 500 Hz", "", *lines()]
    np.testing.assert_allclose(read(tmp_path, preamble).signal, VALUES)


def test_a_bad_row_is_one_error_with_its_line(tmp_path: Path) -> None:
    text = ["# comment", *lines()]
    text[50], text[60] = "0.1,0.2", "0.1,0.2,0.3,0.4"
    with pytest.raises(RecordError, match=r"line 51 has 2 cells where 3 are expected \(and 1 other lines\)"):
        read(tmp_path, text)
    text[50], text[60] = "0.1,high,0.2", "0.1,0.2,0.3"
    with pytest.raises(RecordError, match="line 51: lead 'II' is 'high', which is not a number"):
        read(tmp_path, text)
    named = [f"{name},{line}" for name, line in zip(NAMES, lines(VALUES.T, names=None))]
    with pytest.raises(RecordError, match="line 2: lead 'II' is 'x', which is not a number"):
        read(tmp_path, [named[0], "II,x" + named[1][named[1].index(",", 3) :], named[2]])


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    for content, reason in (
        (b"", "it is empty"),
        (b"\n\n", "it is empty"),
        (b"I,II\n", "it has a header and no samples"),
        (bytes(range(256)) * 4, "not a text in UTF-8"),
        (b"one word\n", "no row of numbers"),
    ):
        (tmp_path / "a.csv").write_bytes(content)
        with pytest.raises(RecordError, match=reason):
            reading.read(tmp_path / "a.csv", **GIVEN)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I,II\n0.1,0.2\n", True), ("1,2,3\n4,5,6\n", True), ("I,0.1,0.2\nII,0.1,0.3\n", True), ("i\tii\n1\t2\n", True),
        ("time;I;II\n0,1;0,2;0,3\n", True), ("# x\nI,II\n1,2\n", True), ("path,patient\na.npy,1\n", False),
        ("I,like,ECGs\n", False), ("record,afib\nw,1\n", False), ("a1 12 500 5000\na1.dat 16 1000\n", False), ("", False),
        ("I came, I saw\n", False), ("<a b='1,2'/>", False), ("{\"a\": 1, \"b\": 2}", False), ("7\n8\n", False),
    ],
)  # fmt: skip
def test_matches(text: str, expected: bool) -> None:
    assert csv.matches(text.encode()) is expected


def test_twelve_leads_from_bytes() -> None:
    values = np.round(np.random.default_rng(0).normal(size=(50, 12)), 3)
    text = "\n".join(lines(values, names=list(LEADS)))
    np.testing.assert_allclose(reading.read(text.encode(), **GIVEN).signal, values)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_second_byte_order_mark_is_no_part_of_a_name(tmp_path: Path, encoding: str) -> None:
    recording = read(tmp_path, "\ufeff" + "\n".join(lines()) + "\n", encoding=encoding)
    assert (recording.leads, recording.unused) == (tuple(NAMES), ())

"""ECGs that an Apple Watch exports: points and commas as decimal sign, keys of any language, no identity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leadwise.data.formats import apple_watch, csv, reading
from leadwise.data.recordings.recording import RecordError

ENGLISH = """Name,"Jane Roe"
Date of Birth,"Feb 3, 1951"
Recorded Date,2019-03-04 10:11:12 +0100
Classification,Sinus Rhythm
Symptoms,
Software Version,1.90
Device,"Watch6,7"
Sample Rate,512 hertz


Lead,Lead I
Unit,\u00b5V


"""
GERMAN = """Name,Jane Roe
Geburtsdatum,03.02.1951
Aufzeichnungsdatum,2019-03-04 10:11:12 +0100
Klassifizierung,Sinusrhythmus
Symptome,
Softwareversion,"1,90"
Ger\u00e4t,"Watch6,7"
Messrate,512 Hertz

Ableitung,Ableitung I
Einheit,\u00b5V

"""
VALUES = np.round(np.random.default_rng(0).normal(size=700) * 300, 3)


def text(header: str, decimal: str) -> str:
    return header + "\n".join(f"{value:.3f}".replace(".", decimal) for value in VALUES) + "\n"


@pytest.mark.parametrize(("header", "decimal"), [(ENGLISH, "."), (GERMAN, ",")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_one_lead_in_microvolts(tmp_path: Path, header: str, decimal: str, encoding: str) -> None:
    path = tmp_path / "ecg_2019-03-04.csv"
    path.write_bytes(text(header, decimal).encode(encoding))
    recording = reading.read(path)
    assert (recording.leads, recording.rate_hz, recording.format) == (("I",), 512, "apple_watch")
    np.testing.assert_allclose(recording.signal[:, 0], VALUES / 1000)
    assert recording.stated == {"device": "Apple Watch6,7", "year": 2019}
    assert not any(word in repr(recording) for word in ("Roe", "1951"))
    np.testing.assert_array_equal(reading.read(path.read_bytes()).signal, recording.signal)


def test_an_ordinary_table_is_not_taken_for_one(tmp_path: Path) -> None:
    table = b"I,II\n0.1,0.2\n"
    assert not apple_watch.matches(table)
    assert not csv.matches(text(ENGLISH, ".").encode()[:4096])
    (tmp_path / "a.csv").write_bytes(table)
    assert reading.read(tmp_path / "a.csv", rate_hz=250, units="mV").format == "csv"
    (tmp_path / "b.csv").write_bytes(b"nothing that is known")
    with pytest.raises(RecordError, match="it has no row of numbers"):  # the error is that of tables
        reading.read(tmp_path / "b.csv")


def test_a_line_that_is_no_number_is_one_error() -> None:
    content = text(ENGLISH, ".").encode().replace(f"{VALUES[3]:.3f}".encode(), b"oops", 1)
    with pytest.raises(RecordError, match="line 18 is not one number"):
        reading.read(content)

"""XML files of ECG devices: encodings, entities, damage, root elements, and what all these formats have in common."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import vendor_files as files

from leadwise.batch import LEADS
from leadwise.data.formats import cardiosoft, hl7_aecg, mortara, muse, philips, reading, schiller, xml_text
from leadwise.data.recordings.recording import RecordError, Recording

WRITERS: dict[str, Callable[..., str]] = {
    "cardiosoft": files.cardiosoft,
    "hl7_aecg": files.aecg,
    "mortara": files.mortara,
    "muse": files.muse,
    "philips": files.philips,
    "schiller": files.schiller,
}
STEP_UV = {"cardiosoft": 5, "hl7_aecg": 2.5, "mortara": 2.5, "muse": 4.88, "philips": 5, "schiller": 2.5}
MODULES = {
    "cardiosoft": cardiosoft,
    "hl7_aecg": hl7_aecg,
    "mortara": mortara,
    "muse": muse,
    "philips": philips,
    "schiller": schiller,
}
ENCODED = {  # how a text may be written: encodings, with and without byte order mark
    "utf-8": lambda text: text.encode(),
    "utf-8 with mark": lambda text: codecs.BOM_UTF8 + b"\r\r\n" + text.encode(),
    "utf-16 le": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "utf-16 be": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "utf-16 le without mark": lambda text: text.encode("utf-16-le"),
    "utf-16 be without mark": lambda text: text.encode("utf-16-be"),
    "latin 1": lambda text: text.encode("latin-1"),
}
PERSON = (
    "Miller",
    "M\u00fcller",
    "J\u00f6rg",
    "4711",
    "99887",
    "Smith",
    "1958",
    "1960",
    "1954",
    "1950",
    "12-24",
    "10:11",
)


def leads_of(name: str) -> dict[str, np.ndarray]:
    return files.eight_leads() if name == "muse" else files.twelve_leads()


def check_values(recording: Recording, leads: dict[str, np.ndarray], step_uv: float) -> None:
    """The recording holds exactly the integers of `leads`."""
    assert set(recording.leads) == set(leads)
    assert recording.digital is not None
    for number, lead in enumerate(recording.leads):
        np.testing.assert_array_equal(recording.digital.samples[:, number], leads[lead])
        np.testing.assert_allclose(recording.signal[:, number], leads[lead] * step_uv / 1000, rtol=1e-12)


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_read_in_every_encoding(name: str, encoding: str) -> None:
    recording = reading.read(ENCODED[encoding](WRITERS[name]()))
    assert recording.format.split()[0] == name
    assert recording.rate_hz == 500
    check_values(recording, leads_of(name), STEP_UV[name])


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_read_by_its_root_element(tmp_path: Path, name: str) -> None:
    """Every module matches its own files only, also behind a comment of 5,000 characters."""
    content = WRITERS[name]().encode("latin-1")
    assert [other for other, module in MODULES.items() if module.matches(content[:16384])] == [name]
    for suffix in (".xml", ".XML", ".dat2"):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(content)
        recording = reading.read(path)
        assert recording.files == (path,)
        check_values(recording, leads_of(name), STEP_UV[name])


@pytest.mark.parametrize("name", WRITERS)
def test_no_name_number_or_date_is_stored(name: str) -> None:
    recording = reading.read(WRITERS[name]().encode("latin-1"))
    texts = repr((recording.stated, recording.statements, recording.remarks, recording.format, recording.name))
    assert not [word for word in PERSON if word in texts]
    assert "sinus rhythm" in [statement.lower() for statement in recording.statements]
    assert set(recording.stated) >= {"sex", "device", "year", "heart_rate", "age"}
    assert recording.stated["heart_rate"] == 60


@pytest.mark.parametrize("name", WRITERS)
def test_an_unused_channel_has_no_veto(name: str) -> None:
    """A thirteenth channel with an odd name is named and not read."""
    leads = leads_of(name) | {"XYZ": files.beats()}
    recording = reading.read(WRITERS[name](leads).encode("latin-1"))
    assert [one.rpartition("_")[2] for one in recording.unused] == ["XYZ"]
    check_values(recording, leads_of(name), STEP_UV[name])


@pytest.mark.parametrize("name", WRITERS)
def test_given_leads_replace_the_names(name: str) -> None:
    names = [{"V1": "V2", "V2": "V1"}.get(lead, lead) for lead in leads_of(name)]
    recording = reading.read(WRITERS[name]().encode("latin-1"), leads=names)
    swapped = dict(zip(names, leads_of(name).values()))
    check_values(recording, swapped, STEP_UV[name])


@pytest.mark.parametrize("name", WRITERS)
def test_a_lead_of_zeros_is_missing(name: str) -> None:
    leads = leads_of(name) | {"V3": np.zeros(1000, dtype=np.int16)}
    recording = reading.read(WRITERS[name](leads).encode("latin-1"))
    assert "V3" not in recording.leads
    assert "only zeros, so not recorded: V3" in recording.remarks
    zeros = {lead: np.zeros(1000, dtype=np.int16) for lead in leads}
    with pytest.raises(RecordError, match="all samples of its leads are zero"):
        reading.read(WRITERS[name](zeros).encode("latin-1"))


@pytest.mark.parametrize("name", WRITERS)
def test_a_heart_rate_that_contradicts_the_samples_is_doubted(name: str) -> None:
    """Samples of 500 Hz in a file that states 100 Hz."""
    leads = files.twelve_leads(5000) if name != "muse" else files.eight_leads(5000)
    arguments = {"increment": "0.01"} if name == "hl7_aecg" else {"rate_hz": 100}
    recording = reading.read(WRITERS[name](leads, **arguments).encode("latin-1"))
    doubts = [remark for remark in recording.remarks if remark.startswith("rate doubt")]
    assert doubts == [
        "rate doubt: the file states 60 beats/min, and its R peaks at 100 Hz give 12; is the sampling rate right?"
    ]
    right = reading.read(WRITERS[name](leads).encode("latin-1"))
    assert not [remark for remark in right.remarks if "doubt" in remark]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_one_error(name: str, share: float) -> None:
    content = WRITERS[name]().encode("latin-1")
    with pytest.raises(RecordError) as error:
        MODULES[name].decode(content[: int(share * len(content))], Path("a.xml"), reading.Given())
    assert "damaged or truncated XML file" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", WRITERS)
def test_random_damage_never_gives_another_error(name: str) -> None:
    """Any byte of a file may be wrong: the result is a recording or a RecordError."""
    content = WRITERS[name]().encode("latin-1")
    generator = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for place in generator.integers(0, len(content), 3):
            damaged[place] = int(generator.integers(0, 256))
        with contextlib.suppress(RecordError):
            MODULES[name].decode(bytes(damaged), Path("a.xml"), reading.Given())


def test_entities_and_external_references_are_refused() -> None:
    bomb = '<!DOCTYPE RestingECG [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><RestingECG>&b;</RestingECG>'
    file = '<!DOCTYPE RestingECG [<!ENTITY a SYSTEM "file:///etc/passwd">]><RestingECG>&a;</RestingECG>'
    for text in (bomb, file):
        assert xml_text.root_name(text.encode()) == "RestingECG"
        with pytest.raises(RecordError, match=r"declares entities or external references \(EntitiesForbidden\)"):
            reading.read(text.encode())


def test_another_root_element_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text('<?xml version="1.0"?><note>text</note>')
    with pytest.raises(RecordError, match="its root element is <note>"):
        reading.read(path)
    path.write_text("")
    with pytest.raises(RecordError, match="it is empty"):
        reading.read(path)
    path.write_text("words")
    with pytest.raises(RecordError, match="damaged or truncated XML file"):
        reading.read(path)


def test_a_file_that_is_too_large_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml_text, "_MAX_BYTES", 1 << 20)
    with pytest.raises(RecordError, match="an XML file of 2 MB; at most 1 MB are read"):
        reading.read(b"<RestingECG>" + b" " * (2 << 20))


@pytest.mark.parametrize(
    ("first", "root"),
    [
        (b"<RestingECG>", "RestingECG"),
        (b"<RestingECGMeasurements>", "RestingECGMeasurements"),
        (b'<?xml version="1.0"?><!-- <ECG> --><?x y?>\n<a:ECG\n b="1">', "ECG"),
        (b'<!DOCTYPE ECG [<!ELEMENT a (b)>]><ECG/>', "ECG"),
        (b"<ECG", ""),
        (b"<!-- a comment without end <ECG>", ""),
        (b"", ""),
        (b"\xff\xfe", ""),
        (b"I,II\n1,2", ""),
    ],
)  # fmt: skip
def test_the_root_element_of_first_bytes(first: bytes, root: str) -> None:
    assert xml_text.root_name(first) == root


def test_numbers_and_base64_are_strict() -> None:
    path = Path("a.xml")
    np.testing.assert_array_equal(xml_text.decode_numbers(path, " 1, 2 -3,", "x"), [1, 2, -3])
    assert xml_text.decode_numbers(path, "1 2.5", "x").dtype == np.float64
    for text, reason in (("", "no samples"), ("1 b", "not all numbers"), (None, "no samples")):
        with pytest.raises(RecordError, match=reason):
            xml_text.decode_numbers(path, text, "x")
    for text, reason in (("", "no samples"), ("AAA", "damaged or truncated"), ("A*==", "damaged or truncated")):
        with pytest.raises(RecordError, match=reason):
            xml_text.decode_base64(path, text, "x")
    with pytest.raises(RecordError, match="3 bytes, not a whole number of samples"):
        xml_text.decode_int16(path, b"abc", "x", None)


def test_leads_of_different_lengths_are_refused() -> None:
    leads = files.eight_leads() | {"V6": files.beats(900)}
    with pytest.raises(RecordError, match="lead V6 has 900 samples and lead I has 1000"):
        reading.read(files.muse(leads).encode("latin-1"))


def test_the_twelve_leads_have_the_order_of_the_file() -> None:
    assert reading.read(files.schiller().encode()).leads == LEADS

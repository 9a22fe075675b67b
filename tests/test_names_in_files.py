"""No name or number of a person in a device's file reaches anything that is written, logged or raised."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import vendor_files
from command_line import invoke

from leadwise.data import ecg_files
from leadwise.data.cohort.prepare import write
from leadwise.data.formats import reading
from leadwise.data.recordings.recording import RecordError
from leadwise.data.sources.folder import Options, read_source

NAMES = ("Zzquirk", "zz4711", "zz99887", "24-DEC-2019", "10:21")
STATEMENTS = (
    ("Sinus rhythm", True),
    ("Confirmed by Ann Zzquirk, MD on 24-DEC-2019 10:21", True),
    ("Electronically signed by Dr. Zzquirk (zz4711)", True),
    ("When compared with ECG of 24-DEC-2019 10:21,", False),
    ("T wave abnormality now evident", True),
)
WATCH = (
    'Name,Ann Zzquirk\nDate of Birth,"Dec 24, 1960"\nRecorded Date,2019-12-24 10:21:00 +0000\nDevice,"Watch6,7"\n'
    "Sample Rate,512 hertz\n\n\nLead,Lead I\nUnit,µV\n\n"
)


def write_files(folder: Path) -> list[Path]:
    """A file of each text format; each lead is of another size, so that no two files have the same samples."""

    def leads(number: int) -> dict[str, np.ndarray]:
        return {name: samples // (number + 1) for name, samples in vendor_files.twelve_leads().items()}

    texts = [line for line, _ in STATEMENTS]
    contents = {
        "muse.xml": vendor_files.muse(leads(0), statements=STATEMENTS),
        "philips.xml": vendor_files.philips(leads(1), statements=texts),
        "aecg.xml": vendor_files.aecg(leads(2), statements=texts),
        "mortara.xml": vendor_files.mortara(leads(3)),
        "cardiosoft.xml": vendor_files.cardiosoft(leads(4)),
        "schiller.xml": vendor_files.schiller(leads(5)),
        "watch.csv": WATCH + "\n".join(map(str, vendor_files.beats(3000, 512).tolist())),
    }
    for name, content in contents.items():
        text = content
        for personal in ("Müller", "Miller", "Jörg", "Smith"):
            text = text.replace(personal, "Zzquirk")
        text = text.replace("4711", "zz4711").replace("99887", "zz99887")
        (folder / name).write_bytes(text.encode("utf-16" if 'encoding="UTF-16"' in text else "utf-8"))
    return [folder / name for name in contents]


def test_what_is_written_of_device_files_names_no_person(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ward = tmp_path / "ward"
    ward.mkdir()
    files = write_files(ward)
    assert all("Zzquirk" in file.read_bytes().replace(b"\0", b"").decode("latin-1") for file in files[:5])
    for file in files:
        recording = reading.read(file)
        assert not any(name in f"{recording!r} {recording.stated} {recording.statements}" for name in NAMES)
        assert recording.stated
    source = read_source(ward, Options(file_facts=True))
    assert write(source, tmp_path / "cohort").kept == len(files)
    converted = invoke("convert", ward, tmp_path / "wfdb")
    drawn = invoke("plot", ward / "muse.xml", "-o", tmp_path / "muse.svg")
    outputs = [caplog.text, converted.stdout, converted.stderr, drawn.stdout, drawn.stderr]
    written = [path for folder in ("cohort", "wfdb") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert len(written) > 2 * len(files)
    outputs += [path.read_bytes().decode("latin-1") for path in [*written, tmp_path / "muse.svg"]]
    assert not [name for name in NAMES for output in outputs if name in output]


def test_no_error_on_a_damaged_device_file_names_a_person(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    messages = []
    for file in write_files(tmp_path):
        content = file.read_bytes()
        for n_damaged in (1, 2, 4) * 12:
            damaged = bytearray(content)
            for place in rng.integers(0, min(len(content), 4000), n_damaged):
                damaged[place] = rng.integers(256)
            file.write_bytes(damaged[: len(damaged) if rng.random() < 0.7 else rng.integers(len(damaged))])
            try:
                reading.read(file)
            except RecordError as error:
                messages.append(str(error))
    assert len(messages) > 50
    assert ecg_files.beneath(tmp_path).paths
    assert not [message for message in messages if any(name in message for name in NAMES)]

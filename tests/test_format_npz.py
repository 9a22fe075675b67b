"""`.npz` files: one array of samples or many recordings, and what arrays beside it state."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leadwise.batch import LEADS
from leadwise.data.formats import npz, reading
from leadwise.data.recordings.recording import RecordError

VALUES = np.random.default_rng(0).normal(size=(300, 12))
GIVEN: dict[str, Any] = {"leads": LEADS, "rate_hz": 250, "units": "mV"}


@pytest.mark.parametrize("name", ["x", "signal", "anything"])
@pytest.mark.parametrize("turned", [True, False])
def test_one_recording(tmp_path: Path, name: str, turned: bool) -> None:
    np.savez(tmp_path / "a.npz", **{name: VALUES.T if turned else VALUES})
    np.testing.assert_array_equal(reading.read(tmp_path / "a.npz", **GIVEN).signal, VALUES)
    with pytest.raises(RecordError, match="does not state the leads, the sampling rate and the unit"):
        reading.read(tmp_path / "a.npz")
    assert reading.items(tmp_path / "a.npz") == ()


@pytest.mark.parametrize(
    "facts",
    [
        {"rate_hz": 500, "leads": np.array(LEADS), "units": "uV"},
        {
            "fs": np.array([500.0]),
            "sig_name": np.array([f"Lead {lead}" for lead in LEADS]),
            "units": np.array(["uV"] * 12),
        },
        {"sampling_rate": 500, "lead_names": ",".join(LEADS), "unit": b"microvolt"},
    ],
)
def test_what_the_file_states(tmp_path: Path, facts: dict[str, Any]) -> None:
    np.savez_compressed(tmp_path / "a.npz", ecg=VALUES.T, other=np.zeros((4, 7)), **facts)
    recording = reading.read(tmp_path / "a.npz", rate_hz=100, units="mV")
    assert (recording.leads, recording.rate_hz) == (LEADS, 500)
    np.testing.assert_allclose(recording.signal, VALUES / 1000)
    assert reading.read(tmp_path / "a.npz", leads=[*LEADS[:2], *"-" * 10]).leads == LEADS[:2]


def test_units_per_lead_and_a_channel_that_is_not_used(tmp_path: Path) -> None:
    facts = {"fs": 500, "leads": np.array(["I", "RESP", "V1"]), "units": np.array(["mV", "NU", "uV"])}
    np.savez(tmp_path / "a.npz", signal=VALUES[:, :3], **facts)
    recording = reading.read(tmp_path / "a.npz")
    assert (recording.leads, recording.unused) == (("I", "V1"), ("RESP",))
    np.testing.assert_allclose(recording.signal, VALUES[:, [0, 2]] * [1, 0.001])


def test_integers_stay_integers(tmp_path: Path) -> None:
    samples = (VALUES * 1000).astype(np.int16)
    np.savez(tmp_path / "a.npz", signal=samples)
    recording = reading.read(tmp_path / "a.npz", **(GIVEN | {"units": "uV"}))
    assert recording.digital is not None
    np.testing.assert_array_equal(recording.digital.samples, samples)


def test_many_recordings(tmp_path: Path) -> None:
    many = np.stack([VALUES.T, 2 * VALUES.T, 3 * VALUES.T])
    np.savez(tmp_path / "a.npz", x=many, fs=250, leads=LEADS)
    assert reading.items(tmp_path / "a.npz") == ("0", "1", "2")
    recordings = [reading.read(tmp_path / "a.npz", item=str(k), units="mV") for k in range(3)]
    for k, recording in enumerate(recordings):
        np.testing.assert_allclose(recording.signal, (k + 1) * VALUES)
    assert len({recording.sha256 for recording in recordings}) == 3
    np.save(tmp_path / "a.npy", many)
    given = GIVEN | {"units": "mV"}
    for k, recording in enumerate(recordings):  # the same samples from every file, and from bytes
        for source in (tmp_path / "a.npy", (tmp_path / "a.npy").read_bytes()):
            assert reading.read(source, item=str(k), **given).sha256 == recording.sha256
    with pytest.raises(RecordError, match="holds 3 recordings; name one \\(--item, item=: 0 to 2\\)"):
        reading.read(tmp_path / "a.npz", units="mV")
    with pytest.raises(RecordError, match="no item '3'"):
        reading.read(tmp_path / "a.npz", item="3", units="mV")


def test_damage_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=VALUES, b=VALUES)
    # names of several words may be a report: the file need not be an ECG
    np.savez(tmp_path / "words.npz", **{"a report of words": VALUES, "b": VALUES})
    with pytest.raises(RecordError, match=r"contains a longer text \(300, 12\), b \(300, 12\); the samples"):
        reading.read(tmp_path / "words.npz", **GIVEN)
    with pytest.raises(RecordError, match=r"contains a \(300, 12\), b \(300, 12\); the samples must be the only array"):
        reading.read(path, **GIVEN)
    np.savez(path, a=np.array(["text"]))
    with pytest.raises(RecordError, match="no array of numbers"):
        reading.read(path, **GIVEN)
    np.savez(path, a=np.array([{}], dtype=object), x=VALUES)
    np.testing.assert_array_equal(reading.read(path, **GIVEN).signal, VALUES)  # objects are never loaded
    np.savez(path, x=VALUES)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(RecordError, match=r"not a readable \.npz file"):
        reading.read(path, **GIVEN)
    np.savez(path, x=VALUES, leads=LEADS[:5])
    with pytest.raises(RecordError, match="has no single side of 5 leads"):
        reading.read(path, **(GIVEN | {"leads": None}))


def test_an_archive_that_promises_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1000, 12)))
    monkeypatch.setattr(npz, "_MAX_BYTES", 1000)
    with pytest.raises(RecordError, match=r"its array x.npy has 0.0 GB; save one .npy file"):
        reading.read(tmp_path / "a.npz", **GIVEN)


def test_matches(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=VALUES)
    assert npz.matches((tmp_path / "a.npz").read_bytes()[:4096])
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    assert not npz.matches((tmp_path / "b.zip").read_bytes())

"""From files to twelve leads to a model's input: the same ECG from every format, and one clear error for a bad file."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import wfdb
from command_line import invoke
from hypothesis import given, settings
from hypothesis import strategies as st

from leadwise.batch import LEADS, Signal
from leadwise.data.formats.reading import files, read
from leadwise.data.recordings.lead_algebra import EINTHOVEN
from leadwise.data.recordings.lead_names import standard_name
from leadwise.data.recordings.recording import Digital, RecordError, Recording
from leadwise.data.recordings.twelve_leads import conform, remarks, to_twelve_leads

REAL = Path(__file__).resolve().parents[1].parent / "shared" / "data"


def heart(rate_hz: float, duration_s: float = 10.0, seed: int = 0) -> np.ndarray:
    """A smooth made-up heart (T, 12) in mV that obeys the limb-lead algebra: waves of a fixed shape, any rate."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(rate_hz * duration_s)) / rate_hz
    signal = np.zeros((len(time), 12))
    waves = [(0.0, 0.012, 1.2), (-0.16, 0.03, 0.15), (0.28, 0.05, 0.35), (0.045, 0.012, -0.3)]
    gains = rng.uniform(0.3, 1.2, (len(waves), 12)) * np.sign(rng.normal(size=12))
    for beat in np.arange(0.5, duration_s, 0.83):
        for (delay, width, size), gain in zip(waves, gains):
            wave = size * np.exp(-0.5 * ((time - beat - delay) / width) ** 2)
            signal += wave[:, None] * gain
    for lead, (of_i, of_ii) in EINTHOVEN.items():
        signal[:, LEADS.index(lead)] = of_i * signal[:, 0] + of_ii * signal[:, 1]
    return signal


def write_wfdb(
    folder: Path,
    name: str,
    signal_mv: np.ndarray,
    rate_hz: float,
    leads: list[str],
    unit: str = "mV",
    gain: float = 1000,
) -> Path:
    """A WFDB record, format 16; `gain` is steps per `unit`."""
    per_mv = {"mV": 1.0, "uV": 1000.0, "V": 0.001}[unit]
    steps = np.where(np.isnan(signal_mv), -32768, np.rint(np.nan_to_num(signal_mv) * per_mv * gain)).astype(np.int64)
    n = len(leads)
    wfdb.wrsamp(
        name, fs=rate_hz, units=[unit] * n, sig_name=leads, d_signal=steps, fmt=["16"] * n, adc_gain=[gain] * n,
        baseline=[0] * n, write_dir=str(folder),
    )  # fmt: skip
    return folder / name


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------- read


def test_wfdb_is_read_with_or_without_suffix_and_keeps_its_integers(tmp_path: Path) -> None:
    signal = heart(500)
    path = write_wfdb(tmp_path, "a1", signal, 500, [lead.upper() for lead in LEADS])
    for given_path in (path, path.with_suffix(".hea"), path.with_suffix(".dat")):
        recording = read(given_path)
        assert recording.leads == LEADS
        assert recording.rate_hz == 500
        assert recording.digital is not None
        np.testing.assert_array_equal(recording.digital.samples, np.rint(signal * 1000))
        np.testing.assert_allclose(recording.signal, signal, atol=0.0005001)


@pytest.mark.parametrize(("unit", "gain"), [("mV", 1000), ("uV", 1), ("V", 1_000_000), ("mV", 200)])
def test_units_and_gains_become_millivolts(tmp_path: Path, unit: str, gain: float) -> None:
    signal = heart(250, 2.0)
    path = write_wfdb(tmp_path, "a1", signal, 250, list(LEADS), unit, gain)
    np.testing.assert_allclose(read(path).signal, signal, atol=0.51 * (1 if gain != 200 else 5) / 1000)


@pytest.mark.parametrize(("spelling", "encoding"), [("\u00b5V", "utf-8"), ("\u00b5V", "latin-1"), ("\u03bcV", "utf-8")])
def test_both_micro_signs_mean_microvolts(tmp_path: Path, spelling: str, encoding: str) -> None:
    signal = heart(250, 2.0)
    header = write_wfdb(tmp_path, "a1", signal, 250, list(LEADS), "uV", 1).with_suffix(".hea")
    text = header.read_text().replace("/uV", f"/{spelling}")
    header.write_bytes(text.encode(encoding))
    np.testing.assert_allclose(read(header).signal, signal, atol=0.00051)


def test_an_absent_unit_is_an_error_unless_given(tmp_path: Path) -> None:
    header = write_wfdb(tmp_path, "a1", heart(250, 2.0), 250, list(LEADS)).with_suffix(".hea")
    known = read(header).signal
    rewrite(header, "/mV", "")
    with pytest.raises(RecordError, match=r"a1\.hea: the file does not state the unit; pass it \(--units, units=\)"):
        read(header)
    np.testing.assert_array_equal(read(header, units="mV").signal, known)
    np.testing.assert_allclose(read(header, units="uV").signal, known / 1000)
    with pytest.raises(RecordError, match="given unit 'furlong' is not known; pass mV, uV, nV or V"):
        read(header, units="furlong")


def test_a_given_unit_never_replaces_a_stated_one_that_is_not_known(tmp_path: Path) -> None:
    """The remedy of the message works: the channel is left out by its name."""
    header = write_wfdb(tmp_path, "a1", heart(250, 2.0), 250, list(LEADS)).with_suffix(".hea")
    known = read(header).signal
    lines = header.read_text().splitlines()
    header.write_text("\n".join([lines[0], lines[1].replace("/mV", "/furlong"), *lines[2:]]) + "\n")
    for units in (None, "mV", "uV"):
        with pytest.raises(RecordError, match=r"a1\.hea: the file states the unit 'furlong', which is not a voltage"):
            read(header, units=units)
    recording = read(header, leads=["-", *LEADS[1:]])
    assert recording.leads == LEADS[1:]
    assert recording.unused == ("I",)
    np.testing.assert_array_equal(recording.signal, known[:, 1:])


@pytest.mark.parametrize(
    ("unit", "per_mv"), [("microvolt", 1000), ("millivolts", 1), ("nanovolt", 1e6), ("Volt", 0.001), ("MV", 1)]
)
def test_a_unit_may_be_a_word(tmp_path: Path, unit: str, per_mv: float) -> None:
    header = write_wfdb(tmp_path, "a1", heart(250, 2.0), 250, list(LEADS)).with_suffix(".hea")
    known = read(header).signal
    rewrite(header, "1000(0)/mV", f"{1000 / per_mv:g}(0)/{unit}")
    np.testing.assert_allclose(read(header, units="mV").signal, known, rtol=1e-9)


def test_the_headers_own_unit_overrides_the_given_one(tmp_path: Path) -> None:
    path = write_wfdb(tmp_path, "a1", heart(250, 2.0), 250, list(LEADS))
    np.testing.assert_array_equal(read(path, units="V", rate_hz=77).signal, read(path).signal)
    assert read(path, rate_hz=77).rate_hz == 250


def test_a_header_without_a_rate_uses_the_given_one(tmp_path: Path) -> None:
    path = write_wfdb(tmp_path, "a1", heart(500, 2.0), 500, list(LEADS))
    known = read(path).signal
    rewrite(path.with_suffix(".hea"), "a1 12 500 1000", "a1 12")
    recording = read(path, rate_hz=500)
    assert recording.rate_hz == 500
    np.testing.assert_array_equal(recording.signal, known)


def test_invalid_samples_are_nan(tmp_path: Path) -> None:
    signal = heart(250, 2.0)
    signal[10:20, 3] = np.nan
    read_mv = read(write_wfdb(tmp_path, "a1", signal, 250, list(LEADS))).signal
    np.testing.assert_array_equal(np.isnan(read_mv), np.isnan(signal))


def test_invalid_samples_of_packed_formats_are_nan(tmp_path: Path) -> None:
    steps = np.rint(heart(250, 2.0) * 200).astype(np.int64)
    steps[10:20, 3] = -2048  # what format 212 reserves
    wfdb.wrsamp(
        "a1", fs=250, units=["mV"] * 12, sig_name=list(LEADS), d_signal=steps, fmt=["212"] * 12, adc_gain=[200] * 12,
        baseline=[0] * 12, write_dir=str(tmp_path),
    )  # fmt: skip
    recording = read(tmp_path / "a1")
    np.testing.assert_array_equal(np.isnan(recording.signal), steps == -2048)
    assert recording.digital is not None
    np.testing.assert_array_equal(recording.digital.samples, np.where(steps == -2048, -32768, steps))


def test_a_matlab_file_as_the_challenges_hand_them_out(tmp_path: Path) -> None:
    """CinC: a MATLAB 4 matrix 'val' (12, T) of int16 behind 24 bytes, which its header calls format 16+24."""
    steps = np.rint(heart(500) * 1000).astype("<i2")
    head = np.array([30, 12, len(steps), 0, 4], dtype="<i4").tobytes() + b"val\0"
    (tmp_path / "a1.mat").write_bytes(head + steps.tobytes())
    lines = [f"a1 12 500 {len(steps)}"]
    for k, lead in enumerate(LEADS):
        checksum = int(steps[:, k].astype(np.int64).sum()) % 65536
        checksum -= 65536 * (checksum > 32767)  # written signed
        lines.append(f"a1.mat 16+24 1000/mV 16 0 {steps[0, k]} {checksum} 0 {lead}")
    (tmp_path / "a1.hea").write_text("\n".join(lines) + "\n#Age: 50\n")
    recording = read(tmp_path / "a1.mat")
    assert recording.leads == LEADS
    np.testing.assert_allclose(recording.signal, steps / 1000, atol=1e-9)


def _truncate(path: Path) -> None:
    data = path.with_suffix(".dat")
    data.write_bytes(data.read_bytes()[:-100])


def _flip(path: Path) -> None:
    data = bytearray(path.with_suffix(".dat").read_bytes())
    data[1000] ^= 4
    path.with_suffix(".dat").write_bytes(data)


def _edit(old: str, new: str):
    return lambda path: rewrite(path.with_suffix(".hea"), old, new)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, r"a1\.dat is truncated: 11900 bytes where its header promises 12000"),
        (_flip, "checksum"),
        (lambda path: path.with_suffix(".dat").unlink(), r"a1\.dat is missing"),
        (lambda path: path.with_suffix(".hea").unlink(), "no such file"),
        (lambda path: path.with_suffix(".hea").write_text(""), "header is empty"),
        (lambda path: path.with_suffix(".hea").write_text("\x00\x01 what"), "line 1"),
        (_edit("a1 12 250 500", "a1 13 250 500"), "promises 13 signals and describes 12"),
        (_edit("a1 12 250 500", "a1 12 0 500"), "rate 0 Hz"),
        (_edit("a1 12 250 500", "a1 12"), r"does not state the sampling rate; pass it \(--rate-hz, rate_hz=\)"),
        (_edit("a1 12 250 500", "a1 12 250 999999999999"), "implausible"),
        (_edit("a1 12 250 500", "a1 12 20000 500"), "sampling rate 20000 Hz is implausible"),
        (_edit("a1 12 250 500", "a1/30 12 250 500"), "promises 30 segments and lists 12"),
        (_edit("a1 12 250 500", "a1/3 12 250 500"), r"a1\.dat\.hea: no such file"),
        (_edit("1000(0)/mV", "1e-300(0)/mV"), "gain 1e-300 per mV, a step of 1e.303 uV, which is implausible"),
        (_edit("1000(0)/mV", "what(0)/mV"), "has the gain 'what.*', which is not a number"),
        (_edit("a1.dat", "../a1.dat"), "outside the header's folder"),
        (_edit("1000(0)/mV", "nan(0)/mV"), "lead 'I' has the gain nan"),
        (_edit("1000(0)/mV", "1e999(0)/mV"), "gain inf"),
        (_edit("1000(0)/mV", "0(0)/mV"), r"gain 0"),
        (_edit("V6", "V5"), "lead 'V5' appears twice"),
    ],
)
def test_damaged_wfdb_is_one_clear_error(tmp_path: Path, damage, message: str) -> None:
    path = write_wfdb(tmp_path, "a1", heart(250, 2.0), 250, list(LEADS))
    assert len(read(path).signal) == 500
    damage(path)
    with pytest.raises(RecordError, match=message) as caught:
        read(path)
    assert "a1" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32])
def test_npy_either_way_round(tmp_path: Path, dtype: type, turned: bool) -> None:
    microvolts = np.rint(heart(250, 2.0) * 1000).astype(dtype)
    np.save(tmp_path / "a.npy", microvolts.T if turned else microvolts)
    recording = read(tmp_path / "a.npy", leads=LEADS, rate_hz=250, units="uV")
    np.testing.assert_allclose(recording.signal, microvolts / 1000.0, atol=1e-9)
    assert (recording.digital is not None) == (np.dtype(dtype).kind == "i")


def test_npy_faults(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    options = {"leads": LEADS, "rate_hz": 250, "units": "mV"}
    np.save(path, np.zeros((12, 12)))
    with pytest.raises(RecordError, match="either way round"):
        read(path, **options)
    np.save(path, np.zeros((100, 7)))
    with pytest.raises(RecordError, match="no side of 12 leads"):
        read(path, **options)
    np.save(path, np.zeros((0, 12)))
    with pytest.raises(RecordError, match=r"readable|no sample"):
        read(path, **options)
    np.save(path, np.array([["a"] * 12] * 3))
    with pytest.raises(RecordError, match="must be numbers"):
        read(path, **options)
    np.save(path, np.array([[{}] * 12] * 3), allow_pickle=True)
    with pytest.raises(RecordError, match=r"a\.npy: not a readable"):
        read(path, **options)
    np.save(path, np.zeros((100, 12)))
    for missing in options:
        with pytest.raises(RecordError, match=rf"does not state the .*; pass (?:it|them) \(--.*, {missing}=\)"):
            read(path, **{name: value for name, value in options.items() if name != missing})
    with pytest.raises(
        RecordError, match=r"the leads, the sampling rate and the unit; pass them .*leads=.*rate_hz=.*units="
    ):
        read(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(RecordError, match="not a readable"):
        read(path, **options)


def test_csv_names_its_leads_or_they_are_given(tmp_path: Path) -> None:
    signal = np.round(heart(250, 1.0), 4)[:, :3]
    path = tmp_path / "a.csv"
    np.savetxt(path, signal, delimiter=",", header="I,ii,III", comments="", fmt="%.4f")
    recording = read(path, rate_hz=250, units="mV")
    assert recording.leads == ("I", "II", "III")
    np.testing.assert_allclose(recording.signal, signal)
    np.savetxt(path, signal, delimiter=",", fmt="%.4f")
    np.testing.assert_allclose(read(path, leads=["V1", "V2", "V3"], rate_hz=250, units="mV").signal, signal)
    with pytest.raises(RecordError, match="it does not name its channels"):
        read(path, rate_hz=250, units="mV")
    path.write_text("I,II\n0.1,\n0.2,0.3\n")
    assert np.isnan(read(path, rate_hz=250, units="mV").signal[0, 1])
    path.write_text("I,II\n0.1,oops\n")
    with pytest.raises(RecordError, match="line 2: lead 'II' is 'oops', which is not a number"):
        read(path, rate_hz=250, units="mV")
    path.write_bytes("I,II\n0.1,0.2\n\xff".encode("latin-1"))
    with pytest.raises(RecordError, match="line 3 has 1 cells where 2 are expected"):
        read(path, rate_hz=250, units="mV")


def test_given_leads_replace_the_names_in_a_file(tmp_path: Path) -> None:
    signal = np.round(heart(250, 1.0), 4)[:, :3]
    path = tmp_path / "a.csv"
    np.savetxt(path, signal, delimiter=",", header="II,i,filtered", comments="", fmt="%.4f")
    recording = read(path, rate_hz=250, units="mV")
    assert (recording.leads, recording.unused) == (("II", "I"), ("filtered",))
    recording = read(path, leads=["I", "-", "V1"], rate_hz=250, units="mV")
    assert (recording.leads, recording.unused) == (("I", "V1"), ("i",))
    np.testing.assert_allclose(recording.signal, signal[:, [0, 2]])
    with pytest.raises(
        RecordError, match=r"a\.csv: it has 3 channels \(II, i, filtered\) and 2 leads are given \(I, II\)"
    ):
        read(path, leads=["I", "II"], rate_hz=250, units="mV")


@pytest.mark.parametrize(
    ("name", "lead"),
    [
        ("ECG I", "I"), ("Lead II", "II"), ("I (mV)", "I"), ("MDC_ECG_LEAD_AVR", "aVR"), ("lead_i", "I"), ("aVR lead", "aVR"),
        ("C4", "V4"), ("D2", "II"), ("DIII", "III"), ("MLII", "II"), ("EKG V1", "V1"), ("I-REF", "I"), ("leadV5", "V5"),
        ("Lead I (Einthoven)", "I"), ("avf", "aVF"), (" V6 ", "V6"), ("V1 [µV]", "V1"),
        ("ECG I filtered", "ECG I filtered"), ("-aVR", "-aVR"), ("V3R", "V3R"), ("V7", "V7"), ("RESP", "RESP"), ("V", "V"),
        ("lead", "lead"), ("", ""), ("X", "X"), ("1", "1"), ("mV", "mV"),
    ],
)  # fmt: skip
def test_the_standard_name_of_a_lead(name: str, lead: str) -> None:
    assert standard_name(name) == lead


def test_recorded_leads_under_other_names_are_used(tmp_path: Path) -> None:
    names = ["MLII", "II", "C1", "ECG I", "ECG I filtered", "RESP"]
    signal = heart(250, 2.0)[:, :6]
    recording = read(write_wfdb(tmp_path, "a1", signal, 250, names))
    assert (recording.leads, recording.unused) == (("II", "V1", "I"), ("MLII", "ECG I filtered", "RESP"))
    np.testing.assert_allclose(recording.signal, signal[:, 1:4], atol=0.00051)
    recording = read(write_wfdb(tmp_path, "a2", signal[:, :1], 250, ["MLII"]))
    assert recording.remarks == ("MLII, recorded from the torso, is used as lead II",)


def test_no_lead_at_all_is_an_error_whose_remedy_works(tmp_path: Path) -> None:
    path = write_wfdb(tmp_path, "a1", heart(250, 2.0)[:, :2], 250, ["X", "Y"])
    with pytest.raises(RecordError, match=r"none of its channels \(X, Y\) is one of the leads I, .*--leads, leads="):
        read(path)
    assert read(path, leads=["-", "V1"]).leads == ("V1",)


def test_a_given_lead_that_is_none_of_the_twelve_is_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", heart(250, 1.0)[:, :2])
    with pytest.raises(RecordError, match=r"a\.npy: the given lead 'aVFF' is none of .*nearest: 'aVF'"):
        read(tmp_path / "a.npy", leads=["I", "aVFF"], rate_hz=250, units="mV")


@pytest.mark.parametrize("suffix", [".NPY", ".Csv"])
def test_a_suffix_in_capitals_means_the_same(tmp_path: Path, suffix: str) -> None:
    signal = np.round(heart(250, 1.0), 4)
    path = tmp_path / f"a{suffix}"
    with path.open("wb") as out:
        if suffix == ".NPY":
            np.save(out, signal)
        else:
            np.savetxt(out, signal, delimiter=",", fmt="%.4f")
    np.testing.assert_allclose(read(path, leads=LEADS, rate_hz=250, units="mV").signal, signal)
    assert files(path) == (path,)


# ----------------------------------------------------------------------------------------------------------- twelve


def recording(signal: np.ndarray, leads: tuple[str, ...] = LEADS, rate_hz: float = 500) -> Recording:
    return Recording("a1", signal, leads, rate_hz)


def test_limb_leads_are_derived_and_chest_leads_never_invented() -> None:
    signal = heart(500)
    present = [0, 1, 6, 9]
    twelve = to_twelve_leads(recording(signal[:, present], tuple(LEADS[k] for k in present)))
    for lead, name in enumerate(LEADS):
        origin = twelve.quality[lead].origin
        if lead in present:
            assert origin == "recorded"
            np.testing.assert_array_equal(twelve.signal[:, lead], signal[:, lead])
        elif name in EINTHOVEN:
            assert origin == "derived"
            np.testing.assert_allclose(twelve.signal[:, lead], signal[:, lead], atol=1e-12)
        else:
            assert origin == "missing"
            assert np.isnan(twelve.signal[:, lead]).all()
            assert not twelve.quality[lead].flat
    assert twelve.lead_order == "unchecked"


def test_a_header_with_a_lead_missing_is_read_without_inventing_it(tmp_path: Path) -> None:
    signal = heart(500)
    present = [k for k in range(12) if LEADS[k] not in ("aVL", "V4")]
    path = write_wfdb(tmp_path, "a1", signal[:, present], 500, [LEADS[k] for k in present])
    twelve = to_twelve_leads(read(path))
    assert [quality.origin for quality in twelve.quality].count("recorded") == 10
    assert twelve.quality[LEADS.index("aVL")].origin == "derived"
    assert twelve.quality[LEADS.index("V4")].origin == "missing"
    ecg, observed = conform(twelve.signal, 500, Signal())
    assert not observed[LEADS.index("V4")].any()
    assert not ecg[LEADS.index("V4")].any()
    assert observed[LEADS.index("aVL")].all()


def test_a_limb_lead_recorded_as_nothing_is_derived() -> None:
    signal = heart(500)
    known = signal[:, 2].copy()
    signal[:, 2] = np.nan
    twelve = to_twelve_leads(recording(signal))
    assert twelve.quality[2].origin == "derived"
    np.testing.assert_allclose(twelve.signal[:, 2], known, atol=1e-12)


def test_no_limb_lead_is_derived_from_one_alone() -> None:
    twelve = to_twelve_leads(recording(heart(500)[:, [0, 7]], ("I", "V2")))
    assert [quality.origin for quality in twelve.quality].count("missing") == 10


def test_a_file_without_any_of_the_twelve_is_an_error() -> None:
    with pytest.raises(RecordError, match="it has EEG, resp"):
        to_twelve_leads(recording(heart(500)[:, :2], ("EEG", "resp")))


def test_leads_beside_the_twelve_are_named_once_for_all_files(caplog: pytest.LogCaptureFixture) -> None:
    leads = ("I", "C1", "II", "C2")
    for order in ([0, 1, 2, 3], [0, 2, 3, 1]):
        twelve = to_twelve_leads(recording(heart(500)[:, order], tuple(leads[k] for k in order)))
        assert f"not used: {', '.join(twelve.unused)}" in remarks(twelve)
        assert set(twelve.unused) == {"C1", "C2"}
    assert caplog.text.count("not used: C1, C2") == 1
    assert to_twelve_leads(recording(heart(500))).unused == ()


@pytest.mark.parametrize(("factor", "doubted"), [(1000.0, True), (0.001, True), (1.0, False)])
def test_a_signal_a_thousand_times_off_is_questioned(caplog, factor: float, doubted: bool) -> None:
    signal = heart(500) * factor
    signal[:, 8] = 0.0
    signal[2000:2010] += 32.7  # a lone spike in every lead decides nothing
    twelve = to_twelve_leads(recording(signal))
    questions = [line for line in (*remarks(twelve), caplog.text) if "is the unit right?" in line]
    assert len(questions) == (2 if doubted else 0)
    assert bool(twelve.unit_doubt) == doubted
    assert ("record a1: its leads range over" in caplog.text) == doubted
    assert (twelve.typical_range_mv > 20) == (factor > 1)


def test_a_recording_without_any_movement_raises_no_question_of_units() -> None:
    assert to_twelve_leads(recording(np.full((500, 12), 0.3))).unit_doubt == ""
    assert to_twelve_leads(recording(heart(500) * ([1.0] + [0.0] * 11))).unit_doubt == ""


def test_quality_counts_gaps_and_flags_flat_leads() -> None:
    signal = heart(500)
    signal[100:120, 2] = np.nan  # 40 ms: bridged
    signal[200:221, 2] = np.nan  # 42 ms: not
    signal[-5:, 2] = np.nan  # at the end: nothing to bridge to
    signal[:, 8] = 0.7
    quality = to_twelve_leads(recording(signal)).quality
    assert (quality[2].n_missing, quality[2].n_short_gaps, quality[2].n_long_gaps) == (46, 1, 2)
    assert [lead_quality.flat for lead_quality in quality] == [lead == 8 for lead in range(12)]
    assert quality[0].max_abs_mv == np.abs(signal[:, 0]).max()


@pytest.mark.parametrize(("first", "second"), [("aVL", "aVF"), ("I", "II"), ("III", "aVR")])
def test_swapped_rows_are_found_by_algebra_and_named(caplog, first: str, second: str) -> None:
    names = list(LEADS)
    at, to = LEADS.index(first), LEADS.index(second)
    names[at], names[to] = second, first
    with caplog.at_level(logging.WARNING):
        twelve = to_twelve_leads(recording(heart(500), tuple(names)))
    assert twelve.lead_order == f"{first}/{second} swapped"
    assert "a1" in caplog.text
    assert f"{first}/{second} swapped" in caplog.text


def test_an_inverted_lead_is_named_and_noise_or_a_spike_is_forgiven(caplog) -> None:
    signal = heart(500)
    rng = np.random.default_rng(0)
    assert to_twelve_leads(recording(signal + rng.normal(0, 0.01, signal.shape))).lead_order == "ok"
    spiked = signal.copy()
    spiked[1000:1010, 3] += 30.0
    assert to_twelve_leads(recording(spiked)).lead_order == "ok"
    assert not caplog.text
    signal[:, 3] *= -1
    assert to_twelve_leads(recording(signal)).lead_order == "aVR inverted"
    signal[:, 5] = rng.normal(size=len(signal))
    assert to_twelve_leads(recording(signal)).lead_order == "inconsistent"


def test_three_limb_leads_are_enough_to_doubt_one() -> None:
    signal = heart(500)
    assert to_twelve_leads(recording(signal[:, :3], LEADS[:3])).lead_order == "ok"
    assert to_twelve_leads(recording(signal[:, [1, 0, 2]], LEADS[:3])).lead_order == "inconsistent"
    assert to_twelve_leads(recording(signal[:, [0, 1, 7]], ("I", "II", "V2"))).lead_order == "unchecked"


# ---------------------------------------------------------------------------------------------------------- conform


@settings(max_examples=15, deadline=None)
@given(
    order=st.permutations(range(12)),
    rate_hz=st.sampled_from([250, 500, 1000]),
    unit=st.sampled_from(["mV", "uV", "V"]),
    seed=st.integers(0, 50),
)
def test_the_same_heart_in_any_order_rate_and_unit_conforms_to_one_array(
    tmp_path_factory, order: list[int], rate_hz: int, unit: str, seed: int
) -> None:
    gain = {"mV": 4000, "uV": 4, "V": 4_000_000}[unit]
    folder = tmp_path_factory.mktemp("heart")
    path = write_wfdb(
        folder, "a1", heart(rate_hz, seed=seed)[:, order], rate_hz, [LEADS[k].lower() for k in order], unit, gain
    )
    target = Signal(rate_hz=500, duration_s=10.0)
    recording = to_twelve_leads(read(path))
    ecg, observed = conform(recording.signal, recording.rate_hz, target)
    assert ecg.dtype == np.float32
    assert observed.all()
    expected = heart(500, seed=seed).T
    np.testing.assert_allclose(ecg[:, :-20], expected[:, :-20], atol=0.003)
    np.testing.assert_allclose(ecg[:, -20:], expected[:, -20:], atol=0.03)  # past the last sample of a slower file
    assert recording.lead_order == "ok"


def test_a_signal_at_the_requested_rate_is_passed_through_exactly() -> None:
    signal = heart(500)
    ecg, observed = conform(signal, 500, Signal())
    np.testing.assert_array_equal(ecg, signal.T.astype(np.float32))
    assert observed.all()


@pytest.mark.parametrize("rate_hz", [100, 128, 257, 360, 999.8])
def test_awkward_rates(rate_hz: float) -> None:
    ecg, observed = conform(heart(rate_hz), rate_hz, Signal(rate_hz=500))
    assert ecg.shape == (12, 5000)
    assert observed.mean() > 0.997
    inside = slice(100, 4900)
    np.testing.assert_allclose(ecg[:, inside], heart(500).T[:, inside], atol=0.003)


def test_resampling_does_not_ring_at_the_ends_of_an_offset_record() -> None:
    ecg, _ = conform(np.full((2570, 12), 3.0), 257, Signal())
    np.testing.assert_allclose(ecg, 3.0, atol=1e-3)
    slope = np.linspace(-2, 5, 5000)[:, None].repeat(12, axis=1)
    ecg, _ = conform(slope, 500, Signal(rate_hz=100))
    np.testing.assert_allclose(ecg[0], slope[::5, 0], atol=2e-3)


def test_a_short_record_is_padded_and_marked() -> None:
    signal = heart(500, 3.0)
    ecg, observed = conform(signal, 500, Signal())
    assert ecg.shape == (12, 5000)
    np.testing.assert_array_equal(ecg[:, :1500], signal.T.astype(np.float32))
    assert observed[:, :1500].all()
    assert not observed[:, 1500:].any()
    assert not ecg[:, 1500:].any()


@pytest.mark.parametrize("rate_hz", [500, 257, 1000])
def test_a_long_record_is_windowed_as_if_the_whole_had_been_resampled(rate_hz: int) -> None:
    signal = heart(rate_hz, 31.0)
    whole, _ = conform(signal, rate_hz, Signal(duration_s=31.0))
    first, _ = conform(signal, rate_hz, Signal())
    centre, observed = conform(signal, rate_hz, Signal(window="center"))
    np.testing.assert_allclose(first, whole[:, :5000], atol=1e-5)
    np.testing.assert_allclose(centre, whole[:, 5250:10250], atol=1e-5)
    assert observed.all()
    with pytest.raises(ValueError, match=r"signal\.window = 'random': must be 'first' or 'center'"):
        Signal(window="random")  # type: ignore[arg-type]


@pytest.mark.parametrize("rate_hz", [500, 1000, 257])
def test_short_gaps_are_bridged_and_long_ones_marked_on_that_lead_alone(rate_hz: int) -> None:
    whole = heart(rate_hz)
    signal = whole.copy()
    at = round(2.62 * rate_hz)
    n_short = int(0.040 * rate_hz)
    signal[at : at + n_short, 3] = np.nan
    signal[5 * rate_hz : 6 * rate_hz, 4] = np.nan
    signal[:, 9] = np.nan
    ecg, observed = conform(signal, rate_hz, Signal())
    expected, _ = conform(whole, rate_hz, Signal())
    assert observed[3].all()
    assert np.abs(ecg[3] - expected[3]).max() < 0.02
    assert not observed[4, 2501:3000].any()
    assert observed[4, :2495].all()
    assert observed[4, 3005:].all()
    assert not ecg[4, 2501:3000].any()
    assert not observed[9].any()
    assert not ecg[9].any()
    for lead in (0, 1, 2, 5, 6, 7, 8, 10, 11):
        assert observed[lead].all()
        np.testing.assert_array_equal(ecg[lead], expected[lead])


def test_bridging_is_a_straight_line() -> None:
    signal = heart(500)
    signal[1000:1020, 0] = np.nan
    ecg, observed = conform(signal, 500, Signal())
    line = np.linspace(signal[999, 0], signal[1020, 0], 22)
    np.testing.assert_allclose(ecg[0, 999:1021], line, atol=1e-6)
    assert observed[0].all()
    signal[1000:1021, 0] = np.nan  # one sample more than 40 ms
    ecg, observed = conform(signal, 500, Signal())
    assert not observed[0, 1000:1021].any()
    assert observed[0].sum() == 5000 - 21


def test_leads_come_in_the_requested_order() -> None:
    signal = heart(500)
    ecg, observed = conform(signal, 500, Signal(leads=("V5", "II")))
    np.testing.assert_array_equal(ecg, signal[:, [10, 1]].T.astype(np.float32))
    assert observed.shape == (2, 5000)


# ------------------------------------------------------------------------------------------------------------- real


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="the real ECGs are not beside this checkout")
def test_real_records_conform_and_their_limb_leads_agree() -> None:
    flat_chest = set()
    for folder, every in (("chapman", 1), ("cpsc_2018", 2), ("ptb-xl/records500", 3), ("ptb-xl/records100", 60)):
        for header in sorted((REAL / folder).rglob("*.hea"))[::every]:
            twelve = to_twelve_leads(read(header))
            assert twelve.lead_order == "ok", header
            assert twelve.unit_doubt == "", header
            ecg, observed = conform(twelve.signal, twelve.rate_hz, Signal())
            assert np.isfinite(ecg).all()
            assert observed[:, : min(5000, round(len(twelve.signal) * 500 / twelve.rate_hz) - 5)].all()
            if any(quality.flat for quality in twelve.quality):
                flat_chest.add(header.stem)
    assert flat_chest == {"JS11438", "JS20004", "JS20008", "JS45542", "JS45544", "JS45551"}


# ------------------------------------------------------------------------------------- channels, padding, derived leads


def test_other_channels_make_no_recording_unreadable(tmp_path: Path) -> None:
    """A channel that is no lead may have any unit, gain, storage, file or name."""
    path = write_wfdb(tmp_path, "a1", heart(250, 2.0), 250, list(LEADS))
    known = read(path).signal
    header = path.with_suffix(".hea")
    lines = header.read_text().splitlines()
    others = [
        "x.dat 16 10(0)/mmHg 16 0 0 0 0 ABP",
        "y.dat 16x4 nan(0)/l/min 16 zero 0 none 0 Flow",
        "../z.dat 212 0 16 0 0 0 0 I2",
    ]
    header.write_text("\n".join([lines[0].replace("a1 12", "a1 15"), *lines[1:13], *others]) + "\n")
    recording = read(path)
    np.testing.assert_array_equal(recording.signal, known)
    assert recording.unused == ("ABP", "Flow", "I2")
    assert "not used: ABP, Flow, I2" in remarks(to_twelve_leads(recording))


def test_a_channel_with_more_samples_a_frame_is_not_used(tmp_path: Path) -> None:
    """Frames of one sample of each lead and four of a channel that is no lead."""
    steps = np.rint(heart(250, 2.0)[:, :2] * 1000).astype("<i2")
    frames = np.hstack([steps[:, :1], np.arange(4 * len(steps)).reshape(-1, 4), steps[:, 1:]]).astype("<i2")
    (tmp_path / "a1.dat").write_bytes(frames.tobytes())
    (tmp_path / "a1.hea").write_text(
        "a1 3 250 500\na1.dat 16 1000/mV 16 0 0 0 0 I\na1.dat 16x4 10/NU 16 0 0 0 0 RESP\na1.dat 16 1000/mV 16 0 0 0 0 II\n"
    )
    recording = read(tmp_path / "a1")
    assert (recording.leads, recording.unused, recording.rate_hz) == (("I", "II"), ("RESP",), 250)
    np.testing.assert_array_equal(recording.digital.samples, steps)


def test_leads_with_several_samples_a_frame_have_a_higher_rate(tmp_path: Path) -> None:
    steps = np.arange(1000).reshape(250, 4).astype("<i2")
    frames = np.hstack([steps, np.zeros((250, 1))]).astype("<i2")
    (tmp_path / "a1.dat").write_bytes(frames.tobytes())
    (tmp_path / "a1.hea").write_text(
        "a1 2 125 250\na1.dat 16x4 1000/mV 16 0 0 0 0 I\na1.dat 16 10/NU 16 0 0 0 0 RESP\n"
    )
    recording = read(tmp_path / "a1")
    assert recording.rate_hz == 500
    np.testing.assert_array_equal(recording.digital.samples[:, 0], np.arange(1000))


def test_skewed_signals_are_aligned(tmp_path: Path) -> None:
    """A sample of time t is stored in frame t + skew; the checksum is that of the stored samples."""
    signal = np.rint(heart(250, 2.0)[:, :2] * 1000).astype("<i2")
    stored = signal.copy()
    stored[3:, 1] = signal[:-3, 1]
    (tmp_path / "a1.dat").write_bytes(stored.tobytes())
    sums = stored.astype(np.int64).sum(axis=0) % 65536
    (tmp_path / "a1.hea").write_text(
        f"a1 2 250 500\na1.dat 16 1000/mV 16 0 0 {sums[0]} 0 I\na1.dat 16:3 1000/mV 16 0 0 {sums[1]} 0 II\n"
    )
    recording = read(tmp_path / "a1")
    np.testing.assert_array_equal(recording.digital.samples[:-3], signal[:-3])
    assert np.isnan(recording.signal[-3:, 1]).all()


def test_placeholders_of_a_header(tmp_path: Path) -> None:
    """0 samples means "not stated"; a checksum 0 is not compared, another one is."""
    path = write_wfdb(tmp_path, "a1", heart(250, 2.0), 250, list(LEADS))
    known, header = read(path).signal, path.with_suffix(".hea")
    rewrite(header, "a1 12 250 500", "a1 12 250 0")
    np.testing.assert_array_equal(read(path).signal, known)
    fields = [line.split() for line in header.read_text().splitlines()]
    header.write_text(
        "\n".join(" ".join([*row[:6], "0", *row[7:]]) if len(row) > 7 else " ".join(row) for row in fields)
    )
    np.testing.assert_array_equal(read(path).signal, known)
    assert read(path).remarks == ()
    rewrite(header, "a1 12 250 0", "a1 12 250 500")
    assert read(path).remarks == ("the checksums of 12 leads are the placeholder 0 and were not compared",)


def test_names_with_a_folder_or_in_capitals(tmp_path: Path) -> None:
    path = write_wfdb(tmp_path, "a1", heart(250, 2.0), 250, list(LEADS))
    known, header = read(path).signal, path.with_suffix(".hea")
    header.write_text(header.read_text().replace("a1 12", "set/a1 12").replace("a1.dat", "set/a1.dat"))
    np.testing.assert_array_equal(read(path).signal, known)
    header.rename(tmp_path / "R0.HEA")
    path.with_suffix(".dat").rename(tmp_path / "A1.DAT")
    np.testing.assert_array_equal(read(tmp_path / "R0.HEA").signal, known)


def test_segments_are_joined(tmp_path: Path) -> None:
    """Variable layout: a layout segment, two segments with different leads, and a gap between them."""
    signal = heart(250, 2.0)
    write_wfdb(tmp_path, "s1", signal[:200], 250, list(LEADS))
    write_wfdb(tmp_path, "s2", signal[300:, :2], 250, ["I", "II"])
    (tmp_path / "m_layout.hea").write_text(
        "m_layout 12 250 0\n" + "".join(f"~ 0 1000/mV 0 0 0 0 0 {lead}\n" for lead in LEADS)
    )
    (tmp_path / "m.hea").write_text("m/4 12 250 500\nm_layout 0\ns1 200\n~ 100\ns2 200\n")
    recording = read(tmp_path / "m")
    assert recording.leads == LEADS
    assert recording.signal.shape == (500, 12)
    np.testing.assert_allclose(recording.signal[:200], signal[:200], atol=0.00051)
    assert np.isnan(recording.signal[200:300]).all()
    np.testing.assert_allclose(recording.signal[300:, :2], signal[300:, :2], atol=0.00051)
    assert np.isnan(recording.signal[300:, 2:]).all()
    names = {file.name for file in files(tmp_path / "m")}
    assert {"m.hea", "s1.hea", "s1.dat", "s2.hea", "s2.dat"} <= names

    # a segment without a lead is a gap; a damaged one with leads is not
    write_wfdb(tmp_path, "s3", signal[:100, :1], 250, ["PLETH"])
    rewrite(tmp_path / "m.hea", "~ 100", "s3 100")
    np.testing.assert_array_equal(read(tmp_path / "m").signal, recording.signal)
    (tmp_path / "s2.dat").write_bytes(b"")
    with pytest.raises(RecordError, match=r"s2\.dat is truncated"):
        read(tmp_path / "m")


def test_given_leads_name_the_signals_of_all_segments(tmp_path: Path) -> None:
    signal = heart(250, 2.0)[:, :3]
    write_wfdb(tmp_path, "s1", signal[:300], 250, ["A", "B", "C"])
    write_wfdb(tmp_path, "s2", signal[300:, [2, 0]], 250, ["C", "A"])
    (tmp_path / "m.hea").write_text("m/2 3 250 500\ns1 300\ns2 200\n")
    recording = read(tmp_path / "m", leads=["I", "-", "V1"])
    assert set(recording.leads) == {"I", "V1"}
    columns = [recording.leads.index(lead) for lead in ("I", "V1")]
    np.testing.assert_allclose(recording.signal[:, columns], signal[:, [0, 2]], atol=0.00051)
    with pytest.raises(RecordError, match=r"it has 3 channels .* and 4 leads are given"):
        read(tmp_path / "m", leads=["I", "-", "V1", "V2"])


def test_segments_that_contradict_the_record_are_one_error(tmp_path: Path) -> None:
    write_wfdb(tmp_path, "s1", heart(250, 1.0), 250, list(LEADS))
    (tmp_path / "m.hea").write_text("m/1 12 250 300\ns1 300\n")
    with pytest.raises(RecordError, match="segment s1 has 250 samples, and the record's header states 300"):
        read(tmp_path / "m")
    (tmp_path / "m.hea").write_text("m/1 12 250 250\nm 250\n")  # itself
    with pytest.raises(RecordError, match="its segment m is a record of segments itself"):
        read(tmp_path / "m")
    assert {file.name for file in files(tmp_path / "m")} == {"m.hea"}


@pytest.mark.parametrize("pair", [("I", "II"), ("I", "III"), ("II", "III")])
def test_two_limb_leads_give_the_others(pair: tuple[str, str]) -> None:
    signal = heart(250, 2.0)
    chosen = [LEADS.index(lead) for lead in (*pair, "V1")]
    twelve = to_twelve_leads(Recording("a", signal[:, chosen], (*pair, "V1"), 250))
    np.testing.assert_allclose(twelve.signal[:, :7], signal[:, :7], atol=1e-12)
    origins = [quality.origin for quality in twelve.quality]
    assert origins[:6] == ["recorded" if lead in pair else "derived" for lead in LEADS[:6]]
    assert origins[6:] == ["recorded"] + ["missing"] * 5


@pytest.mark.parametrize("is_digital", [True, False])
@pytest.mark.parametrize("n_leads", [12, 3])
def test_padding_at_the_ends_is_not_observed(is_digital: bool, n_leads: int) -> None:
    signal = np.round(heart(250, 4.0) + np.random.default_rng(0).normal(0, 0.01, (1000, 12)), 3)[:, :n_leads]
    signal[150], signal[-251] = 0.1, 0.1
    signal[:150], signal[-250:] = 0.0, 0.0
    steps = np.rint(signal * 1000).astype(np.int16)
    digital = Digital(steps, np.full(n_leads, 1.0), np.zeros(n_leads, dtype=np.int32))
    recording = Recording("a", None if is_digital else signal, LEADS[:n_leads], 250, digital if is_digital else None)
    twelve = to_twelve_leads(recording)
    assert np.isnan(twelve.signal[:150]).all()
    assert np.isnan(twelve.signal[-250:]).all()
    assert np.isfinite(twelve.signal[150:-250, :n_leads]).all()
    assert "padding of 0.60 s at the start and 1.00 s at the end left out" in remarks(twelve)
    np.testing.assert_array_equal(recording.signal[:150], 0.0)  # the input is untouched


@pytest.mark.parametrize("is_digital", [True, False])
def test_padding_is_recognised_beside_a_lead_that_is_missing(is_digital: bool) -> None:
    """A gap at an end of every lead is no padding: it is missing already, and there is no remark on it."""
    steps = np.random.default_rng(0).integers(-300, 300, (1000, 12)).astype(np.int16)
    steps[:200], steps[:, 4] = 0, -32768
    digital = Digital(steps, np.ones(12), np.zeros(12, dtype=np.int32))
    recording = Recording(
        "a", None if is_digital else digital.millivolts(), LEADS, 250, digital if is_digital else None
    )
    assert "padding of 0.80 s at the start and 0.00 s at the end left out" in remarks(to_twelve_leads(recording))
    steps[:200] = -32768
    recording = Recording(
        "a", None if is_digital else digital.millivolts(), LEADS, 250, digital if is_digital else None
    )
    assert not any("padding" in remark for remark in remarks(to_twelve_leads(recording)))


def test_what_is_not_padding_stays() -> None:
    signal = heart(250, 4.0)
    flat_lead = signal.copy()
    flat_lead[:500, 3] = 0.0  # one lead alone: an electrode was off
    short = signal.copy()
    short[:40] = 0.0  # 0.16 s
    for table in (flat_lead, short, np.zeros((1000, 12))):
        assert np.isfinite(to_twelve_leads(Recording("a", table, LEADS, 250)).signal).all()


@pytest.mark.parametrize("units", ["mV", "uV"])
def test_convert_writes_what_was_read(tmp_path: Path, units: str) -> None:
    np.save(tmp_path / "a b.npy", heart(250, 2.0)[:, [0, 1, 6]] * (1000 if units == "uV" else 1))
    options = ("--leads", "I,II,V1", "--rate-hz", "250", "--units", units)
    invoke("convert", tmp_path / "a b.npy", tmp_path / "out", *options)
    recording = read(tmp_path / "out" / "a_b")
    known = read(tmp_path / "a b.npy", leads=["I", "II", "V1"], rate_hz=250, units=units)
    np.testing.assert_allclose(recording.signal, known.signal, atol=0.00051)

    # a second conversion changes no sample; derived leads are added on request
    again = invoke("convert", tmp_path / "out" / "a_b.hea", tmp_path / "again", "--derive")
    assert (again.returncode, "1 records written" in again.stdout) == (0, True)
    twelve = read(tmp_path / "again" / "a_b")
    assert twelve.leads == ("I", "II", "V1", "III", "aVR", "aVL", "aVF")
    np.testing.assert_array_equal(twelve.digital.samples[:, :3], recording.digital.samples)
    np.testing.assert_allclose(twelve.signal[:, 3:], to_twelve_leads(recording).signal[:, 2:6], atol=0.00051)

    # nothing is overwritten unless requested
    failed = invoke("convert", tmp_path / "out" / "a_b.hea", tmp_path / "again")
    assert failed.returncode == 1
    assert "exists already; pass --overwrite" in failed.stdout + failed.stderr
    assert invoke("convert", tmp_path / "out" / "a_b.hea", tmp_path / "again", "--overwrite").returncode == 0


def test_convert_writes_two_records_of_files_with_one_name(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    table = np.random.default_rng(0).normal(size=(500, 2))
    np.save(tmp_path / "in" / "a.npy", table)
    np.savetxt(tmp_path / "in" / "A.csv", 2 * table, delimiter=",", header="I,II", comments="")
    ended = invoke(
        "convert",
        tmp_path / "in",
        tmp_path / "out",
        "--leads",
        "I,II",
        "--rate-hz",
        "250",
        "--units",
        "mV",
        "--overwrite",
    )
    assert ended.returncode == 0, ended.stderr
    assert sorted(path.name for path in (tmp_path / "out").glob("*.hea")) == ["A_csv.hea", "a_npy.hea"]


def test_convert_of_a_folder_goes_on_after_a_bad_file(tmp_path: Path) -> None:
    write_wfdb(tmp_path, "a1", heart(250, 2.0), 250, list(LEADS))
    write_wfdb(tmp_path, "a2", heart(250, 2.0), 250, list(LEADS)).with_suffix(".dat").unlink()
    ended = invoke("convert", tmp_path, tmp_path / "out")
    assert ended.returncode == 1
    assert "1 of 2 files were not converted" in ended.stdout + ended.stderr
    np.testing.assert_array_equal(read(tmp_path / "out" / "a1").signal, read(tmp_path / "a1").signal)

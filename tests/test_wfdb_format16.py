"""The fast ways are only fast: a plain record as `wfdb` reads it, a whole recording as looking at each lead judges it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from leadwise.batch import LEADS
from leadwise.data.formats import wfdb_format16, wfdb_header
from leadwise.data.formats.reading import files, read
from leadwise.data.recordings import lead_algebra
from leadwise.data.recordings.quality import (
    FLAT_MV,
    MARGIN_MV,
    PLAUSIBLE_MV,
    integer_quality,
)
from leadwise.data.recordings.recording import Digital, RecordError, Recording
from leadwise.data.recordings.twelve_leads import TwelveLead, to_twelve_leads

REAL = Path(__file__).resolve().parents[1].parent / "shared" / "data"
MISSING = -32768
NAMES = (*LEADS, "V7", "V8", "V9")


def write(folder: Path, samples: np.ndarray, record_line: str, signal_line: str, head: bytes = b"") -> Path:
    """A plain record: `signal_line` takes {file}, {first}, {checksum} and {name}."""
    (folder / "a1.dat").write_bytes(head + samples.astype("<i2").tobytes())
    lines = [record_line]
    n_promised = int([*record_line.split(), len(samples)][3])
    for k in range(samples.shape[1]):
        checksum = int(samples[:n_promised, k].astype(np.int64).sum()) % 65536
        checksum -= 65536 * (checksum > 32767)  # written signed
        lines.append(signal_line.format(file="a1.dat", first=samples[0, k], checksum=checksum, name=NAMES[k]))
    (folder / "a1.hea").write_text("\n".join(lines) + "\n# a comment\n", encoding="utf-8")
    return folder / "a1"


def noise(n_samples: int, n_leads: int, seed: int = 0) -> np.ndarray:
    """Every int16 there is, among them missing ones."""
    rng = np.random.default_rng(seed)
    samples = rng.integers(-32768, 32768, (n_samples, n_leads)).astype(np.int16)
    samples[rng.random(samples.shape) < 0.05] = MISSING
    samples[0, 0], samples[-1, -1] = MISSING, 32767
    return samples


def assert_as_wfdb_reads(path: Path, actual: Recording) -> None:
    known = wfdb.rdrecord(str(path.with_suffix("")), physical=False, channels=list(range(len(actual.leads))))
    assert actual.digital is not None
    assert actual.digital.samples.dtype == np.int16
    assert np.array_equal(actual.digital.samples, known.d_signal), path
    assert actual.digital.baseline.tolist() == known.baseline, path
    assert actual.digital.uv_per_step.tolist() == [1000.0 / gain for gain in known.adc_gain], path
    assert [name.casefold() for name in actual.leads] == [name.casefold() for name in known.sig_name], path
    assert actual.rate_hz == known.fs, path
    gone = known.d_signal == MISSING
    in_mv = (known.d_signal - np.array(known.baseline)) * (actual.digital.uv_per_step / 1000.0)
    assert np.array_equal(actual.signal, np.where(gone, np.nan, in_mv), equal_nan=True), path
    assert np.allclose(actual.signal, known.dac(), rtol=1e-13, atol=0.0, equal_nan=True), path


# ------------------------------------------------------------------------------------------------------------- read


@pytest.mark.parametrize("n_leads", [1, 3, 12, 15])
@pytest.mark.parametrize("n_samples", [1, 2, 499, 5000])
def test_any_number_of_leads_and_samples(tmp_path: Path, n_samples: int, n_leads: int) -> None:
    line = "{file} 16 1000.0(0)/mV 16 0 {first} {checksum} 0 {name}"
    path = write(tmp_path, noise(n_samples, n_leads), f"a1 {n_leads} 500 {n_samples}", line)
    actual = read(path)
    assert wfdb_format16.is_plain(wfdb_header.parse(path.with_suffix(".hea").read_bytes()))
    assert_as_wfdb_reads(path, actual)
    assert actual.digital is not None
    assert actual.digital.samples.T.flags.c_contiguous  # each lead in one piece
    assert actual.digital.samples.flags.writeable


@pytest.mark.parametrize(
    "record_line",
    [
        "a1 4 500 700",
        "a1 4 500 600",  # the file holds more than the header promises
        "a1 4 500",  # as many as the file holds
        "a1 4 360.5 700",
        "a1 4 500/500(0) 700 12:30:00",
        "a1 4 500 700 10:00:00 01/01/2150",
        "a1 4 500 700 12-May-2020 12:33:59",
    ],
)
@pytest.mark.parametrize("stored", ["16", "16x1", "16:0", "16+24", "16x1:0+24"])
@pytest.mark.parametrize(
    "rest",
    [
        "1000(0)/mV 16 0 {first} {checksum} 0 {name}",
        "200.0(0)/mV 16 0 {first} {checksum} 0 {name}",
        "200/mV 16 0 {first} {checksum} 0 {name}",
        "200/mV 16 57 {first} {checksum} 0 {name}",  # the ADC's zero is the baseline
        "200(-1024)/mV 16 57 {first} {checksum} 0 {name}",  # unless one is stated
        "2.5e2(12) 16 0 {first} {checksum} 0 {name}",
        "1000 12 -3",
        "1000/mV",
    ],
)
def test_header_variants(tmp_path: Path, record_line: str, stored: str, rest: str) -> None:
    head = b"head" * 6 if "+24" in stored else b""
    path = write(tmp_path, noise(700, 4), record_line, f"{{file}} {stored} {rest}", head)
    named = "name" in rest
    actual = read(path, units="mV", leads=None if named else ("I", "II", "V1", "V2"))
    assert wfdb_format16.is_plain(wfdb_header.parse(path.with_suffix(".hea").read_bytes()))
    if named:
        assert_as_wfdb_reads(path, actual)
    else:
        known = wfdb.rdrecord(str(path), physical=False)
        assert actual.digital is not None
        np.testing.assert_array_equal(actual.digital.samples, known.d_signal)
        assert actual.digital.baseline.tolist() == known.baseline
        assert actual.leads == ("I", "II", "V1", "V2")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a1.dat 16 ", "a1.dat 16:3 "),  # every lead lags behind
        ("# a comment", "b1.dat 16 1000 16 0\n# a comment"),  # one line more than promised
    ],
)
def test_whatever_is_not_plain_is_left_to_wfdb(tmp_path: Path, monkeypatch, old: str, new: str) -> None:
    path = write(tmp_path, np.arange(1, 2101).reshape(700, 3), "a1 3 500 700", "{file} 16 1000 16 0")
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace(old, new))
    assert not wfdb_format16.is_plain(wfdb_header.parse(header.read_bytes()))
    known = wfdb.rdrecord(str(path), physical=False)
    monkeypatch.setattr(wfdb_format16, "samples", None)
    actual = read(path, leads=("I", "II", "III"), units="mV")
    assert actual.digital is not None
    assert np.array_equal(actual.digital.samples, known.d_signal)
    assert np.isnan(actual.signal[-3:]).all() == (":3" in new)


@pytest.mark.parametrize("fmt", ["212", "80", "24", "32"])
def test_other_formats_are_left_to_wfdb(tmp_path: Path, fmt: str) -> None:
    steps = np.random.default_rng(0).integers(-100, 100, (500, 3))
    wfdb.wrsamp(
        "a1", fs=500, units=["mV"] * 3, sig_name=["I", "II", "V1"], d_signal=steps, fmt=[fmt] * 3, adc_gain=[100] * 3,
        baseline=[7] * 3, write_dir=str(tmp_path),
    )  # fmt: skip
    actual = read(tmp_path / "a1")
    assert not wfdb_format16.is_plain(wfdb_header.parse((tmp_path / "a1.hea").read_bytes()))
    assert not actual.contents
    np.testing.assert_allclose(actual.signal, (steps - 7) / 100, rtol=1e-13)


def test_leads_in_two_files_are_left_to_wfdb(tmp_path: Path) -> None:
    steps = np.random.default_rng(0).integers(-100, 100, (500, 2))
    wfdb.wrsamp(
        "a1", fs=500, units=["mV"] * 2, sig_name=["I", "II"], d_signal=steps, fmt=["16", "212"], adc_gain=[100] * 2,
        baseline=[0] * 2, write_dir=str(tmp_path),
    )  # fmt: skip
    np.testing.assert_allclose(read(tmp_path / "a1").signal, steps / 100, rtol=1e-13)
    assert [path.name for path in files(tmp_path / "a1")] == ["a1.hea", "a1_1.dat", "a1_2.dat"]


def test_damage_to_a_plain_record_is_said(tmp_path: Path) -> None:
    line = "{file} 16 1000(0)/mV 16 0 {first} {checksum} 0 {name}"
    path = write(tmp_path, noise(700, 3), "a1 3 500", line)
    data = path.with_suffix(".dat")
    whole = data.read_bytes()
    data.write_bytes(whole[:-6])  # no count in the header: the checksum tells
    with pytest.raises(RecordError, match="lead 'I' has checksum"):
        read(path)
    data.write_bytes(whole[:5])
    with pytest.raises(RecordError, match="no sample"):
        read(path)
    data.unlink()
    with pytest.raises(RecordError, match=r"a1\.dat is missing"):
        read(path)
    data.mkdir()
    with pytest.raises(RecordError, match=r"a1\.dat is missing"):
        read(path)
    write(tmp_path / "a1.dat", noise(700, 3), "a1 3 500 700", line.replace("(0)", "(99999999999)"))
    with pytest.raises(RecordError, match=r"cannot be read .*restore it"):
        read(data / "a1")


def test_a_recording_knows_its_files_and_their_checksum(tmp_path: Path) -> None:
    line = "{file} 16 1000(0)/mV 16 0 {first} {checksum} 0 {name}"
    plain = read(write(tmp_path, noise(700, 3), "a1 3 500 700", line))
    assert len(plain.contents) == 2
    wfdb.wrsamp(
        "b1", fs=500, units=["mV"], sig_name=["I"], d_signal=np.ones((500, 1), dtype=int), fmt=["212"], adc_gain=[100],
        baseline=[0], write_dir=str(tmp_path),
    )  # fmt: skip
    np.save(tmp_path / "c1.npy", np.zeros((500, 1), dtype=np.int16))
    (tmp_path / "d1.csv").write_text("I\n0.1\n0.2\n")
    others = [
        read(tmp_path / "b1"),
        read(tmp_path / "c1.npy", leads=["I"], rate_hz=500, units="uV"),
        read(tmp_path / "d1.csv", rate_hz=500, units="mV"),
    ]
    for actual, path in zip((plain, *others), ("a1", "b1", "c1.npy", "d1.csv")):
        assert actual.files == files(tmp_path / path)
        contents = b"".join(file.read_bytes() for file in actual.files)
        assert actual.sha256 == hashlib.sha256(contents).hexdigest()


def test_a_plain_record_is_read_and_judged_without_importing_wfdb(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-999, 999, (700, 12))
    path = write(tmp_path, samples, "a1 12 500 700", "{file} 16 1000(0)/mV")
    program = (
        "import sys; from pathlib import Path; from leadwise.batch import LEADS; from leadwise.data.formats.reading import read; "
        "from leadwise.data.recordings.twelve_leads import to_twelve_leads; "
        f"to_twelve_leads(read(Path({str(path)!r}), leads=LEADS)); print('wfdb' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


# ----------------------------------------------------------------------------------------------------------- twelve


def judged_lead_by_lead(recording: Recording, order: list[int]) -> TwelveLead:
    """The slow way: the same recording as millivolts."""
    signal = recording.signal[:, order]
    return to_twelve_leads(Recording(recording.name, signal, LEADS, recording.rate_hz))


def assert_judged_alike(recording: Recording, order: list[int]) -> TwelveLead:
    """`order` says which column of the recording each of the twelve leads is."""
    actual, known = to_twelve_leads(recording), judged_lead_by_lead(recording, order)
    signal = actual.signal if actual.remarks else recording.signal[:, order]  # a remark: its padding is missing
    np.testing.assert_array_equal(actual.signal, known.signal)
    assert actual.lead_order == known.lead_order
    assert actual.unit_doubt == known.unit_doubt
    assert actual.n_samples == len(signal)
    np.testing.assert_allclose(actual.typical_range_mv, known.typical_range_mv, rtol=1e-12)
    ranges = [np.ptp(np.percentile(lead[~np.isnan(lead)], (1, 99))) for lead in signal.T if not np.isnan(lead).all()]
    if actual.plausible:
        assert PLAUSIBLE_MV[0] <= min(ranges)
        assert max(ranges) <= PLAUSIBLE_MV[1]
    for lead, quality, slow in zip(signal.T, actual.quality, known.quality):
        assert quality[:5] == slow[:5]
        np.testing.assert_allclose(quality.max_abs_mv, slow.max_abs_mv, rtol=1e-12)
        observed = lead[~np.isnan(lead)]
        if len(observed) and quality.origin == "recorded":
            assert quality.n_missing == len(lead) - len(observed)
            assert quality.flat == (observed.std() < FLAT_MV)
            assert quality.max_abs_mv == np.abs(observed).max()
    return actual


def beats(rng: np.random.Generator, n_samples: int, steps_per_mv: float) -> np.ndarray:
    """Twelve leads in steps (T, 12) that obey the limb-lead algebra but for rounding: slow waves and narrow beats."""
    time = np.arange(n_samples)[:, None]
    beat = np.exp(-0.5 * (((time % 417) - 200) / 8.0) ** 2)
    signal = beat * rng.normal(0, 1.0, 12) + 0.1 * np.sin(time / 90.0) * rng.normal(0, 1.0, 12)
    signal += rng.normal(0, 0.005, signal.shape)
    for lead, (of_i, of_ii) in lead_algebra.EINTHOVEN.items():
        signal[:, LEADS.index(lead)] = of_i * signal[:, 0] + of_ii * signal[:, 1]
    return signal * steps_per_mv


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_samples=st.sampled_from([1, 2, 49, 50, 51, 100, 101, 600, 1000, 4321]),
    uv_per_step=st.sampled_from([0.097, 0.97, 2.44, 4.88, 30.0]),  # none makes a residual that is the tolerance itself
    size=st.sampled_from([0.002, 0.05, 1.0, 1.0, 1.0, 5.0]),
    faults=st.sets(
        st.sampled_from(
            ["gap", "lost", "flat", "nearly flat", "spike", "swap", "invert", "offset", "noise", "gain", "baseline"]
        ),
        max_size=4,
    ),
)
def test_integers_are_judged_as_each_lead_alone_would_be(
    seed: int, n_samples: int, uv_per_step: float, size: float, faults: set[str]
) -> None:
    rng = np.random.default_rng(seed)
    steps = beats(rng, n_samples, size * 1000.0 / uv_per_step)
    lead, other = (int(k) for k in rng.choice(12, 2, replace=False))
    limb, second = (int(k) for k in rng.choice(6, 2, replace=False))
    uv, baseline = np.full(12, uv_per_step), np.zeros(12, dtype=np.int32)
    if "noise" in faults:
        steps += rng.normal(0, rng.choice([10.0, 50.0, 500.0]) / uv_per_step, steps.shape)
    if "flat" in faults:
        steps[:, lead] = 7
    if "nearly flat" in faults:
        steps[:, other] = rng.normal(0, rng.choice([0.9, 1.1, 5.0]) / uv_per_step, n_samples)
    if "spike" in faults:
        steps[rng.integers(0, n_samples, 1 + n_samples // 120), limb] += rng.choice([-1, 1]) * 30_000 / uv_per_step
    if "swap" in faults:
        steps[:, [limb, second]] = steps[:, [second, limb]]
    if "invert" in faults:
        steps[:, limb] *= -1
    if "offset" in faults:
        steps += rng.integers(-3000, 3000, 12)
    if "gain" in faults:
        uv[second] *= 2
    if "baseline" in faults:
        baseline[:] = rng.integers(-5000, 5000, 12)
    samples = np.clip(np.rint(steps), -32767, 32767).astype(np.int16)
    if "gap" in faults:
        begin = int(rng.integers(0, n_samples))
        samples[begin : begin + int(rng.integers(1, 40)), lead] = MISSING
    if "lost" in faults:
        samples[:, other] = MISSING
    order = rng.permutation(12)
    digital = Digital(samples[:, order], uv[order], baseline[order])
    recording = Recording("a1", None, tuple(LEADS[k] for k in order), 500.0, digital)
    actual = assert_judged_alike(recording, np.argsort(order).tolist())
    assert actual.plausible <= (not faults & {"gap", "lost"})


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), n_samples=st.sampled_from([1, 2, 7, 100, 1000, 4321]))
def test_what_counting_shows_is_true(seed: int, n_samples: int) -> None:
    rng = np.random.default_rng(seed)
    spread = rng.choice([3.0, 20.0, 100.0, 3000.0], 12)
    samples = np.clip(rng.gamma(0.5, spread, (n_samples, 12)) + rng.normal(0, 5, 12), -32767, 32767).T.astype(np.int16)
    mv_per_step = rng.choice([0.0001, 0.001, 0.005, 0.03], 12)
    actual = integer_quality(samples, np.zeros(12, dtype=np.int32), mv_per_step)
    assert actual is not None
    away_mv = np.abs(np.median(samples, axis=1) - actual.middle) * mv_per_step
    assert (away_mv[actual.is_near] <= MARGIN_MV * (1 + 1e-12)).all()


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_samples=st.sampled_from([50, 51, 99, 100, 101, 1000]),
    noise_mv=st.floats(0.005, 0.02),
    off_by_mv=st.sampled_from([0.001, 0.005, 0.01]),
)
def test_equations_hold_where_the_audit_says_so(seed: int, n_samples: int, noise_mv: float, off_by_mv: float) -> None:
    """Noise about as large as what the audit forgives, skewed so that a wrong middle may make it look smaller."""
    rng = np.random.default_rng(seed)
    step = 0.00097  # mV; no whole number of half steps is the audit's tolerance, so that rounding decides nothing
    limb = np.rint(rng.exponential(noise_mv / step, (6, n_samples)) + rng.normal(0, 1000, (6, 1))).astype(np.int16)
    medians = np.median(limb, axis=1)
    is_ok = lead_algebra.check_limb_leads(dict(zip(lead_algebra.LIMB_LEADS, limb * step))) == lead_algebra.OK
    assert lead_algebra.equations_hold(limb, medians, step, off_by_mv=0.0) == is_ok
    near = medians + rng.choice([-1, 1], 6) * off_by_mv / step
    assert lead_algebra.equations_hold(limb, near, step, off_by_mv) <= is_ok


def test_a_sound_recording_is_seen_to_be_sound_by_counting(monkeypatch) -> None:
    """So that the fast way is the usual one, not only a correct one."""

    def slow(*_args, **_kwargs):
        raise AssertionError("judged the slow way")

    for n_samples in (1000, 5000):
        samples = np.rint(beats(np.random.default_rng(n_samples), n_samples, 1000)).astype(np.int16)
        recording = Recording("a1", None, LEADS, 500.0, Digital(samples, np.ones(12), np.zeros(12, dtype=np.int32)))
        with monkeypatch.context() as patch:
            patch.setattr(lead_algebra, "check_limb_leads", slow)
            patch.setattr(Digital, "millivolts", slow)
            actual = to_twelve_leads(recording)
        assert actual.plausible
        assert actual.lead_order == "ok"
        assert actual.given is None
        assert actual.digital is recording.digital


# ------------------------------------------------------------------------------------------------------------- real


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="the real ECGs do not lie beside this checkout")
@pytest.mark.parametrize("folder", ["chapman", "cpsc_2018", "ptb-xl/records500", "ptb-xl/records100"])
def test_every_real_record_is_read_as_wfdb_reads_it(folder: str) -> None:
    headers = sorted((REAL / folder).rglob("*.hea"))
    assert headers
    n_plausible = 0
    for number, header in enumerate(headers):
        actual = read(header)
        assert actual.contents, header  # the fast way
        assert_as_wfdb_reads(header, actual)
        if number % 7 == 0 or folder == "chapman":
            n_plausible += assert_judged_alike(actual, [actual.leads.index(lead) for lead in LEADS]).plausible
    assert n_plausible > 0.1 * len(headers)

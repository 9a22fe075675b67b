"""Which recordings become part of a cohort: by the samples that are left, and by amplitudes that an ECG can have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from vendor_files import eight_leads, muse

from leadwise.batch import LEADS
from leadwise.data.audit.audit import audit_cohort
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.packing import implausible_amplitude, unusable_reason
from leadwise.data.cohort.prepare import write
from leadwise.data.recordings.recording import Digital, Recording
from leadwise.data.recordings.twelve_leads import to_twelve_leads
from leadwise.data.sources.folder import Options, read_source


def noise(n_samples: int = 2500, n_leads: int = 12) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.3, (n_samples, n_leads)).round(3)


def print_of(signal: np.ndarray, with_rhythm_strip: bool = True) -> np.ndarray:
    """The signal (T, 12) as on a print of 3 rows and 4 columns: each lead in its quarter, II in all of it."""
    table = np.full(signal.shape, np.nan)
    quarter = len(signal) // 4
    for lead in range(12):
        place = slice(lead // 3 * quarter, (lead // 3 + 1) * quarter)
        table[place, lead] = signal[place, lead]
    if with_rhythm_strip:
        table[:, 1] = signal[:, 1]
    return table


@pytest.mark.parametrize("with_rhythm_strip", [True, False])
def test_a_digitised_print_becomes_a_recording_of_a_cohort(tmp_path: Path, with_rhythm_strip: bool) -> None:
    signal = print_of(noise(), with_rhythm_strip)
    lines = [",".join(LEADS), *(",".join("" if np.isnan(x) else f"{1000 * x:.0f}" for x in row) for row in signal)]
    (tmp_path / "ecgs").mkdir()
    (tmp_path / "ecgs" / "p1.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "manifest.csv").write_text("path\necgs/p1.csv\n")
    write(read_source(tmp_path / "manifest.csv", Options(rate_hz=250, units="uV")), tmp_path / "out")
    stored, _ = Cohort.open(tmp_path / "out").signal(0)
    np.testing.assert_allclose(stored, signal, atol=0.0006)
    assert Cohort.open(tmp_path / "out").index["lead_order"].tolist() == ["unchecked"]


@pytest.mark.parametrize(
    ("n_observed", "n_samples", "is_usable"),
    [(250, 2500, True), (249, 2500, False), (0, 2500, False), (100, 100, True), (60, 100, True), (40, 100, False)],
)
def test_a_recording_is_useful_by_what_is_left(n_observed: int, n_samples: int, is_usable: bool) -> None:
    """At 250 Hz: one second in one lead, or half of a recording that is shorter."""
    table = np.full((n_samples, 12), np.nan)
    table[:n_observed, 4] = noise(n_observed, 1)[:, 0]
    table[:1, 0] = 0.1
    reason = unusable_reason(to_twelve_leads(Recording("a", table, LEADS, 250)))
    assert (reason is None) == is_usable
    if reason is not None:
        assert reason[0] == "nan"
        assert "its longest lead has" in reason[1]


def test_amplitudes_that_no_ecg_has_are_refused_with_the_number(tmp_path: Path) -> None:
    signal = noise()
    signal[:, 3] += 300.0  # an offset of an electrode is no amplitude
    assert implausible_amplitude(to_twelve_leads(Recording("a", signal, LEADS, 250))) == ""
    signal[700, 7] = -51.5
    message = implausible_amplitude(to_twelve_leads(Recording("a", signal, LEADS, 250)))
    assert "record a: lead V2 deviates by 51.5 mV from its median; no ECG exceeds 50 mV" in message
    np.save(tmp_path / "a.npy", signal)
    (tmp_path / "m.csv").write_text("path\na.npy\n")
    source = read_source(tmp_path / "m.csv", Options(LEADS, 250, "mV"))
    with pytest.raises(CohortError, match=r"lead V2 deviates by 51\.5 mV"):
        write(source, tmp_path / "out")


def test_channels_that_are_not_used_are_in_the_index_and_in_the_audit(tmp_path: Path) -> None:
    for name, extra in (("a", "RESP"), ("b", "RESP,ECG I filtered")):
        table = noise(2500, 12 + extra.count(",") + 1) + len(extra)
        header = ",".join(LEADS) + "," + extra
        np.savetxt(tmp_path / f"{name}.csv", table, delimiter=",", header=header, comments="", fmt="%.3f")
    (tmp_path / "m.txt").write_text("path\na.csv\nb.csv\n")
    write(read_source(tmp_path / "m.txt", Options(rate_hz=250, units="mV")), tmp_path / "out")
    cohort = Cohort.open(tmp_path / "out")
    assert [list(names) for names in cohort.index["unused_leads"]] == [["RESP"], ["RESP", "ECG I filtered"]]
    (finding,) = [one for one in audit_cohort(cohort).findings if one.check == "channels not used"]
    assert (finding.severity, finding.n, finding.of) == ("note", 2, 2)
    assert "Channels: RESP 2, ECG I filtered 1." in finding.message


@pytest.mark.parametrize("lead", range(12))
def test_integers_and_millivolts_are_refused_alike(lead: int) -> None:
    steps = np.rint(noise() * 100).astype(np.int16)
    steps[3, lead] = 6000
    digital = Digital(steps, np.full(12, 10.0), np.zeros(12, dtype=np.int32))
    of_integers = implausible_amplitude(to_twelve_leads(Recording("a", None, LEADS, 250, digital)))
    of_floats = implausible_amplitude(to_twelve_leads(Recording("a", digital.millivolts(), LEADS, 250)))
    assert of_integers == of_floats != ""


def test_facts_and_report_are_read_from_the_files(tmp_path: Path) -> None:
    """Where the table has none: age, sex, device, year and the device's statements; the table's own values stay."""
    statements = (("Sinus bradycardia", True), ("Left axis deviation", True), ("Confirmed by DOE, JANE (17)", True))
    for name, n_samples in (("a", 5000), ("b", 4000)):
        (tmp_path / f"{name}.xml").write_text(muse(eight_leads(n_samples), statements=statements), encoding="latin-1")
    (tmp_path / "m.csv").write_text("path,age,report\na.xml,,\nb.xml,50,normal ecg\n")
    write(read_source(tmp_path / "m.csv", Options(file_facts=True)), tmp_path / "out", min_report_words=1)
    index = Cohort.open(tmp_path / "out").index
    assert index["report"].tolist() == ["sinus bradycardia. left axis deviation.", "normal ecg."]
    assert index["age"].tolist() == [1.5, 50.0]
    assert index["sex"].tolist() == ["female", "female"]
    assert index["device"].tolist() == ["MAC", "MAC"]
    assert index["year"].tolist() == [2019, 2019]
    assert all("4711" not in str(value) and "ller" not in str(value) for value in index.to_numpy().ravel())

"""The simulated data set: its files, its patients, and the rules that its ECGs must follow."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb

import leadwise.evaluate
from leadwise.batch import LEADS
from leadwise.data import reports
from leadwise.data.cohort.layout import CohortError
from leadwise.data.formats import reading
from leadwise.data.recordings.twelve_leads import to_twelve_leads as as_twelve_leads
from leadwise.data.simulator.acquisition import Device, capture, write_wfdb
from leadwise.data.simulator.findings import EXCLUDES, FINDINGS, RHYTHMS
from leadwise.data.simulator.heart import (
    Waves,
    bounds_ms,
    render,
    twelve_leads,
    waves,
)
from leadwise.data.simulator.patients import (
    Patient,
    Presentation,
    draw_patients,
    draw_presentation,
)
from leadwise.data.simulator.reports import (
    HEDGE,
    OMISSION,
    PHRASES,
    write_report,
)
from leadwise.data.simulator.tracing import draw_tracing
from leadwise.data.sources.simulated import read_source, simulate
from leadwise.data.sources.source import check

N = 240


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("data") / "sim", N, seed=5)


@pytest.fixture(scope="module")
def records(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "records.csv", keep_default_na=False)


@pytest.fixture(scope="module")
def truth(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "truth.csv", keep_default_na=False)


def presentations(n: int, seed: int) -> list[tuple[Patient, Presentation]]:
    patients = draw_patients(n, seed)
    return [
        (patient, draw_presentation(patient, np.random.default_rng([9, patient.number, k])))
        for patient in patients
        for k in range(patient.n_ecgs)
    ]


def drawn(code: str, seed: int = 2) -> tuple[Patient, Presentation]:
    return next(pair for pair in presentations(400, seed) if code in pair[1].findings)


# --------------------------------------------------------------------------------------------------- heart and leads


def test_einthoven_holds_exactly_and_the_derived_leads_to_rounding() -> None:
    for patient, presentation in presentations(12, 0):
        leads = dict(
            zip(LEADS, twelve_leads(draw_tracing(patient, np.random.default_rng(1), 250, presentation).leads).T)
        )
        assert np.array_equal(leads["III"], leads["II"] - leads["I"])
        np.testing.assert_allclose(leads["aVR"], -(leads["I"] + leads["II"]) / 2, atol=1e-12)
        np.testing.assert_allclose(leads["aVL"], (leads["I"] - leads["III"]) / 2, atol=1e-12)
        np.testing.assert_allclose(leads["aVF"], (leads["II"] + leads["III"]) / 2, atol=1e-12)


def test_r_grows_and_s_shrinks_across_the_chest_of_healthy_hearts() -> None:
    healthy = [pair for pair in presentations(300, 1) if "NORM" in pair[1].findings][:25]
    ratios = []
    for patient, presentation in healthy:
        chest = twelve_leads(draw_tracing(patient, np.random.default_rng(3), 250, presentation).leads)[:, 6:]
        r, s = chest.max(axis=0), -chest.min(axis=0)
        ratios.append(r / (r + s))
        assert r[0] < s[0], "V1 is mostly negative"
        assert r[4] > s[4], "V5 is mostly positive"
    mean = np.mean(ratios, axis=0)
    assert (np.diff(mean[:5]) > 0).all(), "on average each chest lead up to V5 is more positive than the one before"
    assert mean[5] > 0.8, "V6 has its septal q and no S to speak of"


def test_a_rendered_wave_is_the_requested_gaussian_at_any_rate() -> None:
    event = waves([(500.0, 20.0, 40.0, 30.0, 1.0, -0.5, 0.25), (900.0, 8.0, 8.0, 0.0, 0.0, 2.0, 0.0)])
    for rate_hz in (100, 250, 1000):
        at_ms = np.arange(round(1.2 * rate_hz)) * 1000 / rate_hz
        vector = render(event, len(at_ms), rate_hz)
        np.testing.assert_allclose(vector, event.along(at_ms), atol=5e-4)
        x = vector[:, 0]
        rise, fall = at_ms < 500, at_ms > 530
        np.testing.assert_allclose(x[rise], np.exp(-0.5 * ((at_ms[rise] - 500) / 20) ** 2), atol=5e-4)
        np.testing.assert_allclose(x[~rise & ~fall], 1.0)
        np.testing.assert_allclose(x[fall], np.exp(-0.5 * ((at_ms[fall] - 530) / 40) ** 2), atol=5e-4)


def test_events_beyond_the_record_leave_no_trace_but_their_flanks() -> None:
    outside: Waves = waves([(-500, 10, 10, 0, 1, 1, 1), (5000, 10, 10, 0, 1, 1, 1)])
    assert not render(outside, 250, 250).any()
    assert render(waves([(-10, 10, 10, 0, 1, 0, 0)]), 250, 250)[0, 0] == pytest.approx(np.exp(-0.5))


def test_stretching_a_loop_stretches_its_duration() -> None:
    loop = waves([(-20, 9, 9, 0, -0.2, 0, -0.3), (5, 9, 9, 0, 1, 0.9, 0.3), (26, 9, 10, 0, 0, -0.2, 0.6)])
    onset, end = bounds_ms(loop)
    longer = bounds_ms(loop.stretched(1.5))
    assert longer[1] - longer[0] == pytest.approx(1.5 * (end - onset), abs=2)


def test_the_same_heart_has_the_same_leads_at_every_rate() -> None:
    for code in ("NORM", "CLBBB", "AFLT"):
        patient, presentation = drawn(code)
        fine = draw_tracing(patient, np.random.default_rng(8), 1000, presentation)
        for rate_hz in (100, 250, 500):
            coarse = draw_tracing(patient, np.random.default_rng(8), rate_hz, presentation)
            np.testing.assert_equal(coarse.truth, fine.truth)
            np.testing.assert_allclose(coarse.leads, fine.leads[:: 1000 // rate_hz], atol=0.02)


# ---------------------------------------------------------------------------------------------------------- findings


def test_findings_obey_their_exclusions_and_implications() -> None:
    all_findings = set()
    for _, presentation in presentations(1500, 3):
        findings = presentation.findings
        all_findings |= findings
        assert findings <= set(FINDINGS)
        assert len(findings & set(RHYTHMS)) == 1
        assert presentation.rhythm in findings
        assert "LAD" in findings or "LAFB" not in findings
        assert "RAD" in findings or "RVH" not in findings
        assert ("NORM" in findings) == (findings <= {"SR", "NORM"})
        implied = {"LAD"} if "LAFB" in findings else set()
        for code in findings - implied:
            assert not (findings - implied) & set(EXCLUDES.get(code, ())), f"{code} beside {sorted(findings)}"
    assert all_findings == set(FINDINGS)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_finding_is_frequent_enough_to_be_scored(seed: int) -> None:
    pairs = presentations(1500, seed)
    share = {code: np.mean([code in presentation.findings for _, presentation in pairs]) for code in FINDINGS}
    assert min(share.values()) > 0.035, min(share, key=share.__getitem__)
    assert 0.62 < share["SR"] < 0.78
    for split in ("val", "test"):
        for code in FINDINGS:
            assert any(code in presentation.findings for patient, presentation in pairs if patient.split == split), (
                split,
                code,
            )


def test_patients_have_the_same_chronic_findings_and_stay_in_one_split() -> None:
    patients = draw_patients(1500, 4)
    assert sum(patient.n_ecgs for patient in patients) == 1500
    assert all(2 <= patient.n_ecgs <= 4 for patient in patients[:-1])
    assert len({patient.number for patient in patients}) == len(patients)
    share = pd.Series([patient.split for patient in patients]).value_counts(normalize=True)
    assert share["train"] == pytest.approx(0.70, abs=0.01)
    assert share["val"] == pytest.approx(0.15, abs=0.01)
    chronic = {"CRBBB", "CLBBB", "WPW", "LVH", "IMI", "AMI"}
    n_present, n_expected = 0, 0
    for patient in patients:
        shows = [draw_presentation(patient, np.random.default_rng([6, patient.number, k])).findings for k in range(4)]
        for code in patient.lasting & chronic:
            n_expected += 4
            n_present += sum(code in findings for findings in shows)
        assert not any(findings & (chronic - patient.lasting) for findings in shows)
    assert n_present / n_expected > 0.7  # the others have a paced or an escape rhythm, which hides it


def test_a_finding_changes_what_it_must() -> None:
    leads = {}
    for code in ("NORM", "CRBBB", "CLBBB", "STEI", "LVOLT", "LVH"):
        patient, presentation = drawn(code)
        leads[code] = dict(
            zip(LEADS, twelve_leads(draw_tracing(patient, np.random.default_rng(2), 500, presentation).leads).T)
        )
    assert np.ptp(leads["LVOLT"]["II"]) < 0.55 < np.ptp(leads["NORM"]["II"])
    assert -leads["LVH"]["V1"].min() + leads["LVH"]["V5"].max() > 3.2
    assert leads["CRBBB"]["V1"].max() > 0.35
    assert half_width_ms(-leads["CLBBB"]["V1"]) > 60 > half_width_ms(-leads["NORM"]["V1"])
    assert np.mean(leads["STEI"]["III"] > 0.1) > 0.2 > np.mean(leads["STEI"]["aVL"] > 0.1)


def half_width_ms(lead: np.ndarray) -> float:
    """How long the tallest wave of a lead at 500 Hz stays above half its height."""
    top = int(lead.argmax())
    low = np.flatnonzero(lead < lead[top] / 2)
    return 2.0 * (low[low > top].min() - low[low < top].max())


# ----------------------------------------------------------------------------------------------------------- on disk


def test_tables_have_one_row_per_recording(records: pd.DataFrame, truth: pd.DataFrame) -> None:
    assert len(records) == len(truth) == N
    assert records.record.is_unique
    assert list(records.record) == list(truth.record)
    labels = records[[f"label.findings.{code}" for code in FINDINGS]]
    assert set(np.unique(labels)) == {0, 1}
    assert (records.groupby("patient").split.nunique() == 1).all()
    assert set(records.split) == {"train", "val", "test"}
    assert records.age.between(18, 95).all()


@pytest.mark.slow
def test_wfdb_reads_every_file_back_with_valid_checksums(
    folder: Path, records: pd.DataFrame, truth: pd.DataFrame
) -> None:
    for row, true in zip(records.itertuples(), truth.itertuples()):
        digital = wfdb.rdrecord(str(folder / row.path).removesuffix(".hea"), physical=False)
        assert digital.fs == true.rate_hz
        assert digital.sig_len == 10 * true.rate_hz
        assert digital.sig_name == true.lead_names.split()
        raw = np.fromfile(folder / row.path.replace(".hea", ".dat"), "<i2").reshape(-1, 12)
        assert np.array_equal(digital.d_signal, raw)
        assert [value % 65536 for value in digital.checksum] == [
            int(v) % 65536 for v in raw.sum(axis=0, dtype=np.int64)
        ]
        assert digital.init_value == list(raw[0])


def test_files_have_many_layouts(truth: pd.DataFrame) -> None:
    assert set(truth.rate_hz) == {100, 250, 500, 1000}
    assert set(truth.units) == {"mV", "uV"}
    assert truth.lead_names.nunique() >= 6
    assert truth.uv_per_step.nunique() == 5
    assert (truth.lead_off != "").any()
    assert (truth.lead_flat != "").any()
    assert (truth.motion_electrode != "").any()
    assert (truth.mains_mv > 0).any()


def test_leadwise_reads_them_as_written(folder: Path, records: pd.DataFrame, truth: pd.DataFrame) -> None:
    for row, true in zip(records.head(60).itertuples(), truth.itertuples()):
        twelve = as_twelve_leads(reading.read(folder / row.path))
        signal = dict(zip(LEADS, twelve.signal.T))
        lost = true.lead_off.split()
        for lead in LEADS:
            gone = np.isnan(signal[lead])
            if lead in ("III", "aVR", "aVL", "aVF"):
                continue  # computed from I and II where they are missing
            assert gone.any() == (lead in lost), (row.record, lead)
        whole = not lost and not true.lead_flat
        if whole:
            off_mv = np.abs(signal["III"] - (signal["II"] - signal["I"])).max()
            assert off_mv <= 1.51 * true.uv_per_step / 1000
            assert 0.05 < np.ptp(signal["II"]) < 12


def test_lost_leads_are_those_of_the_truth_table(folder: Path, records: pd.DataFrame, truth: pd.DataFrame) -> None:
    checked = 0
    for row, true in zip(records.itertuples(), truth.itertuples()):
        samples = np.fromfile(folder / row.path.replace(".hea", ".dat"), "<i2").reshape(-1, 12)
        names = [name.upper() for name in true.lead_names.split()]
        lost = {name.upper() for name in true.lead_off.split()}
        for name, lead in zip(names, samples.T):
            begin = round(float(true.lead_off_at_s or 0) * true.rate_hz) if name in lost else len(lead)
            assert (lead[begin:] == -32768).all()
            assert (lead[: max(begin - true.rate_hz // 50, 0)] != -32768).all()
            checked += name in lost
            assert (np.ptp(lead) == 0) == (name == true.lead_flat or (name in lost and begin == 0)), (row.record, name)
    assert checked


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    one, two, other = (simulate(tmp_path / name, 14, seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))

    def contents(root: Path) -> dict[str, bytes]:
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    assert contents(one) == contents(two)
    assert contents(one) != contents(other)


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    simulate(tmp_path / "sim", 3, 0)
    with pytest.raises(CohortError, match="exists already"):
        simulate(tmp_path / "sim", 3, 0)
    with pytest.raises(CohortError, match="1 or more"):
        simulate(tmp_path / "none", 0, 0)

    def interrupt(task: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "broken", 9, 0, interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["sim"]


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    simulate(tmp_path / "sim", 7, 1, lambda _, done, total: calls.append((done, total)))
    assert calls == [(k, 7) for k in range(1, 8)]


def test_read_source_is_the_table(folder: Path, records: pd.DataFrame) -> None:
    source = read_source(folder)
    check(source)
    assert source.name == "simulated"
    assert source.tasks == {"findings": tuple(FINDINGS)}
    assert [row.record for row in source.rows] == list(records.record)
    assert all(row.path.is_file() for row in source.rows)
    for row, line in zip(source.rows, records.to_dict("records")):
        assert row.labels["findings"] == {code: line[f"label.findings.{code}"] for code in FINDINGS}
        assert (row.patient, row.split, row.report) == (line["patient"], line["split"], line["report"])


def test_read_source_refuses_what_is_not_simulated(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"no records\.csv"):
        read_source(tmp_path)
    table = pd.read_csv(folder / "records.csv").drop(columns="label.findings.AFIB")
    table.to_csv(tmp_path / "records.csv", index=False)
    with pytest.raises(CohortError, match="28 findings"):
        read_source(tmp_path)


# -------------------------------------------------------------------------------------------------------- acquisition


def test_files_of_one_heart_in_two_layouts_have_the_same_signal(tmp_path: Path) -> None:
    patient, presentation = drawn("NORM")
    clean = draw_tracing(patient, np.random.default_rng(4), 250, presentation).leads
    plain = Device(250, 1.0, 0, "mV", LEADS, tuple(range(12)))
    order = (11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
    odd = Device(250, 1.0, 512, "uV", tuple(LEADS[k].upper() for k in order), order)
    signals = []
    for name, device in (("plain", plain), ("odd", odd)):
        captured = capture(clean, device, np.random.default_rng(2))
        write_wfdb(tmp_path / name, captured.digital, device)
        signals.append(as_twelve_leads(reading.read(tmp_path / f"{name}.hea")).signal)
    np.testing.assert_allclose(signals[0], signals[1], atol=1e-9)


def test_a_captured_ecg_is_the_clean_ecg_with_noise() -> None:
    patient, presentation = drawn("NORM")
    device = Device(500, 1.0, 0, "mV", LEADS, tuple(range(12)))
    tracing = draw_tracing(patient, np.random.default_rng(4), 500, presentation)
    for k in range(12):
        captured = capture(tracing.leads, device, np.random.default_rng(k))
        clean, noisy = twelve_leads(tracing.leads)[:, 1], captured.digital[:, 1] / 1000
        if captured.artefacts["lead_off"] or captured.artefacts["arms_swapped"]:
            continue
        assert np.corrcoef(np.diff(clean), np.diff(noisy))[0, 1] > 0.5
        assert not np.array_equal(np.rint(clean * 1000), captured.digital[:, 1])


# ------------------------------------------------------------------------------------------------ reports and prompts


def test_reports_state_and_omit_the_findings_that_they_list() -> None:
    n_findings, n_omitted = 0, 0
    for k, (_, presentation) in enumerate(presentations(600, 6)):
        report = write_report(presentation, 75.0, np.random.default_rng(k))
        assert set(report.stated) | set(report.omitted) == presentation.findings
        assert not set(report.stated) & set(report.omitted)
        beyond = [
            code for code in presentation.findings if code not in ("SR", "NORM", "SBRAD", "STACH", presentation.rhythm)
        ]
        n_findings, n_omitted = n_findings + len(beyond), n_omitted + len(report.omitted)
        for code in report.omitted:
            assert not any(phrase in report.text for phrase in PHRASES[code] if unmistakable(code, phrase))
        rhythm = next((code for code in ("SBRAD", "STACH") if code in presentation.findings), presentation.rhythm)
        assert report.text.startswith(PHRASES[rhythm])
        for code in report.stated:
            if code not in ("SR", "SBRAD", "STACH"):
                assert any(phrase in report.text for phrase in PHRASES[code]), (code, report.text)
    assert n_omitted / n_findings == pytest.approx(OMISSION, abs=0.03)


def unmistakable(code: str, phrase: str) -> bool:
    """Whether no other finding's phrases contain this one."""
    return not any(phrase in other for key, options in PHRASES.items() if key != code for other in options)


def test_reports_have_the_style_of_a_cohort(records: pd.DataFrame) -> None:
    assert all(reports.clean(text) == text for text in records.report)
    assert records.report.nunique() > 0.6 * len(records)
    hedged = records.report.str.contains("possible |probable |consider |cannot rule out |not certain|suggests ").mean()
    assert HEDGE / 2 < hedged < 4 * HEDGE
    assert records.report[records["label.findings.NORM"] == 0].str.contains("normal ecg|borderline ecg").all()


def test_every_finding_has_wordings_and_prompts() -> None:
    assert list(PHRASES) == list(FINDINGS)
    assert all(3 <= len(set(options)) <= 8 for options in PHRASES.values())
    file = Path(leadwise.evaluate.__file__).parent / "prompts" / "simulated_findings.toml"
    table = tomllib.loads(file.read_text())
    assert (table["source"], table["task"]) == ("simulated", "findings")
    assert list(table["classes"]) == list(FINDINGS)
    for entry in table["classes"].values():
        assert entry["name"]
        assert 3 <= len(set(entry["rich"])) <= 5
        assert all(reports.clean(prompt) == prompt for prompt in entry["rich"])

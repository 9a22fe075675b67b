"""Each change of an ECG by itself, and what they do to a score."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import SIGNAL, make_batch, unobserve
from planted import WORDS, PlantedCohort, PlantedRun

from leadwise.batch import LEADS, Batch, Signal
from leadwise.evaluate import classifiers
from leadwise.evaluate.card import robustness
from leadwise.evaluate.embed import embed_cohort
from leadwise.evaluate.probe import make_probe_task

AT = {lead: number for number, lead in enumerate(LEADS)}


def hearts(n: int = 3, signal: Signal = SIGNAL) -> Batch:
    """Records that satisfy Einthoven's and Goldberger's laws."""
    batch = make_batch(n, signal=signal)
    ecg = batch.ecg.clone()
    one, two = ecg[:, AT["I"]], ecg[:, AT["II"]]
    for lead, derived in {
        "III": two - one,
        "aVR": -(one + two) / 2,
        "aVL": one - two / 2,
        "aVF": two - one / 2,
    }.items():
        ecg[:, AT[lead]] = derived
    return Batch(ecg, batch.observed, batch.record, batch.patient, batch.report)


def power(ecg: torch.Tensor) -> torch.Tensor:
    return ecg.square().mean((1, 2))


def snr_db(clean: Batch, noisy: Batch) -> torch.Tensor:
    centred = clean.ecg - clean.ecg.mean(-1, keepdim=True)
    return 10 * torch.log10(power(centred) / power(noisy.ecg - clean.ecg))


def test_leads_are_selected_by_name_and_the_others_are_not_observed() -> None:
    signal = Signal(leads=("V2", "II", "I"), rate_hz=100, duration_s=4.0)
    batch = make_batch(2, signal=signal)
    reduced = robustness.keep_leads(batch, ("I", "V2"), signal)
    assert reduced.observed.all(-1).all(0).tolist() == [True, False, True]
    assert not reduced.ecg[:, 1].any()
    assert torch.equal(reduced.ecg[:, 0], batch.ecg[:, 0])
    assert batch.observed.all()  # the input batch is unchanged


def test_a_rate_above_the_promised_one_changes_little_and_a_lower_one_takes_the_fast_part() -> None:
    signal = Signal(rate_hz=250, duration_s=4.0)
    time_s = torch.arange(signal.n_samples) / signal.rate_hz
    slow, fast = torch.sin(2 * np.pi * 5 * time_s), torch.sin(2 * np.pi * 90 * time_s)
    template = make_batch(1, signal=signal)
    batch = Batch(
        (slow + fast).expand(1, 12, -1).clone(), template.observed, template.record, template.patient, template.report
    )
    middle = slice(100, -100)
    higher = robustness.resample_through(batch, 500, signal)
    torch.testing.assert_close(higher.ecg[..., middle], batch.ecg[..., middle], atol=0.05, rtol=0)
    lower = robustness.resample_through(batch, 100, signal)
    torch.testing.assert_close(lower.ecg[0, 3, middle], slow[middle], atol=0.08, rtol=0)
    assert robustness.resample_through(batch, 250, signal) is batch
    for changed in (higher, lower):
        assert changed.ecg.shape == batch.ecg.shape
        assert changed.ecg.dtype == torch.float32
        assert changed.observed.float().mean() > 0.98


def test_unobserved_samples_are_unobserved_at_another_rate() -> None:
    batch = unobserve(make_batch(2), leads=[4], after=300)
    changed = robustness.resample_through(batch, 125, SIGNAL)
    assert not changed.observed[:, 4].any()
    assert not changed.observed[..., 302:].any()
    assert changed.observed[:, 5, :295].all()


@pytest.mark.parametrize("add", [robustness.add_white_noise, robustness.add_baseline_wander, robustness.add_mains_hum])
def test_noise_has_the_requested_power(add) -> None:
    signal = Signal(rate_hz=500, duration_s=10.0)
    clean = make_batch(6, signal=signal)
    for requested_db in (20.0, 0.0):
        measured_db = snr_db(clean, add(clean, requested_db, signal))
        assert float(measured_db.mean()) == pytest.approx(requested_db, abs=1.0)
        assert (measured_db - requested_db).abs().max() < 3.5


@pytest.mark.parametrize("add", [robustness.add_white_noise, robustness.add_baseline_wander, robustness.add_mains_hum])
def test_noise_belongs_to_the_record_and_leaves_the_unobserved_alone(add) -> None:
    batch = unobserve(make_batch(4), leads=[2])
    noisy = add(batch, 5, SIGNAL)
    alone = Batch(*(part[2:3] for part in (batch.ecg, batch.observed, batch.record, batch.patient, batch.report)))
    torch.testing.assert_close(add(alone, 5, SIGNAL).ecg[0], noisy.ecg[2])
    assert not noisy.ecg[:, 2].any()
    assert torch.equal(noisy.observed, batch.observed)
    difference = noisy.ecg - batch.ecg
    assert not torch.allclose(
        difference[0, 0] / difference[0, 0].std(), difference[1, 0] / difference[1, 0].std(), atol=0.1
    )


def test_wander_is_slow_and_mains_hum_is_at_its_frequency() -> None:
    signal = Signal(rate_hz=500, duration_s=10.0)
    clean = make_batch(1, signal=signal)

    def spectrum(noisy: Batch) -> np.ndarray:
        return np.abs(np.fft.rfft((noisy.ecg - clean.ecg)[0, 0].double().numpy())) ** 2

    rate_hz = np.fft.rfftfreq(signal.n_samples, 1 / signal.rate_hz)
    slow = spectrum(robustness.add_baseline_wander(clean, 0, signal))
    assert slow[rate_hz <= 1.0].sum() > 0.95 * slow.sum()
    hum = spectrum(robustness.add_mains_hum(clean, 0, signal))
    assert rate_hz[hum.argmax()] == pytest.approx(50.0)
    assert robustness.add_mains_hum(clean, 0, signal, mains_hz=60.0).ecg.isfinite().all()
    # at 100 Hz the resampling of a 500 Hz recording leaves a part of 50 Hz, less than the recorder measured
    low = make_batch(1)
    left = power(robustness.add_mains_hum(low, 0, SIGNAL).ecg - low.ecg)
    assert left < power(low.ecg - low.ecg.mean(-1, keepdim=True))


def test_swapped_arms_satisfy_the_laws_and_swapping_twice_restores() -> None:
    batch = hearts()
    swapped = robustness.swap_arms(batch, SIGNAL)
    ecg = swapped.ecg
    torch.testing.assert_close(ecg[:, AT["I"]], -batch.ecg[:, AT["I"]])
    for one, other in (("II", "III"), ("aVR", "aVL")):
        torch.testing.assert_close(ecg[:, AT[one]], batch.ecg[:, AT[other]])
        torch.testing.assert_close(ecg[:, AT[other]], batch.ecg[:, AT[one]])
    torch.testing.assert_close(ecg[:, AT["II"]] - ecg[:, AT["I"]], ecg[:, AT["III"]])
    torch.testing.assert_close(ecg[:, AT["aVF"] :], batch.ecg[:, AT["aVF"] :])
    torch.testing.assert_close(robustness.swap_arms(swapped, SIGNAL).ecg, batch.ecg)


def test_swapped_arms_where_not_every_limb_lead_is_promised() -> None:
    signal = Signal(leads=("V1", "II", "aVR", "I"), rate_hz=100, duration_s=4.0)
    whole = hearts()
    columns = [AT[lead] for lead in signal.leads]
    batch = Batch(whole.ecg[:, columns], whole.observed[:, columns], whole.record, whole.patient, whole.report)
    torch.testing.assert_close(
        robustness.swap_arms(batch, signal).ecg, robustness.swap_arms(whole, SIGNAL).ecg[:, columns]
    )
    chest = Signal(leads=("V1", "V2"), rate_hz=100, duration_s=4.0)
    with pytest.raises(ValueError, match="need leads I and II; the signal has V1, V2"):
        robustness.swap_arms(make_batch(1, signal=chest), chest)
    assert "arm electrodes swapped" not in [change.name for change in robustness.make_changes(chest)]


def test_an_unobserved_lead_moves_with_its_electrodes() -> None:
    swapped = robustness.swap_arms(unobserve(hearts(), leads=[AT["III"]]), SIGNAL)
    assert not swapped.observed[:, AT["II"]].any()
    assert not swapped.ecg[:, AT["II"]].any()
    assert swapped.observed[:, AT["III"]].all()


def test_a_wrong_unit_is_a_factor() -> None:
    batch = make_batch(2)
    torch.testing.assert_close(robustness.scale_amplitude(batch, 1000.0).ecg, batch.ecg * 1000)


def test_every_change_can_be_applied() -> None:
    batch = make_batch(2)
    names = [change.name for change in robustness.make_changes(SIGNAL)]
    assert len(names) == len(set(names))
    assert "12 leads: all" in names
    assert len(robustness.make_changes(SIGNAL, quick=True)) < len(names)
    for change in robustness.make_changes(SIGNAL):
        changed = change.apply(batch)
        assert changed.ecg.shape == batch.ecg.shape, change.name
        assert changed.ecg.isfinite().all(), change.name
        assert not changed.ecg[~changed.observed].any(), change.name
        assert changed.record == batch.record


def planted_probe(run: PlantedRun, cohort: PlantedCohort) -> classifiers.Classifier:
    rows = cohort.rows(task="finding")
    return classifiers.probe_classifier(
        embed_cohort(run, cohort, "backbone", rows), make_probe_task(cohort, "finding", rows)
    )


@pytest.mark.slow
def test_findings_in_leads_I_to_aVR_are_lost_with_those_leads_and_nothing_else() -> None:
    run, cohort = PlantedRun(), PlantedCohort(n_patients=200)
    result = robustness.measure_robustness(run, cohort, "finding", [planted_probe(run, cohort)])
    rows = {row["change"]: row for row in result.rows()}
    assert result.n_left_out == 0
    assert result.n_records == 80
    assert rows["unchanged"]["macro"] > 0.95
    assert rows["12 leads: all"]["gain"] == 0
    assert rows["1 lead: I"]["macro"] < 0.75  # one of four findings is left
    assert rows["1 lead: I"]["gain_high"] < 0
    assert rows["6 leads: I, II, III, aVR, aVL, aVF"]["macro"] == pytest.approx(rows["unchanged"]["macro"])
    assert rows["arm electrodes swapped"]["macro"] < 0.7  # II is read as III, III as II and aVL as aVR; I has its size
    json.dumps(result.to_json(), allow_nan=False)


def test_an_embedding_that_is_not_finite_is_reported_and_not_scored() -> None:
    run, cohort = PlantedRun(), PlantedCohort()
    probe = planted_probe(run, cohort)
    embed_ecg = run.method.embed_ecg
    run.method.embed_ecg = lambda batch, part: embed_ecg(batch, part) / (batch.ecg.abs().max() < 50).float()
    rows = {
        row["change"]: row for row in robustness.measure_robustness(run, cohort, "finding", [probe], quick=True).rows()
    }
    assert rows["read 1000 times too large"]["macro"] is None
    assert rows["read 1000 times too small"]["macro"] is not None


def test_records_that_a_change_would_leave_empty_are_left_out() -> None:
    cohort = PlantedCohort()
    first = cohort.rows("test")[0]
    cohort.steps[first, 5] = -32768
    run = PlantedRun()
    complete, leads = robustness.complete_rows(cohort, run.config.signal, cohort.rows("test"))
    assert leads == LEADS
    assert sorted({*cohort.rows("test")} - {*complete}) == [first]
    result = robustness.measure_robustness(
        run, cohort, "finding", [planted_probe(run, cohort)], n_records=30, quick=True
    )
    assert (result.n_records, result.n_left_out) == (30, 1)


def test_leads_that_the_cohort_never_recorded_are_in_no_change() -> None:
    run, cohort = PlantedRun(), PlantedCohort()
    cohort.steps[:, 6:] = -32768
    first = cohort.rows("test")[0]
    cohort.steps[first, 0] = -32768  # this record lacks a lead that the others have
    result = robustness.measure_robustness(run, cohort, "finding", [planted_probe(run, cohort)], quick=True)
    assert (result.n_records, result.n_left_out) == (len(cohort.rows("test")) - 1, 1)
    assert result.not_recorded == LEADS[6:]
    names = [change.name for change, _ in result.changed]
    assert [name for name in names if "lead" in name] == ["1 lead: I", "1 lead: II", "2 leads: I, II", "6 leads: all"]
    cohort.steps[:, [0, 2, 3, 4, 5]] = -32768  # lead II alone
    _, alone = robustness.complete_rows(cohort, run.config.signal, cohort.rows("test"))
    assert alone == ("II",)
    assert "arm electrodes swapped" not in [change.name for change in robustness.make_changes(SIGNAL, recorded=alone)]
    cohort.steps[:] = -32768
    assert [len(part) for part in robustness.complete_rows(cohort, run.config.signal, cohort.rows("test"))] == [0, 0]


def test_a_probe_and_a_zero_shot_classifier_are_scored_together(tmp_path) -> None:
    from test_zeroshot import PROMPTS, write

    run, cohort = PlantedRun(), PlantedCohort()
    zero_shot = classifiers.zeroshot_classifier(run, cohort, "finding", write(tmp_path / "p.toml", PROMPTS))
    result = robustness.measure_robustness(run, cohort, "finding", [planted_probe(run, cohort), zero_shot], quick=True)
    assert set(result.clean) == {"probe", "zero-shot"}
    assert result.clean["zero-shot"].macro > 0.95
    assert zero_shot.classes == WORDS

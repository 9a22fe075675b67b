"""The self-check: rules that are independent of the simulator derive its labels from its clean signals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from leadwise.data.simulator.findings import FINDINGS
from leadwise.data.simulator.heart import twelve_leads
from leadwise.data.simulator.measure import RATE_HZ, measure_ecg
from leadwise.data.simulator.patients import draw_patients
from leadwise.data.simulator.self_check import TOLERANCE, interpret, self_check
from leadwise.data.simulator.tracing import draw_tracing, random_stream


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return self_check(300, seed=11)


@pytest.mark.slow
def test_labels_are_measured_again(table: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print("\n" + table.round(3).to_string(index=False))
    findings = table[table.kind == "finding"]
    assert list(findings.item) == list(FINDINGS)
    assert findings.agreement.mean() >= 0.95
    # agreement alone is easy where a finding is rare: require the same of sensitivity and precision
    hits = (findings.n * findings.sensitivity).sum()
    assert hits / findings.n.sum() >= 0.95
    assert hits / (findings.n * findings.sensitivity / findings.precision).sum() >= 0.95
    assert (findings.agreement >= 0.95).all()
    assert (findings.sensitivity >= 0.80).all()
    assert (findings.n >= 3).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", TOLERANCE)
def test_quantities_are_measured_again(table: pd.DataFrame, name: str) -> None:
    row = table.set_index("item").loc[name]
    assert row.n > 150
    assert row.agreement >= 0.95  # of ST the worst of twelve leads counts


def test_measurements_follow_the_signal_and_not_the_population() -> None:
    """Measurements of one ECG must not agree with the labels of another, or the check above proves nothing."""
    labels, detected = [], []
    for patient in draw_patients(40, 12):
        tracing = draw_tracing(patient, random_stream(patient, 0, 12), RATE_HZ)
        labels.append(tracing.presentation.findings)
        detected.append(interpret(measure_ecg(twelve_leads(tracing.leads))))
    right = sum(len(a & b) for a, b in zip(labels, detected)) / sum(map(len, labels))
    wrong = sum(len(a & b) for a, b in zip(labels[1:] + labels[:1], detected)) / sum(map(len, labels))
    assert right > 0.9
    assert wrong < 0.6


def test_a_larger_slower_or_rotated_signal_is_measured_so() -> None:
    patient = next(patient for patient in draw_patients(200, 1) if patient.lasting == {"HEALTHY"})
    clean = twelve_leads(draw_tracing(patient, np.random.default_rng(5), RATE_HZ).leads)
    plain, larger = measure_ecg(clean), measure_ecg(2 * clean)
    np.testing.assert_allclose(larger.r_mv, 2 * plain.r_mv, rtol=1e-6)
    np.testing.assert_allclose(larger.st_mv, 2 * plain.st_mv, atol=1e-6)
    assert larger.rate_bpm == pytest.approx(plain.rate_bpm)
    at = np.arange(len(clean))
    slow = np.column_stack([np.interp(at / 1.25, at, lead) for lead in clean.T])
    assert measure_ecg(slow).rate_bpm == pytest.approx(plain.rate_bpm / 1.25, rel=0.05)
    assert measure_ecg(slow).qrs_ms == pytest.approx(plain.qrs_ms * 1.25, rel=0.1)
    swapped = twelve_leads(np.column_stack([-clean[:, 0], clean[:, 1] - clean[:, 0], clean[:, 6:]]))
    turned = (180 - plain.axis_deg + 180) % 360 - 180  # arm electrodes exchanged: the axis is mirrored
    assert abs((measure_ecg(swapped).axis_deg - turned + 180) % 360 - 180) < 2

"""Every number against its slow version on random cases, and small tests of what such cases showed."""

from __future__ import annotations

import numpy as np
import plain_metrics
import plain_numbers
import pytest
from evidence import faults_of

from leadwise.batch import Signal
from leadwise.data.recordings import twelve_leads
from leadwise.evaluate import retrieve
from leadwise.evaluate.metrics import auroc, regression
from leadwise.nn.losses import multimodal

N_CASES = 30


@pytest.mark.parametrize("name", plain_numbers.names())
def test_the_library_agrees_with_the_slow_version(name: str) -> None:
    (row,) = plain_numbers.rows(N_CASES, [name])
    assert row.n_cases >= 6
    assert not faults_of([row])


def test_wrong_numbers_are_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties that count whole, and equal reports that stay in the denominator."""
    right = auroc._auroc_from_ranks
    monkeypatch.setattr(auroc, "_auroc_from_ranks", lambda truth, ranks: right(truth, np.floor(ranks)))
    monkeypatch.setattr(
        multimodal, "_relations", lambda report, rows, columns, words=None: wrong(report, rows, columns)
    )

    def wrong(report, rows, columns):
        own = np.eye(len(report), dtype=bool)[rows][:, columns]
        own = multimodal.torch.tensor(own)
        return own, own

    for name in ("AUROC", "InfoNCE and SigLIP"):
        (row,) = plain_numbers.rows(N_CASES, [name])
        assert 0 < len(row.faults) <= plain_numbers.MOST_FAULTS
        assert plain_numbers.disagreements(name, int(row.faults[0].split(":")[0].removeprefix("case ")))
    monkeypatch.undo()
    assert not plain_numbers.rows(N_CASES, ["AUROC"])[0].faults


def test_a_resampling_without_the_outlier_has_its_own_r2() -> None:
    """Its variance is 10^-12 of that of all recordings, which is not constant."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(40, 1))
    predicted = truth + 0.5 * rng.normal(size=(40, 1))
    truth[7] = 1e7
    weights = np.ones((2, 40), dtype=int)
    weights[1, 7] = 0
    measures = regression.weighted_measures(truth, predicted, weights)
    for row in (0, 1):
        expected = plain_metrics.regression(truth[:, 0].tolist(), predicted[:, 0].tolist(), weights[row].tolist())
        for name, value in expected.items():
            assert measures[name][row, 0] == pytest.approx(value, rel=1e-6)
    assert 0.3 < measures["r2"][1, 0] < 1


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e200])
def test_measures_do_not_depend_on_the_unit_or_the_size_of_predictions(unit: float) -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(30, 1))
    predicted = truth + rng.normal(size=(30, 1))
    once = np.ones((1, 30))
    whole = regression.weighted_measures(truth, predicted, once)
    scaled = regression.weighted_measures(unit * truth, unit * predicted, once)
    assert scaled["r2"] == pytest.approx(whole["r2"])
    assert scaled["mae"] == pytest.approx(unit * whole["mae"])
    shrunken = regression.weighted_measures(truth, 1e-6 * predicted, once)
    assert shrunken["r"] == pytest.approx(whole["r"])
    constant = np.full((30, 1), 0.1) + 1e-9 * predicted  # equal in float32
    assert np.isnan(regression.weighted_measures(truth, constant, once)["r"]).all()


def test_medians_of_resampled_ranks_are_numpys_of_repeated_ones() -> None:
    values = np.array([1.0, 9.0, 2.0, 4.0])
    weights = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [2, 1, 1, 0], [0, 3, 0, 1]])
    expected = [np.median(np.repeat(values, counts)) for counts in weights]
    np.testing.assert_allclose(retrieve._weighted_medians(values, weights / 7), expected)


def test_a_recording_of_one_sample_is_resampled_to_that_value() -> None:
    for old, new in ((500.0, 250), (50.0, 100)):
        ecg, observed = twelve_leads.conform(np.full((1, 12), 0.7), old, Signal(("II",), new, 4 / new))
        np.testing.assert_allclose(ecg[observed], 0.7, rtol=1e-3)
        assert observed[0, 0]

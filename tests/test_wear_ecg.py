"""Tests of WearECG beyond the contract: its loss by slow loops, which leads are given, and that it learns."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from conftest import SIGNAL, make_batch, unobserve
from test_methods import build

from leadwise.batch import LEADS
from leadwise.methods import wear_ecg
from leadwise.nn.normalize import normalize


def test_the_loss_is_that_of_slow_loops() -> None:
    method = build("wear_ecg").eval()  # decodes from the mean
    batch = unobserve(make_batch(3), leads=[4], after=350)
    torch.manual_seed(3)
    terms = method(batch)
    torch.manual_seed(3)
    given = method.draw_given(batch.observed)

    ecg = normalize(batch.ecg, batch.observed, "mv")
    mask = batch.observed & given[..., None]
    mean, _ = method.vae.encode(torch.cat([ecg * mask, mask.float()], dim=1))
    estimate = method._decode(mean, ecg, mask)
    deviation = method._log_variance(estimate, ecg, mask)
    sums: dict[str, list[float]] = {"L_unobserved": [], "L_observed": [], "L_deviation": []}
    for record in range(3):
        errors: dict[bool, list[float]] = {True: [], False: []}
        likelihood = []
        for lead in range(12):
            for time in range(SIGNAL.n_samples):
                if not batch.observed[record, lead, time]:
                    continue
                error = float(estimate[record, lead, time].detach() - ecg[record, lead, time]) ** 2
                errors[bool(given[record, lead])].append(error)
                if not given[record, lead]:
                    spread = float(deviation[record, lead, time].detach())
                    likelihood.append(0.5 * (error * math.exp(-spread) + spread))
        sums["L_unobserved"].append(sum(errors[False]) / len(errors[False]))
        sums["L_observed"].append(sum(errors[True]) / len(errors[True]))
        sums["L_deviation"].append(sum(likelihood) / len(likelihood))
    weights = {"L_unobserved": 1.0, "L_observed": 0.1, "L_deviation": 0.01}
    for name, values in sums.items():
        assert float(terms[name].detach()) == pytest.approx(weights[name] * sum(values) / 3, rel=1e-4), name

    row = {lead: estimate[:, LEADS.index(lead)] for lead in LEADS}
    residuals = [
        row["III"] - (row["II"] - row["I"]), row["aVR"] + (row["I"] + row["II"]) / 2, row["aVL"] - (row["I"] - row["II"] / 2),
        row["aVF"] - (row["II"] - row["I"] / 2),
    ]  # fmt: skip
    total = sum(float((r[k] - r[k].mean()).square().mean().detach()) for r in residuals for k in range(3)) / 12
    assert float(terms["L_einthoven"].detach()) == pytest.approx(0.1 * total, rel=1e-4)


def test_the_given_leads_are_named_sets_or_random_ones() -> None:
    method = build("wear_ecg")
    torch.manual_seed(0)
    observed = torch.ones(600, 12, 4, dtype=torch.bool)
    sets = [frozenset(LEADS[k] for k in one.nonzero().flatten().tolist()) for one in method.draw_given(observed)]
    for named in wear_ecg.NAMED_SETS:
        assert 0.06 < sets.count(frozenset(named)) / len(sets) < 0.25, named
    sizes = [len(one) for one in sets if one not in map(frozenset, wear_ecg.NAMED_SETS)]
    assert set(sizes) == set(range(1, 12))  # never all twelve: one lead is hidden at least


def test_a_lead_that_was_not_recorded_is_never_given() -> None:
    method = build("wear_ecg")
    observed = torch.ones(100, 12, 4, dtype=torch.bool)
    observed[:, :11] = False
    given = method.draw_given(observed)
    assert bool(given[:, 11].all())
    assert not bool(given[:, :11].any())


def test_a_run_that_sees_no_millivolts_is_refused() -> None:
    with pytest.raises(ValueError, match="set 'mv'"):
        build("wear_ecg", signal=dataclasses.replace(SIGNAL, normalize="lead_zscore"))
    with pytest.raises(ValueError, match="two leads or more"):
        build("wear_ecg", signal=dataclasses.replace(SIGNAL, leads=("II",)))


def test_eight_leads_train_without_the_limb_law() -> None:
    signal = dataclasses.replace(SIGNAL, leads=("I", "II", "V1", "V2", "V3", "V4", "V5", "V6"))
    method = build("wear_ecg", signal=signal)
    terms = method(make_batch(2, signal=signal))
    assert "L_einthoven" not in terms
    assert "L_unobserved" in terms


def test_the_linear_map_becomes_that_of_the_training_ecgs() -> None:
    method = build("wear_ecg").train()
    population = method.covariance.clone()
    whole, gap = make_batch(3), unobserve(make_batch(2), after=350)
    for batch in (whole, gap):
        sum(method(batch).values()).backward()  # two batches of one step; ECGs with gaps do not count
    method.after_step(0.5)
    method.eval()(whole)
    method.train().after_step(1.0)  # nothing was collected since

    ecg = normalize(whole.ecg, whole.observed, "mv").double()
    for a in range(12):
        for b in range(12):
            products = sum(float((ecg[k, a] * ecg[k, b]).mean()) for k in range(3))
            expected = (200 * float(population[a, b]) + products) / 203
            assert float(method.covariance[a, b]) == pytest.approx(expected, rel=1e-9), (a, b)


def test_draws_spread_as_the_predicted_deviation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wear_ecg, "sample", lambda mean, log_variance: mean)  # without the spread of the latents
    method = build("wear_ecg").eval()
    batch = make_batch(1)
    given = torch.zeros(1, 12, dtype=torch.bool)
    given[:, 1] = True
    torch.manual_seed(0)
    draws = method.complete(batch, given, n_draws=100)
    deviation = (draws[1:, 0, 8] - draws[0, 0, 8]).std(0)  # V3: no limb lead, whose law would change it
    assert float(deviation.mean()) == pytest.approx(math.exp(-4 / 2), rel=0.3)  # 0.135 mV at the start
    torch.testing.assert_close(draws[:, :, 1], batch.ecg[:, 1].expand(100, -1, -1))


def test_the_error_falls_below_that_of_the_linear_map() -> None:
    """Leads whose relation changes with the rate of the beats, which no linear map of single samples has."""
    torch.manual_seed(0)
    method = build("wear_ecg")
    batch = make_batch(6)
    kind = torch.arange(6) % 2
    sign = torch.where(kind == 0, 1.0, -1.0)[:, None]
    base = batch.ecg[:, 1] + 0.4 * sign * batch.ecg[:, 1].roll(5, -1)
    ecg = batch.ecg.clone()
    ecg[:, 1], ecg[:, 8] = base, sign * base
    batch = dataclasses.replace(batch, ecg=ecg)
    given = torch.zeros(6, 12, dtype=torch.bool)
    given[:, 1] = True
    method.draw_given = lambda observed: given  # type: ignore[method-assign]
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)

    def error() -> float:
        return float((method.complete(batch, given)[0] - ecg)[:, 8].square().mean())

    before = error()
    for _ in range(40):
        optimizer.zero_grad()
        sum(method(batch).values()).backward()
        optimizer.step()
    assert error() < 0.7 * before

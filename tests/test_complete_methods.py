"""`complete` of every method that has it, and the linear map and limb law behind it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from conftest import SIGNAL, make_batch, unobserve
from test_methods import CASES, build

from leadwise.batch import LEADS
from leadwise.methods.contract import PretrainingMethod
from leadwise.nn import completion, lead_map

COMPLETING = [
    "wear_ecg",
    "wear_ecg paper",
    "st_mem cross",
    "st_mem time",
    "st_mem lead",
    "merit",
    "merit mask-only",
    "cg_dmer",
]


def method_of(name: str):
    if name == "st_mem cross":
        return build("st_mem", decoder="cross").eval()
    return build(name).eval()


def given_of(*leads: str, n: int = 3) -> torch.Tensor:
    return torch.tensor([[lead in leads for lead in LEADS]]).expand(n, -1).clone()


@pytest.mark.parametrize("name", CASES)
def test_a_method_that_completes_leads_declares_it(name: str) -> None:
    method = build(name)
    implemented = type(method).complete is not PretrainingMethod.complete
    assert implemented or not method.completes_leads


@pytest.mark.parametrize("name", COMPLETING)
def test_other_leads_are_filled_in_from_the_given_ones_alone(name: str) -> None:
    method, batch = method_of(name), make_batch(3)
    given = given_of("II", "V1", "V5")
    assert method.completes_leads
    filled = method.complete(batch, given)
    assert filled.shape == (1, 3, 12, SIGNAL.n_samples)
    assert bool(filled.isfinite().all())
    torch.testing.assert_close(filled[0][given], batch.ecg[given], rtol=0, atol=0)
    other = dataclasses.replace(batch, ecg=torch.where(given[..., None], batch.ecg, torch.full_like(batch.ecg, 7.0)))
    torch.testing.assert_close(method.complete(other, given), filled)
    missing = unobserve(batch, leads=[k for k in range(12) if not given[0, k]])
    torch.testing.assert_close(method.complete(missing, given), filled)


@pytest.mark.parametrize("name", COMPLETING)
@pytest.mark.parametrize("leads", [("I",), ("I", "II"), ("V2",), ("aVL", "V6"), LEADS[:6]])
def test_the_limb_leads_obey_their_law(name: str, leads: tuple[str, ...]) -> None:
    method, batch = method_of(name), make_batch(2)
    by_name = dict(zip(LEADS, batch.ecg.transpose(0, 1)))
    ecg = torch.stack(
        [
            lead_map.LIMB_WEIGHTS[lead][0] * by_name["I"] + lead_map.LIMB_WEIGHTS[lead][1] * by_name["II"]
            if lead in lead_map.LIMB_WEIGHTS
            else by_name[lead]
            for lead in LEADS
        ],
        dim=1,
    )
    filled = method.complete(dataclasses.replace(batch, ecg=ecg), given_of(*leads, n=2), n_draws=2)
    for draw in filled:
        row = dict(zip(LEADS, draw.transpose(0, 1)))
        torch.testing.assert_close(row["III"], row["II"] - row["I"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(row["aVR"], -(row["I"] + row["II"]) / 2, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(row["aVL"], row["I"] - row["II"] / 2, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(row["aVF"], row["II"] - row["I"] / 2, rtol=1e-4, atol=1e-5)
    if len(leads) > 1 and leads[1] == "II":
        torch.testing.assert_close(filled[0, :, :6], ecg[:, :6], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", COMPLETING)
def test_the_first_draw_is_the_estimate_and_further_ones_differ(name: str) -> None:
    method, batch = method_of(name), make_batch(2)
    given = given_of("II", "V1", "V5", n=2)
    torch.manual_seed(0)
    draws = method.complete(batch, given, n_draws=3)
    assert len(draws) == 3
    torch.testing.assert_close(draws[0], method.complete(batch, given)[0])
    assert not torch.allclose(draws[0], draws[1])
    assert not torch.allclose(draws[2], draws[1])


@pytest.mark.parametrize("name", COMPLETING)
def test_a_record_without_a_given_lead_is_an_error_with_its_name(name: str) -> None:
    method, batch = method_of(name), unobserve(make_batch(2), leads=[0])
    with pytest.raises(ValueError, match=f"record {batch.record[0]}: no sample was observed in the given leads"):
        method.complete(batch, given_of("I", n=2))
    with pytest.raises(ValueError, match="observed has shape"):
        method.complete(batch, given_of("I", n=3))


def test_a_gap_in_a_given_lead_is_filled_in() -> None:
    method, batch = method_of("wear_ecg"), make_batch(2)
    observed = batch.observed.clone()
    observed[:, 7, 100:150] = False
    batch = dataclasses.replace(batch, observed=observed)
    filled = method.complete(batch, given_of("V2", n=2))[0]
    torch.testing.assert_close(filled[observed & given_of("V2", n=2)[..., None]], batch.ecg[:, 7][observed[:, 7]])
    assert float((filled[:, 7, 100:150] - batch.ecg[:, 7, 100:150]).abs().max()) > 0


@pytest.mark.parametrize(
    ("name", "changes", "remedy"),
    [
        ("st_mem", {}, "method.decoder='cross'"),
        ("merit contrast-only", {}, "w_mem=1"),
        ("merit", {"decoder": "leadwise"}, "decoder='joint' or 'cross'"),
        ("cg_dmer", {"w_e_rec": 0.0}, "w_e_rec=1"),
        ("cg_dmer", {"decoder": "leadwise"}, "decoder='joint' or 'cross'"),
    ],
)
def test_settings_without_a_decoder_of_all_leads_are_refused(name: str, changes: dict, remedy: str) -> None:
    method = build(name, **changes).eval()
    assert not method.completes_leads
    with pytest.raises(ValueError, match=remedy):
        method.complete(make_batch(2), given_of("I", n=2))


@pytest.mark.parametrize("name", ["st_mem time", "merit", "cg_dmer"])
def test_a_scale_without_millivolts_is_refused(name: str) -> None:
    method = build(name, signal=dataclasses.replace(SIGNAL, normalize="lead_zscore")).eval()
    assert not method.completes_leads
    with pytest.raises(ValueError, match="cannot be converted back to mV"):
        method.complete(make_batch(2), given_of("I", n=2))


def test_the_amplitude_of_a_filled_patch_is_that_of_the_linear_map() -> None:
    """Twice the given leads give twice the filled ones: the decoder predicts shapes only."""
    batch = make_batch(2)
    given = given_of("II", "V1", n=2)

    def decode(patches: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        shape = torch.sin(torch.linspace(0, 6.2832, patches.shape[-1]))
        return (shape / shape.std(correction=0)).expand(patches.shape)

    def fill(ecg: torch.Tensor) -> torch.Tensor:
        return completion.fill_patches(decode, dataclasses.replace(batch, ecg=ecg), given, SIGNAL, 10, "patch", 0.0, 1)[
            0
        ]

    once, twice = fill(batch.ecg)[:, 8], fill(2 * batch.ecg)[:, 8]
    torch.testing.assert_close(twice, 2 * once, rtol=1e-2, atol=1e-3)
    x = torch.where(given[..., None], batch.ecg - batch.ecg.median(-1, keepdim=True).values, 0.0)
    base = lead_map.linear_estimate(x, given, lead_map.population_covariance(LEADS))[:, 8].reshape(2, 10, -1)
    torch.testing.assert_close(
        once.reshape(2, 10, -1).std(-1, correction=0), base.std(-1, correction=0), rtol=0.05, atol=2e-3
    )


def test_the_linear_map_is_least_squares() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 4)) @ rng.normal(size=(4, 5000))
    covariance = torch.tensor(x @ x.T / 5000)
    given = torch.tensor([[True, False, True, False]])
    coefficients, *_ = np.linalg.lstsq(x[[0, 2]].T, x.T, rcond=None)
    fitted = lead_map.linear_map(given, covariance)[0].numpy()
    np.testing.assert_allclose(fitted[:, [0, 2]], coefficients.T, atol=1e-5)
    assert not fitted[:, [1, 3]].any()


def test_the_population_s_limb_leads_obey_their_law() -> None:
    given = given_of("I", "aVF", n=1)
    weights = lead_map.linear_map(given, lead_map.population_covariance(LEADS))[0]
    rows = dict(zip(LEADS, weights))
    torch.testing.assert_close(rows["II"], rows["aVF"] + rows["I"] / 2, atol=1e-5, rtol=0)
    torch.testing.assert_close(rows["III"], rows["II"] - rows["I"], atol=1e-5, rtol=0)

"""Two looks at one heart: what they keep, what they lay over it, and what they never read."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import SIGNAL, make_batch, unobserve
from torch import Tensor

from leadwise.batch import LEADS, Batch, Signal
from leadwise.nn import augment
from leadwise.nn.views import Views, ViewSettings

STILL = {
    "view_crop": 1.0, "view_gain": 0.0, "view_wander_mv": 0.0, "view_powerline_mv": 0.0, "view_noise_mv": 0.0,
    "view_lead_mask": 0.0, "view_time_mask": 0.0,
}  # fmt: skip
ROW = {lead: number for number, lead in enumerate(LEADS)}


def views(signal: Signal = SIGNAL, grid: int = 1, **settings: float) -> Views:
    return Views(ViewSettings(**{**STILL, **settings}), signal, grid)


def keeps_the_algebra(ecg: Tensor, atol: float = 1e-5) -> None:
    i, ii, iii, r, left, f = (ecg[:, ROW[lead]] for lead in ("I", "II", "III", "aVR", "aVL", "aVF"))
    torch.testing.assert_close(iii, ii - i, atol=atol, rtol=0)  # Einthoven
    torch.testing.assert_close(r + left + f, torch.zeros_like(r), atol=atol, rtol=0)  # Goldberger
    torch.testing.assert_close(f, (ii + iii) / 2, atol=atol, rtol=0)


def with_gaps(*pieces: tuple[int, int], n: int = 64) -> Batch:
    """Records of which only these stretches were observed, in all leads."""
    batch = make_batch(n)
    observed = torch.zeros_like(batch.observed)
    for begin, end in pieces:
        observed[..., begin:end] = True
    return dataclasses.replace(batch, ecg=batch.ecg * observed, observed=observed)


def whole_patches(observed: Tensor, grid: int) -> Tensor:
    """How many whole patches each view has, in any lead."""
    return observed.unfold(-1, grid, grid).all(-1).any(1).sum(-1)


# --------------------------------------------------------------------------------------------- what is laid over


@pytest.mark.parametrize("what", ["view_wander_mv", "view_powerline_mv", "view_noise_mv", "view_gain"])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_what_a_view_lays_over_keeps_the_algebra_of_the_leads(what: str, bfloat16: bool) -> None:
    torch.manual_seed(0)
    electrodes = torch.randn(4, 9, 2000)
    signal = Signal(rate_hz=500, duration_s=4.0)
    batch = make_batch(4, signal=signal)
    batch = dataclasses.replace(batch, ecg=torch.einsum("le,bet->blt", augment.lead_algebra(LEADS), electrodes))
    keeps_the_algebra(batch.ecg)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        view = views(signal, **{what: 0.5})(batch).batch.ecg
    assert not torch.allclose(view, batch.ecg, atol=0.01)
    keeps_the_algebra(view)


def test_leads_come_from_electrodes_by_name() -> None:
    torch.manual_seed(0)
    v = dict(zip(augment.ELECTRODES, potentials := torch.randn(9)))
    terminal = (v["RA"] + v["LA"] + v["LL"]) / 3
    want = {
        "I": v["LA"] - v["RA"], "II": v["LL"] - v["RA"], "III": v["LL"] - v["LA"], "aVR": 1.5 * (v["RA"] - terminal),
        "aVL": 1.5 * (v["LA"] - terminal), "aVF": 1.5 * (v["LL"] - terminal), "V3": v["V3"] - terminal,
    }  # fmt: skip
    got = augment.lead_algebra(tuple(want)) @ potentials
    torch.testing.assert_close(got, torch.stack([*want.values()]))


@pytest.mark.parametrize(("rate_hz", "hertz"), [(100, set()), (110, {50}), (500, {50, 60})])
def test_hum_is_drawn_where_the_rate_can_hold_it(rate_hz: int, hertz: set[int]) -> None:
    torch.manual_seed(0)
    hum = augment.powerline((40, 2, 4 * rate_hz), 0.1, rate_hz, torch.device("cpu"))
    loud = hum.abs().amax((1, 2)) > 0
    peak = torch.fft.rfft(hum).abs().argmax(-1)[loud] / 4  # four seconds
    assert set(peak.flatten().tolist()) == hertz
    assert bool((peak == peak[:, :1]).all())  # one mains for all electrodes of a record
    assert float(hum.abs().max()) <= 0.1


def test_wander_is_slow_and_below_its_bound() -> None:
    torch.manual_seed(0)
    drift = augment.wander((20, 9, 4000), 0.3, 100.0, torch.device("cpu"))  # 40 s
    power = torch.fft.rfft(drift * torch.hann_window(4000)).abs().square()
    assert bool((power[..., 24:].sum(-1) < 1e-3 * power.sum(-1)).all())  # beyond 0.6 Hz
    assert 0.2 < float(drift.abs().max()) <= 0.3


# ------------------------------------------------------------------------------------------- what is taken away


@pytest.mark.parametrize("grid", [1, 40])
def test_what_was_not_observed_is_never_read(grid: int) -> None:
    batch = unobserve(make_batch(16), leads=[0, 4], after=300)
    other = dataclasses.replace(batch, ecg=torch.where(batch.observed, batch.ecg, torch.full_like(batch.ecg, 7.0)))
    draw = Views(ViewSettings(), SIGNAL, grid)
    torch.manual_seed(1)
    a = draw(batch)
    torch.manual_seed(1)
    b = draw(other)
    assert torch.equal(a.batch.ecg, b.batch.ecg)
    assert torch.equal(a.batch.observed, b.batch.observed)
    assert not bool(a.batch.ecg[~a.batch.observed].any())


@pytest.mark.parametrize("grid", [1, 20, 40])
def test_a_crop_is_the_record_from_where_it_says(grid: int) -> None:
    batch = make_batch(64)
    view = views(grid=grid, view_crop=0.5)(batch)
    assert view.batch.ecg.shape == (64, 12, 200)
    assert bool((view.start % grid == 0).all())
    assert len(set(view.start.tolist())) > (4 if grid > 1 else 20)
    for number, start in enumerate(view.start.tolist()):
        torch.testing.assert_close(view.batch.ecg[number], batch.ecg[number, :, start : start + 200])


@pytest.mark.parametrize(("begin", "end"), [(130, 400), (0, 250), (110, 330)])
@pytest.mark.parametrize("grid", [1, 40])
def test_a_crop_lies_in_what_was_observed(begin: int, end: int, grid: int) -> None:
    view = views(grid=grid, view_crop=0.4)(with_gaps((begin, end)))
    assert bool(view.batch.observed.all())


def test_a_crop_longer_than_what_was_observed_holds_all_of_it() -> None:
    view = views(grid=40, view_crop=0.5)(with_gaps((170, 290)))  # whole patches: 200 to 240, 240 to 280
    assert bool((whole_patches(view.batch.observed, 40) == 2).all())


@pytest.mark.parametrize("pieces", [((0, 45), (355, 400)), ((30, 90),), ((0, 40), (150, 170))])
def test_a_record_with_gaps_keeps_a_whole_patch(pieces: tuple[tuple[int, int], ...]) -> None:
    torch.manual_seed(0)
    harsh = views(grid=40, view_crop=0.4, view_lead_mask=0.9, view_time_mask=0.3)
    for _ in range(4):
        assert int(whole_patches(harsh(with_gaps(*pieces)).batch.observed, 40).min()) >= 1


def test_a_gap_in_the_middle_leaves_something_to_look_at() -> None:
    torch.manual_seed(0)
    view = views(view_crop=0.25)(with_gaps((0, 100), (300, 400)))
    assert int(view.batch.observed[:, 0].sum(-1).min()) >= 50
    assert len(set(view.start.tolist())) > 10


def test_time_is_taken_away_on_the_grid_and_in_all_leads() -> None:
    torch.manual_seed(0)
    batch = make_batch(32)
    _, observed = augment.mask_time(batch.ecg, batch.observed, 80, 40)
    assert torch.equal(observed, observed[:, :1].expand_as(observed))
    patches = observed[:, 0].reshape(32, 10, 40)
    assert bool((patches.all(-1) == patches.any(-1)).all())
    assert bool((patches.all(-1).sum(-1) == 8).all())
    batch = with_gaps((100, 140), n=32)
    _, observed = augment.mask_time(batch.ecg, batch.observed, 360, 40)
    assert bool(observed.any(-1).any(-1).all())  # never the last of it


def test_leads_are_taken_away_and_one_stays() -> None:
    torch.manual_seed(0)
    view = views(view_lead_mask=0.5)(make_batch(200)).batch.observed
    per_record = view.any(-1).sum(-1)
    assert int(per_record.min()) >= 1
    assert 5.5 < float(per_record.float().mean()) < 6.8


def test_two_calls_are_two_views_and_a_seed_gives_them_back() -> None:
    batch, draw = make_batch(4), Views(ViewSettings(), SIGNAL)
    torch.manual_seed(0)
    one, other = draw(batch), draw(batch)
    torch.manual_seed(0)
    assert torch.equal(draw(batch).batch.ecg, one.batch.ecg)
    assert not torch.equal(one.batch.ecg, other.batch.ecg)


def test_all_switched_off_a_view_is_the_record() -> None:
    batch = unobserve(make_batch(3), leads=[2])
    view = views()(batch)
    assert torch.equal(view.batch.ecg, batch.ecg)
    assert torch.equal(view.batch.observed, batch.observed)
    assert not bool(view.start.any())


@pytest.mark.parametrize(
    "wrong",
    [{"view_crop": 0.0}, {"view_crop": 1.5}, {"view_lead_mask": 1.0}, {"view_time_mask": -0.1}, {"view_gain": -1.0}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ViewSettings(**wrong)

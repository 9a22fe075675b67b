"""SE-Diff: the beat's equation, diffusion, stages, conditions and sampling."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from conftest import REPORTS, SIGNAL, config_table, make_batch, unobserve

from leadwise import run as runs
from leadwise.batch import LEADS, Signal
from leadwise.config import Config as RunConfig
from leadwise.config import typed
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.methods.catalogue import find_method
from leadwise.methods.contract import Conditions
from leadwise.methods.se_diff import TINY, Config, Method
from leadwise.nn import diffusion, phase
from leadwise.nn.beat_waves import waves_of
from leadwise.nn.ecg_latents import mean_beat
from leadwise.nn.eight_leads import EIGHT, from_eight, limb_residual
from leadwise.nn.losses import beat_ode
from leadwise.nn.phase import RPeaks
from leadwise.training.loop import pretrain

STEP_S = 0.01
THETA = (2 * math.pi * (torch.arange(61) * STEP_S - 0.2))[None]  # of one beat at 60 bpm


def build(variant: str = "", seed: int = 0, start: dict | None = None, signal: Signal = SIGNAL, **changes) -> Method:
    config = Config(**{**TINY[variant], **changes})
    torch.manual_seed(seed)
    return Method(config, signal, Method.make_tokenizer(config, REPORTS), None, start or {})


def started(**changes) -> Method:
    """A method of stage "diffusion", on the autoencoder of another."""
    return build(start={"init": build("vae", seed=1)}, stage="diffusion", **changes)


# ------------------------------------------------------------------------------------------------ the beat's equation


def ode_beat(report: str = "sinus rhythm", rate: float = 60.0) -> tuple[torch.Tensor, beat_ode.Dynamics]:
    """A beat (1, 2, 61) that solves the equation of a report, and its dynamics."""
    pulls = waves_of([report], torch.tensor([rate])).pulls(THETA * rate / 60)
    amplitude = torch.tensor([[[1.2, -5.0, 30.0, -7.5, 0.75], [2.0, 3.0, -20.0, 9.0, -1.0]]])
    dynamics = beat_ode.Dynamics(pulls, amplitude, torch.tensor([[0.05, -0.1]]))
    return beat_ode.integrate(torch.tensor([[0.05, -0.1]]), dynamics, STEP_S), dynamics


def test_a_beat_of_the_equation_does_not_depart_from_it() -> None:
    beat, dynamics = ode_beat()
    assert float(beat_ode.departure(beat, dynamics, STEP_S)) < 1e-10
    assert float(beat.abs().max()) > 0.1  # it is no flat line


def test_amplitudes_are_fitted_to_a_beat() -> None:
    beat, dynamics = ode_beat()
    fitted = beat_ode.fit(beat, dynamics.pulls, STEP_S)
    torch.testing.assert_close(fitted.amplitude, dynamics.amplitude, atol=0.02, rtol=0.01)
    assert float(beat_ode.departure(beat, fitted, STEP_S)) < 1e-6


def test_another_beat_departs_and_its_gradient_leads_back() -> None:
    beat, dynamics = ode_beat()
    other = (beat + 0.1 * torch.randn(beat.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    before = beat_ode.departure(other, dynamics, STEP_S).sum()
    before.backward()
    assert other.grad is not None
    assert float(other.grad.norm()) > 0
    closer = (other - 1e-4 * other.grad).detach()
    assert float(beat_ode.departure(closer, dynamics, STEP_S).sum()) < float(before.detach())


def test_departure_is_that_of_a_plain_loop() -> None:
    _, dynamics = ode_beat()
    beat = torch.randn(1, 2, 61, generator=torch.Generator().manual_seed(1))
    total, size = 0.0, 0.0
    for lead in range(2):
        for n in range(60):
            z, base = float(beat[0, lead, n]), float(dynamics.base_mv[0, lead])
            rate = sum(float(dynamics.amplitude[0, lead, k] * dynamics.pulls[0, k, n]) for k in range(5)) - (z - base)
            step = float(beat[0, lead, n + 1]) - z
            total += (step - STEP_S * rate) ** 2
            size += step**2
    assert float(beat_ode.departure(beat, dynamics, STEP_S)) == pytest.approx(total / size, rel=1e-4)


def test_the_pull_of_a_wave_is_the_formula() -> None:
    waves = beat_ode.BeatWaves(torch.tensor([[0.3]]), torch.tensor([[0.2]]), torch.tensor([[True]]))
    for theta in (0.1, 0.3, 0.3 + math.pi - 0.01, 6.0):
        away = (theta - 0.3 + math.pi) % (2 * math.pi) - math.pi
        expected = -away * math.exp(-(away**2) / (2 * 0.2**2))
        assert float(waves.pulls(torch.tensor([[theta]]))) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("report", "has_p"),
    [
        ("sinus rhythm. normal ecg.", True),
        ("atrial fibrillation. abnormal ecg.", False),
        ("no atrial fibrillation. sinus rhythm.", True),
        ("Ventricular paced rhythm", False),
    ],
)
def test_a_report_without_p_waves_has_none(report: str, has_p: bool) -> None:
    waves = waves_of([report], torch.tensor([70.0]))
    assert bool(waves.present[0, 0]) == has_p
    assert bool(waves.present[0, 1:].all())


def test_waves_follow_findings_and_rate() -> None:
    rates = torch.tensor([60.0, 60.0, 120.0, math.nan])
    waves = waves_of(["normal ecg", "left bundle branch block", "normal ecg", "normal ecg"], rates)
    assert float(waves.width[1, 2]) > 1.5 * float(waves.width[0, 2])
    seconds = waves.angle[:, 4] / (2 * math.pi * torch.tensor([1.0, 1.0, 2.0, 1.0]))
    assert float(seconds[2]) < float(seconds[0])  # T comes earlier at 120 bpm
    torch.testing.assert_close(waves.angle[3], waves.angle[0])


# ---------------------------------------------------------------------------------------------------- the loss terms


def test_the_ode_loss_has_a_gradient_at_the_generator_and_none_at_the_beat_decoder() -> None:
    method = build(w_beat=1e-12, w_kl=0.0)
    terms = method(make_batch())
    terms["L_ode"].backward()
    assert float(terms["L_ode"]) > 0
    assert any(p.grad is not None and bool(p.grad.any()) for p in method.unet.parameters())
    assert all(p.grad is None for p in method.latents.parameters())


@pytest.mark.parametrize(("variant", "step"), [("", 999), ("twelve", 0.0)])
def test_noisy_steps_do_not_count(variant: str, step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = build(variant).eval(), make_batch()
    monkeypatch.setattr(torch, "rand", lambda *size: torch.full(size, step))
    monkeypatch.setattr(torch, "randint", lambda high, size: torch.full(size, int(step)))
    assert float(method(batch)["L_ode"]) == 0.0


def test_interlead_is_a_term_of_twelve_leads_only() -> None:
    assert "L_interlead" in build("twelve").weights
    assert "L_interlead" not in build().weights


def test_the_limb_law() -> None:
    eight = torch.randn(2, 8, 50, generator=torch.Generator().manual_seed(0))
    ecg = from_eight(LEADS) @ eight
    assert float(limb_residual(ecg, LEADS).abs().max()) < 1e-6
    by_lead = dict(zip(LEADS, ecg.unbind(1)))
    torch.testing.assert_close(by_lead["III"], by_lead["II"] - by_lead["I"])
    torch.testing.assert_close(by_lead["aVR"], -(by_lead["I"] + by_lead["II"]) / 2)
    torch.testing.assert_close(ecg[:, [LEADS.index(lead) for lead in EIGHT]], eight)


def test_the_mean_beat_is_that_of_a_plain_loop() -> None:
    ecg = torch.randn(1, 3, 300, generator=torch.Generator().manual_seed(0))
    observed = torch.ones_like(ecg, dtype=torch.bool)
    observed[0, 1, 250:] = False
    peaks = RPeaks(torch.tensor([[5, 60, 150, 240, 0]]), torch.tensor([[True, True, True, True, False]]))
    beat, has_beat = mean_beat(ecg, observed, peaks, 100)
    whole = [ecg[0, :, peak - 20 : peak + 41] for peak in (60, 150)]  # 5 is at the edge, 240 partly unobserved
    torch.testing.assert_close(beat[0], sum(whole) / 2)
    assert has_beat.tolist() == [True]
    nothing = RPeaks(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.bool))
    assert mean_beat(ecg, observed, nothing, 100)[1].tolist() == [False]


def test_the_heart_rate_of_r_peaks() -> None:
    sample = torch.tensor([[100, 200, 300, 0], [50, 0, 0, 0]])
    real = torch.tensor([[True, True, True, False], [True, False, False, False]])
    rate = phase.heart_rate(RPeaks(sample, real), 100.0)
    assert float(rate[0]) == pytest.approx(60.0)
    assert math.isnan(float(rate[1]))


def test_a_record_without_chest_leads_does_not_train_the_generator() -> None:
    method = started().eval()
    batch = unobserve(make_batch(2), leads=list(range(6, 12)))
    assert int(method._whole_steps(batch.observed[:, method.places], 200).sum()) == 0
    assert float(method(batch)["L_eps"]) == 0.0
    assert float(method(make_batch(2))["L_eps"]) > 0.0


# --------------------------------------------------------------------------------------------------------- diffusion


def test_shares_fall_and_noise_is_removed_again() -> None:
    shares = diffusion.signal_shares(1000, 0.00085, 0.012)
    slow = 1.0
    for step in range(1000):
        slow *= 1 - (0.00085 + (0.012 - 0.00085) * step / 999)
    assert float(shares[-1]) == pytest.approx(slow, rel=1e-3)
    assert bool((shares[1:] < shares[:-1]).all())
    z, noise = torch.randn(3, 2, 5), torch.randn(3, 2, 5)
    share = shares[[0, 300, 700]]
    noisy = diffusion.add_noise(z, noise, share)
    torch.testing.assert_close(diffusion.without_noise(noisy, noise, share), z, atol=1e-4, rtol=1e-4)


def test_ddim_with_the_true_noise_gives_the_sample() -> None:
    shares = diffusion.signal_shares(1000, 0.00085, 0.012)
    z_0 = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    start = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))

    def noise_of(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:  # the noise by which z differs from z_0
        share = shares[t][:, None, None]
        return (z - share.sqrt() * z_0) / (1 - share).sqrt()

    torch.testing.assert_close(diffusion.ddim(noise_of, start, shares, 20), z_0, atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------------------------------------------------- stages


def test_the_autoencoder_of_the_init_run_is_frozen() -> None:
    method = started()
    assert set(method.weights) == {"L_eps", "L_ode"}
    before = {name: p.clone() for name, p in method.latents.state_dict().items()}
    sum(method(make_batch()).values()).backward()
    assert all(p.grad is None for p in method.latents.parameters())
    idle = [n for n, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert idle == []
    for name, value in method.latents.state_dict().items():
        torch.testing.assert_close(value, before[name])


@pytest.mark.parametrize(
    ("changes", "start", "message"),
    [
        ({"stage": "diffusion"}, {}, "data.init is empty; set it to a run of se_diff"),
        ({"stage": "diffusion"}, {"init": "st_mem"}, "a run of another method"),
        ({"stage": "diffusion"}, {"init": "twelve"}, "set generated to it"),
        ({"stage": "both"}, {"init": "vae"}, "leave it empty"),
        ({"stage": "vae"}, {"init_text": "merl"}, "reads no text"),
        ({"stage": "both"}, {"init_text": "st_mem"}, "choose a run that embeds texts"),
        ({"unet_kernel": 4}, {}, "must be odd"),
    ],
)
def test_runs_and_settings_that_do_not_fit(changes: dict, start: dict, message: str) -> None:
    def other(name: str):
        if name in TINY:
            return build(name)
        file = find_method(name)
        config = file.config_class(**file.tiny[""])
        return file.method_class(config, SIGNAL, file.method_class.make_tokenizer(config, REPORTS))

    with pytest.raises(ValueError, match=message):
        build(start={key: other(name) for key, name in start.items()}, **changes)


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        (dataclasses.replace(SIGNAL, leads=("I", "II", "V1")), "generates I, II, V1, V2"),
        (dataclasses.replace(SIGNAL, normalize="lead_zscore"), "are in mV"),
    ],
)
def test_signals_that_cannot_be_generated(signal: Signal, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(signal=signal)


def test_the_text_encoder_of_another_run_is_frozen_and_in_eval_mode() -> None:
    file = find_method("merl")
    config = file.config_class(**file.tiny[""])
    merl = file.method_class(config, SIGNAL, file.method_class.make_tokenizer(config, REPORTS))
    method = build(start={"init_text": merl}).train()
    assert method.text is merl.text_branch[0]
    assert not method.text.training
    assert not any(p.requires_grad for p in method.text.parameters())
    sum(method(make_batch()).values()).backward()
    assert all(p.grad is None for p in method.text.parameters())
    assert method.generate(["normal ecg"], [Conditions()], 0).shape == (1, 12, SIGNAL.n_samples)


# ------------------------------------------------------------------------------------------------------- generation


@pytest.mark.parametrize("variant", ["", "twelve"])
def test_generation_is_repeatable_and_one_ecg_does_not_depend_on_the_others(variant: str) -> None:
    method = build(variant).eval()
    texts, conditions = ["atrial fibrillation", ""], [Conditions(70.0, "female", 120.0), Conditions()]
    a, b = method.generate(texts, conditions, 3), method.generate(texts, conditions, 3)
    assert a.shape == (2, 12, SIGNAL.n_samples)
    assert bool(a.isfinite().all())
    assert torch.equal(a, b)
    torch.testing.assert_close(method.generate(texts[:1], conditions[:1], 3)[0], a[0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(a, method.generate(texts, conditions, 4))
    if variant == "":
        assert float(limb_residual(a, LEADS).abs().max()) < 1e-5
    assert method.generate([], [], 0).shape == (0, 12, SIGNAL.n_samples)


def test_text_and_each_condition_change_the_ecg() -> None:
    method = build().eval()
    base = method.generate(["normal ecg"], [Conditions(50.0, "male", 60.0)], 0)
    for text, conditions in (
        ("atrial fibrillation", Conditions(50.0, "male", 60.0)),
        ("normal ecg", Conditions(80.0, "male", 60.0)),
        ("normal ecg", Conditions(50.0, "female", 60.0)),
        ("normal ecg", Conditions(50.0, "male", 120.0)),
        ("normal ecg", Conditions()),
    ):
        assert not torch.allclose(base, method.generate([text], [conditions], 0))


def test_conditions_have_ranges() -> None:
    with pytest.raises(ValueError, match="must be male or female"):
        Conditions(sex="m")
    with pytest.raises(ValueError, match="heart_rate_bpm = 5: must be from 15 to 300"):
        Conditions(heart_rate_bpm=5)


def test_a_run_of_the_autoencoder_generates_nothing() -> None:
    method = build("vae")
    assert not method.generates_ecgs
    with pytest.raises(ValueError, match='stage = "vae"'):
        method.generate(["normal"], [Conditions()], 0)
    with pytest.raises(ValueError, match="2 conditions"):
        build().generate(["normal"], [Conditions(), Conditions()], 0)


def test_an_unknown_number_leaves_nothing_of_its_value() -> None:
    method = build().eval()
    a = method._conditions(["normal ecg"], torch.tensor([[50.0, 1.0, math.nan]]))
    b = method._conditions(["normal ecg"], torch.tensor([[50.0, math.nan, math.nan]]))
    torch.testing.assert_close(a[0][:, 3], b[0][:, 3])  # the heart rate's token
    assert not torch.allclose(a[0][:, 2], b[0][:, 2])
    empty = method._conditions([""], torch.full((1, 3), math.nan))
    assert empty[1].sum() == 4  # of an empty text only the summary is read


# ---------------------------------------------------------------------------------------------- from files to a run


def test_age_and_sex_come_from_the_cohort(tmp_path: Path, cohort_folder: Path) -> None:
    cohort = Cohort.open(cohort_folder)
    rows = cohort.rows(split="train")
    batch = Recordings(cohort, SIGNAL, rows, person=True).batch([0, 1])
    assert batch.person is not None
    assert bool(batch.person.isnan().all())
    assert Recordings(cohort, SIGNAL, rows).batch([0, 1]).person is None
    assert make_batch(4).rows(1, 3).person.shape == (2, 2)


@pytest.mark.slow
def test_both_stages_from_files_to_generated_ecgs(tmp_path: Path, cohort_folder: Path) -> None:
    table = config_table(cohort_folder, steps=4)
    table["method"] = {"name": "se_diff", **TINY["vae"]}
    pretrain(typed(RunConfig, table), tmp_path / "vae")
    table["method"] = {"name": "se_diff", **TINY[""], "stage": "diffusion"}
    table["data"]["init"] = str(tmp_path / "vae")
    run = pretrain(typed(RunConfig, table), tmp_path / "run")
    (tmp_path / "vae").rename(tmp_path / "moved")
    loaded = runs.load(tmp_path / "run", "cpu")
    assert loaded.provenance["init"]["method"] == "se_diff"
    texts, conditions = ["atrial fibrillation"] * 2, [Conditions()] * 2
    torch.testing.assert_close(
        loaded.method.generate(texts, conditions, 1), run.method.eval().generate(texts, conditions, 1)
    )

"""ECGFlowCMR beyond the contract: the loss by a plain version, missing targets, the running template, and draws."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from conftest import SIGNAL, make_batch
from test_methods import build
from torch import Tensor

from leadwise import run as runs
from leadwise.batch import Batch
from leadwise.config import Config
from leadwise.methods.catalogue import find_method, phenotype_setting, volume_setting
from leadwise.methods.contract import PretrainingMethod
from leadwise.nn.volume_vae import VolumeVae, kl_to_standard_normal

PHENOTYPE = "ecg_flow_cmr phenotype"


def plain_features(t: float) -> list[float]:
    frequencies = [10 ** (2 * i / 31) for i in range(32)]
    return [math.sin(t * f) for f in frequencies] + [math.cos(t * f) for f in frequencies]


def plain_velocity(method: PretrainingMethod, x: Tensor, t: float, vector: Tensor) -> Tensor:
    """The velocity of one point, layer by layer."""
    net = method.velocity
    context = net.time(torch.tensor([plain_features(t)])) + net.condition(vector[None])
    h = net.enter(x[None])
    for layer in net.layers:
        scale, shift, gate = layer.modulation(torch.nn.functional.silu(context)).split(h.shape[1], dim=1)
        normed = (h - h.mean()) / (h.var(unbiased=False) + 1e-5).sqrt()
        h = h + gate * layer.feed(normed * (1 + scale) + shift)
    return net.out(net.norm(h))[0]


@torch.no_grad()
def test_the_loss_is_that_of_a_plain_version() -> None:
    method, batch = build(PHENOTYPE, drop=0.0, times=2, alpha=0.7).eval(), make_batch(4)
    method.take_phenotypes(batch.phenotype)
    assert batch.phenotype[2].isnan().tolist() == [False, True]
    torch.manual_seed(3)
    loss = float(method(batch)["L_flow"])

    # the same random numbers, then record by record and draw by draw
    torch.manual_seed(3)
    noise, times = torch.randn(8, 2), torch.rand(8)
    standard = (batch.phenotype - method.target_mean) / method.target_deviation
    vectors = method.embed_ecg(batch)
    errors = []
    for record in range(4):
        known = standard[record].isfinite()
        for number in (record, 4 + record):
            z0, t = 0.7 * noise[number], float(times[number])
            z1 = torch.where(known, standard[record], z0)
            predicted = plain_velocity(method, (1 - t) * z0 + t * z1, t, vectors[record])
            errors.append(float((predicted - (z1 - z0))[known].square().mean()))
    assert loss == pytest.approx(sum(errors) / 8, rel=1e-4)


def test_a_record_without_a_target_is_left_out_of_the_means() -> None:
    method, batch = build("ecg_flow_cmr", times=1).eval(), make_batch(8)
    errors = {name: each.detach() for name, each in method.local_terms(batch)[1].items()}
    assert errors["has_flow"].tolist() == [1, 0, 1, 1, 1, 1, 1, 1]  # the second record has no systole
    assert errors["has_image"].tolist() == [1] * 8
    terms = method.batch_terms(errors)
    assert float(terms["L_flow"]) == pytest.approx(float(errors["flow"].sum() / 7))
    assert float(terms["L_image"]) == pytest.approx(float(errors["image"].mean()))
    # what an absent phase holds does not matter for the image error of the record
    one = batch.rows(1, 2)
    rebuilt = method.rebuild_volume(one)
    assert float(errors["image"][1]) == pytest.approx(float((rebuilt - one.volume)[0, 0].square().mean()))
    # no record at all
    none = dataclasses.replace(batch, has_volume=torch.zeros(8, 2, dtype=torch.bool))
    assert float(method(none)["L_flow"].detach()) == 0
    unknown = dataclasses.replace(batch, phenotype=torch.full((8, 2), torch.nan))
    assert float(build(PHENOTYPE)(unknown)["L_flow"].detach()) == 0


def test_the_template_follows_the_latents_of_complete_records() -> None:
    method, batch = build("ecg_flow_cmr"), make_batch(16)
    drawn = []
    for step in range(3):
        torch.manual_seed(step)
        method._latents(batch)
        torch.manual_seed(step)
        mean, log_variance = method.images.encode(batch.volume)
        complete = batch.has_volume.all(1)
        drawn.append((mean + (log_variance / 2).exp() * torch.randn_like(mean)).detach()[complete])
        if step == 0:
            torch.testing.assert_close(method.target_mean, drawn[0].mean(0), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(method.target_deviation, drawn[0].std(0, unbiased=False), atol=1e-4, rtol=1e-3)
    # the first three updates have equal weight
    torch.testing.assert_close(
        method.target_mean, torch.stack([z.mean(0) for z in drawn]).mean(0), atol=1e-5, rtol=1e-4
    )
    before = method.target_mean.clone()
    method.eval()(batch)
    assert torch.equal(method.target_mean, before)  # not in eval mode


def test_phenotypes_are_standardised_over_the_training_recordings() -> None:
    method = build(PHENOTYPE)
    method.take_phenotypes(torch.tensor([[1.0, 5.0], [3.0, torch.nan], [5.0, torch.nan]]))
    assert method.target_mean.tolist() == [3.0, 5.0]
    torch.testing.assert_close(method.target_deviation, torch.tensor([math.sqrt(8 / 3), 1.0]))
    build("ecg_flow_cmr").take_phenotypes(torch.zeros(3, 0))  # without phenotypes


def test_draws_have_the_shape_of_the_target_and_use_the_ecg() -> None:
    for name, shape in (("ecg_flow_cmr", (2, 3, 12, 10)), (PHENOTYPE, (2,))):
        method, batch = build(name).eval(), make_batch(4)
        draws = method.draw(batch, 3, torch.Generator().manual_seed(0))
        assert draws.shape == (3, 4, *shape)
        assert torch.equal(draws, method.draw(batch, 3, torch.Generator().manual_seed(0)))
        assert not torch.equal(draws[0], draws[1])
        # without the ECG, the noise alone counts; without noise either, all draws are the template's
        other = dataclasses.replace(batch, ecg=batch.ecg.flip(0))
        drawn = [method.draw(x, 1, torch.Generator().manual_seed(1), guidance=0.0) for x in (batch, other)]
        assert torch.equal(*drawn)
        constant = method.draw(batch, 2, guidance=0.0, alpha=0.0)
        torch.testing.assert_close(constant, constant[:1, :1].expand(constant.shape), atol=1e-4, rtol=1e-4)
        ecg = [method.draw(x, 1, torch.Generator().manual_seed(1)) for x in (batch, other)]
        assert not torch.allclose(*ecg)


def test_guidance_moves_the_velocity_from_that_without_ecg() -> None:
    method, batch = build(PHENOTYPE, n_steps=1).eval(), make_batch(4)
    vector, x, t = method.embed_ecg(batch), torch.randn(4, 2), torch.full((4,), 0.3)
    without, with_ecg, guided = (method._guided(vector, weight)(x, t) for weight in (0.0, 1.0, 2.5))
    torch.testing.assert_close(guided, without + 2.5 * (with_ecg - without))


def fitted(n_steps: int, batch: Batch) -> PretrainingMethod:
    """The flow between phenotypes, trained on one fixed batch whose second phenotype the ECG cannot show."""
    method = build(PHENOTYPE, times=16, flow_width=64, alpha_draw=0.8, guidance=1.0, n_steps=10, view_crop=1.0)
    method.take_phenotypes(batch.phenotype)
    optimizer = torch.optim.AdamW(method.parameters(), lr=5e-3)
    for _ in range(n_steps):
        method(batch)["L_flow"].backward()
        optimizer.step()
        optimizer.zero_grad()
    return method.eval()


@pytest.mark.slow
def test_draws_are_those_of_the_posterior() -> None:
    """Eight ECGs, sixteen people each: the first phenotype is a function of the ECG, the second is noise."""
    g = torch.Generator().manual_seed(0)
    eight = make_batch(8)
    repeated = torch.arange(8).repeat(16)
    phenotype = torch.stack([100 + 10 * (repeated % 3).float(), 50 + 5 * torch.randn(128, generator=g)], dim=1)
    batch = Batch(
        eight.ecg[repeated], eight.observed[repeated], ("r",) * 128, tuple(map(str, range(128))), ("",) * 128,
        phenotype=phenotype,
    )  # fmt: skip
    method = fitted(150, batch)
    draws = method.draw(eight, 64, torch.Generator().manual_seed(0))
    error = (draws[..., 0].mean(0) - phenotype[:8, 0]).abs()
    assert float(error.max()) < 3
    assert float(draws[..., 0].std(0).max()) < 4
    assert float(draws[..., 1].std(0).mean()) == pytest.approx(5, abs=1.5)
    # the paper's smaller start narrows the draws
    assert float(method.draw(eight, 64, alpha=0.4)[..., 1].std(0).mean()) < 0.75 * float(draws[..., 1].std(0).mean())


def test_an_autoencoder_of_any_size_rebuilds_its_images() -> None:
    for shape in ((2, 6, 46, 42), (1, 3, 13, 10), (3, 1, 5, 8)):
        model = VolumeVae(shape, (4, 6, 8), 5)
        mean, log_variance = model.encode(torch.rand(2, *shape))
        assert mean.shape == log_variance.shape == (2, 5)
        assert model.decode(mean).shape == (2, *shape)
    with pytest.raises(ValueError, match="one or more sizes"):
        VolumeVae((2, 6, 46, 42), (), 5)
    # the KL by the definition, with draws
    mean, log_variance = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.2, -0.7]])
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum()
    assert float(kl_to_standard_normal(mean, log_variance)) == pytest.approx(float(expected), rel=1e-5)


def started(init: PretrainingMethod | None, **changes) -> PretrainingMethod:
    file = find_method("ecg_flow_cmr")
    settings = {**file.tiny["phenotype"], **changes}
    return file.method_class(file.config_class(**settings), SIGNAL, None, None, {"init": init} if init else None)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_ecg_encoder_of_another_run_is_trained_or_frozen(frozen: bool) -> None:
    init, batch = build("simclr"), make_batch(4)
    before = init.eval().embed_ecg(batch).detach()
    method = started(init, ecg_frozen=frozen)
    torch.testing.assert_close(method.eval().embed_ecg(batch).detach(), before)
    method.train()(batch)["L_flow"].backward()
    assert method.ecg.method.training != frozen
    assert any(p.grad is not None and p.grad.any() for p in method.ecg.parameters()) != frozen


def test_settings_that_do_not_fit_are_errors() -> None:
    with pytest.raises(ValueError, match=r"set data\.init, or ecg_frozen=False"):
        started(None, ecg_frozen=True)
    with pytest.raises(ValueError, match="without an ECG encoder"):
        started(build("dual_phase_cmr cmr"))
    with pytest.raises(ValueError, match="needs phenotypes"):
        build(PHENOTYPE, phenotypes=())
    with pytest.raises(ValueError, match="reads no phenotypes"):
        build("ecg_flow_cmr", phenotypes=("lvedv",))
    with pytest.raises(ValueError, match="draws phenotypes"):
        build(PHENOTYPE).rebuild_volume(make_batch(2))
    with pytest.raises(ValueError, match="no phenotypes lvedv, lvesv"):
        build(PHENOTYPE)(dataclasses.replace(make_batch(4), phenotype=None))


def test_the_target_decides_what_training_reads(tmp_path: Path) -> None:
    table = {name: dict(find_method("ecg_flow_cmr").tiny[name]) for name in ("", "phenotype")}
    configs = {name: Config(signal=SIGNAL, method={"name": "ecg_flow_cmr", **each}) for name, each in table.items()}
    assert phenotype_setting(configs[""]) == ()
    assert volume_setting(configs[""]) is not None
    assert phenotype_setting(configs["phenotype"]) == ("lvedv", "lvesv")
    assert volume_setting(configs["phenotype"]) is None
    # a run folder has the template
    run = runs.create(configs["phenotype"], [], tmp_path / "run", {})
    run.method.take_phenotypes(make_batch().phenotype)
    run.save_weights()
    assert torch.equal(runs.load(tmp_path / "run", "cpu").method.target_mean, run.method.target_mean)

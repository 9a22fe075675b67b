"""EchoingECG beyond the contract: Gaussians, uncertainty, pairs with equal reports, and images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from conftest import REPORTS, SIGNAL, make_batch
from scipy.stats import spearmanr
from test_methods import build

from leadwise.config import Config
from leadwise.methods.catalogue import find_method, volume_setting
from leadwise.nn.heads import GaussianHead, SortedPool


def test_the_sorted_pool_does_not_depend_on_padding_or_on_the_order() -> None:
    torch.manual_seed(0)
    pool = SortedPool()
    tokens = torch.randn(2, 7, 5)
    real = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    out = pool(tokens, real)
    torch.testing.assert_close(pool(tokens[1:, :4], real[1:, :4]), out[1:])
    order = torch.tensor([3, 6, 0, 2, 5, 1, 4])
    torch.testing.assert_close(pool(tokens[:, order], real[:, order]), out)
    # a slow loop
    angle = torch.arange(4)[:, None] * torch.exp(torch.arange(0, 32, 2) * (-np.log(10000.0) / 32))
    ranks = torch.cat([angle.sin(), angle.cos()], dim=1).float()
    weight = (pool.score(pool.read_ranks(ranks[None])[0])[0, :, 0] / 0.1).softmax(0)
    for d in range(5):
        values = sorted(tokens[1, :4, d].tolist(), reverse=True)
        expected = sum(w * value for w, value in zip(weight.tolist(), values))
        assert float(out[1, d].detach()) == pytest.approx(expected, abs=1e-5)


def test_a_gaussian_has_a_unit_mean_and_starts_with_a_small_variance() -> None:
    torch.manual_seed(0)
    mean, log_variance = GaussianHead(8, 64)(torch.randn(6, 10, 8), torch.ones(6, 10, dtype=torch.bool))
    torch.testing.assert_close(mean.norm(dim=1), torch.ones(6))
    assert bool((log_variance.exp().sum(1) - 0.25).abs().max() < 0.1)


def test_uncertainty_is_a_part_and_of_texts_and_images_too() -> None:
    method, batch = build("echoing_ecg volume").eval(), make_batch(4)
    shared, uncertainty = method.embed_parts(batch, ("shared", "uncertainty"))
    assert shared.shape == (4, 16)
    assert uncertainty.shape == (4, 1)
    assert bool((uncertainty > 0).all())
    assert method.text_uncertainty(list(REPORTS)).shape == (4,)
    assert method.volume_uncertainty(batch).shape == (4,)
    torch.testing.assert_close(method.embed_volume(batch)[1], method.embed_volume(batch, "ed")[1])


def test_images_are_read_only_where_they_have_a_weight() -> None:
    for variant, reads in (("", False), ("volume", True)):
        settings = dict(find_method("echoing_ecg").tiny[variant])
        if reads:
            settings["volume"] = dataclasses.asdict(settings["volume"])
        config = Config(method={"name": "echoing_ecg", **settings})
        assert (volume_setting(config) is not None) == reads
    method = build("echoing_ecg").eval()
    assert not method.embeds_volume
    batch = dataclasses.replace(make_batch(4), volume=None, has_volume=None)
    assert set(method(batch)) == {"L_match", "L_pseudo", "L_kl"}
    with pytest.raises(ValueError, match="w_volume = 0"):
        method.embed_volume(make_batch(4))


@pytest.mark.parametrize("balance", ["pairs", "equal"])
def test_a_record_without_an_image_is_left_out_of_the_mean(balance: str) -> None:
    method, batch = build("echoing_ecg volume", balance=balance).eval(), make_batch()
    batch.has_volume[7] = False
    terms, without = method(batch), method(batch.rows(0, 7))
    torch.testing.assert_close(terms["L_volume"], without["L_volume"])
    assert float(terms["L_volume"].detach()) > 0
    assert not torch.allclose(terms["L_match"], without["L_match"])


def test_equal_reports_are_ignored_or_positive() -> None:
    batch = dataclasses.replace(make_batch(4), report=(REPORTS[0], REPORTS[0], REPORTS[1], REPORTS[2]))
    method = build("echoing_ecg").eval()
    (mu, s), (nu, t) = method.ecg_head(*method.ecg.tokens(batch)), method._text_gaussian(list(batch.report))
    logits = 5 - 5 * ((mu[:, None] - nu[None]).square().sum(-1) + s.exp().sum(1)[:, None] + t.exp().sum(1)[None])
    own, same = torch.eye(4).bool(), torch.eye(4).bool()
    same[0, 1] = same[1, 0] = True
    for treat, match, counted in (
        ("negative", own, same | True),
        ("positive", same, same | True),
        ("ignore", own, own | ~same),
    ):
        loss = torch.nn.functional.softplus(torch.where(match, -logits, logits)) * counted
        expected = 2 * (loss.sum(1) / counted.sum(1)).mean()
        term = build("echoing_ecg", same_report=treat).eval()(batch)["L_match"]
        torch.testing.assert_close(term, expected, atol=1e-4, rtol=1e-4)


def test_an_image_encoder_of_another_run_is_the_frozen_teacher() -> None:
    cmr = build("dual_phase_cmr cmr")
    file = find_method("echoing_ecg")
    config = file.config_class(**file.tiny["volume"])
    tokenizer = file.method_class.make_tokenizer(config, REPORTS)
    method = file.method_class(config, build("echoing_ecg").signal, tokenizer, None, {"init_volume": cmr})
    assert method.volumes.frozen
    sum(method(make_batch(8)).values()).backward()
    idle = [n for n, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert idle == []
    plain = file.config_class(**file.tiny[""])
    with pytest.raises(ValueError, match="set w_volume above 0"):
        file.method_class(plain, method.signal, tokenizer, None, {"init_volume": cmr})


@pytest.mark.slow
def test_noisy_ecgs_become_uncertain() -> None:
    torch.manual_seed(0)
    signal = dataclasses.replace(SIGNAL, normalize="lead_zscore")
    method = build("echoing_ecg", signal=signal, balance="equal", noise_mv=1.0, same_report="ignore")
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    method.train()
    for step in range(100):
        torch.manual_seed(step)
        sum(method(make_batch(16, seed=step % 8)).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    method.eval()
    batch = make_batch(64, seed=20)
    level = torch.linspace(0, 1.5, 64)
    noise = level[:, None, None] * torch.randn(batch.ecg.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        uncertainty = method.embed_ecg(dataclasses.replace(batch, ecg=batch.ecg + noise), "uncertainty")[:, 0]
    assert spearmanr(level.numpy(), uncertainty.numpy()).statistic > 0.3

"""The variational autoencoder of ECGs: shapes, lengths, the latent's distribution, and that it learns."""

from __future__ import annotations

import pytest
import torch

from leadwise.nn.ecg_vae import EcgVae, ResidualBlock, divergence, sample

WIDTHS = (8, 8, 16, 16)


def test_encode_and_decode_have_the_documented_shapes() -> None:
    vae = EcgVae(24, 12, WIDTHS, latent=4)
    mean, log_variance = vae.encode(torch.randn(2, 24, 1000))
    assert vae.stride == 8
    assert mean.shape == log_variance.shape == (2, 4, 125)
    assert vae.decode(mean).shape == (2, 12, 1000)


def test_the_paper_s_sizes_are_the_default() -> None:
    vae = EcgVae(12, 12)
    widths = [block.second[2].out_channels for block in vae.encoder if isinstance(block, ResidualBlock)]
    assert vae.latent == 4
    assert widths == [128, 256, 512, 512, 512, 512]  # the last two are beside the attention block


@pytest.mark.parametrize("n_samples", [993, 997, 1000])
def test_a_length_that_is_no_multiple_of_the_stride_is_padded_and_cut(n_samples: int) -> None:
    vae = EcgVae(3, 2, WIDTHS, latent=2, n_condition=3)
    x = torch.randn(1, 3, n_samples)
    mean, _ = vae.encode(x)
    assert mean.shape[-1] == vae.n_steps(n_samples) == 125
    assert vae.decode(mean, n_samples, condition=x).shape == (1, 2, n_samples)


def test_a_length_that_the_latents_do_not_have_is_refused() -> None:
    vae = EcgVae(3, 2, WIDTHS, latent=2)
    with pytest.raises(ValueError, match="give a length from 9 to 16"):
        vae.decode(torch.zeros(1, 2, 2), n_samples=17)


def test_a_missing_condition_is_refused() -> None:
    vae = EcgVae(3, 2, WIDTHS, latent=2, n_condition=3)
    with pytest.raises(ValueError, match=r"needs condition \(B, 3, 16\)"):
        vae.decode(torch.zeros(1, 2, 2))


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two widths"):
        EcgVae(1, 1, (8,))
    with pytest.raises(ValueError, match="heads = 3"):
        EcgVae(1, 1, WIDTHS, heads=3)


def test_the_divergence_is_that_of_the_definition() -> None:
    mean, log_variance = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    total = 0.0
    for record in range(2):
        for step in range(5):
            for channel in range(3):
                m, v = mean[record, channel, step], log_variance[record, channel, step].exp()
                total += float(0.5 * (m**2 + v - 1 - v.log()))
    assert float(divergence(mean, log_variance)) == pytest.approx(total / 10, rel=1e-5)
    assert float(divergence(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))) == 0.0


def test_draws_have_the_latent_s_mean_and_deviation() -> None:
    torch.manual_seed(0)
    mean, log_variance = torch.full((1, 1, 20000), 2.0), torch.full((1, 1, 20000), -1.0)
    draws = sample(mean, log_variance)
    assert float(draws.mean()) == pytest.approx(2.0, abs=0.02)
    assert float(draws.std()) == pytest.approx(torch.tensor(-0.5).exp().item(), abs=0.02)


def test_every_parameter_has_a_gradient_and_the_error_falls() -> None:
    torch.manual_seed(0)
    vae = EcgVae(2, 2, (8, 8, 8, 8), latent=4, heads=2)
    time = torch.linspace(0, 6.28, 32)
    x = torch.stack([(time * k).sin() for k in (1, 2, 3, 4)]).reshape(2, 2, 32)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-2)
    errors = []
    for _ in range(60):
        mean, log_variance = vae.encode(x)
        error = (vae.decode(sample(mean, log_variance)) - x).square().mean()
        optimizer.zero_grad()
        (error + 1e-4 * divergence(mean, log_variance)).backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert all(p.grad is not None for p in vae.parameters())
    assert min(errors) < 0.4 * errors[0]

"""Encoders of volumes: shapes, missing phases, frozen parts, and one draw for all phases."""

from __future__ import annotations

import pytest
import torch

from leadwise.nn.volume_encoder import SlowResNet50, VolumeEncoder, VolumeEncoderSettings, volume_view

SMALL = VolumeEncoderSettings(volume_widths=(4, 8), volume_width=6)


def volumes(n: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 2, 3, 12, 10, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shared", [False, True])
def test_absent_phases_are_zero_and_do_not_change_the_others(shared: bool) -> None:
    torch.manual_seed(0)
    settings = VolumeEncoderSettings(volume_widths=(4, 8), volume_width=6, volume_shared=shared)
    encoder = VolumeEncoder(settings, ("ed", "es"), 3)
    assert len(encoder.models) == 2 - shared
    present = torch.ones(4, 2, dtype=torch.bool)
    whole = encoder(volumes(), present)
    assert whole.shape == (4, 2, 6)
    present[1, 0] = present[3, 1] = False
    part = encoder(volumes(), present)
    assert not part[1, 0].any()
    assert not part[3, 1].any()
    torch.testing.assert_close(part[present], whole[present])


def test_a_phase_that_no_record_has_gives_zeros_and_a_gradient_of_zero() -> None:
    encoder = VolumeEncoder(SMALL, ("ed", "es"), 3)
    present = torch.tensor([[True, False]] * 4)
    out = encoder(torch.zeros(4, 2, 3, 12, 10), present)
    out.sum().backward()
    assert not out[:, 1].any()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("kind", ["small", "resnet50"])
def test_tokens_are_the_feature_map_before_pooling(kind: str) -> None:
    settings = VolumeEncoderSettings(volume_widths=(4, 8), volume_width=6, volume_encoder=kind)
    encoder = VolumeEncoder(settings, ("ed", "es"), 3).eval()
    present = torch.tensor([[True, True], [True, False]])
    encoder.freeze_pooling()
    tokens = encoder.tokens(volumes(2), present)
    assert tokens.shape[:2] == (2, 2)
    assert tokens.shape[3] == encoder.map_width
    assert not tokens[1, 1].any()
    # their mean over the plane, the mixture of slices and the linear map are the vector
    model = encoder.models["ed"]
    slices = tokens[:, 0].reshape(2, 3, -1, encoder.map_width).mean(2).transpose(1, 2)
    vector = model.out(model.mix_slices(slices)[..., 0])
    torch.testing.assert_close(vector, encoder(volumes(2), present)[:, 0], atol=1e-5, rtol=1e-4)
    unused = {name.split(".")[2] for name, p in encoder.named_parameters() if not p.requires_grad}
    assert unused == {"mix_slices", "out"}


def test_other_volumes_than_the_encoders_are_an_error() -> None:
    encoder = VolumeEncoder(SMALL, ("ed", "es"), 6)
    with pytest.raises(ValueError, match=r"2 phases of 3 slices, and the encoder reads 2 \(ed, es\) of 6"):
        encoder(volumes(), torch.ones(4, 2, dtype=torch.bool))


def test_a_frozen_encoder_stays_in_eval_mode_and_trains_only_its_last_map() -> None:
    encoder = VolumeEncoder(SMALL, ("ed", "es"), 3)
    encoder.freeze()
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    trainable = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert trainable == {f"models.{phase}.out.{kind}" for phase in ("ed", "es") for kind in ("weight", "bias")}


def test_the_resnet_has_the_published_shape() -> None:
    with torch.device("meta"):
        model = SlowResNet50(6, 768)
        out = model(torch.empty(2, 6, 85, 92))
        features = model.layers(torch.empty(2, 1, 6, 85, 92))
    assert out.shape == (2, 768)
    assert features.shape == (2, 2048, 6, 3, 3)
    body = sum(p.numel() for p in model.layers.parameters())
    assert 31e6 < body < 32.5e6  # of slow_r50 without its head
    assert VolumeEncoderSettings(volume_encoder="resnet50").volume_whole_batch == "method.volume_encoder = 'resnet50'"
    assert VolumeEncoderSettings().volume_whole_batch == ""


def test_a_view_is_the_same_in_all_phases_of_a_record() -> None:
    volume = volumes(16)
    torch.manual_seed(0)
    flipped = volume_view(volume, VolumeEncoderSettings(volume_flip=True))
    changed = (flipped != volume).flatten(2).any(-1)
    assert bool((changed[:, 0] == changed[:, 1]).all())
    assert 0 < int(changed[:, 0].sum()) < 16
    torch.testing.assert_close(torch.where(changed[..., None, None, None], flipped.flip(-1), flipped), volume)
    assert torch.equal(volume_view(volume, SMALL), volume)
    noisy = volume_view(volume, VolumeEncoderSettings(volume_noise=0.1))
    assert 0 < float((noisy - volume).std()) < 0.1


def test_the_small_encoder_learns_the_size_of_a_disc() -> None:
    """The quantity that the encoder is for: a volume is an area times the number of slices."""
    g = torch.Generator().manual_seed(0)
    size = 2 + 5 * torch.rand(160, 1, 1, 1, 1, generator=g)
    row, column = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    away = ((row - 8).square() + (column - 8).square()).sqrt()
    volume = (away < size).float().expand(-1, 1, 2, -1, -1) + 0.05 * torch.randn(160, 1, 2, 16, 16, generator=g)
    target = (size.flatten() - 4.5) / 1.5
    torch.manual_seed(0)
    encoder = VolumeEncoder(VolumeEncoderSettings(volume_widths=(8, 16), volume_width=1), ("ed",), 2)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-2)
    present = torch.ones(32, 1, dtype=torch.bool)
    for step in range(60):
        rows = torch.arange(32) + 32 * (step % 4)
        loss = (encoder(volume[rows], present)[:, 0, 0] - target[rows]).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        error = (encoder(volume[128:], present)[:, 0, 0] - target[128:]).square().mean() / target[128:].var()
    assert float(error) < 0.1

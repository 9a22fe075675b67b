"""Five encoders behind one door: vectors and tokens of whole ECGs, of crops, and of what was observed only."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from conftest import SIGNAL, make_batch, unobserve

from leadwise.batch import Batch
from leadwise.nn.encoder import (
    EcgEncoder,
    EncoderSettings,
    check_part,
    mean_of,
)
from leadwise.nn.resnet import ResNet18
from leadwise.nn.vit import ViT

KINDS = ["resnet", "s4", "vit", "lead_time", "lead_time_conv"]
WITHOUT_PATCHES = KINDS[:2]
BY_LEAD = KINDS[3:]


def build(kind: str, seed: int = 0) -> EcgEncoder:
    torch.manual_seed(seed)
    s4 = {"s4_width": 16, "s4_depth": 2, "s4_states": 4, "s4_stride": 4}
    settings = EncoderSettings(encoder=kind, resnet_width=4, n_patches=10, width=16, depth=2, heads=2, **s4)
    return EcgEncoder(settings, SIGNAL).eval()


def crop(batch: Batch, begin: int, end: int) -> Batch:
    return dataclasses.replace(batch, ecg=batch.ecg[..., begin:end], observed=batch.observed[..., begin:end])


def only(batch: Batch, begin: int, end: int) -> Batch:
    """The whole ECG with nothing observed outside a stretch."""
    observed = torch.zeros_like(batch.observed)
    observed[..., begin:end] = batch.observed[..., begin:end]
    return dataclasses.replace(batch, ecg=batch.ecg * observed, observed=observed)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_vectors_and_tokens_have_their_shapes(kind: str) -> None:
    ecg, batch = build(kind), make_batch(3)
    tokens, real = ecg.tokens(batch)
    n = {"resnet": ResNet18.n_positions(400), "s4": 100}.get(kind, 10)
    assert ecg(batch).shape == (3, ecg.width)
    assert ecg.grid == (1 if kind in WITHOUT_PATCHES else 40)
    assert tokens.shape == (3, n, ecg.width) == (3, ecg.n_positions(400), ecg.width)
    assert real.shape == (3, n)
    assert bool(real.all())
    assert (ecg.tokenizer is None) == (kind in WITHOUT_PATCHES)
    assert (ecg.last_norm is None) == (kind == "resnet")


@pytest.mark.parametrize("kind", BY_LEAD)
@torch.no_grad()
def test_a_crop_is_those_patches_of_the_whole_with_nothing_else_observed(kind: str) -> None:
    """Exact, since there is no token where nothing was observed; records may begin at different places."""
    ecg, batch = build(kind), unobserve(make_batch(2), leads=[3])
    start = torch.tensor([120, 200])
    pieces = [crop(batch, at, at + 160) for at in start.tolist()]
    cropped = dataclasses.replace(
        batch,
        ecg=torch.stack([piece.ecg[i] for i, piece in enumerate(pieces)]),
        observed=torch.stack([piece.observed[i] for i, piece in enumerate(pieces)]),
    )
    got, (tokens, _) = ecg(cropped, start), ecg.tokens(cropped, start)
    for i, at in enumerate(start.tolist()):
        hidden = only(batch, at, at + 160)
        torch.testing.assert_close(got[i], ecg(hidden)[i], atol=1e-5, rtol=1e-4)
        whole, real = ecg.tokens(hidden)
        assert real[i].tolist() == [at <= 40 * n < at + 160 for n in range(10)]
        torch.testing.assert_close(tokens[i], whole[i, real[i]], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(got, ecg(cropped, torch.zeros_like(start)), atol=1e-4)


@torch.no_grad()
def test_a_crop_has_its_own_positions_in_the_vit() -> None:
    ecg, batch = build("vit"), make_batch(2)
    start = torch.tensor([80, 200])
    got = ecg(crop(batch, 40, 240), start)
    assert isinstance(ecg.model, ViT)
    position = ecg.model.position.clone()
    for i, first in enumerate([2, 5]):
        ecg.model.position[:, :5] = position[:, first : first + 5]
        torch.testing.assert_close(got[i], ecg(crop(batch, 40, 240))[i], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", WITHOUT_PATCHES)
@torch.no_grad()
def test_an_encoder_without_patches_knows_no_time_of_its_own(kind: str) -> None:
    ecg, batch = build(kind), crop(make_batch(2), 101, 298)  # of any length
    assert torch.equal(ecg(batch), ecg(batch, torch.tensor([100, 100])))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_no_mean_is_taken_over_places_that_were_not_observed(kind: str) -> None:
    ecg, batch = build(kind), unobserve(make_batch(2), after=160)
    tokens, real = ecg.tokens(batch)
    n_seen = {"resnet": 10, "s4": 40}.get(kind, 4)
    assert real[0].tolist() == [n < n_seen for n in range(tokens.shape[1])]
    if kind not in BY_LEAD:
        encoded = tokens[:, :n_seen].mean(1)
        torch.testing.assert_close(ecg(batch), ecg.model.norm(encoded) if kind == "vit" else encoded)


@pytest.mark.parametrize("kind", BY_LEAD)
@torch.no_grad()
def test_a_time_is_the_mean_over_the_leads_seen_there(kind: str) -> None:
    ecg, batch = build(kind), make_batch(2)
    observed = batch.observed.clone()
    observed[0, 1:, :40] = False  # one lead alone in the first patch, and another record with all
    batch = dataclasses.replace(batch, ecg=batch.ecg * observed, observed=observed)
    encoded = ecg.model(*ecg.patches(batch))
    tokens, real = ecg.tokens(batch)
    assert bool(real.all())
    torch.testing.assert_close(tokens[0, 0], ecg.norm(encoded.tokens[0, 0]), atol=1e-5, rtol=1e-4)
    mean = encoded.tokens[1].reshape(12, 10, -1).mean(0)
    torch.testing.assert_close(tokens[1], ecg.norm(mean), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_unobserved_samples_are_not_read(kind: str) -> None:
    ecg, batch = build(kind), unobserve(make_batch(3), leads=[0, 5], after=280)
    other = dataclasses.replace(batch, ecg=torch.where(batch.observed, batch.ecg, torch.full_like(batch.ecg, -3.0)))
    torch.testing.assert_close(ecg(batch), ecg(other))
    for a, b in itertools.pairwise([ecg.tokens(batch)[0], ecg.tokens(other)[0]]):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_with_nothing_to_see_is_named(kind: str) -> None:
    ecg = build(kind)
    batch = make_batch(3)
    nothing = dataclasses.replace(batch, observed=batch.observed & (torch.arange(3) != 1)[:, None, None])
    for look in (ecg, ecg.tokens):
        with pytest.raises(ValueError, match=f"record {batch.record[1]}: no sample was observed"):
            look(nothing)
    if kind in BY_LEAD:
        with pytest.raises(ValueError, match=f"record {batch.record[0]}: not one whole patch of 0.4 s"):
            ecg(unobserve(batch, after=39))


@pytest.mark.parametrize("kind", KINDS[2:])
def test_patches_must_divide_the_samples(kind: str) -> None:
    with pytest.raises(ValueError, match="n_patches = 7 does not divide the 400 samples"):
        EcgEncoder(EncoderSettings(encoder=kind, n_patches=7), SIGNAL)


def test_a_mean_is_over_real_tokens() -> None:
    tokens = torch.tensor([[[1.0], [3.0], [90.0]], [[5.0], [70.0], [80.0]]])
    real = torch.tensor([[True, True, False], [True, False, False]])
    assert mean_of(tokens, real).tolist() == [[2.0], [5.0]]


def test_an_unknown_part_is_told_what_there_is() -> None:
    check_part("backbone", ("backbone", "shared"))
    with pytest.raises(ValueError, match="no part 'specific' in this run; choose from backbone, shared"):
        check_part("specific", ("backbone", "shared"))


def test_only_the_resnet_has_batch_norm() -> None:
    assert [kind for kind in KINDS if EncoderSettings(encoder=kind).whole_batch] == ["resnet"]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_bfloat16_is_near(kind: str) -> None:
    """Records with gaps, whose tokens have fillers beside them, too."""
    ecg, batch = build(kind), make_batch(3)
    observed = batch.observed.clone()
    observed[0, 2:, 160:] = False
    batch = dataclasses.replace(batch, ecg=batch.ecg * observed, observed=observed)
    want, (tokens, _) = ecg(batch), ecg.tokens(batch)
    with torch.autocast("cpu", torch.bfloat16):
        got, (near, _) = ecg(batch), ecg.tokens(batch)
    for a, b in ((got, want), (near, tokens)):
        assert float((a.float() - b).norm() / b.norm()) < 0.05

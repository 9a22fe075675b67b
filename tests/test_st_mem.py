"""Tests of ST-MEM and its single-axis variants beyond the contract."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from conftest import SIGNAL, make_batch, unobserve
from test_methods import build

from leadwise.nn.patches import patchify
from leadwise.reproduce import paper_numbers

ROWS = ["st_mem", "st_mem time", "st_mem lead"]


def hidden_of(method, batch) -> torch.Tensor:
    """(B, L, N) bool."""
    _, hidden = method.reconstruct(batch)
    parts = patchify(hidden, 10)
    assert bool((parts.all(-1) == parts.any(-1)).all())
    return parts.all(-1)


def fill_in(method, patches: torch.Tensor, usable: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every patch's predicted target, and which patches were hidden."""
    encoded, visible = method._encode_visible(patches, usable, usable)
    return method._decode(encoded, usable, visible, usable), usable & ~visible


def test_each_variant_hides_patches_times_or_leads() -> None:
    batch = make_batch(4)
    each = hidden_of(build("st_mem").eval(), batch)
    assert (each.sum(-1) == 8).all()  # round(10 x 0.25) = 2 of each lead are visible
    assert not bool((each == each[:, :1]).all())  # each lead at its own times
    times = hidden_of(build("st_mem time").eval(), batch)
    assert bool((times == times[:, :1]).all())
    assert (times.sum(-1) == 8).all()
    leads = hidden_of(build("st_mem lead").eval(), batch)
    assert bool((leads == leads[..., :1]).all())
    assert (leads.all(-1).sum(-1) == 9).all()


@pytest.mark.parametrize("decoder", ["paper", "cross"])
@pytest.mark.parametrize("name", ROWS)
def test_hidden_patches_are_predicted_but_not_encoded(name: str, decoder: str) -> None:
    method = build(name, decoder=decoder).eval()
    patches, usable = method.ecg.patches(make_batch(3))
    torch.manual_seed(0)
    predicted, hidden = fill_in(method, patches, usable)
    torch.manual_seed(0)
    other, _ = fill_in(method, torch.where(hidden[..., None], patches + 3.0, patches), usable)
    torch.testing.assert_close(predicted, other, rtol=0, atol=0)


@pytest.mark.parametrize("name", ROWS)
def test_the_loss_is_the_mean_over_hidden_patches_each_on_its_own_scale(name: str) -> None:
    method = build(name).eval()
    batch = unobserve(make_batch(3), leads=[2], after=330)
    torch.manual_seed(1)
    loss = float(method(batch)["L_rec"].detach())
    torch.manual_seed(1)
    patches, usable = method.ecg.patches(batch)
    predicted, hidden = fill_in(method, patches, usable)
    assert not bool(hidden[:, 2].any() | hidden[:, :, 8:].any())
    records = []
    for b in range(3):
        errors = []
        for lead, n in hidden[b].nonzero().tolist():
            patch = patches[b, lead, n]
            target = (patch - patch.mean()) / (patch.var(correction=0) + 1e-6).sqrt()
            errors.append(float((predicted[b, lead, n] - target).square().mean().detach()))
        records.append(sum(errors) / len(errors))
    assert loss == pytest.approx(sum(records) / 3, rel=1e-4)


def test_the_decoder_of_st_mem_reconstructs_each_lead_by_itself() -> None:
    for name, apart in (("st_mem", True), ("st_mem time", False), ("st_mem lead", False)):
        method = build(name).eval()
        patches, usable = method.ecg.patches(make_batch(2))
        encoded = method._encoder(patches, usable)
        grid = encoded.tokens.reshape(2, 12, 10, -1).clone()
        grid[:, 4] += torch.randn_like(grid[:, 4])
        moved = dataclasses.replace(encoded, tokens=grid.flatten(1, 2))
        same = (method.decoder(encoded, usable) == method.decoder(moved, usable)).flatten(2).all(-1)  # (B, L)
        assert bool(same[:, [0, 11]].all()) == apart
        assert not bool(same[:, 4].any())


@pytest.mark.parametrize("decoder", ["paper", "cross"])
@pytest.mark.parametrize("name", ROWS)
def test_hidden_patches_give_the_encoder_a_gradient(name: str, decoder: str) -> None:
    """Also if whole leads are hidden: the decoder must then attend to the other leads."""
    method = build(name, decoder=decoder)
    method(make_batch())["L_rec"].backward()
    slope = method.ecg.model.transformer.blocks[0].feed[0].weight.grad
    assert float(slope.abs().max()) > 1e-6


def test_records_with_one_lead_can_be_trained_on() -> None:
    batch = unobserve(make_batch(4), leads=[i for i in range(12) if i != 1])
    for name, decoder in itertools.product(ROWS, ("paper", "cross")):
        loss = build(name, decoder=decoder)(batch)["L_rec"]
        assert bool(loss.isfinite())
        assert (float(loss.detach()) == 0) == (name == "st_mem lead")  # nothing is left to hide


def test_a_picture_is_in_millivolts() -> None:
    method = build("st_mem").eval()
    batch = make_batch(2)
    lifted = dataclasses.replace(batch, ecg=batch.ecg + 2.0)
    torch.manual_seed(0)
    a, hidden = method.reconstruct(batch)
    torch.manual_seed(0)
    b, _ = method.reconstruct(lifted)
    torch.testing.assert_close(b[hidden], a[hidden] + 2.0, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="cannot be converted back to mV"):
        build("st_mem", signal=dataclasses.replace(SIGNAL, normalize="record_zscore")).reconstruct(batch)


def test_each_variant_has_its_own_row_name_in_tables() -> None:
    named = [paper_numbers.row_name({"name": "st_mem", "masking": how}) for how in ("uniform", "time", "lead")]
    assert named == ["ST-MEM", "MTAE", "MLAE"]
    assert paper_numbers.linear_probe("MLAE", "ptbxl", "super", 1.0) is None


def test_invalid_ratios_and_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="mask_ratio"):
        build("st_mem", mask_ratio=1.0)
    with pytest.raises(ValueError, match="does not divide"):
        build("st_mem", n_patches=7)


def test_the_phase_target_counts_only_between_r_peaks() -> None:
    method, batch = build("st_mem phase").eval(), make_batch(4)
    assert list(method.weights) == ["L_rec", "L_phase"]
    torch.manual_seed(0)
    terms = method(batch)
    assert float(terms["L_phase"]) > 0
    # a flat record has no R peak, so that no sample has a target
    flat = dataclasses.replace(batch, ecg=torch.zeros_like(batch.ecg))
    torch.manual_seed(0)
    assert float(method(flat)["L_phase"]) == 0
    assert "phase_head.weight" not in build("st_mem").state_dict()

"""Tests of the MERIT-style method beyond the contract."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import make_batch, unobserve
from test_merl import slow_clip
from test_methods import build

from leadwise.batch import Signal
from leadwise.methods import merit
from leadwise.nn import masking
from leadwise.nn.report_tower import ReportTower


def test_branch_2_encodes_the_whole_ecg_and_branch_1_the_visible_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build("merit")
    masks, original = [], method.ecg.forward
    monkeypatch.setattr(method.ecg, "forward", lambda patches, mask: masks.append(mask) or original(patches, mask))
    method(make_batch(4))
    branch_1, branch_2 = masks
    assert bool(branch_2.all())
    assert branch_1.sum(-1).unique().tolist() == [2]  # of ten patches in each lead


@pytest.mark.parametrize("target", ["patch", "record", "raw"])
def test_l_mem_is_the_error_on_hidden_patches_alone(target: str) -> None:
    method = build("merit", target=target).eval()
    batch = unobserve(make_batch(3), leads=[2], after=330)
    torch.manual_seed(4)
    loss = float(method(batch)["L_mem"].detach())
    torch.manual_seed(4)
    with torch.no_grad():
        patches, usable = method._patches(batch)
        visible = masking.draw_visible(usable, 0.75)
        predicted = method.decoder(method.ecg(patches, visible), usable, None, visible)
        of_records = []
        for i in range(3):
            samples = patches[i][batch.observed[i].reshape(patches[i].shape)]
            errors = []
            for lead, n in (usable[i] & ~visible[i]).nonzero().tolist():
                patch = patches[i, lead, n]
                level, spread = {
                    "raw": (0.0, 1.0),
                    "record": (samples.mean(), (samples.var(correction=0) + 1e-6).sqrt()),
                    "patch": (
                        patch.mean(),
                        (patch.var(correction=0) + 0.01 * samples.var(correction=0) + 1e-6).sqrt(),
                    ),
                }[target]
                errors.append((predicted[i, lead, n] - (patch - level) / spread).square().mean())
            of_records.append(torch.stack(errors).mean())
    assert loss == pytest.approx(float(torch.stack(of_records).mean()), rel=1e-4)


def test_l_nce_is_the_weighted_mean_of_both_directions() -> None:
    method = build("merit", b=0.5).eval()
    _, features = method.local_terms(make_batch(6))
    loss = method.batch_terms(features)["L_nce"].detach()
    assert float(loss) == pytest.approx(0.5 * slow_clip(features["ecg"], features["text"], 0.07) / 2, rel=1e-4)


def test_the_views_noise_is_on_the_input_and_not_on_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build("merit", noise_mv=0.5)
    batch = make_batch(3)
    targets, inputs, original = [], [], method.ecg.forward
    monkeypatch.setattr(merit.multimodal, "patch_reconstruction", lambda p, t, h: targets.append(t) or p.sum())
    monkeypatch.setattr(method.ecg, "forward", lambda patches, mask: inputs.append(patches) or original(patches, mask))
    method(batch)
    method(batch)
    assert torch.equal(targets[0], targets[1])
    assert not torch.equal(inputs[0], inputs[2])
    assert torch.equal(inputs[0], inputs[1])  # both branches encode the same view


def test_a_reconstruction_is_in_millivolts_with_its_mask() -> None:
    method = build("merit").eval()
    batch = unobserve(make_batch(2), leads=[1])
    samples, hidden = method.reconstruct(batch)
    assert samples.shape == hidden.shape == batch.ecg.shape
    assert not bool(hidden[:, 1].any())
    assert hidden[:, 0].sum(-1).tolist() == [320, 320]
    assert 0 < method.measure(batch)["mem_mv2"] < 1
    minmax = build("merit", signal=Signal(rate_hz=100, duration_s=4.0, normalize="merl_minmax")).eval()
    assert "mem_mv2" not in minmax.measure(batch)
    with pytest.raises(ValueError, match="cannot be converted back to mV"):
        minmax.reconstruct(batch)


def test_embeddings_hide_nothing_and_are_deterministic() -> None:
    method = build("merit").eval()
    batch = make_batch(2)
    torch.testing.assert_close(method.embed_ecg(batch), method.embed_ecg(batch), rtol=0, atol=0)
    other = dataclasses.replace(batch, ecg=batch.ecg.index_add(2, torch.tensor([399]), torch.ones(2, 12, 1)))
    assert not torch.allclose(method.embed_ecg(batch), method.embed_ecg(other), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"b": -1.0}, r"b = -1\.0 is out of range: it must be >= 0"),
        ({"w_mem": -1.0}, r"w_mem = -1\.0 is out of range: it must be >= 0"),
        ({"b": 0.0, "w_mem": 0.0}, "no term is left; set one of them above 0"),
        ({"mask_ratio": 0.0}, "mask_ratio"),
        ({"n_patches": 7}, "does not"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("merit", **changes)


def test_without_b_no_report_is_read_and_no_text_is_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build("merit mask-only")
    monkeypatch.setattr(ReportTower, "read", lambda *_: pytest.fail("a report was read"))
    assert list(method(make_batch(4))) == ["L_mem"]
    assert not method.embeds_text
    assert method.parts == ("backbone",)
    assert not {name.split(".")[0] for name, _ in method.named_modules()} & {"text", "text_head", "ecg_head"}
    assert set(method.eval().measure(make_batch(2))) == {"mem_mv2"}
    with pytest.raises(ValueError, match="trained without reports"):
        method.embed_text(["normal ecg"])
    with pytest.raises(ValueError, match="no part 'shared'"):
        method.embed_ecg(make_batch(2), "shared")


def test_without_w_mem_the_encoder_passes_once_and_nothing_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build("merit contrast-only")
    masks, original = [], method.ecg.forward
    monkeypatch.setattr(method.ecg, "forward", lambda patches, mask: masks.append(mask) or original(patches, mask))
    assert list(method(make_batch(4))) == ["L_nce"]
    assert [bool(mask.all()) for mask in masks] == [True]
    assert not hasattr(method, "decoder")
    assert "mem_mv2" not in method.eval().measure(make_batch(2))
    with pytest.raises(ValueError, match="no decoder"):
        method.reconstruct(make_batch(2))


def test_w_mem_weighs_l_mem() -> None:
    losses = []
    for weight in (1.0, 3.0):
        method = build("merit", w_mem=weight).eval()
        torch.manual_seed(2)
        losses.append(float(method(make_batch(3))["L_mem"].detach()))
    assert losses[1] == pytest.approx(3 * losses[0])

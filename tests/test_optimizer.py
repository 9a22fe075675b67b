"""Muon, and which parameters it updates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import make_batch
from test_methods import CASES, build
from torch import nn

from leadwise.config import OptimConfig
from leadwise.nn.s4 import StateSpace
from leadwise.training.muon import MuonWithAdamW, orthogonalised
from leadwise.training.optimizer import make_optimizer, matrix_parts

MUON = OptimConfig(optimizer="muon", lr=2e-3, weight_decay=0.1)


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24)])
def test_singular_values_become_about_one_and_vectors_remain(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape) * torch.tensor([1e-4, 1.0, 1e3])[:, None, None]
    for before, after in zip(matrices, orthogonalised(matrices)):
        u, _, vh = torch.linalg.svd(before, full_matrices=False)
        values = (u.T @ after @ vh.T).diagonal()
        assert 0.6 < float(values.min()) <= float(values.max()) < 1.3
        torch.testing.assert_close(u @ values.diag() @ vh, after, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("shape", [(16, 16), (48, 16)])
def test_a_step_equals_that_of_torch(shape: tuple[int, int]) -> None:
    """torch.optim.Muon iterates in bfloat16, so the two agree to its precision."""
    torch.manual_seed(0)
    ours, theirs = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.empty(shape))
    theirs.data.copy_(ours)
    groups = [{"params": [ours], "weight_decay": 0.1, "muon": True, "n_parts": 1}]
    pair = (
        MuonWithAdamW(groups, lr=0.02),
        torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(4):
        gradient = torch.randn(shape)
        for parameter, optimizer in zip((ours, theirs), pair):
            parameter.grad = gradient.clone()
            optimizer.step()
    step = 0.02 * 0.2 * max(shape) ** 0.5
    assert float((ours - theirs).detach().norm() / theirs.numel() ** 0.5) < 0.05 * step


def test_a_fused_projection_is_updated_in_parts_and_a_convolution_as_a_matrix() -> None:
    torch.manual_seed(0)
    fused, kernel = nn.Parameter(torch.zeros(16, 8)), nn.Parameter(torch.zeros(4, 8, 3))
    groups = [
        {"params": [fused], "weight_decay": 0.0, "muon": True, "n_parts": 2},
        {"params": [kernel], "weight_decay": 0.0, "muon": True, "n_parts": 1},
    ]
    fused.grad, kernel.grad = torch.randn(16, 8), torch.randn(4, 8, 3)
    MuonWithAdamW(groups, lr=1.0).step()
    for half, gradient in zip(fused.detach().chunk(2), fused.grad.chunk(2)):
        torch.testing.assert_close(half, -0.2 * 8**0.5 * orthogonalised(gradient[None])[0], atol=1e-4, rtol=1e-4)
    expected = -0.2 * 24**0.5 * orthogonalised(kernel.grad.flatten(1)[None])[0]
    torch.testing.assert_close(kernel.detach().flatten(1), expected, atol=1e-4, rtol=1e-4)


def test_parameters_without_muon_are_updated_as_by_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    pair = (MuonWithAdamW([{"params": [ours], "weight_decay": 0.1, "muon": False}], lr=0.1),
            torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.1))  # fmt: skip
    for _ in range(3):
        gradient = torch.randn(5)
        for parameter, optimizer in zip((ours, theirs), pair):
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_muon_updates_the_matrices_of_blocks_and_heads_and_nothing_at_the_edge() -> None:
    method = build("cg_dmer")
    parts = matrix_parts(method)
    names = {name: parts[id(p)] for name, p in method.named_parameters() if id(p) in parts}
    assert names["ecg.transformer.blocks.0.attention.key_value.weight"] == 2
    assert names["ecg.transformer.blocks.0.feed.0.weight"] == names["ecg_shared.0.weight"] == 1
    assert any(name.startswith("text.bert.encoder.layer.0.attention") for name in names)
    edges = ("tokenizer", "embeddings", "leave", "enter", "bias", "norm", "spatial", "temporal", "mask")
    assert [name for name in names if any(edge in name.split(".") for edge in edges)] == []


@pytest.mark.parametrize("name", CASES)
def test_every_method_trains_with_muon(name: str) -> None:
    """Muon alone lowers the loss, every matrix of Muon changes, and pretrained parameters stay with AdamW."""
    method = build(name)
    optimizer = make_optimizer(method, MUON)
    matrices = [p for group in optimizer.param_groups if group["muon"] for p in group["params"]]
    # these have convolutions and one output map: AdamW for all of it
    assert matrices or name in ("clocs cmlc", "dual_phase_cmr cmr", "se_diff vae")
    assert not {id(p) for p in matrices} & {id(p) for p in method.pretrained_parameters}
    if matrices:
        for group in optimizer.param_groups:  # AdamW alone would lower the loss, too
            group["lr"] = MUON.lr if group["muon"] else 0.0
    before, sums = [p.detach().clone() for p in matrices], []
    for step in range(15):
        torch.manual_seed(step % 3)  # the same masks every third step, so that sums are comparable
        total = sum(method(make_batch(8)).values())
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        sums.append(float(total.detach()))
    assert sum(sums[-3:]) < sum(sums[:3])
    assert not any(torch.equal(p, old) for p, old in zip(matrices, before))


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_dynamics_of_states_have_a_rate_of_their_own(kind: str) -> None:
    """A step of AdamW from fresh moments moves every number by its rate: a tenth for A and dt, all of it for the rest."""
    method = build("merl s4", text_frozen="layers")
    rate = 1e-3
    optimizer = make_optimizer(method, OptimConfig(optimizer=kind, lr=rate, weight_decay=0.0, state_lr_scale=0.1))
    layers = [module for module in method.modules() if isinstance(module, StateSpace)]
    names = {f"ecg.blocks.{k}.states.{name}" for k in range(2) for name in ("log_dt", "log_decay", "frequency")}
    slow = {name for name, p in method.named_parameters() if any(p is one for x in layers for one in x.dynamics)}
    assert slow == names
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    sum(method(make_batch(8)).values()).backward()
    for p in method.parameters():
        p.grad = torch.ones_like(p) if p.grad is not None else None
    optimizer.step()
    moved = {name: float((p.detach() - before[name]).abs().max()) for name, p in method.named_parameters()}
    for name in slow:
        assert moved[name] == pytest.approx(rate / 10, rel=1e-2), name
    for name in ("ecg.blocks.0.states.readout", "ecg.blocks.0.states.skip", "ecg.pieces.bias", "log_temperature"):
        assert moved[name] == pytest.approx(rate, rel=1e-2), name

    # with a factor of 1 the groups are the same as before there was one; layers of another kind are not affected
    plain = make_optimizer(method, OptimConfig(optimizer=kind, lr=rate))
    assert {group["scale"] for group in plain.param_groups} == {1.0}
    assert len(plain.param_groups) == len(optimizer.param_groups) - 1
    assert {g["scale"] for g in make_optimizer(build("merl"), OptimConfig(state_lr_scale=0.1)).param_groups} == {1.0}


def test_the_state_is_restored(tmp_path: Path) -> None:
    """Two steps, saved and restored, and a third equal three steps."""

    def step(method: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        sum(method(make_batch()).values()).backward()
        optimizer.step()
        optimizer.zero_grad()

    method = build("cg_dmer")
    optimizer = make_optimizer(method, MUON)
    for seed in range(2):
        step(method, optimizer, seed)
    torch.save({"method": method.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    step(method, optimizer, 2)

    state = torch.load(tmp_path / "state.pt", weights_only=True)
    twin = build("cg_dmer")
    again = make_optimizer(twin, MUON)
    twin.load_state_dict(state["method"])
    again.load_state_dict(state["optimizer"])
    step(twin, again, 2)
    for name, p in method.state_dict().items():
        torch.testing.assert_close(p, twin.state_dict()[name], atol=0, rtol=0, msg=name)

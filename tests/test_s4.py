"""State-space layers: the convolution by FFT and the one for ONNX against the recurrence, state by state; and what is causal."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import SIGNAL, TINY, make_batch, unobserve
from test_methods import build as build_method
from torch import Tensor

from leadwise.config import OptimConfig
from leadwise.methods.catalogue import find_method, method_names
from leadwise.nn.encoder import EcgEncoder, EncoderSettings
from leadwise.nn.s4 import S4Encoder, StateSpace
from leadwise.training.optimizer import make_optimizer, matrix_parts

S4 = {"s4_width": 16, "s4_depth": 2, "s4_states": 4, "s4_stride": 4}
TAKING = [
    case
    for case in TINY
    if " " not in case and issubclass(find_method(case).config_class, EncoderSettings)
]  # fmt: skip


def states(causal: bool, seed: int = 0, length: int = 75) -> tuple[StateSpace, Tensor]:
    torch.manual_seed(seed)
    layer = StateSpace(6, 8, causal)
    with torch.no_grad():  # as after training: no value is that of the start
        for p in layer.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return layer, torch.randn(3, 6, length)


def recurrence(layer: StateSpace, u: Tensor) -> Tensor:
    """The same system one position at a time, in complex numbers of float64."""
    a = -layer.log_decay.double().exp() + 1j * layer.frequency.double()  # (H, N / 2)
    step = (layer.log_dt.double().exp()[:, None] * a).exp()
    enters = (step - 1) / a
    y = layer.skip.double()[:, None] * u.double()
    for direction, readout in enumerate(torch.view_as_complex(layer.readout.double().contiguous())):
        x = torch.zeros(*u.shape[:2], a.shape[1], dtype=torch.complex128)
        times = range(u.shape[-1]) if direction == 0 else reversed(range(u.shape[-1]))
        for t in times:
            before, x = x, step * x + enters * u[..., t, None].double()
            state = x if direction == 0 else before  # the first direction has read u(t) already
            y[..., t] += 2 * (readout * state).sum(-1).real
    return y


@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_both_convolutions_equal_the_recurrence(causal: bool) -> None:
    layer, u = states(causal)
    expected = recurrence(layer, u)
    assert float(expected.abs().max()) > 1
    for computed in (layer(u), layer._by_sum(u)):
        assert computed.dtype == torch.float32
        torch.testing.assert_close(computed.double(), expected, atol=1e-5, rtol=1e-5)
    exact = layer.double()
    for computed in (exact(u.double()), exact._by_sum(u.double())):
        torch.testing.assert_close(computed, expected, atol=1e-12, rtol=1e-12)


@torch.no_grad()
def test_a_small_step_loses_no_digits() -> None:
    """exp(x) - 1 of a step of 1e-4 would keep three digits in float32."""
    layer, u = states(causal=True, length=400)
    layer.log_dt.fill_(math.log(1e-4))
    torch.testing.assert_close(layer(u).double(), recurrence(layer, u), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_both_convolutions_have_the_same_gradients(causal: bool) -> None:
    layer, u = states(causal)
    layer, u = layer.double(), u.double().requires_grad_(True)
    weights = torch.randn(u.shape, dtype=torch.float64)
    inputs = [u, *layer.parameters()]
    pair = [torch.autograd.grad((weights * f(u)).sum(), inputs) for f in (layer, layer._by_sum)]
    for by_fft, by_sum in zip(*pair):
        torch.testing.assert_close(by_fft, by_sum, atol=1e-9, rtol=1e-9)
        assert bool(by_fft.abs().sum() > 0)


@pytest.mark.parametrize("n_states", [0, 1, 5])
def test_states_come_in_pairs(n_states: int) -> None:
    with pytest.raises(ValueError, match=f"n_states = {n_states} must be an even number"):
        StateSpace(4, n_states, causal=True)


# --- the encoder


def encoder(causal: bool) -> S4Encoder:
    torch.manual_seed(0)
    net = EcgEncoder(EncoderSettings(encoder="s4", **S4), SIGNAL, causal).eval().model
    assert isinstance(net, S4Encoder)
    return net


@torch.no_grad()
def test_a_causal_position_depends_on_no_later_sample() -> None:
    ecg = make_batch(2).ecg
    changed = ecg.clone()
    changed[..., 200:] += 1.0
    before, after = encoder(causal=True)(ecg), encoder(causal=True)(changed)
    torch.testing.assert_close(before[:, :50], after[:, :50], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before[:, 50], after[:, 50], atol=1e-2)
    both_ways = encoder(causal=False)
    assert not torch.allclose(both_ways(ecg)[:, 20], both_ways(changed)[:, 20], atol=1e-3)


@torch.no_grad()
def test_a_last_incomplete_piece_is_a_position() -> None:
    net = encoder(causal=False)
    ecg = make_batch(2).ecg[..., :398]
    assert net(ecg).shape == (2, 100, 16) == (2, net.n_positions(398), 16)
    whole = torch.nn.functional.pad(ecg, (0, 2))
    torch.testing.assert_close(net(ecg), net(whole))
    observed = torch.zeros(2, 12, 398, dtype=torch.bool)
    observed[0, 3, 397], observed[1, 5, 4] = True, True
    assert [row.nonzero().flatten().tolist() for row in net.observed(observed)] == [[99], [1]]


@torch.no_grad()
def test_the_mean_is_over_observed_positions() -> None:
    torch.manual_seed(0)
    ecg = EcgEncoder(EncoderSettings(encoder="s4", **S4), SIGNAL).eval()
    batch = unobserve(make_batch(3), leads=[0, 1], after=202)
    tokens, real = ecg.tokens(batch)
    assert real[0].tolist() == [n < 51 for n in range(100)]  # the last of them has two observed samples
    torch.testing.assert_close(ecg(batch), tokens[:, :51].mean(1))


@torch.no_grad()
def test_pieces_start_at_one() -> None:
    net = S4Encoder(12, 64, 1, 4, 4, input_rms=0.25)
    pieces = net.pieces(0.25 * torch.randn(64, 12, 400))
    assert float(pieces.square().mean().sqrt()) == pytest.approx(1.0, rel=0.2)


def test_the_optimiser_leaves_the_systems_to_adamw_without_decay() -> None:
    method = build_method("simclr s4")
    names = {id(p): name for name, p in method.named_parameters()}
    parts = {names[one]: n for one, n in matrix_parts(method).items()}
    assert parts["tower.ecg.model.blocks.0.mix.weight"] == 2  # values and gates
    assert not [name for name in parts if ".states." in name or ".pieces." in name]
    optimizer = make_optimizer(method, OptimConfig(optimizer="muon", weight_decay=0.1))
    systems = {name: group for group in optimizer.param_groups for name in map(names.get, map(id, group["params"]))}
    systems = {name: group for name, group in systems.items() if name and ".states." in name}
    assert len(systems) == 2 * 5
    assert all(group["weight_decay"] == 0 and not group["muon"] for group in systems.values())


# --- every method that has the setting `encoder`


def test_the_methods_with_a_choice_of_encoders_are_found() -> None:
    assert {"simclr", "ts_tcc", "supervised", "etp", "clocs"} <= set(TAKING) <= set(method_names())


@pytest.mark.parametrize("name", TAKING)
def test_every_method_with_a_choice_of_encoders_trains_and_embeds_with_it(name: str) -> None:
    method = build_method(name, encoder="s4", **S4)
    total = sum(method(make_batch()).values())
    total.backward()
    assert bool(total.isfinite())
    idle = [n for n, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert idle == []
    method.eval()
    few = unobserve(make_batch(3), leads=[i for i in range(12) if i != 1], after=150)
    with torch.no_grad():
        for part in method.parts:
            assert bool(method.embed_ecg(few, part).isfinite().all())
    with pytest.raises(ValueError, match="no sample was observed"):
        method.embed_ecg(unobserve(make_batch(1), leads=list(range(12))))

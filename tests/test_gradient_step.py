"""One step's gradient: in one pass or in several, it is the same."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import SIGNAL, make_batch
from test_methods import build
from torch import Tensor

from leadwise.batch import Batch
from leadwise.config import (
    Config,
    ConfigError,
    OptimConfig,
    typed,
)
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn import masking
from leadwise.nn import text as reports
from leadwise.training import inputs
from leadwise.training.gradient_step import (
    Objective,
    TrainingError,
    backward,
    forward,
    gradient_norms,
    seed_all,
)

OPTIONS = [
    {},
    {"same_report": "positive"},
    {"contrast": "literal", "siglip": "literal", "checkpointing": True},
    {"contrast": "decoupled", "same_report": "negative"},
    {"text_task": "mlm"},
    {"contrast_view": "both", "w_orth": 0.5},
    {"specific_task": "recon", "w_siglip": 0.0},
]
NAMES = ["-".join(f"{k}={v}" for k, v in options.items()) or "paper" for options in OPTIONS]


def steady(patch: pytest.MonkeyPatch) -> None:
    """Draws that a record makes of itself alone, so that it does not matter which records are beside it."""

    def draw_visible(usable: Tensor, ratio: float, how: str = "uniform") -> Tensor:
        noise = torch.rand(usable.shape[1:], generator=torch.Generator().manual_seed(3)).expand(usable.shape)
        return masking._keep_lowest(noise, usable, ratio)

    def choose_masked(tokens: reports.Tokens, special: Tensor, ratio: float) -> Tensor:
        ordinary = tokens.real & ~torch.isin(tokens.ids, special)
        return ordinary & (tokens.ids * 7919 % 100 < 30)  # the share differs from report to report

    def mask_in_place(tokens: reports.Tokens, masked: Tensor, mask_id: int, n_words: int) -> reports.Cloze:
        ids = torch.where(masked, mask_id, tokens.ids)
        return reports.Cloze(reports.Tokens(ids, tokens.real), ids, tokens.ids, masked)

    patch.setattr(masking, "draw_visible", draw_visible)
    patch.setattr(reports, "choose_masked", choose_masked)
    patch.setattr(reports, "mask_in_place", mask_in_place)


def exact(patch: pytest.MonkeyPatch) -> None:
    """float64 wherever the package asks for float32, so that equal means equal."""
    patch.setattr(torch.Tensor, "float", torch.Tensor.double)


def exactly(options: dict, name: str = "cg_dmer") -> torch.nn.Module:
    return build(name, **options).double()


def batch_of(kind: torch.dtype = torch.float32) -> Batch:
    """Eight records of which some, far apart, have the same report."""
    batch = make_batch(8)
    equal = {4: batch.report[1], 6: batch.report[0]}
    report = tuple(equal.get(i, text) for i, text in enumerate(batch.report))
    return dataclasses.replace(batch, ecg=batch.ecg.to(kind), report=report)


def split(batch: Batch, n: int) -> list[Batch]:
    size = len(batch) // n
    places = [slice(i * size, (i + 1) * size) for i in range(n)]
    return [Batch(batch.ecg[p], batch.observed[p], batch.record[p], batch.patient[p], batch.report[p]) for p in places]


def gradients(method: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


def in_one_pass(options: dict, name: str = "cg_dmer") -> tuple[dict[str, float], dict[str, Tensor]]:
    """The terms and the gradient of `forward`, as plainly as can be."""
    method = exactly(options, name)
    terms = method(batch_of(torch.float64))
    sum(terms.values()).backward()
    return {name: float(term.detach()) for name, term in terms.items()}, gradients(method)


def agree(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, slope in expected.items():
        torch.testing.assert_close(
            got[name], slope, rtol=1e-8, atol=1e-10, msg=lambda message, name=name: f"{name}: {message}"
        )


@pytest.mark.parametrize("options", OPTIONS, ids=NAMES)
@pytest.mark.parametrize("n_passes", [1, 2, 4])
def test_passes_change_nothing(options: dict, n_passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    steady(monkeypatch)
    exact(monkeypatch)
    terms, expected = in_one_pass(options)
    method = exactly(options)
    got = backward(Objective(method), split(batch_of(torch.float64), n_passes), 0, OptimConfig())
    assert got == pytest.approx(terms, rel=1e-9)
    assert list(got) == list(terms)
    agree(gradients(method), expected)


@pytest.mark.parametrize("n_passes", [1, 2, 4])
def test_passes_change_nothing_without_local_terms(n_passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exact(monkeypatch)
    options = {"head_norm": "layer", "view_dropout": 0.0, "same_report": "ignore"}
    terms, expected = in_one_pass(options, "merl vit")
    method = exactly(options, "merl vit")
    got = backward(Objective(method), split(batch_of(torch.float64), n_passes), 0, OptimConfig())
    assert got == pytest.approx(terms, rel=1e-9)
    agree(gradients(method), expected)


def test_both_forward_passes_draw_the_same_views_and_masks() -> None:
    views = {"shift": True, "gain": 0.1, "noise_mv": 0.02, "statement_dropout": 0.3}
    method = build("cg_dmer", **views)
    backward(Objective(method), split(batch_of(), 2), 3, OptimConfig())
    once = gradients(method)
    method.zero_grad()
    torch.rand(7)  # where the random state stood before does not matter
    backward(Objective(method), split(batch_of(), 2), 3, OptimConfig())
    assert all(torch.equal(slope, once[name]) for name, slope in gradients(method).items())
    method.zero_grad()
    backward(Objective(method), split(batch_of(), 2), 4, OptimConfig())
    assert not torch.equal(gradients(method)["ecg.spatial"], once["ecg.spatial"])


def test_a_method_that_does_not_repeat_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    own = torch.Generator().manual_seed(0)

    def draw_visible(usable: Tensor, ratio: float, how: str = "uniform") -> Tensor:
        return masking._keep_lowest(torch.rand(usable.shape, generator=own), usable, ratio)

    monkeypatch.setattr(masking, "draw_visible", draw_visible)
    method = build("cg_dmer")
    backward(Objective(method), [batch_of()], 0, OptimConfig())
    with pytest.raises(
        TrainingError, match=r"step 0: a second forward pass over the same records.*'ecg'.*optim\.accumulate"
    ):
        backward(Objective(method), split(batch_of(), 2), 0, OptimConfig())


def test_the_loss_of_a_method_that_compares_no_records_is_a_plain_mean() -> None:
    class Plain(PretrainingMethod):
        def __init__(self) -> None:
            super().__init__(MethodConfig(), SIGNAL)
            self.weight = torch.nn.Parameter(torch.ones(12))

        def forward(self, batch: Batch) -> dict[str, Tensor]:
            return {"L": (batch.ecg.mean(-1) * self.weight).square().sum(-1).mean()}

    methods = [Plain(), Plain()]
    values = [backward(Objective(m), split(batch_of(), n), 0, OptimConfig()) for m, n in zip(methods, (1, 4))]
    assert values[1] == pytest.approx(values[0])
    torch.testing.assert_close(methods[0].weight.grad, methods[1].weight.grad)


def test_random_states_follow_from_the_numbers_alone() -> None:
    drawn = []
    for numbers in ((0, 1, 2), (0, 2, 1), (1, 1, 2), (0, 1, 2)):
        seed_all(*numbers)
        drawn.append(float(torch.rand(())))
    assert drawn[0] == drawn[3]
    assert len(set(drawn)) == 3


def test_judging_the_weights_leaves_the_method_as_it_was() -> None:
    method = build("cg_dmer")
    before = {name: x.clone() for name, x in method.state_dict().items()}
    norms = gradient_norms(method, batch_of(), "float32")
    assert norms.keys() == {f"grad/{name}" for name in method.weights}
    assert all(torch.equal(x, before[name]) for name, x in method.state_dict().items())


@pytest.mark.parametrize("name", ["merl", "merl vit"])
def test_judging_the_weights_leaves_running_statistics_as_they_were(name: str) -> None:
    method = build(name)
    before = {name: x.clone() for name, x in method.state_dict().items()}
    norms = gradient_norms(method, batch_of(), "float32")
    assert all(norm > 0 for norm in norms.values())
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(x, before[name]) for name, x in method.state_dict().items())


@pytest.mark.parametrize(
    ("optim", "method", "n_ranks", "message"),
    [
        (
            {"batch_size": 8, "accumulate": 3},
            {},
            1,
            "batch_size = 8 cannot be split equally over 1 processes with optim.accum",
        ),
        ({"batch_size": 8, "accumulate": 2}, {}, 3, "choose a multiple of 6"),
        (
            {"batch_size": 8, "accumulate": 2},
            {"name": "clocs", "paper_encoder": True},
            1,
            r"method.paper_encoder = true needs .* one pass",
        ),
        ({"batch_size": 8}, {"name": "merl", "encoder": "vit"}, 2, ""),
        ({"batch_size": 8, "accumulate": 2}, {}, 4, ""),
        ({"batch_size": 8, "accumulate": 2}, {"name": "merl"}, 1, r"method.encoder = 'resnet' needs .* one pass"),
        (
            {"batch_size": 8, "accumulate": 2},
            {"name": "merl", "encoder": "vit"},
            1,
            r"method.head_norm = 'batch' needs .* one pass",
        ),
        ({"batch_size": 8, "accumulate": 2}, {"name": "merl", "encoder": "vit", "head_norm": "layer"}, 1, ""),
    ],
)
def test_shares_that_are_not_equal_are_refused(optim: dict, method: dict, n_ranks: int, message: str) -> None:
    config = typed(Config, {"optim": optim, "method": {"name": "cg_dmer", **method}})
    if not message:
        inputs.check_batch_split(config, n_ranks)
        return
    with pytest.raises(ConfigError, match=message):
        inputs.check_batch_split(config, n_ranks)


def test_held_out_terms_do_not_depend_on_the_passes(monkeypatch) -> None:
    with monkeypatch.context() as patch:
        exact(patch)
        steady(patch)
        method = exactly({"contrast_view": "both"}).eval()
        batch = batch_of(torch.float64)
        with torch.inference_mode():
            whole = {name: float(term) for name, term in method(batch).items()}
            four = forward(method, split(batch, 4), "float32")
            uneven = forward(method, [*split(batch, 4)[:2], split(batch, 2)[1]], "float32")
    assert list(four) == list(whole)
    assert four == pytest.approx(whole, rel=1e-6)
    assert uneven == pytest.approx(whole, rel=1e-6)

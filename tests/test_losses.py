"""Each loss against a slow, plain double loop."""

from __future__ import annotations

import numpy as np
import plain_losses
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from leadwise.nn.losses import multimodal


@pytest.fixture
def pairs() -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    ecg = torch.nn.functional.normalize(torch.randn(7, 5, generator=g), dim=-1)
    text = torch.nn.functional.normalize(torch.randn(7, 5, generator=g), dim=-1)
    reports = [0, 1, 0, 2, 3, 1, 4]  # 0 and 2, 1 and 5 read the same
    return ecg, text, torch.tensor(reports)[:, None]


def slow_nce(pairs: tuple[Tensor, Tensor, Tensor], treat: str, form: str) -> float:
    ecg, text, report = (x.tolist() for x in pairs)
    return plain_losses.info_nce(ecg, text, plain_losses.same_report(report), 1 / 0.07, treat, form)


@pytest.mark.parametrize("form", ["standard", "decoupled", "literal"])
@pytest.mark.parametrize("treat", ["ignore", "negative"])
def test_info_nce_equals_the_double_loop(pairs, form: str, treat: str) -> None:
    ecg, text, report = pairs
    got = multimodal.info_nce(ecg, text, report, 1 / 0.07, treat, form)
    assert float(got) == pytest.approx(slow_nce(pairs, treat, form), rel=1e-5)


@pytest.mark.parametrize("form", ["standard", "decoupled", "literal"])
def test_a_batch_of_one_report_teaches_nothing(pairs, form: str) -> None:
    ecg, text, _ = pairs
    ecg = ecg.clone().requires_grad_()
    got = multimodal.info_nce(ecg, text, torch.ones(7, 1, dtype=torch.int64), 1 / 0.07, "ignore", form)
    got.backward()
    assert float(got.detach()) == 0.0
    assert not ecg.grad.any()


def test_info_nce_with_equal_reports_as_positives(pairs) -> None:
    ecg, text, report = pairs
    got = multimodal.info_nce(ecg, text, report, 1 / 0.07, "positive", "standard")
    assert float(got) == pytest.approx(slow_nce(pairs, "positive", "standard"), rel=1e-5)


@pytest.mark.parametrize("treat", ["ignore", "negative", "positive"])
def test_siglip_equals_the_double_loop(pairs, treat: str) -> None:
    ecg, text, report = pairs
    same = plain_losses.same_report(report.tolist())
    slow = plain_losses.siglip(ecg.tolist(), text.tolist(), same, 9.0, -8.0, treat)
    got = multimodal.siglip(ecg, text, report, 9.0, -8.0, treat)
    assert float(got) == pytest.approx(slow, rel=1e-5)


def test_literal_siglip_prefers_collapse_and_the_learnable_start_does_not() -> None:
    """Why Eq. 6 is not taken literally: at B = 512 all pairs opposite beats perfect alignment."""
    b, report = 512, torch.arange(512)[:, None]
    aligned = torch.eye(b)
    apart = torch.zeros(b, b)
    apart[:, 0] = 1.0
    literal = [
        float(multimodal.siglip(e, t, report, 1.0, 0.0, "negative")) for e, t in ((aligned, aligned), (apart, -apart))
    ]
    assert literal[0] == pytest.approx(354.5, abs=0.1)
    assert literal[1] == pytest.approx(161.4, abs=0.1)
    start = [
        float(multimodal.siglip(e, t, report, 10.0, -10.0, "negative"))
        for e, t in ((aligned, aligned), (apart, -apart))
    ]
    assert start[0] == pytest.approx(0.716, abs=0.001)
    assert start[1] == pytest.approx(20.0, abs=0.01)


FORMS = [
    ("siglip", "ignore", ""), ("siglip", "positive", ""), ("siglip", "negative", ""),
    ("standard", "ignore", ""), ("standard", "positive", ""), ("standard", "negative", ""),
    ("decoupled", "ignore", ""), ("decoupled", "negative", ""), ("literal", "ignore", ""), ("literal", "negative", ""),
    ("siglip", "ignore", "one report"), ("standard", "ignore", "one report"), ("literal", "ignore", "one report"),
]  # fmt: skip


def many(n: int, same: str) -> tuple[Tensor, ...]:
    """ECG, text, reports in two readings, a scale and a bias, with gradients."""
    g = torch.Generator().manual_seed(4)
    ecg, text = (torch.nn.functional.normalize(torch.randn(n, 6, generator=g), dim=-1) for _ in range(2))
    report = torch.randint(1 if same else n // 2, (n, 2), generator=g) + torch.tensor([0, n])
    scale, bias = torch.tensor(9.0), torch.tensor(-8.0)
    for x in (ecg, text, scale, bias):
        x.requires_grad_()
    return ecg, text, report, scale, bias


def contrast(pairs: tuple[Tensor, ...], form: str, treat: str, local_rows: slice = slice(None)) -> Tensor:
    ecg, text, report, scale, bias = pairs
    if form == "siglip":
        return multimodal.siglip(ecg, text, report, scale, bias, treat, local_rows)
    return multimodal.info_nce(ecg, text, report, scale, treat, form, local_rows) + 0.0 * bias


@pytest.mark.parametrize(("form", "treat", "same"), FORMS)
def test_shares_average_to_the_whole_and_blocks_change_nothing(form: str, treat: str, same: str, monkeypatch) -> None:
    pairs = many(24, same)
    inputs = [x for x in pairs if x.requires_grad]
    whole = contrast(pairs, form, treat)
    slopes = torch.autograd.grad(whole, inputs)
    shares = [contrast(pairs, form, treat, slice(i, i + 8)) for i in (0, 8, 16)]
    monkeypatch.setattr(multimodal, "BLOCK", 5)
    blocks = contrast(pairs, form, treat)
    for other in (sum(shares) / 3, blocks):
        torch.testing.assert_close(other, whole, rtol=1e-5, atol=1e-6)
        for got, slope in zip(torch.autograd.grad(other, inputs), slopes):
            torch.testing.assert_close(got, slope, rtol=1e-4, atol=1e-5)


def test_reports_are_the_same_in_either_reading() -> None:
    """The whole report and the view of it: one agreement is enough."""
    report = torch.tensor([[1, 9], [1, 8], [2, 9], [3, 7]])
    own, same = multimodal._relations(report, slice(None), slice(None))
    assert bool((own == torch.eye(4, dtype=torch.bool)).all())
    assert same.nonzero().tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [2, 0], [2, 2], [3, 3]]


class Largest(TorchDispatchMode):
    """Remembers the most numbers that one tensor held."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple) else (out,):
            self.numbers = max(self.numbers, x.numel() if isinstance(x, Tensor) else 0)
        return out


@pytest.mark.parametrize("form", ["siglip", "standard", "literal"])
def test_no_table_of_all_pairs_is_made_or_kept(form: str) -> None:
    n_rows = 64
    for n in (2 * multimodal.BLOCK, 4 * multimodal.BLOCK):
        saved_sizes: list[int] = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda x, saved_sizes=saved_sizes: saved_sizes.append(x.numel()) or x, lambda x: x
        )
        pairs = many(n, "")
        with hooks, Largest() as largest:
            contrast(pairs, form, "ignore", slice(0, n_rows)).backward()
        assert largest.numbers == n_rows * multimodal.BLOCK  # whatever n
        assert sum(saved_sizes) < n_rows * multimodal.BLOCK  # not even one block outlives its turn
        assert all(bool(x.grad.isfinite().all()) and bool(x.grad.any()) for x in pairs[:2])


def test_patch_reconstruction_equals_the_double_loop() -> None:
    g = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(3, 2, 4, 5, generator=g), torch.randn(3, 2, 4, 5, generator=g)
    hidden = torch.rand(3, 2, 4, generator=g) < 0.6
    hidden[2] = False  # a record with nothing hidden adds nothing, and counts
    every = hidden[..., None].expand(prediction.shape)
    slow = plain_losses.selected_error(*(x.flatten(1).tolist() for x in (prediction, target, every)))
    got = multimodal.patch_reconstruction(prediction, target, hidden)
    assert float(got) == pytest.approx(slow, rel=1e-5)


def test_token_reconstruction_is_a_mean_per_report() -> None:
    g = torch.Generator().manual_seed(0)
    logits, tokens = torch.randn(2, 4, 6, generator=g), torch.randint(6, (2, 4), generator=g)
    masked = torch.tensor([[True, True, True, False], [False, False, True, False]])
    slow = plain_losses.token_errors(logits.tolist(), tokens.tolist(), masked.tolist())
    fast = multimodal.token_reconstruction(multimodal.token_errors(logits, tokens, masked))
    assert float(fast) == pytest.approx(slow, rel=1e-5)


def test_orthogonality_is_zero_for_right_angles_and_one_for_parallel() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert float(multimodal.orthogonality(a, a.flip(0))) == pytest.approx(0.0)
    assert float(multimodal.orthogonality(a, -3 * a)) == pytest.approx(1.0)
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(6, 4, generator=g), torch.randn(6, 4, generator=g)
    slow = plain_losses.orthogonality(x.tolist(), y.tolist())
    assert float(multimodal.orthogonality(x, y)) == pytest.approx(slow, rel=1e-5)


def test_effective_rank_counts_directions() -> None:
    x = torch.cat([torch.eye(4), -torch.eye(4)])
    assert multimodal.effective_rank(x) == pytest.approx(4.0, rel=1e-4)
    assert multimodal.effective_rank(x[:, :1] @ torch.ones(1, 4)) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("form", ["standard", "decoupled", "literal"])
def test_contrast_has_a_finite_gradient_with_equal_reports(pairs, form: str) -> None:
    ecg, text, report = pairs
    ecg = ecg.clone().requires_grad_()
    multimodal.info_nce(ecg, text, report, 1 / 0.07, "ignore", form).backward()
    assert ecg.grad is not None
    assert ecg.grad.isfinite().all()
    assert ecg.grad.abs().sum() > 0


def test_cross_correlation_equals_numpy_and_its_running_mean_forgets_chance() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(40, 5), torch.randn(40, 3)
    expected = np.corrcoef(first.T.numpy(), second.T.numpy())[:5, 5:]
    np.testing.assert_allclose(multimodal.cross_correlation(first, second).numpy(), expected, atol=1e-5)
    constant = multimodal.cross_correlation(torch.ones(40, 2), second)
    assert not bool(constant.any())

    running = torch.zeros(5, 3)
    for _ in range(300):
        batch = multimodal.cross_correlation(torch.randn(40, 5), torch.randn(40, 3))
        value, running = multimodal.decorrelation(running, batch, 0.95)
    assert float(value) < 0.2 / 40


def test_decorrelation_separates_two_copies_of_one_variable() -> None:
    torch.manual_seed(0)
    mixing = torch.nn.Parameter(torch.eye(4))
    optimizer, running = torch.optim.Adam([mixing], lr=0.02), torch.zeros(4, 2)
    for _ in range(400):
        x = torch.randn(64, 4)
        value, running = multimodal.decorrelation(
            running, multimodal.cross_correlation(x[:, :2] @ torch.ones(2, 4), (x @ mixing)[:, :2]), 0.9
        )
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    x = torch.randn(4000, 4)
    assert float(multimodal.cross_correlation(x[:, :1] + x[:, 1:2], (x @ mixing)[:, :2].detach()).abs().max()) < 0.15

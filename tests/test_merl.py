"""Tests of MERL beyond the contract."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from conftest import REPORTS, SIGNAL, TINY, make_batch
from test_methods import build
from torch import Tensor

from leadwise.batch import Signal
from leadwise.config import OptimConfig
from leadwise.methods import merl
from leadwise.nn import text as reports
from leadwise.nn.batch_norm import BatchNorm
from leadwise.nn.heads import AttentionPool
from leadwise.nn.losses import multimodal, pairwise
from leadwise.nn.resnet import ResNet18
from leadwise.nn.views import pair_view
from leadwise.nn.vit import ViT
from leadwise.training.optimizer import make_optimizer

ENCODERS = ["merl", "merl vit"]


@torch.no_grad()
def slow_clip(a: Tensor, b: Tensor, tau: float) -> float:
    """Both directions' cross-entropies, summed, by a double loop."""

    def cosine(x: Tensor, y: Tensor) -> float:
        return float(x @ y / (x.norm() * y.norm()))

    n, total = len(a), 0.0
    for i in range(n):
        for x, y in ((a, b), (b, a)):
            s = [cosine(x[i], y[j]) / tau for j in range(n)]
            total += math.log(sum(math.exp(value) for value in s)) - s[i]
    return total / n


def test_the_resnet_has_the_papers_shape() -> None:
    net = ResNet18(12)
    with torch.no_grad():
        out = net(torch.randn(2, 12, 5000))
    assert out.shape == (2, 512, 313)
    assert bool((out >= 0).all())  # a ReLU comes last
    assert ResNet18.n_positions(5000) == 313
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(3.85e6, rel=0.01)
    assert [tuple(m.kernel_size) for m in net.modules() if isinstance(m, torch.nn.Conv1d)].count((3,)) == 16


@pytest.mark.parametrize("n_samples", [1000, 999, 401, 16, 1])
def test_the_number_of_positions_is_that_of_the_convolutions(n_samples: int) -> None:
    assert ResNet18(3, base=4)(torch.randn(2, 3, n_samples)).shape == (2, 32, ResNet18.n_positions(n_samples))


def test_the_vit_has_the_papers_shape() -> None:
    net = ViT(12, 5000, 100, 192, 12, 3, None)
    with torch.no_grad():
        assert net(torch.randn(2, 12, 5000)).shape == (2, 192)
    assert net.position.shape == (1, 100, 192)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(5.47e6, rel=0.01)
    with pytest.raises(ValueError, match="n_patches = 7 does not divide the 400 samples"):
        build("merl vit", n_patches=7)


def test_the_vit_depends_on_the_order_of_patches() -> None:
    """Exchanging two patches changes the vector: positions are encoded."""
    torch.manual_seed(0)
    net = ViT(3, 40, 4, 16, 2, 2, 1.0).eval()
    ecg = torch.randn(2, 3, 40)
    moved = torch.cat([ecg[..., 10:20], ecg[..., :10], ecg[..., 20:]], dim=-1)
    assert not torch.allclose(net(ecg), net(moved), atol=1e-4)


def test_the_pool_attends_to_every_position() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(8, 5, 4, 6)
    x = torch.randn(3, 8, 5, requires_grad=True)
    out = pool(x)
    assert out.shape == (3, 6)
    out.square().sum().backward()
    assert bool(x.grad.abs().sum(1).bool().all())
    assert pool.position.shape == (1, 6, 8)
    assert all(bool(p.grad.any()) for p in pool.parameters())


def test_batch_norm_in_eval_mode_does_not_move() -> None:
    norm = BatchNorm(4).eval()
    before = {name: x.clone() for name, x in norm.state_dict().items()}
    norm(3 + torch.randn(5, 4, 7))
    assert all(torch.equal(x, before[name]) for name, x in norm.state_dict().items())
    norm.train()(3 + torch.randn(5, 4, 7))
    assert not torch.equal(norm.running_mean, before["running_mean"])


@pytest.mark.parametrize("name", ENCODERS)
def test_terms_are_the_sum_of_both_directions(name: str) -> None:
    method = build(name, w_cma=0.5).eval()
    batch = make_batch(7)
    _, features = method.local_terms(batch)
    terms = method.batch_terms(features)
    assert list(terms) == ["L_CMA", "L_UMA"]
    assert float(terms["L_CMA"].detach()) == pytest.approx(
        0.5 * slow_clip(features["ecg"], features["text"], 0.07), rel=1e-4
    )
    uma = slow_clip(features["view_1"], features["view_2"], 0.07)
    assert float(terms["L_UMA"].detach()) == pytest.approx(uma, rel=1e-4)


def test_equal_reports_count_in_cma_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = multimodal.info_nce
    monkeypatch.setattr(multimodal, "info_nce", lambda *a: calls.append(a) or original(*a))
    batch = make_batch(8)
    batch = dataclasses.replace(batch, report=(*batch.report[:7], batch.report[0]))
    build("merl", same_report="ignore", statement_dropout=0.5)(batch)
    cma, uma = calls
    assert (cma[4], uma[4]) == ("ignore", "negative")
    assert cma[2].shape == (8, 2)  # the whole report, and the view's
    assert cma[2][0, 0] == cma[2][7, 0]
    assert len(cma[2][:, 0].unique()) == 7
    assert len(uma[2].unique()) == 8  # every record differs from all others
    assert cma[3] == uma[3] == 1 / 0.07


@pytest.mark.parametrize("name", ENCODERS)
def test_parts_are_backbone_and_shared_vectors(name: str) -> None:
    method = build(name).eval()
    batch = make_batch(5)
    with torch.no_grad():
        feature, shared = method.embed_ecg(batch), method.embed_ecg(batch, "shared")
        _, features = method.local_terms(batch)
        text = method.embed_text(list(batch.report))
    assert feature.shape == (5, 64 if name == "merl" else 32)
    torch.testing.assert_close(shared, torch.nn.functional.normalize(features["ecg"], dim=-1))
    torch.testing.assert_close(text, torch.nn.functional.normalize(features["text"], dim=-1))
    assert shared.shape == text.shape == (5, 16)
    with pytest.raises(ValueError, match="no part 'specific' in this run; choose from backbone, shared"):
        method.embed_ecg(batch, "specific")


def test_the_resnets_feature_is_before_the_projection() -> None:
    method = build("merl").eval()
    batch = make_batch(3)
    feature = method.embed_ecg(batch)
    with torch.no_grad():
        method.down.weight.zero_()
    torch.testing.assert_close(method.embed_ecg(batch), feature)


@pytest.mark.parametrize("name", ENCODERS)
def test_without_a_view_term_there_are_no_views(name: str) -> None:
    method = build(name, w_uma=0.0)
    terms = method(make_batch())
    assert set(terms) == set(method.weights) == {"L_CMA"}
    sum(terms.values()).backward()
    assert [n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert "cos_views" not in method.eval().measure(make_batch())


def test_views_differ_by_map_and_dropout_and_only_in_training() -> None:
    method = build("merl", view_dropout=0.5)
    _, once = method.local_terms(make_batch())
    assert 0.3 < float((once["view_1"] == 0).float().mean()) < 0.7
    method.eval()
    _, twice = method.local_terms(make_batch())
    assert not bool((twice["view_1"] == 0).any())
    assert not torch.allclose(twice["view_1"], twice["view_2"])
    assert method.view_1.bias is None


def test_views_of_the_ecg_are_drawn_in_training_only() -> None:
    views = {"shift_s": 0.4, "gain": 0.2, "noise_mv": 0.05, "lead_dropout": 0.5, "statement_dropout": 0.3}
    method = build("merl", **views)
    batch = make_batch()
    torch.manual_seed(0)
    view = pair_view(batch, method.config, SIGNAL)
    assert bool((~view.observed).any())
    assert bool(view.observed.any(-1).any(-1).all())
    assert view.report != batch.report
    assert not torch.equal(view.ecg, pair_view(batch, method.config, SIGNAL).ecg)
    assert not bool(view.ecg[~view.observed].any())

    def features() -> dict[str, Tensor]:
        return method.local_terms(batch)[1]

    sum(method(batch).values()).backward()
    assert not torch.equal(features()["ecg"], features()["ecg"])
    method.eval()
    assert torch.equal(features()["ecg"], features()["ecg"])
    assert torch.equal(features()["text"], features()["text"])


@pytest.fixture
def pretrained(tmp_path):
    """A folder with a small BERT of three layers, whose dropout is on."""
    tokenizer = reports.train_tokenizer(REPORTS, 400)
    bert = reports.bert_from_nothing(len(tokenizer), 32, 3, 2, 64)
    bert.config.hidden_dropout_prob = 0.5
    bert.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def with_bert(folder, **changes) -> merl.Method:
    config = merl.Config(**{**TINY["merl"], "text_encoder": str(folder), **changes})
    return merl.Method(config, SIGNAL, merl.Method.make_tokenizer(config, []))


def test_a_text_encoder_frozen_whole_gets_no_gradient_and_no_dropout(pretrained) -> None:
    method = with_bert(pretrained)
    before = {name: p.clone() for name, p in method.text.named_parameters()}
    assert method.train().training
    assert not any(part.training for part in method.text.modules())
    torch.testing.assert_close(method.local_terms(make_batch())[1]["text"], method.local_terms(make_batch())[1]["text"])
    sum(method(make_batch()).values()).backward()
    for name, p in method.named_parameters():
        inside = name.startswith("text.")
        assert p.requires_grad != inside, name
        assert (p.grad is None) == inside, name
        assert inside or bool(p.grad.any()), name
    assert method.pretrained_parameters == []
    optimizer = make_optimizer(method, OptimConfig())
    optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in method.text.named_parameters())


@pytest.mark.parametrize("pooling", ["cls", "pooler"])
def test_layers_that_are_not_frozen_get_a_lower_learning_rate(pretrained, pooling: str) -> None:
    method = with_bert(pretrained, text_frozen="layers", text_frozen_layers=2, text_pooling=pooling)
    assert any(part.training for part in method.text.modules())
    sum(method(make_batch()).values()).backward()
    for name, p in method.text.bert.named_parameters():
        frozen = name.startswith(("embeddings", "encoder.layer.0.", "encoder.layer.1."))
        assert p.requires_grad != frozen, name
        assert (p.grad is None) == frozen, name
    assert len(method.pretrained_parameters) == 16 + 2 * (pooling == "pooler")
    scales = {group["scale"] for group in make_optimizer(method, OptimConfig()).param_groups}
    assert scales == {1.0, OptimConfig().pretrained_lr_scale}


def test_a_pretrained_encoder_is_saved_with_the_run(pretrained, tmp_path) -> None:
    method = with_bert(pretrained).eval()
    (tmp_path / "saved").mkdir()
    method.save_extra(tmp_path / "saved")
    gone = dataclasses.replace(method.config, text_encoder="gone")
    twin = merl.Method(gone, SIGNAL, method.tokenizer, saved_folder=tmp_path / "saved").eval()
    twin.load_state_dict(method.state_dict())
    assert torch.equal(twin.embed_text(list(REPORTS)), method.embed_text(list(REPORTS)))
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in method.parameters()]


def test_measures_are_finite_and_leave_statistics_alone() -> None:
    method = build("merl").eval()
    before = {name: x.clone() for name, x in method.state_dict().items()}
    numbers = method.measure(make_batch())
    assert set(numbers) == {"effective_rank", "effective_rank_text", "reports_cut", "cos_views"}
    assert all(math.isfinite(value) for value in numbers.values())
    assert all(torch.equal(x, before[name]) for name, x in method.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, r"temperature = 0\.0 is out of range: it must be > 0"),
        ({"view_dropout": 1.0}, r"view_dropout = 1\.0 is out of range: it must be in \[0, 1\)"),
        ({"w_cma": 0.0}, r"w_cma = 0\.0 is out of range: it must be > 0"),
        ({"w_uma": -1.0}, r"w_uma = -1\.0 is out of range: it must be >= 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merl.Config(**changes)


@pytest.mark.parametrize("name", ENCODERS)
def test_in_bfloat16_the_terms_are_near_those_in_float32(name: str) -> None:
    method = build(name, view_dropout=0.0)
    exact = method(make_batch())
    with torch.autocast("cpu", torch.bfloat16):
        rough = method(make_batch())
    sum(rough.values()).backward()
    assert [n for n, p in method.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    for term, value in exact.items():
        assert rough[term].dtype == torch.float32
        assert float(rough[term].detach()) == pytest.approx(float(value.detach()), rel=0.1)


def test_one_lead_of_another_rate_builds_too() -> None:
    signal = Signal(leads=("II",), rate_hz=250, duration_s=4.0)
    method = build("merl", signal=signal)
    assert set(method(make_batch(4, signal=signal))) == {"L_CMA", "L_UMA"}


def test_similar_reports_count_as_identical() -> None:
    """The loss with the words of the reports is that with a number for each group of similar ones."""
    g = torch.Generator().manual_seed(0)
    ecg, text = torch.randn(6, 5, generator=g), torch.randn(6, 5, generator=g)
    each = torch.arange(6)[:, None]
    ids = torch.tensor([[1, 2, 3], [1, 2, 0], [4, 5, 6], [4, 5, 6], [7, 8, 0], [1, 7, 9]])
    words = pairwise.bags_of_words(ids, ids > 0, 10)
    assert float(words[0] @ words[1]) == pytest.approx(2 / 6**0.5)
    groups = torch.tensor([0, 0, 1, 1, 2, 3])[:, None]
    for treat in ("ignore", "positive"):
        grouped = multimodal.aligned(ecg, text, groups, 5.0, treat)
        torch.testing.assert_close(multimodal.aligned(ecg, text, each, 5.0, treat, words=(words, 0.8)), grouped)
        apart = multimodal.aligned(ecg, text, torch.tensor([0, 1, 2, 2, 3, 4])[:, None], 5.0, treat)
        torch.testing.assert_close(multimodal.aligned(ecg, text, each, 5.0, treat, words=(words, 0.9)), apart)
        rows = [multimodal.aligned(ecg, text, each, 5.0, treat, slice(i, i + 3), words=(words, 0.8)) for i in (0, 3)]
        torch.testing.assert_close(sum(rows) / 2, grouped)


def test_similarity_is_that_of_whole_reports_and_off_by_default() -> None:
    method, batch = build("merl s4", statement_dropout=0.5), make_batch(4)
    batch = dataclasses.replace(batch, statements=tuple(tuple(report.split(". ")) for report in batch.report))
    _, features = method.local_terms(batch)
    torch.testing.assert_close(features["words"].norm(dim=-1), torch.ones(4))
    tokens, _ = method.text.tokenize(list(batch.report))
    for row, ids in zip(features["words"], tokens.ids):
        special = set(method.tokenizer.all_special_ids)
        assert set(row.nonzero().flatten().tolist()) == set(ids.tolist()) - special
    assert "words" not in build("merl").local_terms(batch)[1]
    with pytest.raises(ValueError, match="similar_report < 1 needs same_report"):
        merl.Config(similar_report=0.9)


def test_the_temperature_is_trained_and_has_a_floor() -> None:
    method, batch = build("merl s4", temperature=0.05, view_dropout=0.0), make_batch(8)
    fixed = build("merl s4", temperature=0.05, view_dropout=0.0, learn_temperature=False)
    fixed.load_state_dict({name: x for name, x in method.state_dict().items() if name != "log_temperature"})
    for one in (method, fixed):
        one.eval()
    torch.testing.assert_close(method(batch)["L_CMA"], fixed(batch)["L_CMA"])
    method(batch)["L_CMA"].backward()
    assert float(method.log_temperature.grad.abs()) > 0
    assert method.measure(batch)["temperature"] == pytest.approx(0.05)
    with torch.no_grad():
        method.log_temperature.fill_(-20.0)
        assert method.measure(batch)["temperature"] == pytest.approx(0.01)
        lowest = build("merl s4", temperature=0.01, learn_temperature=False).eval()
        lowest.load_state_dict(fixed.state_dict())
        torch.testing.assert_close(method(batch)["L_CMA"], lowest(batch)["L_CMA"])

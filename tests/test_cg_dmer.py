"""CG-DMER beyond the contract."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from conftest import REPORTS, SIGNAL, TINY, make_batch, unobserve
from test_methods import build
from torch import Tensor

from leadwise import config as settings
from leadwise.config import OptimConfig
from leadwise.methods import cg_dmer
from leadwise.methods.catalogue import with_defaults
from leadwise.nn import lead_time, masking
from leadwise.nn import text as reports
from leadwise.nn.patches import ConvTokenizer, patchify
from leadwise.training.optimizer import make_optimizer

OPTIONS = [
    {"text_task": "mlm"},
    {"text_pooling": "mean"},
    {"text_pooling": "pooler"},
    {"contrast_view": "full"},
    {"contrast_view": "both", "specific_task": "recon"},
    {"text_task": "mlm", "specific_task": "recon"},
    {"decoder": "leadwise", "specific_task": "recon"},
    {"decoder": "cross", "specific_task": "recon"},
    {"decoder": "cross"},
    {"patch_amplitude": False, "target": "raw"},
    {"target": "record"},
    {"contrast": "decoupled", "siglip": "literal"},
    {"contrast": "literal", "siglip": "unnormalised"},
    {"same_report": "positive"},
    {"same_report": "negative"},
    {"similar_report": 0.6},
    {"checkpointing": True},
    {"patch_pooled": True, "patch_amplitude": True, "embedding_scale": 0.3},
    {"decorrelate": True, "specific_task": "recon"},
    {"final_view": "parts", "final_share": 1.0},
    {"final_view": "full", "final_share": 1.0},
    {"shift": True, "gain": 0.2, "noise_mv": 0.02, "statement_dropout": 0.3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()))
def test_each_option_trains(options: dict) -> None:
    method = build("cg_dmer", **options)
    batch = make_batch(8)
    terms = method(batch)
    sum(terms.values()).backward()
    idle = [n for n, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert idle == []
    assert all(bool(t.isfinite()) for t in terms.values())
    method.eval()
    assert bool(method.embed_ecg(batch, "shared").isfinite().all())


def qrs_patches(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """QRS-like patches (n, 50) of random shape, and the logarithm of the size (n,) of each, 0.6 to 2.7 times its shape."""
    g = torch.Generator().manual_seed(seed)
    t = torch.linspace(0, 1, 50)
    centre, width = 0.2 + 0.6 * torch.rand(n, 3, 1, generator=g), 0.03 + 0.07 * torch.rand(n, 3, 1, generator=g)
    height = torch.randn(n, 3, 1, generator=g)
    shape = (height * torch.exp(-((t - centre) / width).square() / 2)).sum(1)
    size = 1.5 * torch.rand(n, generator=g) - 0.5
    return shape / shape.std(1, keepdim=True) * size.exp()[:, None], size


def explained_by_a_linear_map(features: torch.Tensor, truth: torch.Tensor, n_fit: int) -> float:
    """Share of the variance of `truth` (n,) that a ridge regression on `features` (n, D) explains after the first `n_fit`."""
    features, truth = features.double(), truth.double()
    centred, target = features - features[:n_fit].mean(0), truth - truth[:n_fit].mean()
    fit = centred[:n_fit]
    ridge = 1e-4 * n_fit * fit.var() * torch.eye(fit.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(fit.T @ fit + ridge, fit.T @ target[:n_fit])
    error = centred[n_fit:] @ weights - target[n_fit:]
    return 1 - float(error.square().mean() / target[n_fit:].var())


def test_tokens_contain_the_size_of_a_patch() -> None:
    """Group norm removes it; `patch_amplitude`, on by default and in every config, adds it again."""
    patches, size = qrs_patches(3000, seed=0)
    explained = {}
    for amplitude in (True, False):
        torch.manual_seed(0)
        with torch.no_grad():
            tokens = ConvTokenizer(50, 64, amplitude)(patches)
        explained[amplitude] = explained_by_a_linear_map(tokens, size, n_fit=2000)
    assert explained[True] > 0.99
    assert explained[False] < 0.5
    assert cg_dmer.Config().patch_amplitude
    for path in (Path(__file__).parents[1] / "configs").glob("*.toml"):
        config = with_defaults(settings.read(path))
        assert config.method.get("patch_amplitude", True), path.name


def test_hidden_patches_never_reach_visible_tokens() -> None:
    """Convolutions and norms stay inside the patch, and hidden patches are not encoded."""
    for options in ({}, {"patch_amplitude": False}):
        method = build("cg_dmer", **options).eval()
        batch = make_batch(4)
        patches, usable = method._patches(batch)
        torch.manual_seed(0)
        visible = masking.draw_visible(usable, 0.75)
        changed = torch.where(visible[..., None], patches, patches + torch.randn_like(patches))
        a, b = method.ecg(patches, visible), method.ecg(changed, visible)
        torch.testing.assert_close(a.tokens, b.tokens, rtol=0, atol=0)
        # and the tokeniser alone: one patch of many
        one = patches.clone()
        one[:, 0, 3] += 1.0
        tokens, touched = method.ecg.tokenizer(patches), method.ecg.tokenizer(one)
        moved = (tokens != touched).any(-1)
        assert bool(moved[:, 0, 3].all())
        moved[:, 0, 3] = False
        assert not bool(moved.any())


def test_tokenising_the_visible_equals_tokenising_all() -> None:
    method = build("cg_dmer").eval()
    patches, usable = method._patches(make_batch(3))
    visible = masking.draw_visible(usable, 0.75)
    encoded = method.ecg(patches, visible)
    x = method.ecg.tokenizer(patches) + method.ecg.spatial[:, None] + method.ecg.temporal  # (B, L, N, D), Eq. 1
    slow = method.ecg.transformer(masking.take(x.flatten(1, 2), encoded.index))
    torch.testing.assert_close(encoded.tokens, slow, atol=1e-5, rtol=1e-5)


def test_reconstruction_counts_hidden_and_observed_patches_only() -> None:
    method = build("cg_dmer").eval()
    batch = unobserve(make_batch(3), leads=[2], after=300)
    _, usable = method._patches(batch)
    assert not bool(usable[:, 2].any())
    assert not bool(usable[:, :, 8:].any())  # 10 patches of 0.4 s; 3 s were observed
    _, hidden = method.reconstruct(batch)
    assert not bool((hidden & ~batch.observed).any())
    n_hidden = 7 - round(7 * 0.25)
    assert (patchify(hidden, 10).all(-1).sum((1, 2)) == 11 * n_hidden).all()


def test_a_weight_of_zero_takes_the_module_away() -> None:
    method = build("cg_dmer", w_e_rec=0.0, w_t_rec=0.0, w_orth=0.0, w_siglip=0.0)
    assert set(method(make_batch())) == {"L_cons"}
    names = {n.split(".")[0] for n, _ in method.named_parameters()}
    assert not names & {"ecg_decoder", "text_decoder", "word_bias", "ecg_specific", "siglip_bias"}


def test_weights_scale_the_terms() -> None:
    torch.manual_seed(0)
    plain = build("cg_dmer")
    torch.manual_seed(1)
    a = plain(make_batch())
    heavy = build("cg_dmer", w_e_rec=3.0, w_orth=0.5)
    heavy.load_state_dict(plain.state_dict())
    torch.manual_seed(1)
    b = heavy(make_batch())
    torch.testing.assert_close(b["L_e_rec"], 3 * a["L_e_rec"])
    torch.testing.assert_close(b["L_orth"], 0.5 * a["L_orth"])
    torch.testing.assert_close(b["L_cons"], a["L_cons"])


def test_the_target_is_shape_and_comes_back_in_millivolts() -> None:
    method = build("cg_dmer").eval()
    batch = make_batch(2)
    patches, _ = method._patches(batch)
    target = method._target(patches, batch)
    torch.testing.assert_close(target.mean(-1), torch.zeros_like(target.mean(-1)), atol=1e-4, rtol=0)
    assert float(target.std(-1, correction=0).max()) <= 1.0 + 1e-4
    level, spread = method._level_and_spread(patches, batch)
    torch.testing.assert_close(target * spread + level, patches, atol=1e-5, rtol=1e-4)


def test_patches_must_divide_the_signal() -> None:
    with pytest.raises(ValueError, match="n_patches = 7 does not divide the 400 samples"):
        build("cg_dmer", n_patches=7)


def test_unknown_part_names_the_parts() -> None:
    with pytest.raises(ValueError, match="choose from backbone, shared, specific, both"):
        build("cg_dmer").eval().embed_ecg(make_batch(2), "pooled")


def test_text_embedding_is_unit_and_does_not_depend_on_its_company() -> None:
    method = build("cg_dmer").eval()
    alone = method.embed_text(["atrial fibrillation."])
    together = method.embed_text(["atrial fibrillation.", REPORTS[3]])
    torch.testing.assert_close(alone[0], together[0], atol=1e-5, rtol=1e-4)
    assert float(alone.detach().norm()) == pytest.approx(1.0, abs=1e-5)


def test_a_pretrained_bert_folder_is_frozen_by_count_and_travels_with_the_run(tmp_path) -> None:
    tokenizer = reports.train_tokenizer(REPORTS, 400)
    bert = reports.bert_from_nothing(len(tokenizer), 32, 3, 2, 64)
    bert.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    config = cg_dmer.Config(**{**TINY["cg_dmer"], "text_encoder": str(tmp_path / "bert"), "text_frozen_layers": 2})
    own = cg_dmer.Method.make_tokenizer(config, [])
    method = cg_dmer.Method(config, SIGNAL, own)
    sum(method(make_batch()).values()).backward()
    for name, p in method.text.bert.named_parameters():
        frozen = name.startswith(("embeddings", "encoder.layer.0.", "encoder.layer.1."))
        assert p.requires_grad != frozen, name
        assert (p.grad is None) == frozen, name
    assert len(method.pretrained_parameters) > 0
    (tmp_path / "saved").mkdir()
    method.save_extra(tmp_path / "saved")
    twin = cg_dmer.Method(
        dataclasses.replace(config, text_encoder="gone"), SIGNAL, own, saved_folder=tmp_path / "saved"
    )
    twin.load_state_dict(method.state_dict())
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in method.parameters()]
    saved = make_optimizer(method, OptimConfig()).state_dict()
    make_optimizer(twin, OptimConfig()).load_state_dict(saved)


def test_what_reaches_each_loss(monkeypatch) -> None:
    """Each loss gets the right patches, tokens, reports and scales."""
    from leadwise.nn.losses import multimodal

    arguments: dict[str, tuple] = {}
    for name in ("patch_reconstruction", "token_errors", "info_nce", "siglip"):
        true = getattr(multimodal, name)

        def spy(*args, _name=name, _true=true):
            arguments[_name] = args
            return _true(*args)

        monkeypatch.setattr(multimodal, name, spy)
    drawn: list[torch.Tensor] = []
    draw = masking.draw_visible
    monkeypatch.setattr(masking, "draw_visible", lambda *a: drawn.append(draw(*a)) or drawn[-1])
    monkeypatch.setattr(cg_dmer, "TEXT_MASK_RATIO", 0.5)
    method = build("cg_dmer", statement_dropout=0.9)
    read: list = []
    forward = method.text.forward
    monkeypatch.setattr(method.text, "forward", lambda tokens: read.append(tokens) or forward(tokens))
    batch = unobserve(make_batch(8), leads=[3])
    report = (REPORTS[2],) * 5 + ("sinus tachycardia. inferior infarct, age undetermined. borderline ecg.",) * 3
    method(dataclasses.replace(batch, report=report))

    _, usable = method.eval()._patches(batch)
    hidden = arguments["patch_reconstruction"][2]
    assert bool((hidden == (usable & ~drawn[0])).all())
    same = torch.tensor([[a == b for b in report] for a in report])
    # two views of the same report stay the same report
    for name in ("info_nce", "siglip"):
        numbers = arguments[name][2]  # (B, 2): whole reports and views of them
        assert bool(((numbers[:, None] == numbers[None]).any(-1) == same).all())
    assert arguments["info_nce"][3] == pytest.approx(1 / 0.07)
    assert arguments["siglip"][3].item() == pytest.approx(10.0, rel=1e-4)
    assert arguments["siglip"][4].item() == pytest.approx(-10.0)
    # one pass reads the whole reports, the other the corrupted ones
    _, answer, scored = arguments["token_errors"]
    corrupted = [t for t in read if bool(torch.isin(t.ids, method.sentinels).any())]
    assert len(read) == 2
    assert len(corrupted) == 1
    left = corrupted[0].real.sum() - torch.isin(corrupted[0].ids, method.sentinels).sum()
    whole = next(t for t in read if t is not corrupted[0]).real.sum()
    assert int(left) == int(whole) - int(scored.sum())
    assert int(scored.sum()) > 8
    assert bool((answer[scored] > 3).all())


@pytest.mark.parametrize("treat", ["ignore", "positive"])
def test_similar_reports_are_not_negatives(treat: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both contrasts equal double loops over pairs, in which the overlap of two sets of words decides."""
    monkeypatch.setattr("leadwise.nn.text.MIN_PIECE_COUNT", 1)  # whole words, so that no report is cut
    method, batch = build("cg_dmer", same_report=treat, similar_report=0.6, statement_dropout=0.5).eval(), make_batch(8)
    batch = dataclasses.replace(batch, statements=tuple(tuple(report.split(". ")) for report in batch.report))
    features = method.local_terms(batch)[1]
    with torch.no_grad():
        terms = method.batch_terms(features)
        ecg, text = (torch.nn.functional.normalize(features[name].reshape(8, -1), dim=-1) for name in ("ecg", "text"))
        scale, bias = float(method.siglip_log_scale.exp()), float(method.siglip_bias)
    special = set(method.tokenizer.all_special_ids)
    words = [set(method.tokenizer(report)["input_ids"]) - special for report in batch.report]
    same = [[len(a & b) / math.sqrt(len(a) * len(b)) >= 0.6 for b in words] for a in words]
    assert 0 < sum(map(sum, same)) - 8 < 8 * 7  # some pairs, and not all

    siglip = nce = 0.0
    for i in range(8):
        twins = [j for j in range(8) if same[i][j] and j != i]
        for j in range(8):
            sign = 1 if j == i or (j in twins and treat == "positive") else -1
            if j not in twins or treat == "positive":
                siglip += math.log1p(math.exp(-sign * (scale * float(ecg[i] @ text[j]) + bias))) / 8
        for anchor, others in ((ecg, text), (text, ecg)):
            logits = [float(anchor[i] @ others[j]) / cg_dmer.TEMPERATURE for j in range(8)]
            below = sum(math.exp(x) for j, x in enumerate(logits) if j not in twins or treat == "positive")
            targets = [i, *twins] if treat == "positive" else [i]
            nce += sum(math.log(below) - logits[j] for j in targets) / len(targets) / 16
    assert float(terms["L_cons"]) == pytest.approx(nce, rel=1e-4)
    assert float(terms["L_siglip"]) == pytest.approx(siglip, rel=1e-4)


def test_similarity_of_reports_is_off_by_default() -> None:
    method, plain, batch = build("cg_dmer", similar_report=0.6), build("cg_dmer"), make_batch(8)
    plain.load_state_dict(method.state_dict())
    torch.manual_seed(3)
    features = method.local_terms(batch)[1]
    torch.manual_seed(3)
    expected = plain.local_terms(batch)[1]
    assert set(features) - set(expected) == {"words"}
    assert all(torch.equal(features[name], value) for name, value in expected.items())  # no further random number
    with pytest.raises(ValueError, match="similar_report < 1 needs same_report"):
        cg_dmer.Config(same_report="negative", similar_report=0.9)
    with pytest.raises(ValueError, match=r"similar_report = 0\.0: must be in"):
        cg_dmer.Config(similar_report=0.0)


def test_eval_mode_changes_no_view() -> None:
    views = {"shift": True, "gain": 0.5, "noise_mv": 1.0, "statement_dropout": 0.5}
    method, batch = build("cg_dmer", **views).eval(), make_batch(4)
    assert method.training_view(batch) is batch
    patches, usable = method._patches(batch)
    assert method._noisy(patches, usable) is patches
    method.train()
    assert not torch.equal(method.training_view(batch).ecg, batch.ecg)
    assert not torch.equal(method._noisy(patches, usable), patches)


def test_reconstruction_of_a_short_record_keeps_its_offset() -> None:
    method = build("cg_dmer").eval()
    batch = unobserve(make_batch(2), after=160)
    lifted = dataclasses.replace(batch, ecg=(batch.ecg + 2.0) * batch.observed)
    torch.manual_seed(0)
    a, hidden = method.reconstruct(batch)
    torch.manual_seed(0)
    b, _ = method.reconstruct(lifted)
    torch.testing.assert_close(b[hidden], a[hidden] + 2.0, atol=1e-3, rtol=0)


def test_forward_refuses_a_record_without_anything_observed() -> None:
    batch = make_batch(4)
    observed = batch.observed.clone()
    observed[2] = False
    with pytest.raises(ValueError, match=batch.record[2]):
        build("cg_dmer")(dataclasses.replace(batch, observed=observed))


def test_embedding_in_parts_uses_each_patch_once_and_averages(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build("cg_dmer", embed_passes=4).eval()
    batch = make_batch(3)
    batch = unobserve(batch, leads=[2])
    batch.observed[1, :, 40:] = False  # one patch of each lead is left
    parts_visible: list[Tensor] = []
    encode = method.ecg.forward

    def spy(patches: Tensor, visible: Tensor, **_: object) -> object:
        parts_visible.append(visible)
        return encode(patches, visible)

    method.ecg.forward = spy
    with torch.no_grad():
        got = method.embed_ecg(batch)
        patches, usable = method._patches(batch)
        (of_all,) = parts_visible  # few records: one call for all parts
        parts_visible = [part.clone() for part in of_all.unflatten(0, (4, 3))]
        assert torch.equal(torch.stack(parts_visible)[:, 0].sum(0), usable[0].long())  # each usable patch in one part
        parts = [method.pooled_norm(encode(patches, visible).pooled) for visible in parts_visible]
        torch.testing.assert_close(got, torch.stack(parts).mean(0))
        monkeypatch.setattr(lead_time, "_PLACES_AT_ONCE", 0)
        torch.testing.assert_close(method.embed_ecg(batch), got)
        alone = build("cg_dmer", embed_passes=1).eval()
        alone.load_state_dict(method.state_dict())
        torch.testing.assert_close(alone.embed_ecg(batch), method.pooled_norm(encode(patches, usable).pooled))


def test_a_part_without_patches_does_not_count() -> None:
    method = build("cg_dmer", embed_passes=4).eval()
    batch = unobserve(make_batch(2), leads=list(range(1, 12)))
    batch.observed[0, 0, 40:] = False  # one patch of one lead
    with torch.no_grad():
        got = method.embed_ecg(batch)
        patches, usable = method._patches(batch)
        assert int(usable[0].sum()) == 1
        torch.testing.assert_close(got[0], method.pooled_norm(method.ecg(patches, usable).pooled)[0])
    assert bool(got.isfinite().all())
    with pytest.raises(ValueError, match=r"embed_passes = 0 is out of range: it must be >= 1"):
        build("cg_dmer", embed_passes=0)


def test_statements_are_dropped_as_the_source_lists_them() -> None:
    method = build("cg_dmer", statement_dropout=0.5).train()
    batch = make_batch(2)
    listed = dataclasses.replace(batch, statements=(("rate 61. regular", "normal ecg"), ("afib",)))
    torch.manual_seed(0)
    views = {method.training_view(listed).report for _ in range(60)}
    assert {first for first, _ in views} == {
        "rate 61. regular.", "normal ecg.", "rate 61. regular. normal ecg.", "normal ecg. rate 61. regular.",
    }  # fmt: skip
    assert {second for _, second in views} == {"afib."}


def test_the_cross_decoder_predicts_hidden_patches_independently() -> None:
    method = build("cg_dmer", decoder="cross").eval()
    batch = unobserve(make_batch(2), leads=[3])
    batch.observed[1, :, 200:] = False  # the second record has fewer patches: padding tokens
    patches, usable = method._patches(batch)
    visible = masking.draw_visible(usable, 0.5)
    with torch.no_grad():
        encoded = method.ecg(patches, visible)
        whole = method.ecg_decoder(encoded, usable, None, visible)
        hidden = usable & ~visible
        assert not whole[~hidden].any()
        assert bool((whole[hidden].abs().sum(-1) > 0).all())
        one = torch.zeros_like(hidden)
        one[:, 0] = hidden[:, 0]  # the hidden patches of one lead alone: the same output
        some = method.ecg_decoder(encoded, one | visible, None, visible)
        torch.testing.assert_close(some[one], whole[one])
    with pytest.raises(ValueError, match="pass visible="):
        method.ecg_decoder(encoded, usable)


def test_the_last_steps_have_the_final_view(monkeypatch) -> None:
    """With 4 steps and a share of 0.5, steps 3 and 4 compare the embedding that the run will be judged by."""
    method = build("cg_dmer", final_view="parts", final_share=0.5).train()
    batch = make_batch(4)
    calls = []
    whole = method._whole
    monkeypatch.setattr(method, "_whole", lambda *args: calls.append(1) or whole(*args))
    used = []
    for step in range(4):
        calls.clear()
        method(batch)
        used.append(bool(calls))
        method.after_step((step + 1) / 4)
    assert used == [False, False, True, True]
    assert "progress" in method.state_dict()  # a resumed run is in the same phase
    assert "progress" not in build("cg_dmer").state_dict()


def test_the_mean_of_the_lead_features_is_the_mean_token() -> None:
    method = build("cg_dmer", embed_passes=2).eval()  # each part has as many patches of each lead
    batch = make_batch(4)
    by_lead = method.embed_ecg(batch, "per_lead").reshape(4, len(SIGNAL.leads), -1)
    patches, usable = method._patches(batch)
    parts = masking.interleaved_parts(usable, method.config.embed_passes)
    pooled = torch.stack([method.ecg(patches, part).pooled for part in parts]).mean(0)
    torch.testing.assert_close(by_lead.mean(1), pooled, atol=1e-5, rtol=1e-4)
    missing = unobserve(batch, leads=[2])
    assert not bool(method.embed_ecg(missing, "per_lead").reshape(4, len(SIGNAL.leads), -1)[:, 2].any())


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({"contrast_view": "masked", "w_e_rec": 0.0}, [1, 1]),
        ({"contrast_view": "both", "w_e_rec": 0.0}, [2, 2]),
        ({"contrast_view": "full", "w_e_rec": 0.0}, [1, 1]),
        ({"contrast_view": "full"}, [2, 2]),  # Eq. 2 needs the masked pass
        ({"final_view": "full", "final_share": 0.5, "w_e_rec": 0.0}, [1, 1]),
        ({"final_view": "parts", "final_share": 0.5, "w_e_rec": 0.0}, [1, 2]),  # two parts
        ({"contrast_view": "full", "final_view": "masked", "final_share": 0.5}, [2, 1]),
        ({"contrast_view": "both", "final_view": "full", "final_share": 0.5, "w_e_rec": 0.0}, [2, 1]),
    ],
)
def test_the_encoder_runs_only_for_what_is_used(monkeypatch, options: dict, passes: list[int]) -> None:
    """Passes of a step before and in the last steps. The terms are those of a method that needs the masked pass, too."""
    monkeypatch.setattr(lead_time, "_PLACES_AT_ONCE", 0)  # one call for each part
    method = build("cg_dmer", **{"embed_passes": 2, **options})
    reference = build("cg_dmer", **{"embed_passes": 2, **options, "w_e_rec": 1.0})
    method.load_state_dict({name: x for name, x in reference.state_dict().items() if name in method.state_dict()})
    calls: list[int] = []
    method.ecg.register_forward_hook(lambda *_: calls.append(1))
    counts = []
    for progress in (0.0, 0.5):
        terms = []
        for each in (method, reference):
            each.train().after_step(progress)
            torch.manual_seed(1)
            terms.append(each(make_batch(8)))
        assert terms[0] == {name: terms[1][name] for name in terms[0]}
        counts.append(len(calls))
        calls.clear()
    assert counts == passes


def test_loaded_weights_continue_in_the_saved_phase() -> None:
    settings = {"final_view": "parts", "final_share": 0.25}
    method, other = build("cg_dmer", **settings), build("cg_dmer", **settings)
    method.after_step(0.8)
    other.load_state_dict(method.state_dict())
    assert (method._contrast_view, other._contrast_view) == ("parts", "parts")
    other.load_state_dict(build("cg_dmer", **settings).state_dict())
    assert other._contrast_view == "masked"

"""MyoECG beyond the contract: its loss against a slow version, what each term trains, concepts, and runs to start from."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from conftest import SIGNAL, make_batch, unobserve
from test_methods import build

from leadwise.methods.catalogue import find_method, small_settings

FILE = find_method("myo_ecg")


def started(start: dict, variant: str = "", **changes):
    torch.manual_seed(0)
    return FILE.method_class(FILE.config_class(**{**FILE.tiny[variant], **changes}), SIGNAL, None, None, start)


def cosine(x: torch.Tensor, y: torch.Tensor) -> float:
    return float(x @ y / (x.norm() * y.norm()))


def slow_terms(method, batch) -> dict[str, float]:
    """The loss record by record, with plain loops."""
    c, n = method.config, len(batch)
    tokens, real = method.ecg.tokens(batch)
    ecg = method.read_ecg(method.queries, tokens, real)
    images = method._image_concepts(batch.volume, batch.has_volume)
    f = (batch.phenotype - method.phenotype_mean) / method.phenotype_deviation
    has_image = [bool(batch.has_volume[i].any()) for i in range(n)]

    distances, errors, image_errors = [], [], []
    for i in range(n):
        of_ecg, of_images = [], []
        for q, name in enumerate(c.concepts):
            columns = [k for k, concept in enumerate(c.concept_of) if concept == name]
            for place, k in enumerate(columns):
                if math.isfinite(float(f[i, k])):
                    of_ecg.append(float((method.predict_ecg[q](ecg[i, q])[place] - f[i, k]) ** 2))
                    of_images.append(float((method.predict_images[q](images[i, q])[place] - f[i, k]) ** 2))
        if of_ecg:
            errors.append(sum(of_ecg) / len(of_ecg))
        if has_image[i]:
            distances.append(sum(1 - cosine(ecg[i, q], images[i, q]) for q in range(len(c.concepts))) / len(c.concepts))
            image_errors += [sum(of_images) / len(of_images)] if of_images else []

    z = method.ecg_head(method.ecg.pool(tokens, real))
    v = method.image_head(images.flatten(1))
    rows, total = [i for i in range(n) if has_image[i]], 0.0
    for i in rows:
        p = []
        for j in rows:
            both = [k for k in range(f.shape[1]) if math.isfinite(float(f[i, k])) and math.isfinite(float(f[j, k]))]
            squares = sum(float(f[i, k] - f[j, k]) ** 2 for k in both) * f.shape[1] / max(len(both), 1)
            p.append(math.exp(-(0.0 if i == j else squares) / c.phenotype_temperature))
        p = [x / sum(p) for x in p]
        for a, b in ((z, v), (v, z)):
            q = [math.exp(cosine(a[i], b[j]) / c.temperature) for j in rows]
            total += sum(x * math.log(x / (y / sum(q))) for x, y in zip(p, q))

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    return {
        "L_distill": c.w_distill * mean(distances),
        "L_phenotype": c.w_phenotype * mean(errors),
        "L_teacher": c.w_phenotype * mean(image_errors),
        "L_relation": c.w_relation * total / 2 / len(rows),
    }


@pytest.mark.parametrize("variant", ["", "lead_time"])
def test_the_loss_equals_a_slow_version(variant: str) -> None:
    method, batch = build(f"myo_ecg {variant}".strip(), w_distill=0.7, w_phenotype=0.3).eval(), make_batch()
    method.take_phenotypes(batch.phenotype)
    batch.has_volume[5] = False
    with torch.no_grad():
        terms, slow = method(batch), slow_terms(method, batch)
    assert list(terms) == list(slow)
    for name, value in slow.items():
        assert float(terms[name]) == pytest.approx(value, rel=1e-4), name


def test_a_record_without_images_is_in_the_ecgs_errors_only() -> None:
    method, batch = build("myo_ecg").eval(), make_batch()
    batch.has_volume[7] = False
    with torch.no_grad():
        terms, without = method(batch), method(batch.rows(0, 7))
    for name in ("L_distill", "L_teacher", "L_relation"):
        torch.testing.assert_close(terms[name], without[name])
    assert not torch.allclose(terms["L_phenotype"], without["L_phenotype"])


def test_the_ecgs_terms_do_not_train_how_images_are_read() -> None:
    method, batch = build("myo_ecg"), make_batch()
    terms = method(batch)
    (terms["L_distill"] + terms["L_phenotype"] + terms["L_relation"]).backward()
    trained = {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained == {"ecg", "read_ecg", "queries", "predict_ecg", "ecg_head", "image_head"}


def test_concepts_are_groups_of_phenotypes() -> None:
    changes = {"phenotypes": ("lvedv", "lvef", "lvesv"), "concept_of": ("LV size", "LV function", "LV size")}
    method = build("myo_ecg", **changes)
    assert method.config.concepts == ("LV size", "LV function")
    assert [one.out_features for one in method.predict_ecg] == [2, 1]
    concepts = torch.randn(3, 2, 16)
    size = method.predict_ecg[0](concepts[:, 0])
    expected = torch.stack([size[:, 0], method.predict_ecg[1](concepts[:, 1])[:, 0], size[:, 1]], dim=1)
    torch.testing.assert_close(method._predict(method.predict_ecg, concepts), expected)
    with pytest.raises(ValueError, match="set both to lists of the same length"):
        build("myo_ecg", concept_of=("LV size",))
    with pytest.raises(ValueError, match="not a multiple of concept_heads = 3"):
        build("myo_ecg", concept_heads=3)
    defaults = FILE.config_class()
    assert len(defaults.phenotypes) == 9
    assert defaults.concepts == ("LV size", "LV function", "LV mass", "RV size", "RV function")


def test_parts_and_phenotypes_of_an_ecg() -> None:
    method, batch = build("myo_ecg").eval(), make_batch(4)
    method.take_phenotypes(batch.phenotype)
    shared, concepts = method.embed_parts(batch, ("shared", "concepts"))
    assert shared.shape == (4, 16)
    assert concepts.shape == (4, 2 * 16)
    predicted = method.predict_phenotypes(batch)
    standardised = method._predict(method.predict_ecg, concepts.reshape(4, 2, 16))
    torch.testing.assert_close(predicted, standardised * method.phenotype_deviation + method.phenotype_mean)
    with pytest.raises(ValueError, match="no part 'ed'"):
        method.embed_volume(batch, "ed")
    batch.has_volume[2] = False
    with pytest.raises(ValueError, match="no image of ed or es"):
        method.embed_volume(batch)


def test_the_image_encoders_of_stage_two_are_a_frozen_teacher() -> None:
    cmr = build("dual_phase_cmr cmr", seed=3)
    method, batch = started({"init_volume": cmr}), make_batch()
    assert not any(p.requires_grad for p in method.volumes.parameters())
    method.train()
    assert not any(module.training for module in method.volumes.modules())
    sum(method(batch).values()).backward()
    assert [n for n, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())] == []
    maps = method.volumes.tokens(batch.volume, batch.has_volume)
    assert maps.shape == (8, 2, 3 * 3 * 3, 8)
    torch.testing.assert_close(maps[0, 0], cmr.volumes.models["ed"].feature_map(batch.volume[:1, 0])[0].flatten(1).T)


@pytest.mark.parametrize("name", ["st_mem", "cg_dmer", "simclr"])
def test_the_ecg_encoder_of_another_run_is_trained_further(name: str) -> None:
    changes = {"embed_passes": 1} if name == "cg_dmer" else {}
    init = build(name, **changes)
    method, batch = started({"init": init}, view_crop=0.5), make_batch()
    with torch.no_grad():
        tokens, _ = method.eval().ecg.tokens(batch)
        embedded = init.eval().embed_ecg(batch)
    if name == "cg_dmer":  # its embedding is the norm of the mean, and its tokens are norms of the means over leads
        grid, usable, on_host = init._patches_and_host(batch)
        encoded = init.ecg(grid, usable, count=on_host.sum(-1)).tokens.detach()  # (B, L N, D): all are observed
        expected = init.pooled_norm(encoded.unflatten(1, usable.shape[1:]).mean(1))
        torch.testing.assert_close(tokens, expected)
        torch.testing.assert_close(init.pooled_norm(encoded.mean(1)), embedded)
    else:
        torch.testing.assert_close(method.ecg(batch).detach(), embedded)
    sum(method.train()(batch).values()).backward()
    assert [n for n, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())] == []
    assert {id(p) for p in method.ecg.parameters()} <= {id(p) for p in init.parameters()}


def test_an_encoder_without_vectors_over_time_is_refused() -> None:
    with pytest.raises(
        ValueError, match="a run of merl has no encoder of vectors over time; choose a run of another method"
    ):
        started({"init": build("merl")})


def test_tokens_of_a_lead_time_encoder_are_means_over_observed_leads() -> None:
    """A time that no lead has is not real; a crop has the embeddings of its place."""
    init = build("cg_dmer").eval()
    encoder, batch = init.token_encoder, unobserve(make_batch(3), leads=[0, 4], after=250)
    with torch.no_grad():
        tokens, real = encoder.tokens(batch)
        assert real.tolist() == [[True] * 6 + [False] * 4] * 3  # ten patches of 40 samples
        patches, usable, on_host = init._patches_and_host(batch)
        encoded = init.ecg(patches, usable, count=on_host.sum(-1))
        for time in range(6):
            of_time = [k for k, place in enumerate(encoded.index[0].tolist()) if place % 10 == time]
            assert len(of_time) == 10
            torch.testing.assert_close(tokens[0, time], init.pooled_norm(encoded.tokens[0, of_time].mean(0)))
        crop = dataclasses.replace(batch, ecg=batch.ecg[..., 80:240], observed=batch.observed[..., 80:240])
        at_place, _ = encoder.tokens(crop, torch.full((3,), 80))
        at_begin, _ = encoder.tokens(crop)
        assert at_place.shape == (3, 4, 32)
        assert not torch.allclose(at_place, at_begin)


def test_the_concepts_learn_the_phenotypes() -> None:
    method = build("myo_ecg")
    method.take_phenotypes(make_batch(64).phenotype)
    optimizer = torch.optim.AdamW(method.parameters(), lr=5e-3)
    for step in range(60):
        sum(method(make_batch(16, seed=step % 8)).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    figures = method.eval().measure(make_batch(32, seed=20))
    assert set(figures) == {"effective_rank", "top1", "explained_ecg", "explained_images"}
    assert figures["explained_images"] > 0.5
    assert figures["explained_ecg"] > 0.3


def test_two_passes_give_the_gradient_of_one() -> None:
    from leadwise.config import OptimConfig
    from leadwise.training.gradient_step import Objective, backward

    batch, gradients = make_batch(), []
    batch.has_volume[2] = False
    for batches in ([batch], [batch.rows(0, 4), batch.rows(4, 8)]):
        method = build("myo_ecg lead_time", view_crop=1.0)
        backward(Objective(method), batches, 0, OptimConfig(accumulate=len(batches)))
        gradients.append(torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-3)


def test_small_settings_are_valid() -> None:
    settings = {name: value for name, value in small_settings("myo_ecg").items() if name != "name"}
    config = dataclasses.replace(FILE.config_class(), **settings)
    assert config.whole_batch == "method.encoder = 'resnet'"

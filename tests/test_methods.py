"""Contract tests of every file in methods/."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest
import torch
from conftest import REPORTS, SIGNAL, TINY, make_batch, unobserve

from leadwise import methods
from leadwise.batch import LEADS, Batch, Signal
from leadwise.config import Config
from leadwise.evaluate.embed import embed_batch
from leadwise.methods.catalogue import find_method, method_names, patch_samples
from leadwise.methods.contract import PretrainingMethod
from leadwise.nn import lead_time
from leadwise.run import Run

NAMES = method_names()
CASES = list(TINY)


def build(name: str, seed: int = 0, signal: Signal = SIGNAL, **changes):
    method_name, _, variant = name.partition(" ")
    file = find_method(method_name)
    config = file.config_class(**{**file.tiny[variant], **changes})
    torch.manual_seed(seed)
    return file.method_class(config, signal, file.method_class.make_tokenizer(config, REPORTS))


def build_ecg(name: str, seed: int = 0, **changes):
    """`build`, for tests of ECG embeddings: skips where the settings leave the ECG encoder out."""
    method = build(name, seed, **changes)
    if not method.embeds_ecg:
        pytest.skip("these settings have no ECG encoder")
    return method


def test_every_method_has_settings_for_these_tests() -> None:
    assert {name.split()[0] for name in CASES} == set(NAMES)


@pytest.mark.parametrize("name", CASES)
def test_what_a_method_declares_is_what_it_implements(name: str) -> None:
    """The base class has a default for every member, so a wrong flag would be silent."""
    method = build(name)
    implemented = {
        member: getattr(type(method), member) is not getattr(PretrainingMethod, member)
        for member in (
            "forward",
            "local_terms",
            "batch_terms",
            "embed_text",
            "text_branch",
            "make_tokenizer",
            "load_tokenizer",
            "teacher_settings",
            "take_teacher",
            "embed_volume",
            "draw",
            "text_uncertainty",
            "volume_uncertainty",
        )
    }
    assert implemented["local_terms"] == implemented["batch_terms"] == method.compares_records
    assert implemented["forward"] != method.compares_records
    assert implemented["embed_text"] == implemented["text_branch"] == type(method).embeds_text
    assert not method.embeds_text or type(method).embeds_text  # settings may leave the report branch out
    assert implemented["teacher_settings"] == implemented["take_teacher"] == method.learns_from_teacher
    assert implemented["make_tokenizer"] == implemented["load_tokenizer"] == method.reads_reports
    assert (method.tokenizer is not None) == method.reads_reports
    assert method.learns_labels == ("classes" in {field.name for field in dataclasses.fields(method.config)})
    assert method.parts[:1] == (("backbone",) if method.embeds_ecg else ())
    assert implemented["draw"] == method.draws_targets
    assert implemented["embed_volume"] == type(method).embeds_volume
    assert implemented["text_uncertainty"] == implemented["volume_uncertainty"] == method.ranks_by_distance
    assert not method.ranks_by_distance or {"shared", "uncertainty"} <= set(method.parts)
    assert not method.embeds_volume or (type(method).embeds_volume and method.volume_parts)
    fields = {field.name for field in dataclasses.fields(method.config)}
    assert ("volume" in fields, "phenotypes" in fields) == (method.reads_volumes, method.reads_phenotypes)
    assert isinstance(method.config.whole_batch, str)


@pytest.mark.parametrize("name", CASES)
def test_terms_are_finite_and_named_with_their_weights(name: str) -> None:
    method = build(name)
    terms = method(make_batch())
    assert terms
    assert all(term.ndim == 0 and bool(term.isfinite()) for term in terms.values())
    assert set(terms) == set(method.weights or terms)  # a method without weights has a weight of 1 for each term


@pytest.mark.parametrize("name", CASES)
def test_every_trainable_parameter_has_a_gradient(name: str) -> None:
    method = build(name)
    sum(method(make_batch()).values()).backward()
    idle = [n for n, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert idle == []


@pytest.mark.parametrize("name", CASES)
def test_an_embedding_does_not_depend_on_the_batch(name: str) -> None:
    method = build_ecg(name).eval()
    batch = make_batch(6)
    short = unobserve(make_batch(1, seed=9), leads=[3, 7], after=230)
    alone = {part: method.embed_ecg(batch, part) for part in method.parts}
    mixed = type(batch)(
        torch.cat([short.ecg, batch.ecg]), torch.cat([short.observed, batch.observed]),
        short.record + batch.record, short.patient + batch.patient, short.report + batch.report,
    )  # fmt: skip
    for part, whole in alone.items():
        torch.testing.assert_close(method.embed_ecg(mixed, part)[1:], whole, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(
            method.embed_ecg(mixed, part)[:1], method.embed_ecg(short, part), atol=2e-5, rtol=1e-4
        )


@pytest.mark.parametrize("name", CASES)
def test_unobserved_samples_do_not_matter(name: str) -> None:
    method = build_ecg(name).eval()
    batch = unobserve(make_batch(3), leads=[0, 11], after=250)
    other = dataclasses.replace(batch, ecg=torch.where(batch.observed, batch.ecg, torch.full_like(batch.ecg, 7.0)))
    torch.testing.assert_close(method.embed_ecg(batch), method.embed_ecg(other))
    torch.manual_seed(5)
    a = method(batch)
    torch.manual_seed(5)
    b = method(other)
    for term in a:
        torch.testing.assert_close(a[term], b[term])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("leads", [["II"], ["I", "V1", "V5"], list(LEADS)])
def test_any_subset_of_leads_embeds(name: str, leads: list[str]) -> None:
    method = build_ecg(name).eval()
    batch = unobserve(make_batch(3), leads=[i for i, lead in enumerate(LEADS) if lead not in leads])
    assert bool(method.embed_ecg(batch).isfinite().all())


def reduced_leads(patch: int) -> Batch:
    """Recordings of one, three and twelve leads, a 3 x 4 print, and three with a single whole patch."""
    batch = make_batch(8)
    n, observed = SIGNAL.n_samples, torch.zeros_like(batch.observed)
    for record, leads in enumerate(([1], [7], [0, 6, 10], list(range(12)))):
        observed[record, leads] = True
    for column in range(4):
        observed[4, 3 * column : 3 * column + 3, column * n // 4 : (column + 1) * n // 4] = True
    observed[5, :, :patch] = True
    observed[6, 3, n - patch :] = True
    observed[7, 2, 3 * patch : 4 * patch] = True
    return dataclasses.replace(batch, ecg=batch.ecg * observed, observed=observed)


@pytest.mark.parametrize("name", CASES)
def test_recordings_of_few_leads_and_of_one_patch_train_and_embed(name: str) -> None:
    """What `usable_rows` lets through must not end a run: views keep a patch of every record."""
    method_name, _, _ = name.partition(" ")
    names = {field.name for field in dataclasses.fields(find_method(method_name).config_class)}
    views = {"shift": True, "shift_s": 0.5, "lead_dropout": 0.5, "gain": 0.1, "noise_mv": 0.02}
    method = build_ecg(name, **{key: value for key, value in views.items() if key in names})
    batch = reduced_leads(patch_samples(Config(signal=SIGNAL, method=vars(method.config))))
    for seed in range(4):
        torch.manual_seed(seed)
        total = sum(method(batch).values())
        total.backward()
        assert bool(total.isfinite())
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in method.parameters())
    method.eval()
    for part in method.parts:
        assert bool(method.embed_ecg(batch, part).isfinite().all())


@pytest.mark.parametrize("name", CASES)
def test_a_record_without_an_observed_sample_is_an_error_with_its_name(name: str) -> None:
    batch = unobserve(make_batch(2), leads=list(range(12)))
    with pytest.raises(ValueError, match=batch.record[0]):
        build_ecg(name).eval().embed_ecg(batch)


@pytest.mark.parametrize("name", CASES)
def test_state_round_trip_gives_the_same_embedding(name: str) -> None:
    a, b = build_ecg(name, seed=0).eval(), build_ecg(name, seed=1).eval()
    batch = make_batch(3)
    assert not torch.allclose(a.embed_ecg(batch), b.embed_ecg(batch))
    b.load_state_dict(a.state_dict())
    torch.testing.assert_close(a.embed_ecg(batch), b.embed_ecg(batch))


@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_lower_the_sum(name: str) -> None:
    method = build(name)
    optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
    sums, history = [], []
    for step in range(21):
        torch.manual_seed(step % 3)  # the same masks every third step, so that sums are comparable
        terms = method(make_batch(8))
        total = sum(terms.values())
        history.append({name: float(term.detach()) for name, term in terms.items()})
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        sums.append(float(total.detach()))
    assert sum(sums[-3:]) < sum(sums[:3])
    assert set(method.falling_terms) <= set(history[0])
    risen = [
        name
        for name in method.falling_terms
        if sum(terms[name] for terms in history[-3:]) > sum(terms[name] for terms in history[:3]) + 0.05
    ]
    assert risen == []


@pytest.mark.parametrize("name", NAMES)
def test_a_method_imports_no_other_paper_and_no_data(name: str) -> None:
    source = Path(methods.__file__).with_name(f"{name}.py").read_text()
    modules = {n.module for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ImportFrom) and n.module}
    assert not {
        m
        for m in modules - {"leadwise.methods.contract", "leadwise.methods.wrapped_encoder"}
        if m.startswith(("leadwise.methods", "leadwise.data"))
    }


def test_a_wrong_name_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'cg_dmer'"):
        find_method("cg_dmerr")


@pytest.mark.parametrize("name", CASES)
def test_several_parts_are_those_of_single_calls(name: str) -> None:
    method, batch = build_ecg(name).eval(), unobserve(make_batch(3), leads=[2])
    with torch.no_grad():
        for part, embedding in zip(method.parts, method.embed_parts(batch, method.parts), strict=True):
            torch.testing.assert_close(embedding, method.embed_ecg(batch, part), atol=0, rtol=0, msg=part)
        with pytest.raises(ValueError, match="choose from backbone"):
            method.embed_parts(batch, ("backbone", "unknown"))


@pytest.mark.parametrize("name", ["cg_dmer", "student", "etp", "merl", "merit", "c_melt", "supervised"])
def test_one_pass_of_the_encoder_gives_several_parts(name: str) -> None:
    """As in `leadwise embed --part a+b`; CG-DMER with each part of its embedding in a call of its own."""
    config = Config(signal=SIGNAL, method={"name": name, **find_method(name).tiny[""]})
    method = build(name)
    run, n_calls = Run(config, method), []
    passes = getattr(method.config, "embed_passes", 1)
    method.ecg.register_forward_hook(lambda *_: n_calls.append(1))
    counts = []
    for parts in (method.parts[:1], method.parts):
        n_calls.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lead_time, "_PLACES_AT_ONCE", 0)
            embed_batch(run, make_batch(4), parts)
        counts.append(len(n_calls))
    assert counts == [passes, passes]

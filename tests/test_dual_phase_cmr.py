"""Dual-phase CMR beyond the contract: any run as the ECG encoder, frozen parts, missing phases, texts and images in one space."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPORTS, SIGNAL, TINY, config_table, make_batch
from test_methods import build

from leadwise import run as runs
from leadwise.batch import LEADS, Batch, Volume
from leadwise.config import Config, ConfigError, OptimConfig, typed
from leadwise.data.cohort.prepare import write
from leadwise.data.sources.source import Row, Source
from leadwise.data.volumes.volume_file import VolumeFile
from leadwise.methods.catalogue import find_method
from leadwise.methods.contract import PretrainingMethod
from leadwise.run import Run
from leadwise.training import loop as training
from leadwise.training.gradient_step import Objective, backward

VOLUME = Volume(slices=3, rows=12, columns=10)


def started(start: dict[str, PretrainingMethod], variant: str = "", **changes):
    """The method with tiny settings, started from the methods of other runs."""
    file = find_method("dual_phase_cmr")
    torch.manual_seed(0)
    return file.method_class(file.config_class(**{**file.tiny[variant], **changes}), SIGNAL, None, None, start)


def without_gradient(method: PretrainingMethod, batch: Batch) -> list[str]:
    sum(method(batch).values()).backward()
    return [n for n, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]


# --------------------------------------------------------------------------------------------------------- the anchors


def test_terms_are_the_pairs_with_their_shares() -> None:
    method = build("dual_phase_cmr", w_ed=0.5, w_es=0.25, w_ds=0.25)
    assert method.weights == {"L_ecg_ed": 0.5, "L_ecg_es": 0.25, "L_ed_es": 0.25}
    only = build("dual_phase_cmr", w_es=0.0, w_ds=0.0)
    assert only.weights == {"L_ecg_ed": 1.0}
    assert only.phases == ("ed",)
    assert only.volume_parts == ("ed", "both")
    assert only(make_batch())["L_ecg_ed"].isfinite()
    with pytest.raises(ValueError, match="set w_ed, w_es or w_other above 0"):
        build("dual_phase_cmr", w_ed=0.0, w_es=0.0)


def test_a_third_anchor_is_compared_with_the_ecg() -> None:
    method = build("dual_phase_cmr", volume=dataclasses.replace(VOLUME, phases=("ed", "es", "scar")), w_ds=0.0)
    assert list(method.weights) == ["L_ecg_ed", "L_ecg_es", "L_ecg_scar"]
    batch = make_batch()
    batch = dataclasses.replace(
        batch, volume=batch.volume[:, [0, 1, 0]], has_volume=torch.cat([batch.has_volume, batch.has_volume[:, :1]], 1)
    )
    assert not without_gradient(method, batch)
    assert method.eval().embed_volume(batch, "scar").shape == (8, 16)


def test_a_record_without_a_phase_counts_in_the_other_pairs_only() -> None:
    method, batch = build("dual_phase_cmr").eval(), make_batch()
    assert batch.has_volume.sum(0).tolist() == [8, 7]
    others = torch.tensor([0, 2, 3, 4, 5, 6, 7])
    rest = dataclasses.replace(
        batch, ecg=batch.ecg[others], observed=batch.observed[others], volume=batch.volume[others],
        has_volume=batch.has_volume[others], record=("",) * 7, patient=tuple(batch.patient[i] for i in others),
    )  # fmt: skip
    terms, without = method(batch), method(rest)
    torch.testing.assert_close(terms["L_ecg_es"], without["L_ecg_es"])
    torch.testing.assert_close(terms["L_ed_es"], without["L_ed_es"])
    assert not torch.allclose(terms["L_ecg_ed"], without["L_ecg_ed"])


def test_images_of_one_phase_of_both_and_of_none() -> None:
    method, batch = build("dual_phase_cmr").eval(), make_batch()
    ed, both = method.embed_volume(batch, "ed"), method.embed_volume(batch)
    torch.testing.assert_close(both.norm(dim=1), torch.ones(8))
    torch.testing.assert_close(both[1], ed[1])  # without systole, the sum is diastole
    es = method.embed_volume(batch.rows(2, 8), "es")
    torch.testing.assert_close(torch.nn.functional.normalize(ed[2:] + es, dim=1), both[2:])
    with pytest.raises(ValueError, match=f"record {batch.record[1]}: it has no image of es"):
        method.embed_volume(batch, "es")
    with pytest.raises(ValueError, match="choose from ed, es, both"):
        method.embed_volume(batch, "la")
    with pytest.raises(ValueError, match="no images of the heart"):
        method.embed_volume(dataclasses.replace(batch, volume=None))


def test_pairs_of_two_recordings_of_a_person_are_no_negatives() -> None:
    method, batch = build("dual_phase_cmr").eval(), make_batch()
    same = dataclasses.replace(batch, patient=("one",) * 8)
    assert float(method(same)["L_ecg_ed"].detach()) == pytest.approx(0, abs=1e-6)


def test_phenotypes_are_standardised_over_the_training_recordings() -> None:
    method, batch = build("dual_phase_cmr cmr"), make_batch(64)
    method.take_phenotypes(batch.phenotype)
    standard = method.standardised_phenotypes(batch)
    known = standard.isfinite()
    torch.testing.assert_close(standard.nan_to_num(0).sum(0) / known.sum(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard.nan_to_num(0).square().sum(0) / known.sum(0), torch.ones(2))
    # a constant phenotype and one that is never known do not divide by 0
    method.take_phenotypes(torch.tensor([[3.0, torch.nan], [3.0, torch.nan]]))
    assert method.phenotype_deviation.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("name", "term"), [("dual_phase_cmr cmr", "L_es"), ("ptacl", "L_local")])
def test_a_record_without_a_phase_is_left_out_of_the_mean(name: str, term: str) -> None:
    method, batch = build(name).eval(), make_batch()
    assert batch.has_volume[:, 1].tolist() == [True, False] + [True] * 6
    has_term = batch.has_volume[:, 1] & (batch.phenotype[:, 1].isfinite() | (term == "L_local"))
    each = [float(method(batch.rows(i, i + 1))[term].detach()) for i in has_term.nonzero()[:, 0].tolist()]
    assert min(each) > 0
    assert len(each) < 8
    assert float(method(batch)[term].detach()) == pytest.approx(sum(each) / len(each), rel=1e-4)


def test_stage_two_learns_the_phenotypes_of_each_phase_and_has_no_ecg_encoder() -> None:
    method, batch = build("dual_phase_cmr cmr"), make_batch(32)
    method.take_phenotypes(batch.phenotype)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)
    for _ in range(80):
        sum(method(batch).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    method.eval()
    figures = method.measure(make_batch(32, seed=1))
    assert set(figures) == {"explained_lvedv", "explained_lvesv"}
    assert min(figures.values()) > 0.5
    assert method.embed_volume(batch, "ed").shape == (32, 8)
    assert method.embed_volume(batch).shape == (32, 16)
    with pytest.raises(ValueError, match="no ECG encoder; start a run"):
        method.embed_ecg(batch)


# ------------------------------------------------------------------------------------------- a run as the ECG encoder


@pytest.mark.parametrize("name", ["st_mem", "cg_dmer", "merit mask-only", "simclr", "supervised", "clocs", "crt"])
def test_any_method_can_be_the_ecg_encoder_and_what_it_does_not_need_is_frozen(name: str) -> None:
    init = build(name)
    method = started({"init": init}, view_crop=0.5)
    assert not method.embeds_text
    assert not without_gradient(method, make_batch())
    width = init.eval().embed_ecg(make_batch()).shape[1]
    assert method.eval().embed_ecg(make_batch()).shape == (8, width)
    assert method.embed_ecg(make_batch(), "shared").shape == (8, 16)
    torch.testing.assert_close(method.embed_ecg(make_batch()), init.embed_ecg(make_batch()))


@pytest.mark.parametrize("name", ["merl", "cg_dmer"])
def test_frozen_parts_stay_in_eval_mode_and_do_not_change(name: str) -> None:
    cmr = build("dual_phase_cmr cmr")
    method = started({"init": build(name), "init_volume": cmr}, ecg_frozen=True)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    method.train()
    assert not any(m.training for m in (*method.ecg.method.modules(), *method.volumes.modules()))
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    sum(method(make_batch()).values()).backward()
    optimizer.step()
    changed = {key.split(".")[0] for key, value in method.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"ecg_head", "heads", "volumes"}
    trained = {
        key for key, value in method.volumes.state_dict().items() if not torch.equal(value, before[f"volumes.{key}"])
    }
    assert trained == {f"models.{phase}.out.{kind}" for phase in ("ed", "es") for kind in ("weight", "bias")}


def test_image_encoders_of_stage_two_are_taken_over() -> None:
    cmr = build("dual_phase_cmr cmr", seed=3).eval()
    method = started({"init_volume": cmr}).eval()
    volume, present = make_batch().volume, make_batch().has_volume
    torch.testing.assert_close(method.volumes(volume, present), cmr.volumes(volume, present))
    only = started({"init_volume": cmr}, w_ed=0.0, w_ds=0.0).eval()
    torch.testing.assert_close(only.volumes(volume[:, 1:], present[:, 1:]), cmr.volumes(volume, present)[:, 1:])
    with pytest.raises(ValueError, match=r"set the table \[method.volume\]"):
        started({"init_volume": cmr}, volume=dataclasses.replace(VOLUME, normalize="none"))
    three = dataclasses.replace(VOLUME, phases=("ed", "es", "scar"))
    with pytest.raises(ValueError, match="not of scar"):
        started({"init_volume": cmr}, volume=three)
    with pytest.raises(ValueError, match="no image encoders"):
        started({"init_volume": build("st_mem")})


@pytest.mark.parametrize(
    ("changes", "init", "message"),
    [
        ({"space": "init"}, None, "set data.init, or space=own"),
        ({"ecg_frozen": True}, None, "set data.init, or ecg_frozen=False"),
        ({"space": "init"}, "st_mem", "embeds no texts; choose another run, or space=own"),
        ({"w_text": 1.0}, "cg_dmer", "set space=init, or w_text=0"),
        ({}, "dual_phase_cmr cmr", "without an ECG encoder"),
    ],
)
def test_settings_that_do_not_fit_the_init_run_are_an_error(changes: dict, init: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        started({"init": build(init)} if init else {}, **changes)


# ------------------------------------------------------------------------------------- words, ECG and images in one space


def test_words_ecgs_and_images_share_the_space_of_the_init_run() -> None:
    init = build("cg_dmer")
    method = started({"init": init}, space="init", w_text=0.5, temperature=0.2)
    assert method.embeds_text
    assert list(method.weights) == ["L_ecg_ed", "L_ecg_es", "L_ed_es", "L_text"]
    assert not without_gradient(method, make_batch())
    method.train()
    assert not any(module.training for part in method.text_branch for module in part.modules())
    batch = method.eval() and make_batch()
    ecg, image, text = method.embed_ecg(batch, "shared"), method.embed_volume(batch), method.embed_text(list(REPORTS))
    assert ecg.shape[1] == image.shape[1] == text.shape[1]
    torch.testing.assert_close(ecg, init.eval().embed_ecg(batch, "shared"))


def train(method: PretrainingMethod, steps: int, lr: float) -> None:
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=lr)
    method.train()
    for step in range(steps):
        torch.manual_seed(step)
        sum(method(make_batch(16, seed=step % 4)).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    method.eval()


@pytest.mark.slow
def test_images_are_classified_by_prompts_although_no_image_was_compared_with_a_report() -> None:
    init = build("etp")
    train(init, 60, 5e-3)
    method = started({"init": init}, space="init", ecg_frozen=True, temperature=0.2)
    train(method, 40, 1e-2)
    with torch.no_grad():
        held_out = make_batch(32, seed=9)
        scores = method.embed_volume(held_out) @ method.embed_text(list(REPORTS)).T
    right = ((scores - scores.mean(0)).argmax(1) == held_out.label.argmax(1)).float().mean()
    assert float(right) > 0.6  # chance is 0.25


# --------------------------------------------------------------------------------------------------- the run folder


def new_run(name: str, folder: Path, start: dict[str, Run] | None = None, **changes) -> Run:
    method_name, _, _variant = name.partition(" ")
    settings = {**TINY[name], **changes}
    settings |= {"volume": dataclasses.asdict(VOLUME)} if "volume" in settings else {}
    config = Config(signal=SIGNAL, method={"name": method_name, **settings})
    run = runs.create(config, REPORTS, folder, {}, start=start)
    run.save_weights()
    run.method.eval()
    return run


def test_a_run_loads_without_the_runs_that_it_started_from(tmp_path: Path) -> None:
    start = {
        "init": new_run("cg_dmer", tmp_path / "ecg"),
        "init_volume": new_run("dual_phase_cmr cmr", tmp_path / "cmr"),
    }
    run = new_run("dual_phase_cmr", tmp_path / "run", start, space="init")
    for name in ("ecg", "cmr"):
        shutil.rmtree(tmp_path / name)
    loaded, batch = runs.load(tmp_path / "run", "cpu"), make_batch()
    for part in run.method.parts:
        torch.testing.assert_close(loaded.method.embed_ecg(batch, part), run.method.embed_ecg(batch, part))
    torch.testing.assert_close(loaded.method.embed_volume(batch), run.method.embed_volume(batch))
    torch.testing.assert_close(loaded.method.embed_text(list(REPORTS)), run.method.embed_text(list(REPORTS)))
    assert loaded.method.volumes.frozen
    assert loaded.fingerprint == run.fingerprint
    untrained = loaded.untrained(5).method.embed_ecg(batch)
    assert untrained.shape == loaded.method.embed_ecg(batch).shape
    assert not torch.allclose(untrained, loaded.method.embed_ecg(batch))
    # no path of this machine is copied
    assert str(tmp_path) not in (tmp_path / "run" / "tokenizer" / "init" / "config.toml").read_text()

    # and it can be the start of another run
    again = new_run("dual_phase_cmr", tmp_path / "again", {"init": loaded})
    shutil.rmtree(tmp_path / "run")
    torch.testing.assert_close(
        runs.load(tmp_path / "again", "cpu").method.embed_ecg(batch), again.method.embed_ecg(batch)
    )


def test_a_changed_tokenizer_of_the_init_run_is_noticed(tmp_path: Path) -> None:
    run = new_run("dual_phase_cmr", tmp_path / "run", {"init": new_run("cg_dmer", tmp_path / "ecg")}, space="init")
    file = run.folder / "tokenizer" / "init" / "config.toml"
    file.write_text(file.read_text().replace("w_orth", "w_orthogonal"))
    with pytest.raises(runs.RunError, match="its files changed"):
        runs.load(run.folder, "cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "cmr"}, "set phenotypes and phase_of"),
        ({"stage": "cmr", "phenotypes": ["lvedv"], "phase_of": ["la"]}, "both must have the same phases"),
        ({"target": "relational"}, "set phenotypes"),
        ({"temperature": 0.0}, "method.temperature = 0.0 is out of range"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_an_error(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        new_run("dual_phase_cmr", tmp_path / "run", **changes)


# ------------------------------------------------------------------------------------------------- trained from a cohort


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 people with an ECG and two images; every eighth has no image in systole."""
    home = tmp_path_factory.mktemp("pairs")
    rows = []
    for part in range(6):
        batch = make_batch(8, seed=part)
        for i in range(8):
            number = 8 * part + i
            np.save(home / f"{number}.npy", batch.ecg[i].numpy().T)
            images = {}
            for p, phase in enumerate(("ed", "es")):
                if batch.has_volume[i, p]:
                    array, spacing = batch.volume[i, p].numpy(), np.array(VOLUME.spacing_mm, dtype=np.float32)
                    np.savez(home / f"{number}-{phase}.npz", volume=array, spacing_mm=spacing)
                    images[phase] = VolumeFile(home / f"{number}-{phase}.npz")
            size = batch.phenotype[i].nan_to_num(20.0).tolist()
            split = "train" if number < 32 else "val" if number < 40 else "test"
            row = Row(f"r{number}", home / f"{number}.npy", f"p{number}", split, batch.report[i], volumes=images)
            extra = {"lvedv": size[0], "lvesv": size[1]}
            rows.append(dataclasses.replace(row, leads=LEADS, rate_hz=100, units="mV", extra=extra))
    write(Source("made", rows, {}, volume=VOLUME, targets=("lvedv", "lvesv")), home / "cohort")
    return home / "cohort"


def train_on(pairs: Path, folder: Path, method: dict, data: dict | None = None, resume: bool = False, **optim) -> Run:
    table = config_table(pairs, **optim)
    table["data"] |= data or {}
    method = {key: dataclasses.asdict(value) if key == "volume" else value for key, value in method.items()}
    return training.pretrain(typed(Config, table | {"method": method}), folder, resume=resume)


def test_the_stages_are_trained_from_each_other(pairs: Path, tmp_path: Path) -> None:
    tiny = find_method("dual_phase_cmr").tiny
    ecg = train_on(pairs, tmp_path / "ecg", {"name": "st_mem", **find_method("st_mem").tiny[""]})
    cmr = train_on(pairs, tmp_path / "cmr", {"name": "dual_phase_cmr", **tiny["cmr"]})
    assert float(cmr.method.phenotype_mean.min()) > 10  # of the training recordings, given once
    start = {"init": str(tmp_path / "ecg"), "init_volume": str(tmp_path / "cmr")}
    method = {"name": "dual_phase_cmr", **tiny[""], "view_crop": 0.5}
    run = train_on(pairs, tmp_path / "run", method, start)

    # the ECG encoder was trained, the image encoders were not, except for their last map
    before, after = ecg.method.state_dict(), run.method.ecg.method.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    theirs, ours = cmr.method.volumes.state_dict(), run.method.volumes.state_dict()
    assert {key for key in theirs if not torch.equal(theirs[key], ours[key])} <= {
        key for key in theirs if ".out." in key
    }

    # the run's log, its origin, and the patients of all three
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"term/L_ecg_ed", "top1_es", "effective_rank"} <= set(last)
    assert set(run.provenance) >= {"init", "init_volume"}
    assert run.provenance["init"] == {"method": "st_mem", "fingerprint": ecg.fingerprint}
    for name in ("ecg", "cmr"):
        shutil.rmtree(tmp_path / name)
    batch = make_batch(4)
    torch.testing.assert_close(
        runs.load(tmp_path / "run", "cpu").method.embed_ecg(batch), run.method.eval().embed_ecg(batch)
    )


def test_a_resumed_run_needs_no_init_run_and_equals_an_unbroken_one(pairs: Path, tmp_path: Path) -> None:
    tiny = find_method("dual_phase_cmr").tiny
    train_on(pairs, tmp_path / "ecg", {"name": "st_mem", **find_method("st_mem").tiny[""]}, steps=2)
    method, data = {"name": "dual_phase_cmr", **tiny[""]}, {"init": str(tmp_path / "ecg")}
    train_on(pairs, tmp_path / "whole", method, data, steps=8, final_lr=1e-3, warmup=0.0)
    train_on(pairs, tmp_path / "broken", method, data, steps=5, final_lr=1e-3, warmup=0.0)
    shutil.rmtree(tmp_path / "ecg")
    again = train_on(pairs, tmp_path / "broken", method, data, resume=True, steps=8, final_lr=1e-3, warmup=0.0)
    whole = runs.load(tmp_path / "whole", "cpu")
    assert again.weights_digest == whole.weights_digest


def test_patients_of_the_init_run_are_training_patients(pairs: Path, tmp_path: Path) -> None:
    """An init run that was trained on the test patients: the new run lists them, so that their scores get a warning."""
    tiny = find_method("dual_phase_cmr").tiny
    st_mem = {"name": "st_mem", **find_method("st_mem").tiny[""]}
    train_on(pairs, tmp_path / "ecg", st_mem, {"train_split": "test"}, steps=2)
    run = train_on(
        pairs, tmp_path / "run", {"name": "dual_phase_cmr", **tiny[""]}, {"init": str(tmp_path / "ecg")}, steps=2
    )
    test = [f"p{number}" for number in range(40, 48)]
    assert run.trained_on("made", test) == test
    assert run.trained_on("made", ["p0", "p39"]) == ["p0"]


def test_a_method_that_starts_from_no_run_and_another_signal_are_errors(pairs: Path, tmp_path: Path) -> None:
    tiny = find_method("dual_phase_cmr").tiny
    st_mem = {"name": "st_mem", **find_method("st_mem").tiny[""]}
    with pytest.raises(ConfigError, match="method 'st_mem' does not start from another run; leave it empty"):
        train_on(pairs, tmp_path / "run", st_mem, {"init": "runs/x"})
    train_on(pairs, tmp_path / "ecg", st_mem, steps=2)
    table = config_table(pairs, steps=2)
    table["data"] |= {"init": str(tmp_path / "ecg")}
    method = {"name": "dual_phase_cmr", **tiny[""], "volume": dataclasses.asdict(VOLUME)}
    table |= {"method": method, "signal": {"rate_hz": 100, "duration_s": 3.0}}
    with pytest.raises(ConfigError, match=r"set signal\.duration_s to it"):
        training.pretrain(typed(Config, table), tmp_path / "run")
    table["signal"]["duration_s"] = 4.0
    training.pretrain(typed(Config, table), tmp_path / "run")
    table["method"]["space"] = "init"
    with pytest.raises(ConfigError, match="embeds no texts"):
        training.pretrain(typed(Config, table), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["ptacl", "echoing_ecg volume"])
def test_the_relatives_are_trained_from_a_cohort_of_pairs(name: str, pairs: Path, tmp_path: Path) -> None:
    method_name, _, variant = name.partition(" ")
    run = train_on(pairs, tmp_path / "run", {"name": method_name, **find_method(method_name).tiny[variant]}, steps=3)
    loaded = runs.load(run.folder, "cpu").method
    torch.testing.assert_close(loaded.embed_volume(make_batch(4)), run.method.eval().embed_volume(make_batch(4)))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("dual_phase_cmr lead_time", {"view_crop": 1.0}),
        ("dual_phase_cmr cmr", {"view_crop": 1.0}),
        ("ptacl lead_time", {"view_crop": 1.0}),
        ("echoing_ecg volume", {"encoder": "lead_time", "n_patches": 10, "width": 32, "depth": 2, "heads": 4}),
    ],
)
def test_two_passes_give_the_gradient_of_one(name: str, changes: dict) -> None:
    """The passes differ in how many of their records have a systolic image, and any image at all."""
    batch, gradients = make_batch(), []
    batch.has_volume[2] = False
    for batches in ([batch], [batch.rows(0, 4), batch.rows(4, 8)]):
        method = build(name, **changes)
        backward(Objective(method), batches, 0, OptimConfig(accumulate=len(batches)))
        gradients.append(torch.cat([p.grad.flatten() for p in method.parameters() if p.requires_grad]))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-3)

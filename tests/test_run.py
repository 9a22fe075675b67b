"""A run folder: one folder that another machine can load, or one clear error."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
import torch
from conftest import REPORTS, TINY, config_table, make_batch
from safetensors.torch import load_file, save_file

from leadwise import run as runs
from leadwise.config import Config, ConfigError, typed
from leadwise.files import replacing
from leadwise.methods import cg_dmer
from leadwise.methods.catalogue import find_method, method_names, with_defaults
from leadwise.run import RunError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = typed(Config, {**config_table(Path("unused")), "method": {"name": "cg_dmer", **TINY["cg_dmer"]}})
    runs.create(config, REPORTS, tmp_path / "run").save_weights()
    return tmp_path / "run"


def test_a_copied_folder_gives_the_same_embedding(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "elsewhere")
    a, b = runs.load(folder), runs.load(tmp_path / "elsewhere")
    batch = make_batch(3)
    assert torch.equal(a.method.embed_ecg(batch), b.method.embed_ecg(batch))
    assert torch.equal(a.method.embed_text(["normal ecg."]), b.method.embed_text(["normal ecg."]))
    assert a.fingerprint == b.fingerprint
    assert not a.method.training


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_fit_are_an_error_that_names_one(folder: Path, fault: str) -> None:
    weights = load_file(folder / "model.safetensors")
    if fault == "missing":
        del weights["ecg.spatial"]
    elif fault == "unexpected":
        weights["ecg.spatial2"] = torch.zeros(1)
    else:
        weights["ecg.spatial"] = torch.zeros(11, 32)
    save_file(weights, folder / "model.safetensors")
    expected = {
        "missing": "1 missing .first: ecg.spatial",
        "unexpected": "1 unexpected .first: ecg.spatial2",
        "shape": "of another shape",
    }
    with pytest.raises(RunError, match=expected[fault]):
        runs.load(folder)


def test_torn_weights_and_missing_files_are_errors(folder: Path, tmp_path: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match="cannot be read as safetensors"):
        runs.load(folder)
    path.unlink()
    with pytest.raises(RunError, match=r"has no model\.safetensors"):
        runs.load(folder)
    (folder / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(RunError, match=r"has no tokenizer\.json"):
        runs.load(folder)
    with pytest.raises(RunError, match="is not a run folder"):
        runs.load(tmp_path)


@pytest.mark.parametrize("text", ['{"people": ["a', "[]", "\udcff"])
def test_a_damaged_provenance_is_named(folder: Path, text: str) -> None:
    run = runs.load(folder)
    assert isinstance(run.provenance, dict)
    (folder / "data.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=r"data\.json is damaged .*; copy the run folder again"):
        run.trained_on("somewhere", ["a"])
    (folder / "data.json").unlink()
    assert run.provenance == {}


def test_a_folder_that_is_taken_is_not_touched(folder: Path) -> None:
    before = (folder / "config.toml").read_text()
    with pytest.raises(RunError, match="is not empty"):
        runs.create(typed(Config, config_table(Path("x"))), REPORTS, folder)
    assert (folder / "config.toml").read_text() == before


def test_the_untrained_twin_shares_settings_and_not_weights(folder: Path) -> None:
    run = runs.load(folder)
    with torch.no_grad():
        next(run.method.parameters()).add_(1e-3)  # as after training
    before = torch.get_rng_state()
    twin, again = run.untrained(), run.untrained()
    assert torch.equal(before, torch.get_rng_state())
    assert twin.config == run.config
    assert twin.fingerprint == again.fingerprint != run.fingerprint
    assert twin.method.tokenizer is run.method.tokenizer


def test_fingerprint_changes_with_weights_and_with_preprocessing(folder: Path) -> None:
    run = runs.load(folder)
    old = run.fingerprint
    with torch.no_grad():
        next(run.method.parameters()).add_(1e-3)
    assert run.fingerprint != old


def test_a_method_setting_that_does_not_exist_is_an_error() -> None:
    config = typed(Config, {"method": {"name": "cg_dmer", "mask_ration": 0.5}})
    with pytest.raises(ConfigError, match=r"unknown setting 'method\.mask_ration'; did you mean 'method\.mask_ratio'"):
        with_defaults(config)
    with pytest.raises(ConfigError, match="did you mean 'cg_dmer'"):
        with_defaults(typed(Config, {"method": {"name": "cgdmer"}}))


def exchange_leads(folder: Path) -> None:
    """I and II exchanged in config.toml: a run that loads and is wrong."""
    table = tomllib.loads((folder / "config.toml").read_text())
    leads = table["signal"]["leads"]
    leads[0], leads[1] = leads[1], leads[0]
    (folder / "config.toml").write_text(tomli_w.dumps(table))


def flip_a_weight(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-50] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def reorder_the_vocabulary(folder: Path) -> None:
    path = folder / "tokenizer" / "tokenizer.json"
    table = json.loads(path.read_text())
    words = table["model"]["vocab"]
    first, second = list(words)[-2:]
    words[first], words[second] = words[second], words[first]
    path.write_text(json.dumps(table))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            exchange_leads,
            r"config\.toml is not as it was .*: signal\.leads changed\. Restore it or copy the run folder again",
        ),
        (flip_a_weight, r"model\.safetensors is not as it was when the weights were saved: its weights changed"),
        (reorder_the_vocabulary, r"tokenizer is not as it was .*: its files changed"),
    ],
)
def test_a_changed_file_is_named_and_may_be_accepted(
    folder: Path, change: Callable[[Path], None], message: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    change(folder)
    with pytest.raises(RunError, match=message + r".*--accept-changes, accept_changes=True$"):
        runs.load(folder)
    accepted = runs.load(folder, accept_changes=True)
    assert "is not as it was when the weights were saved" in caplog.text

    # the first remedy: copy the files again; saved again, the changed run is as it was saved
    runs.load(tmp_path / "copy")
    accepted.save_weights()
    assert runs.load(folder).fingerprint == accepted.fingerprint


def test_settings_of_how_and_where_a_run_is_computed_may_be_edited(folder: Path) -> None:
    fingerprint = runs.load(folder).fingerprint
    table = tomllib.loads((folder / "config.toml").read_text())
    table["optim"] |= {"device": "cpu", "accumulate": 2, "steps": 9}
    table["data"] |= {"cohort": "elsewhere", "workers": 3}
    (folder / "config.toml").write_text(tomli_w.dumps(table))
    assert runs.load(folder).fingerprint == fingerprint


def test_settings_added_or_deleted_are_changes(folder: Path) -> None:
    table = tomllib.loads((folder / "config.toml").read_text())
    del table["signal"]["normalize"], table["method"]["mask_ratio"]
    (folder / "config.toml").write_text(tomli_w.dumps(table))
    with pytest.raises(RunError, match=r": method\.mask_ratio, signal\.normalize changed"):
        runs.load(folder)


def test_a_run_without_digests_loads_as_before(folder: Path) -> None:
    fingerprint = runs.load(folder).fingerprint
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")  # as leadwise 0.1.0 saved them
    assert runs.load(folder).fingerprint == fingerprint
    exchange_leads(folder)
    runs.load(folder)


def test_digests_and_weights_are_replaced_in_one_step(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash at any point of saving leaves a run that loads: the old one."""
    run, before = runs.load(folder), (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        next(run.method.parameters()).add_(1e-3)
    replace = Path.replace

    def crash(self: Path, target: Path) -> Path:
        raise OSError("crash")

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(OSError, match="crash"):
        run.save_weights()
    monkeypatch.setattr(Path, "replace", replace)
    assert (folder / "model.safetensors").read_bytes() == before
    assert runs.load(folder).fingerprint != run.fingerprint
    run.save_weights()
    assert runs.load(folder).fingerprint == run.fingerprint


@pytest.mark.parametrize("name", ["config.toml", "tokenizer/tokenizer.json", "model.safetensors", "metrics.jsonl"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe garbage", b"{"])
def test_a_damaged_file_is_one_error_that_names_it(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    if name == "metrics.jsonl":  # no part of a loaded run
        run = runs.load(folder)
        run.truncate_log(3)
        assert (folder / name).read_text() == ""
        return
    with pytest.raises(RunError, match=name.partition("/")[0].replace(".", r"\.")):
        runs.load(folder)
    if name == "tokenizer/tokenizer.json":  # without digests, too
        with pytest.raises(RunError, match="tokenizer is damaged"):
            runs.open_without_weights(folder, accept_changes=True)


def add_settings(folder: Path, settings: dict[str, object]) -> None:
    """Write method settings to a run's config.toml, as leadwise 0.1.0 wrote every setting."""
    table = tomllib.loads((folder / "config.toml").read_text())
    table["method"] |= settings
    (folder / "config.toml").write_text(tomli_w.dumps(table))


def test_a_run_saved_with_removed_settings_embeds_as_before(folder: Path) -> None:
    batch, run = make_batch(3), runs.load(folder)
    add_settings(folder, cg_dmer.REMOVED)
    assert len(tomllib.loads((folder / "config.toml").read_text())["method"]) == 64  # the name and 63 settings
    old = runs.load(folder)
    for part in run.method.parts:
        assert torch.equal(old.method.embed_ecg(batch, part), run.method.embed_ecg(batch, part))
    assert torch.equal(old.method.embed_text(list(REPORTS)), run.method.embed_text(list(REPORTS)))
    assert old.config == run.config
    assert old.fingerprint == run.fingerprint


def test_removed_settings_count_in_the_fingerprint_as_before(folder: Path) -> None:
    """The fingerprint names the files of the embedding cache: it is the one that leadwise 0.1.0 computed."""
    run = runs.load(folder)
    table = {**run.config.method, **cg_dmer.REMOVED}
    digest = hashlib.sha256(repr((run.config.signal, sorted(table.items()), "float32")).encode())
    for name, tensor in run.method.state_dict().items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    assert run.fingerprint == digest.hexdigest()[:16]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("patch_tokenizer", "linear"), ("separators", True), ("w_cons", 0.5), ("text_frozen", "whole")],
)
def test_a_removed_setting_at_another_value_is_refused_by_name(folder: Path, setting: str, value: object) -> None:
    add_settings(folder, {**cg_dmer.REMOVED, setting: value})
    with pytest.raises(
        RunError, match=rf"config\.toml: setting 'method\.{setting}' = {value!r} .*use leadwise 0\.1\.0"
    ):
        runs.load(folder)
    config = typed(Config, {"method": {"name": "cg_dmer", setting: value}})
    with pytest.raises(ConfigError, match=rf"'method\.{setting}' = {value!r} was removed .*train again"):
        with_defaults(config)
    allowed = with_defaults(typed(Config, {"method": {"name": "cg_dmer", setting: cg_dmer.REMOVED[setting]}}))
    assert setting not in allowed.method


def test_an_unknown_setting_of_a_saved_run_names_its_file(folder: Path) -> None:
    add_settings(folder, {"mask_ration": 0.5})
    with pytest.raises(RunError, match=r"config\.toml: unknown setting 'method\.mask_ration'"):
        runs.load(folder)


@pytest.mark.parametrize("name", method_names())
def test_a_removed_setting_is_no_setting(name: str) -> None:
    file = find_method(name)
    fields = {field.name for field in dataclasses.fields(file.config_class)}
    assert not fields & set(file.removed)


def test_replacing_leaves_the_old_file_when_the_write_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fill_the_disk() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fill_the_disk()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_each_process_of_a_machine_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert runs.choose_device("cuda:1") == torch.device("cuda", 1)
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert runs.choose_device("auto") == runs.choose_device("cuda") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="'cuda:0', but each process uses its own GPU"):
        runs.choose_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="process 2 of this machine has no GPU of its own, there are 2; start 2"):
        runs.choose_device()

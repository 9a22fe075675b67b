"""The commands: printed output, written files, and one line per error."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from command_line import invoke
from conftest import config_table, make_batch
from mimic_tree import write_tree

import leadwise
from leadwise.batch import LEADS
from leadwise.cli import output
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.saved_probe import load_probe

PROMPTS = """source = "folder"
task = "own"
[classes.normal]
name = "normal ecg"
prompts = ["normal sinus rhythm. normal ecg."]
[classes.afib]
name = "atrial fibrillation"
prompts = ["atrial fibrillation. abnormal ecg."]
[classes.mi]
name = "myocardial infarction"
prompts = ["inferior infarct, age undetermined. abnormal ecg."]
"""


@pytest.fixture(scope="module")
def run_folder(cohort_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("runs")
    (home / "tiny.toml").write_text(tomli_w.dumps(config_table(cohort_folder, steps=12)))
    done = invoke("pretrain", home / "tiny.toml", "optim.lr=0.003", "-o", home / "run")
    assert done.returncode == 0, done.stderr
    assert (home / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "lr = 0.003" in (home / "run" / "config.toml").read_text()
    return home / "run"


def test_names_with_brackets_are_printed_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["ecg[/x]", "P[old]", "[bold]b", ":heart:", "back\\"]
    output.print_table([{"record": name, "P[new]": 0.5, "skipped": "Q[red]"} for name in names], "run [a] of [/b]")
    output.out.print("written to out[/x]")
    with output.progress_bars() as progress:
        output.bars(progress)("embed|a[/b]", 1, 1)
    result = capsys.readouterr()
    for name in (*names, "P[new]", "Q[red]", "run [a] of [/b]", "out[/x]"):
        assert name in result.out
    assert "embed a[/b]" in result.err


def test_a_process_of_its_own_prints_and_fails_as_one_does_here() -> None:
    """The only call that starts a process: all others run in this one (`command_line.invoke`)."""
    command = [sys.executable, "-m", "leadwise"]
    done = subprocess.run([*command, "tasks"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, invoke("tasks").stdout)
    words = ("tasks", "nothing")
    failed, here = subprocess.run([*command, *words], capture_output=True, text=True), invoke(*words)
    assert failed.returncode == here.returncode != 0
    assert failed.stderr == here.stderr != ""


def test_the_version_is_printed() -> None:
    done = invoke("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"leadwise {leadwise.__version__}\n", "")


def test_json_to_standard_output_is_all_that_goes_there(run_folder: Path, cohort_folder: Path, tmp_path: Path) -> None:
    commands = (
        ("tasks",),
        ("check", cohort_folder),
        ("zeroshot", run_folder, cohort_folder, "--task", "own", "--prompts", tmp_path / "prompts.toml"),
        ("pretrain", run_folder / "config.toml", "--dry-run"),
    )
    (tmp_path / "prompts.toml").write_text(PROMPTS)
    for words in commands:
        done = invoke(*words, "--json", "-", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert isinstance(json.loads(done.stdout), dict | list)
        assert done.stderr
    assert not (tmp_path / "-").exists()
    failed = invoke("zeroshot", "nowhere", cohort_folder, "--task", "own", "--json", "-")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert invoke("tasks").stdout  # the next command prints to standard output again


def test_intervals_are_readable_also_below_zero(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table([{"class": "macro", "difference": -0.127, "low": -0.296, "high": -0.028}], "a against b")
    assert "-0.127 [-0.296, -0.028]" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["embed", "probe", "zeroshot", "compare", "retrieve", "card", "check", "pretrain"])
def test_a_changed_run_is_refused_and_accepted_by_every_command(
    command: str, run_folder: Path, cohort_folder: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(run_folder, changed)
    vocabulary = changed / "tokenizer" / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text() + " ")
    words: dict[str, tuple[object, ...]] = {
        "embed": (changed, cohort_folder, "-o", tmp_path / "x.npz"),
        "probe": (changed, cohort_folder, "--task", "own", "--fractions", "1", "--seeds", "42"),
        "zeroshot": (changed, cohort_folder, "--task", "nothing"),
        "compare": (run_folder, changed, cohort_folder, "--task", "nothing"),
        "retrieve": (changed, cohort_folder, "normal ecg", "-o", tmp_path / "x.html"),
        "card": (changed, cohort_folder, "-o", tmp_path / "x.html", "--tasks", "nothing"),
        "check": (cohort_folder, "--run", changed),
        "pretrain": (changed / "config.toml", "-o", changed, "--resume"),
    }
    refused = invoke(command, *words[command])
    assert refused.returncode == 1
    assert "tokenizer is not as it was when the weights were saved" in refused.stderr
    assert "--accept-changes" in refused.stderr
    accepted = invoke(command, *words[command], "--accept-changes")
    assert "is not as it was" in " ".join(accepted.stderr.split())  # a warning
    assert "--accept-changes" not in accepted.stderr


def test_help_lists_every_command() -> None:
    output = invoke("--help").stdout
    for verb in ("demo", "simulate", "prepare", "check", "pretrain", "embed", "probe", "zeroshot", "plot"):
        assert verb in output
        assert invoke(verb, "--help").returncode == 0


def test_dry_run_prints_the_plan_and_writes_no_run(cohort_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(config_table(cohort_folder)))
    done = invoke("pretrain", tmp_path / "tiny.toml", "--dry-run", "--json", tmp_path / "plan.json")
    assert done.returncode == 0, done.stderr
    for word in ("mask_ratio = 0.75", "trainable", "frozen", "training recordings", "peak memory"):
        assert word in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plan.json", "tiny.toml"]
    result = json.loads((tmp_path / "plan.json").read_text())
    assert result["command"] == "pretrain"
    assert float(result["estimate"]["seconds a step"]) > 0
    assert result["parameters"][-1]["trainable"] > 0


def test_probe_prints_a_table_and_writes_one_object(run_folder: Path, cohort_folder: Path, tmp_path: Path) -> None:
    words = ("probe", run_folder, cohort_folder, "--task", "own", "--fractions", "0.5,1", "--json", tmp_path / "p.json")
    files = ("--csv", tmp_path / "p.csv", "--latex", tmp_path / "p.tex", "--picture", tmp_path / "p.png")
    done = invoke(*words, *files, "--seeds", "7,8", "--per-class")
    assert done.returncode == 0, done.stderr
    for measure in ("auroc", "auprc", "f1_val", "f1_max", "f2_val", "ece", "brier"):
        assert f",{measure},macro," in (tmp_path / "p.csv").read_text()
    assert (tmp_path / "p.tex").read_text().count(r"\begin{tabular}") == 2
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    drawn = json.loads((tmp_path / "p.json").read_text())["fractions"]["0.5"]["trained"]["draws"]
    assert [draw["seed"] for draw in drawn] == [7, 8]
    assert "untrained" in done.stdout
    assert "handcrafted" in done.stdout
    result = json.loads((tmp_path / "p.json").read_text())
    assert result["command"] == "probe"
    assert result["task"] == "own"
    assert {"cohort", "run", "fractions"} <= result.keys()
    text = json.dumps(result)
    assert all(word in text for word in ("macro", "interval", "per_class", "untrained"))


def test_finetune_prints_a_table_and_writes_the_object_of_a_probe(
    run_folder: Path, cohort_folder: Path, tmp_path: Path
) -> None:
    words = ("finetune", run_folder, cohort_folder, "--task", "own", "--epochs", "1", "--json", tmp_path / "f.json")
    done = invoke(*words, "--csv", tmp_path / "f.csv", "--latex", tmp_path / "f.tex", "--per-class")
    assert done.returncode == 0, done.stderr
    assert "untrained" in done.stdout
    assert "f1_max: thresholds chosen on the scored recordings, optimistic" in " ".join(done.stdout.split())
    assert ",f1_max,macro," in (tmp_path / "f.csv").read_text()
    assert json.loads((tmp_path / "f.json").read_text())["command"] == "finetune"
    refused = invoke("finetune", run_folder, cohort_folder, "--task", "own", "--epochs", "0")
    assert refused.returncode != 0
    assert "epochs = 0: must be above 0" in refused.stderr


def test_shift_prints_drops_and_writes_files(run_folder: Path, cohort_folder: Path, tmp_path: Path) -> None:
    words = (
        "shift",
        run_folder,
        "--train",
        cohort_folder,
        "--task",
        "own",
        "--test",
        cohort_folder,
        "--fractions",
        "1",
    )
    files = ("--json", tmp_path / "s.json", "--csv", tmp_path / "s.csv", "--picture", tmp_path / "s.png")
    done = invoke(*words, *files, "--changes")
    assert done.returncode == 0, done.stderr
    assert "lead I only" in done.stdout
    assert "findings in common" in " ".join(done.stdout.split())
    result = json.loads((tmp_path / "s.json").read_text())
    assert result["command"] == "shift"
    assert result["rows"][0]["auroc change"] == 0  # the same data set twice
    assert "muscle noise, 6 dB" in (tmp_path / "s.csv").read_text()
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_probe_has_a_width_and_saves_such_a_probe(run_folder: Path, cohort_folder: Path, tmp_path: Path):
    words = ("probe", run_folder, cohort_folder, "--task", "own", "--fractions", "1", "--width", "3")
    done = invoke(*words, "--json", tmp_path / "p.json", "--csv", tmp_path / "p.csv", "--save", tmp_path / "own.st")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "p.json").read_text())
    cells = result["fractions"]["1"]
    assert result["width"] == 3
    assert {cells[name]["probe_width"] for name in ("trained", "untrained", "handcrafted")} == {3}
    assert cells["trained"]["feature_width"] > 3
    assert "probe_width" in (tmp_path / "p.csv").read_text().splitlines()[0]
    saved = load_probe(tmp_path / "own.st")
    assert saved.width == 3
    assert saved.model.coefficients.shape[0] == cells["trained"]["feature_width"]
    assert np.linalg.matrix_rank(saved.model.coefficients) <= 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--width", "0"), "--width 0: must be at least 1"),
        (("--width", "8", "--protocol", "both"), "--width is for the strict probe"),
    ],
)
def test_probe_refuses_a_width_that_cannot_be_used(run_folder: Path, cohort_folder: Path, options, message):
    done = invoke("probe", run_folder, cohort_folder, "--task", "own", *options)
    assert done.returncode != 0
    assert message in " ".join(done.stderr.split())


def test_zeroshot_with_your_own_prompts(run_folder: Path, cohort_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(PROMPTS)
    words = ("zeroshot", run_folder, cohort_folder, "--task", "own", "--prompts", tmp_path / "mine.toml")
    done = invoke(
        *words, "--json", tmp_path / "z.json", "--per-class", "--csv", tmp_path / "z.csv", "--latex", tmp_path / "z.tex"
    )
    assert done.returncode == 0, done.stderr
    assert ",untrained,auprc,macro," in (tmp_path / "z.csv").read_text()
    assert "shuffled" not in (tmp_path / "z.tex").read_text()
    assert "atrial fibrillation" in done.stdout
    result = json.loads((tmp_path / "z.json").read_text())
    assert result["command"] == "zeroshot"
    assert result["trained"]["macro"] is not None
    assert result["untrained"]["macro"] is not None
    (tmp_path / "mine.toml").write_text(PROMPTS.split("[classes.mi]")[0])
    wrong = invoke(*words)
    assert wrong.returncode == 1
    assert "mi" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_embed_writes_a_row_for_every_recording(run_folder: Path, cohort_folder: Path, tmp_path: Path) -> None:
    words = ("embed", run_folder, cohort_folder, "-o", tmp_path / "e.npz", "--part", "shared", "--window", "center_10s")
    done = invoke(*words, "--json", tmp_path / "e.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "e.json").read_text())
    assert (result["recordings"], result["window"]) == (60, "center_10s")
    with np.load(tmp_path / "e.npz") as file:
        assert file["embedding"].shape == (60, 16)
        assert len(set(file["record"])) == 60
        np.testing.assert_allclose(np.linalg.norm(file["embedding"], axis=1), 1.0, rtol=1e-4)


def test_plot_draws_png_and_svg_and_lists_missing_data(tmp_path: Path) -> None:
    ecg = make_batch(1).ecg[0, :8].numpy().T.copy()
    ecg[50:52, 0] = np.nan
    ecg[100:200, 3] = np.nan
    np.save(tmp_path / "mine.npy", ecg)
    leads = "I,II,V1,V2,V3,V4,V5,V6"
    for suffix in ("png", "svg", "pdf"):
        words = ("plot", tmp_path / "mine.npy", "--leads", leads, "--rate-hz", 100, "--units", "mV")
        done = invoke(*words, "-o", tmp_path / f"x.{suffix}")
        assert (done.returncode, done.stderr) == (0, "")
    svg = (tmp_path / "x.svg").read_text()
    for word in ("derived from the other limb leads: III, aVR, aVL, aVF", "short gaps bridged", "100 Hz", "aVR", "V6"):
        assert word in svg
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_verify_finds_a_changed_sample(cohort_folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(cohort_folder, tmp_path / "c")
    assert invoke("prepare", "--verify", tmp_path / "c").returncode == 0
    shard = tmp_path / "c" / "samples-00000.npy"
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(bytes(data))
    wrong = invoke("prepare", "--verify", tmp_path / "c")
    assert wrong.returncode == 1
    assert "samples-00000.npy" in wrong.stderr


def test_prepare_folder_prints_and_writes_the_ledger(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", make_batch(1).ecg[0].numpy())
    (tmp_path / "ecgs.csv").write_text("path,report\na.npy,normal ecg\ngone.npy,\n")
    words = ("prepare", "folder", tmp_path / "ecgs.csv", "-o", tmp_path / "c", "--leads", ",".join(LEADS))
    words = (*words, "--rate-hz", 100, "--units", "mV")
    wrong = invoke(*words)
    assert wrong.returncode == 1
    assert "gone.npy" in wrong.stderr
    assert not (tmp_path / "c").exists()
    done = invoke(*words, "--allow-missing", "--json", tmp_path / "l.json")
    assert done.returncode == 0, done.stderr
    ledger = json.loads((tmp_path / "l.json").read_text())["ledger"]
    assert ledger["kept"] == 1
    assert ledger["missing_file"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pretrain", "no.toml", "-o", "r"), "no config at no.toml"),
        (("probe", "nowhere", "c", "--task", "super"), "no run 'nowhere': there is no such folder"),
        (("plot", "no.hea"), "no.hea"),
        (("prepare", "ptbxl", "nowhere", "-o", "c"), "nowhere"),
        (("prepare", "mimic", "nowhere", "-o", "c"), "no source 'mimic'"),
        (("prepare",), "give SOURCE, PATH and -o OUT"),
    ],
)
def test_errors_are_printed_in_one_line(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    wrong = invoke(*words, cwd=tmp_path)
    assert wrong.returncode in (1, 2)
    assert message in " ".join(wrong.stderr.replace("│", " ").split())
    assert "Traceback" not in wrong.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_task_lists_the_known_tasks(run_folder: Path, cohort_folder: Path) -> None:
    wrong = invoke("probe", run_folder, cohort_folder, "--task", "super")
    assert wrong.returncode == 1
    assert "own" in wrong.stderr
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize("command", ["embed", "probe", "merl-legacy", "finetune", "compare", "shift", "export"])
def test_a_part_that_the_run_does_not_have_is_an_error_before_anything_is_read(
    command: str, run_folder: Path, cohort_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every command with --part; that of `regress` is in test_regress."""

    def read(self: Cohort, row: int) -> None:
        raise AssertionError("a recording was read")

    if command == "export":
        pytest.importorskip("onnxruntime")
    monkeypatch.setattr(Cohort, "block", read)
    out, task = tmp_path / "x.npz", ("--task", "own")
    words: dict[str, tuple[object, ...]] = {
        "embed": ("embed", run_folder, cohort_folder, "-o", out),
        "probe": ("probe", run_folder, cohort_folder, *task),
        "merl-legacy": ("probe", run_folder, cohort_folder, *task, "--protocol", "merl-legacy", "--fractions", "1"),
        "finetune": ("finetune", run_folder, cohort_folder, *task),
        "compare": ("compare", run_folder, run_folder, cohort_folder, *task),
        "shift": ("shift", run_folder, "--train", cohort_folder, *task),
        "export": ("export", run_folder, "-o", tmp_path / "x.onnx"),
    }
    wrong = invoke(*words[command], "--part", "ed")
    assert wrong.returncode == 1
    assert re.search("no part 'ed'.* (it has|choose from) backbone", wrong.stderr), wrong.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_that_is_not_empty_is_refused_and_resume_without_a_run_too(
    run_folder: Path, tmp_path: Path
) -> None:
    again = invoke("pretrain", run_folder / "config.toml", "-o", run_folder)
    assert again.returncode == 1
    assert "is not empty" in again.stderr
    (tmp_path / "r").mkdir()
    none = invoke("pretrain", run_folder / "config.toml", "-o", tmp_path / "r", "--resume")
    assert none.returncode == 1
    assert "is not a run folder" in none.stderr


@pytest.mark.slow
def test_a_mimic_tree_is_prepared_in_shares_by_processes_and_in_one_go(tmp_path: Path) -> None:
    write_tree(tmp_path / "mimic", 120, n_samples=500, n_flawed=1)
    allowed = ("--allow-missing", "--allow-unreadable")
    result = invoke("prepare", "mimic_iv_ecg", "mimic", "-o", "never", "--dry-run", "--workers", 2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for words in ("recordings that the source lists", "one process", "2 workers", "gigabytes on disk for 800,035"):
        assert words in result.stdout
    refused = invoke("prepare", "mimic_iv_ecg", "mimic", "-o", "whole", cwd=tmp_path)
    assert refused.returncode == 1
    assert "1 of 120 recordings have a missing file" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mimic", "whole.partial"]
    assert "missing_file" in (tmp_path / "whole.partial" / "dropped.csv").read_text(encoding="utf-8")

    whole = invoke("prepare", "mimic_iv_ecg", "mimic", "-o", "whole", *allowed, "--json", "whole.json", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    ledger = json.loads((tmp_path / "whole.json").read_text())["ledger"]
    assert (ledger["n_total"], ledger["missing_file"], ledger["unreadable"]) == (120, 2, 1)
    assert (ledger["no_report"], ledger["short_report"]) == (1, 1)
    shares = ("prepare", "mimic_iv_ecg", "mimic", "-o", "many", *allowed)
    for share in ("2/2", "1/2"):
        done = invoke(*shares, "--shard", share, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"shards of {share} are packed" in done.stdout
    assert invoke(*shares, "--workers", 2, "--resume", cwd=tmp_path).returncode == 0
    assert Cohort.open(tmp_path / "many", verify=True).fingerprint == Cohort.open(tmp_path / "whole").fingerprint
    for wrong, message in (
        (("--shard", "3"), "it must be i/n"),
        (("--workers", "2", "--dask", "tcp://x:1"), "not both"),
    ):
        bad = invoke(*shares, "--overwrite", *wrong, cwd=tmp_path)
        assert bad.returncode == 2
        assert message in bad.stderr

"""Runs of two processes: the gradient and batches of one process, one folder, and a clear error when a process dies."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
import torch.distributed as dist
from conftest import config_table
from test_gradient_step import NAMES, OPTIONS, agree, batch_of, exact, exactly, gradients, in_one_pass, split, steady
from test_methods import build
from torch import Tensor

from leadwise import config, distributed
from leadwise import run as runs
from leadwise.batch import Batch
from leadwise.config import OptimConfig
from leadwise.data.loader import Sampler
from leadwise.nn.views import View, Views
from leadwise.training import loop as training
from leadwise.training.gradient_step import Objective, TrainingError, backward

REPOSITORY = Path(__file__).resolve().parents[1]
# batch norm over features (B, D, T), over vectors (B, D), and of each lead of the ECG; without random draws
WITH_NORM: dict[str, dict[str, float]] = {
    "merl": {"view_dropout": 0.0},
    "merl vit": {"view_dropout": 0.0},
    "ms_ecg_fm": {"lead_dropout": 0.0, "shift_s": 0.0},
}
OTHERS = (
    "simclr",
    "barlow_twins",
    "moco_v3 vit",
    "byol",
    "simsiam vit",
    "clocs",
    "etp",
    "merit",
    "melp resnet",
    "tamer",
)


# ------------------------------------------------------------------------------------------------- the gradient


def _process(rank: int, home: Path) -> None:
    """One of two processes: computes every case below in one group, saves the results, and resumes two runs."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{home / 'meet'}", rank=rank, world_size=2)
    for name in ("by two", "by one, then two"):
        training.pretrain(config.read(home / "config.toml"), home / name, resume=True)
    results = {"gather": _gather_rows(), "random": _random_gradient(), "stopped": _a_term_not_finite_on_rank_1()}
    results |= {"elsewhere": _an_error_on_rank_1(), "alone": _single_process()}
    patch = pytest.MonkeyPatch()
    steady(patch)
    exact(patch)
    for name, options in zip(NAMES, OPTIONS):
        for n_passes in (1, 2):
            model = training.ddp(exactly(options))
            share = split(batch_of(torch.float64), 2)[rank]
            values = backward(model, split(share, n_passes), 0, OptimConfig())
            results[name, n_passes] = values, gradients(model.module.method)
    for name, options in WITH_NORM.items():
        model = training.ddp(exactly(options, name))
        values = backward(model, [split(batch_of(torch.float64), 2)[rank]], 0, OptimConfig())
        results[name] = values, gradients(model.module.method), dict(model.module.method.named_buffers())
    patch.setattr(Views, "forward", _still)
    for name in OTHERS:
        model = training.ddp(exactly({}, name))
        values = backward(model, [split(batch_of(torch.float64), 2)[rank]], 0, OptimConfig())
        results[name] = values, gradients(model.module.method)
    torch.save(results, home / f"{rank}.pt")
    dist.destroy_process_group()


def _still(views: Views, batch: Batch) -> View:
    """Views without random draws: alternately the first and the second half of each record."""
    views.turn = 1 - getattr(views, "turn", 1)
    half = views.n_crop // views.grid * views.grid
    cut = slice(views.turn * half, (1 + views.turn) * half)
    cropped = dataclasses.replace(batch, ecg=batch.ecg[..., cut], observed=batch.observed[..., cut])
    return View(cropped, torch.full((len(batch),), views.turn * half))


def _gather_rows() -> tuple[list, list]:
    """The rows of both ranks, and the gradient of a loss with different weights on each rank."""
    x = torch.arange(4.0).reshape(2, 2) + 10 * distributed.rank()
    x.requires_grad_()
    every = distributed.gather(x)
    weight = torch.arange(1.0, 9.0).reshape(4, 2) * (1 + distributed.rank())
    (every * weight).sum().backward()
    return every.tolist(), x.grad.tolist()


def _random_gradient() -> dict[str, Tensor]:
    """A gradient with random masks, as in a run."""
    model = training.ddp(build("cg_dmer", noise_mv=0.02, gain=0.1, shift=True, statement_dropout=0.2))
    backward(model, [split(batch_of(), 2)[distributed.rank()]], 5, OptimConfig())
    return gradients(model.module.method)


def _a_term_not_finite_on_rank_1() -> str:
    method = build("cg_dmer")
    local_terms = method.local_terms

    def broken(batch: Batch) -> tuple[dict, dict]:
        terms, features = local_terms(batch)
        return terms | {"L_orth": terms["L_orth"] * (float("nan") if distributed.rank() else 1.0)}, features

    method.local_terms = broken
    with pytest.raises(TrainingError) as caught:
        backward(training.ddp(method), [split(batch_of(), 2)[distributed.rank()]], 7, OptimConfig())
    return str(caught.value)


def _an_error_on_rank_1() -> str:
    try:
        with distributed.all_ranks_or_none():
            if distributed.rank():
                raise RuntimeError("disk full")
    except RuntimeError as error:
        return str(error)
    return ""


def _single_process() -> tuple:
    with distributed.single_process():
        return (
            distributed.rank(),
            distributed.n_ranks(),
            distributed.gather(torch.ones(3)).tolist(),
            distributed.local_rows(3),
        )


@pytest.fixture(scope="module")
def two(home: Path, torn: object) -> list[dict]:
    """The results of two gloo processes."""
    torch.multiprocessing.spawn(_process, (home,), nprocs=2)
    return [torch.load(home / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("n_passes", [1, 2])
@pytest.mark.parametrize(("name", "options"), [*zip(NAMES, OPTIONS)], ids=NAMES)
def test_two_processes_have_the_gradient_of_one(two, name, options, n_passes, monkeypatch) -> None:
    steady(monkeypatch)
    exact(monkeypatch)
    terms, expected = in_one_pass(options)
    for results in two:
        values, slopes = results[name, n_passes]
        assert values == pytest.approx(terms, rel=1e-9)
        agree(slopes, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_NORM)
def test_batch_norm_on_two_processes_has_the_gradient_and_the_running_statistics_of_one(two, name, monkeypatch) -> None:
    exact(monkeypatch)
    terms, expected = in_one_pass(WITH_NORM[name], name)
    single = exactly(WITH_NORM[name], name)
    single(batch_of(torch.float64))
    for values, slopes, buffers in (results[name] for results in two):
        assert values == pytest.approx(terms, rel=1e-9)
        agree(slopes, expected)
        buffers_of_one = {name: x for name, x in single.named_buffers() if "running" in name or "tracked" in name}
        assert buffers_of_one
        for buffer, x in buffers_of_one.items():
            torch.testing.assert_close(buffers[buffer], x, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_method_on_two_processes_has_the_gradient_of_one(two, name, monkeypatch) -> None:
    steady(monkeypatch)
    exact(monkeypatch)
    monkeypatch.setattr(Views, "forward", _still)
    terms, expected = in_one_pass({}, name)
    for values, slopes in (results[name] for results in two):
        assert values == pytest.approx(terms, rel=1e-9)
        agree(slopes, expected)


@pytest.mark.slow
def test_two_processes_draw_what_one_draws_in_two_passes(two) -> None:
    method = build("cg_dmer", noise_mv=0.02, gain=0.1, shift=True, statement_dropout=0.2)
    backward(Objective(method), split(batch_of(), 2), 5, OptimConfig())
    for results in two:
        for name, slope in gradients(method).items():
            torch.testing.assert_close(results["random"][name], slope, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_gathering_keeps_order_and_sums_slopes(two) -> None:
    for rank, results in enumerate(two):
        every, slope = results["gather"]
        assert every == [[0, 1], [2, 3], [10, 11], [12, 13]]
        assert slope == (3 * torch.arange(1.0, 9.0).reshape(4, 2)[2 * rank : 2 * rank + 2]).tolist()
        assert results["alone"] == (0, 1, [1, 1, 1], slice(0, 3))


@pytest.mark.slow
def test_what_fails_on_one_process_stops_both(two) -> None:
    for results in two:
        assert results["stopped"].startswith("step 7: L_orth is not finite (nan) on rank 1;")
    assert two[0]["elsewhere"] == "rank 1 of 2 stopped: disk full"
    assert two[1]["elsewhere"] == "disk full"


# -------------------------------------------------------------------------------------------------- the batches


@pytest.mark.parametrize("n_ranks", [2, 3, 4])
def test_a_batch_does_not_depend_on_how_many_share_it(n_ranks: int) -> None:
    for step in (0, 1, 7, 100):
        shares = [Sampler(29, 12, 5, rank, n_ranks).positions(step) for rank in range(n_ranks)]
        assert [len(share) for share in shares] == [12 // n_ranks] * n_ranks
        np.testing.assert_array_equal(np.concatenate(shares), Sampler(29, 12, 5).positions(step))


@pytest.mark.parametrize(("n", "n_ranks"), [(10, 2), (11, 2), (29, 4), (3, 4), (8, 1)])
def test_an_epoch_is_split_without_remainder(n: int, n_ranks: int) -> None:
    """As the sampler of a DataLoader: no position twice, none left out, the remainder with the first ranks."""
    samplers = [Sampler(n, 4 * n_ranks, 1, rank, n_ranks) for rank in range(n_ranks)]
    epochs = []
    for epoch in (0, 3):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        shares = [list(sampler) for sampler in samplers]
        assert [len(part) for part in shares] == [len(sampler) for sampler in samplers]
        assert [len(part) for part in shares] == sorted(n // n_ranks + (r < n % n_ranks) for r in range(n_ranks))[::-1]
        assert sorted(i for part in shares for i in part) == list(range(n))
        epochs.append(shares)
    assert n < 8 or epochs[0] != epochs[1]
    loader = torch.utils.data.DataLoader(range(100, 100 + n), batch_size=3, sampler=samplers[0])
    assert torch.cat([*loader]).tolist() == [100 + i for i in epochs[1][0]]


def test_a_share_that_is_not_equal_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 0 of 3 has no equal share of a batch of 8; use a multiple of 3"):
        Sampler(20, 8, 0, 0, 3)


# --------------------------------------------------------------------------------------------- runs of two processes


def torchrun(*what: object, **more: str) -> subprocess.CompletedProcess:
    """Run a command on two processes of this machine."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **more}
    return subprocess.run(
        [*command, *map(str, what)], capture_output=True, text=True, env=env, timeout=120, cwd=REPOSITORY
    )


DIES = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from leadwise import config
from leadwise.training import loop

def die(what, done, total):
    if done == 8 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)

home = Path(sys.argv[1])
loop.pretrain(config.read(home / "config.toml"), home / "torn", progress=die)
"""


@pytest.fixture(scope="module")
def home(cohort_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config; other fixtures add the run `whole` of two processes, and `torn`, in which one of them died."""
    home = tmp_path_factory.mktemp("runs")
    table = config_table(cohort_folder, steps=12)
    table["method"] |= {"gain": 0.1, "noise_mv": 0.02, "statement_dropout": 0.3}
    table["log"]["keep"] = "best"
    (home / "config.toml").write_text(tomli_w.dumps(table))
    (home / "dies.py").write_text(DIES)
    return home


@pytest.fixture(scope="module")
def whole(home: Path) -> subprocess.CompletedProcess:
    return torchrun("-m", "leadwise", "pretrain", home / "config.toml", "-o", home / "whole")


@pytest.fixture(scope="module")
def torn(home: Path) -> subprocess.CompletedProcess:
    """The run `torn`; copies of it to resume; and a run started by one process with two passes per step."""
    died = torchrun(home / "dies.py", home)
    for name in ("by two", "by one"):
        shutil.copytree(home / "torn", home / name)

    def stop(what: str, done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    settings = config.read(home / "config.toml", ["optim.accumulate=2"])
    with pytest.raises(KeyboardInterrupt):
        training.pretrain(settings, home / "by one, then two", progress=stop)
    return died


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_speed(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "records_per_s"} for row in rows]


@pytest.mark.slow
def test_the_command_line_leaves_one_whole_run(home: Path, whole: subprocess.CompletedProcess) -> None:
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.count("; curves: ") == 1
    run = runs.load(home / "whole")
    assert run.config.optim.steps == 12
    rows = metrics(home / "whole")
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, 13))
    assert [row["step"] for row in rows if row["split"] == "val"] == [3, 6, 9, 12]
    names = {path.name for path in (home / "whole").iterdir()}
    assert names == {
        "config.toml", "tokenizer", "data.json", "trained_on.json", "model.safetensors", "metrics.jsonl", "resume", "curves.png"
    }  # fmt: skip


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run(home: Path, torn: subprocess.CompletedProcess) -> None:
    assert torn.returncode != 0
    dead = rf"rank 1 of 2 on {re.escape(socket.gethostname())} \(process \d+\)"
    message = rf"step [78]: {dead} has ended; its last record is of step "
    assert re.search(message, " ".join(torn.stderr.split())), torn.stderr
    assert "--resume" in torn.stderr
    left = [path.name for path in (home / "torn").rglob("*.part")]
    assert left == []
    state = torch.load(home / "torn" / "resume" / "state.pt", weights_only=True)
    assert state["step"] == 5


@pytest.mark.slow
def test_two_processes_go_on_to_the_bit(home: Path, whole: object, two: object) -> None:
    a, b = runs.load(home / "whole"), runs.load(home / "by two")
    assert a.fingerprint == b.fingerprint
    assert without_speed(metrics(home / "whole")) == without_speed(metrics(home / "by two"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["by one", "by one, then two"])
def test_another_number_of_processes_goes_on(home: Path, name: str, whole: object, two: object) -> None:
    """Two passes of one process use the shares and draws of two processes: the same run, up to the order of sums."""
    if name == "by one":
        training.pretrain(config.read(home / "config.toml", ["optim.accumulate=2"]), home / name, resume=True)
    rows, others = ([row for row in metrics(home / run) if row["split"] == "train"] for run in (name, "whole"))
    assert [row["step"] for row in rows] == list(range(1, 13))
    for row, other in zip(rows, others):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-3)


@pytest.mark.slow
def test_one_process_goes_on_in_one_pass(home: Path, torn: object) -> None:
    """Resumed in one pass: other random draws, but the same records at the same steps."""
    shutil.copytree(home / "torn", home / "in one pass")
    training.pretrain(config.read(home / "config.toml"), home / "in one pass", resume=True)
    assert [r["step"] for r in metrics(home / "in one pass") if r["split"] == "train"] == list(range(1, 13))


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--resume",)])
def test_two_processes_start_a_run_again_that_saved_no_state(home: Path, whole: object, words: tuple[str, ...]) -> None:
    """One process trained two steps and died: no weights, no resume state."""

    def stop(what: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    folder = home / f"unsaved {len(words)}"
    with pytest.raises(KeyboardInterrupt):
        training.pretrain(config.read(home / "config.toml"), folder, progress=stop)
    again = torchrun("-m", "leadwise", "pretrain", home / "config.toml", "-o", folder, *words)
    assert again.returncode == 0, again.stderr
    assert runs.load(folder).fingerprint == runs.load(home / "whole").fingerprint

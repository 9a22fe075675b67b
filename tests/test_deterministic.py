"""One seed gives the same weights to the bit: with two threads, after an interruption, and by name of the operations on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
import torch.utils.deterministic
from conftest import TINY, config_table, make_batch
from test_methods import build
from torch.utils._python_dispatch import TorchDispatchMode

from leadwise.config import OptimConfig
from leadwise.nn import normalize
from leadwise.training.deterministic import CUBLAS_SETTING, deterministic_algorithms
from leadwise.training.gradient_step import Objective, TrainingError, backward
from leadwise.training.optimizer import make_optimizer

HERE = Path(__file__).resolve().parent

# What torch.use_deterministic_algorithms (2.13) refuses on a GPU, as names of operations. `cumsum` is refused for floats only.
REFUSED_ON_GPU = {
    "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "_ctc_loss_backward", "_embedding_bag_dense_backward",
    "adaptive_max_pool2d_backward", "avg_pool3d_backward", "bincount", "cumsum", "fractional_max_pool2d_backward",
    "fractional_max_pool3d_backward", "grid_sampler_2d_backward", "grid_sampler_3d_backward", "histc", "kthvalue",
    "max_pool3d_with_indices_backward", "max_unpool2d", "max_unpool3d", "median", "nanmedian", "nll_loss2d_backward",
    "nll_loss2d_forward", "put", "reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward",
    "upsample_bicubic2d_backward", "upsample_bilinear2d_backward", "upsample_linear1d_backward",
    "upsample_trilinear3d_backward",
}  # fmt: skip


# ------------------------------------------------------------------------------------------------- torch's state


def state() -> tuple[bool, bool, bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark,
    )


@pytest.fixture(params=[(False, False, True, True), (True, True, True, False), (True, False, False, False)])
def before(request: pytest.FixtureRequest) -> Iterator[tuple[bool, bool, bool, bool]]:
    """A state of torch that a user has set; afterwards the state of the other tests."""
    saved = state()
    _set(request.param)
    yield request.param
    _set(saved)


def _set(values: tuple[bool, bool, bool, bool]) -> None:
    enabled, only_warned, fills, benchmark = values
    torch.use_deterministic_algorithms(enabled, warn_only=only_warned)
    torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = benchmark


def test_a_block_sets_and_restores_the_state_of_torch(before: tuple[bool, bool, bool, bool]) -> None:
    with deterministic_algorithms():
        assert state() == (True, False, False, False)
    assert state() == before
    with pytest.raises(KeyboardInterrupt), deterministic_algorithms():
        raise KeyboardInterrupt
    assert state() == before
    with deterministic_algorithms(enabled=False):
        assert state() == before


def test_an_existing_setting_of_cublas_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CUBLAS_SETTING, raising=False)
    with deterministic_algorithms():
        assert os.environ[CUBLAS_SETTING] == ":4096:8"
    monkeypatch.setenv(CUBLAS_SETTING, ":16:8")
    with deterministic_algorithms():
        assert os.environ[CUBLAS_SETTING] == ":16:8"


def test_an_operation_without_a_deterministic_version_is_named() -> None:
    values = torch.arange(4.0)
    with (
        pytest.raises(
            TrainingError, match=r"step 7: torch has no deterministic version of put_ on this device; set optim"
        ),
        deterministic_algorithms(step=lambda: 7),
    ):
        values.put_(torch.tensor([1]), torch.tensor([3.0]))
    with deterministic_algorithms(enabled=False):  # the remedy
        values.put_(torch.tensor([1]), torch.tensor([3.0]))
    assert values[1] == 3.0


def test_other_errors_pass_and_cublas_has_its_own_remedy() -> None:
    with pytest.raises(RuntimeError, match=r"^out of memory$"), deterministic_algorithms():
        raise RuntimeError("out of memory")
    message = "this operation is not deterministic because it uses CuBLAS and you have CUDA >= 10.2"
    with (
        pytest.raises(TrainingError, match=r"step 0: .*CUBLAS_WORKSPACE_CONFIG=:4096:8 before Python"),
        deterministic_algorithms(),
    ):
        raise RuntimeError(message)


# --------------------------------------------------------------------------------------------------- operations


class Operations(TorchDispatchMode):
    """Records the names of the operations of a block; of `cumsum` only for floats."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        if name != "cumsum" or out.is_floating_point():
            self.names.add(name)
        return out


def test_the_refused_operations_are_names_of_torch() -> None:
    assert not {name for name in REFUSED_ON_GPU if not hasattr(torch.ops.aten, name)}
    with Operations() as record:
        torch.rand(3).cumsum(0)
        torch.rand(3, 3).median(0)
    assert record.names & REFUSED_ON_GPU == {"cumsum", "median"}


@pytest.mark.parametrize("case", TINY)
def test_no_step_uses_an_operation_that_is_refused_on_a_gpu(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalize, "median", normalize.sorted_median)  # as on a GPU in deterministic mode
    method = build(case).train()
    with Operations() as record:
        backward(Objective(method), [make_batch(8)], 0, OptimConfig())
    assert not record.names & REFUSED_ON_GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("case", TINY)
def test_steps_on_a_gpu_repeat_to_the_bit(case: str) -> None:
    weights = []
    for _ in range(2):
        method, optim = build(case).train().cuda(), OptimConfig(lr=1e-3)
        optimizer = make_optimizer(method, optim)
        with deterministic_algorithms():
            for step in range(3):
                backward(Objective(method), [make_batch(16, seed=step)], step, optim)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        weights.append({name: x.cpu() for name, x in method.state_dict().items()})
    assert all(torch.equal(x, weights[1][name]) for name, x in weights[0].items())


# -------------------------------------------------------------------------------------------------- two threads


# large enough for torch to divide the operations of a step between threads; c_melt adds tokens by scatter_add
WIDER = {
    "cg_dmer": {"n_patches": 40, "width": 64, "depth": 1, "decoder_width": 64},
    "merl": {},
    "c_melt": {"n_patches": 40, "width": 64},
}
PROGRAM = """
import json, sys, torch
from pathlib import Path
from leadwise import config, run as runs
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.embed import embed_cohort
from leadwise.training import loop
torch.set_num_threads(2)
home = Path(sys.argv[1])
settings = config.read(home / "config.toml")
def stop(what, done, total):
    if done == 5: raise KeyboardInterrupt
prints = [loop.pretrain(settings, home / name).fingerprint for name in ("one", "two")]
try: loop.pretrain(settings, home / "torn", progress=stop)
except KeyboardInterrupt: pass
run = loop.pretrain(settings, home / "torn", resume=True)
cohort = Cohort.open(Path(settings.data.cohort))
embeddings = [embed_cohort(run, cohort, "backbone", None, None, home / f"cache{i}").tobytes().hex() for i in range(2)]
threads = torch.get_num_threads()
print(json.dumps({"weights": [*prints, run.fingerprint], "embeddings": embeddings, "threads": threads}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDER)
def test_two_threads_repeat_a_run_its_resume_and_its_embeddings(cohort_folder: Path, tmp_path: Path, name: str) -> None:
    table = config_table(cohort_folder, steps=6, batch_size=32)
    table["method"] = {"name": name, **TINY[name], **WIDER[name]}
    table["log"]["save_every"] = 3
    (tmp_path / "config.toml").write_text(tomli_w.dumps(table))
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    waiting = {
        **os.environ,
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",
    }  # a busy machine: threads must not spin
    done = subprocess.run(command, capture_output=True, text=True, env=waiting, check=False)
    assert not done.returncode, done.stderr
    result = json.loads(done.stdout)
    assert result["threads"] == 2
    assert len(set(result["weights"])) == 1, result["weights"]
    assert result["embeddings"][0] == result["embeddings"][1]

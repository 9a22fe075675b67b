"""The GPU check on a CPU: the order and time of its parts, their ends, the step that a CUDA graph captures, and the page."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import REPORTS, TINY, make_batch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from leadwise import run as runs
from leadwise.batch import Batch, Signal
from leadwise.config import Config, typed
from leadwise.data.cohort.prepare import write
from leadwise.data.sources import simulated
from leadwise.methods.catalogue import with_defaults
from leadwise.nn import lead_time, masking, normalize

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import gpu
import gpu_alone
import gpu_learn
import gpu_page
from gpu_common import Part, write_json
from speed_plain import EcgBranch

# --------------------------------------------------------------------------------------------- order, time and ends


def test_the_parts_that_no_card_has_measured_come_first_and_alone() -> None:
    assert gpu.chosen_parts("left") == ["graph", "checkpointing", "batches", "compile"]
    assert gpu.chosen_parts("learn,compile,fast") == ["compile", "fast", "learn"]
    groups = gpu.planned(gpu.chosen_parts("all"), on_gpu=True)
    assert groups == [["graph"], ["checkpointing"], ["batches"], ["compile"], ["fast"], ["right", "learn"]]
    assert gpu.planned(["compile", "learn"], on_gpu=False) == [["compile", "learn"]]
    assert set(gpu.CPU_SECONDS) == set(gpu.GPU_SECONDS)
    assert set(gpu_alone.SUBJECTS) == set(gpu.LEFT) == set(gpu_page.ALONE)


def test_parts_share_the_time_and_pass_on_what_they_do_not_use() -> None:
    groups = gpu.planned(gpu.chosen_parts("all"), on_gpu=True)
    left = 480.0
    for number, group in enumerate(groups):
        seconds = gpu.seconds_of(group, groups[number + 1 :], left)
        assert seconds == pytest.approx(gpu.GPU_SECONDS[group[0]])
        left -= seconds
    assert left == pytest.approx(0.0)
    assert gpu.seconds_of(["compile"], [["learn"]], 295.0) == pytest.approx(65.0)
    assert gpu.seconds_of(["compile"], [], 295.0) == 295.0


def test_a_part_that_hangs_is_ended_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hang = "import subprocess, sys, time; child = [sys.executable, '-S', '-c', 'import time; time.sleep(60)']"
    hang += (
        f"; print(subprocess.Popen(child).pid, file=open({str(tmp_path / 'child')!r}, 'w'), flush=True); time.sleep(60)"
    )

    def start(name: str, *_: object) -> subprocess.Popen[bytes]:
        program = hang if name == "compile" else "pass"
        return subprocess.Popen([sys.executable, "-S", "-c", program], start_new_session=True)

    monkeypatch.setattr(gpu, "start_part", start)
    monkeypatch.setattr(gpu, "GRACE_S", {"cuda": 0.0, "cpu": 0.0})
    args = argparse.Namespace(device="cpu")
    assert gpu.run_group(["fast", "compile"], args, tmp_path, 2.0) == {"fast": 0, "compile": -9}
    state = Path(f"/proc/{int((tmp_path / 'child').read_text())}/stat")
    for _ in range(20):  # a killed process without a parent that waits for it may stay as a zombie
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("the child of the ended part still runs")


def test_a_part_that_fails_does_not_end_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[str, float]] = []

    def measure(part: Part) -> None:
        measured.append((part.name, part.seconds))
        if part.name == "fast":
            raise ValueError("no")

    monkeypatch.setattr(gpu.importlib, "import_module", lambda name: SimpleNamespace(measure=measure))
    args = argparse.Namespace(name="graph,fast,learn", out=tmp_path, cohort=tmp_path, device="cpu", seconds=24.0)
    with pytest.raises(SystemExit) as end:
        gpu.measure_parts(args)
    assert end.value.code == 1
    assert measured == [("graph", 2.0), ("fast", 8.0), ("learn", 14.0)]


# -------------------------------------------------------------------------------------- the step of the CUDA graph


class DeviceReads(TorchDispatchMode):
    """A block that raises if the host reads a value of `tensors` or of what is computed from them, as `.item()` does.

    On a GPU, such a read would wait for the device, and cannot be captured in a CUDA graph.
    """

    reads = (
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.nonzero.default,
        torch.ops.aten.masked_select.default,
    )

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.tensors = list(tensors)  # held, so that no other tensor gets their memory
        self.memory = {x.untyped_storage().data_ptr() for x in self.tensors}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        on_device = any(x.untyped_storage().data_ptr() in self.memory for x in inputs)
        by_mask = func is torch.ops.aten.index.Tensor and any(x.dtype == torch.bool for x in inputs[1:])
        if on_device and (func in self.reads or by_mask):
            raise AssertionError(f"{func} reads the device")
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if on_device and isinstance(x, torch.Tensor):
                self.tensors.append(x)
                self.memory.add(x.untyped_storage().data_ptr())
        return out


def complete_batch(n: int = 6) -> Batch:
    batch = make_batch(n, signal=Signal(rate_hz=100, duration_s=4.0))
    return batch.with_common(torch.ones(batch.ecg.shape[-1], dtype=torch.bool))


def tiny_step(**changes: object) -> gpu_alone.EcgStep:
    table = {
        "signal": {"rate_hz": 100, "duration_s": 4.0}, "data": {"cohort": "none"},
        "method": {"name": "cg_dmer", **TINY["cg_dmer"], "patch_amplitude": True, **changes},
    }  # fmt: skip
    torch.manual_seed(0)
    run = runs.create(with_defaults(typed(Config, table)), list(REPORTS))
    return gpu_alone.EcgStep(run.method, complete_batch(), "cpu", "float32")


@pytest.mark.parametrize("decoder", ["joint", "cross"])
def test_the_captured_step_has_the_gradient_of_the_plain_one_for_new_inputs(decoder: str) -> None:
    step = tiny_step(decoder=decoder)
    before = step.visible.data_ptr(), step.batch.ecg.data_ptr(), step.visible.clone()
    step.eager()
    gradient = step.read_gradient()
    assert (step.visible.data_ptr(), step.batch.ecg.data_ptr()) == before[:2]  # a graph reads these tensors again
    assert not torch.equal(step.visible, before[2])

    # the same patches through the plain step, which reads the device
    step.method.zero_grad(set_to_none=True)
    plain = EcgBranch(step.method, step.batch)
    patches, usable, _ = plain.draw()
    plain.error(step.method.ecg(patches, step.visible), patches, usable, step.visible).backward()
    torch.testing.assert_close(gradient, step.read_gradient(), rtol=1e-4, atol=1e-7)
    assert float(gradient.norm()) > 0


@pytest.mark.parametrize("decoder", ["joint", "cross"])
def test_the_captured_step_reads_nothing_of_the_device(decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step = tiny_step(decoder=decoder)

    def no_copy(*_: object) -> None:
        raise AssertionError("a copy from the host")

    for module in (masking, lead_time):
        monkeypatch.setattr(module, "to_device", no_copy)
    monkeypatch.setattr(normalize, "median", normalize._nanmedian)  # that of a GPU
    inputs = [step.batch.ecg, step.batch.observed, step.usable, step.visible, *step.method.parameters()]
    with DeviceReads(inputs):
        step.gradient()

    # the same check finds a read: without the numbers of visible patches, the step reads them
    step.count = None
    with DeviceReads(inputs), pytest.raises(AssertionError, match="reads the device"):
        step.gradient()


def test_on_a_cpu_the_graph_is_skipped_with_the_reason() -> None:
    step = tiny_step()
    bench = SimpleNamespace(
        on_gpu=False,
        device="cpu",
        run=lambda name: SimpleNamespace(method=step.method),
        batch=lambda *_: complete_batch(),
    )
    first, second = gpu_alone.step_graph(bench)
    assert first == {"skipped": "a CUDA graph needs a GPU; here only the step that would be captured was run twice"}
    assert second["eager again"]["gradient, relative"] < 1e-5


# -------------------------------------------------------------------------------------------------------- learning


def test_a_short_rehearsal_trains_one_row_and_a_failing_row_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[str] = []

    def train(row: str, out: Path, cohort: Path, device: str, until: float) -> None:
        rows.append(row)
        write_json(out / "row.json", {"points": []})
        if len(rows) == 2:
            raise ValueError("no")

    monkeypatch.setattr(gpu_learn, "train_row", train)
    with pytest.raises(SystemExit) as end:
        gpu_learn.measure(Part("learn", tmp_path, tmp_path, "cpu", 7.0))
    assert end.value.code == 0
    assert rows == [next(iter(gpu_learn.ROWS))]
    rows.clear()
    with pytest.raises(SystemExit) as end:
        gpu_learn.measure(Part("learn", tmp_path, tmp_path, "cpu", 100.0))
    assert end.value.code == 1
    learned = json.loads((tmp_path / "learn.json").read_text())
    assert list(learned["rows"]) == rows == [*list(gpu_learn.ROWS)[:1], *list(gpu_learn.ROWS)[-1:]]
    assert list(learned["exit codes"].values()) == [0, 1]


@pytest.mark.slow
def test_a_row_without_time_is_trained_scored_and_on_the_page(tmp_path: Path) -> None:
    simulated.simulate(tmp_path / "ecgs", 160, 3)
    write(simulated.read_source(tmp_path / "ecgs"), tmp_path / "cohort")
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as end:
        gpu_learn.measure(Part("learn", out, tmp_path / "cohort", "cpu", 1.0))
    assert end.value.code == 0
    (result,) = json.loads((out / "learn.json").read_text())["rows"].values()
    assert result["points"][0]["zero-shot"]["findings"] > 0
    for split in ("cells", "test cells"):
        assert {cell["how"] for cell in result[split]} == {"zero-shot", "probe 100%"}
    write_json(out / "run.json", {"device": "cpu"})
    gpu_page.write_page(out, "")
    page = (out / "gpu.md").read_text()
    assert page.startswith("# A rehearsal on a CPU")
    assert "| CG-DMER, 128 wide, 4 layers, batches of 128 |" in page
    assert "| fold 10: zero-shot / probe 10 / 100 % |" in page
    assert (out / "gpu.png").exists()


# ------------------------------------------------------------------------------------------------------------ page


def test_the_page_of_some_parts_is_beside_their_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (gpu_page.RESULTS / "gpu.md").read_bytes()
    card = {"device": "Some card", "torch": "2.11", "cuda": "13"}
    peak = {"size": 8192, "bfloat16_tflops": 600.0, "tf32_tflops": 300.0, "copy_gb_per_s": 4000.0}
    row = {"batch": 512, "ms": 500.0, "records_per_s": 1024.0, "peak_gib": 70.0, "share_of_peak": 0.25}
    ladder = {"parameters": 1_000_000, "gflop_a_record": 100.0}
    ladder |= {"rows": [row, {"batch": 1024, "error": "OutOfMemoryError: CUDA out of memory"}]}
    graph = {
        "ptbxl, batch 128": {"eager_ms": 20.0, "graph_ms": 5.0},
        "cg_dmer, batch 64": {"error": "RuntimeError: no"},
    }
    write_json(tmp_path / "batches.json", {"card": card, "peak": peak, gpu_alone.SUBJECTS["batches"][0]: ladder})
    write_json(tmp_path / "graph.json", {"card": card, "peak": peak, gpu_alone.SUBJECTS["graph"][0]: graph})
    write_json(tmp_path / "compile.json", {"card": card, "compile": {"eager_ms": 240.0}})
    codes, seconds = {"graph": 0, "batches": 0, "compile": -9}, {"compile": 115.2}
    write_json(tmp_path / "run.json", {"device": "cuda", "exit codes": codes, "seconds": seconds})

    gpu_page.write_page(tmp_path, "A note.")
    assert capsys.readouterr().out.strip() == str(tmp_path / "gpu.md")
    assert (gpu_page.RESULTS / "gpu.md").read_bytes() == before
    page = (tmp_path / "gpu.md").read_text()
    assert page.startswith("# On a GPU: Some card\n")
    assert "Ended when their time was over: compile (115 s)." in page
    assert "| cg_dmer 500 Hz, larger batches | 512 | 500 | 85.3 | 1,024 | 25.0 % | 70.0 |" in page
    assert "| cg_dmer 500 Hz, larger batches | 1024 | out of memory | - | - | - | - |" in page
    assert "| ptbxl, batch 128 | eager_ms 20, graph_ms 5 |" in page
    assert "At 1,024 recordings/s (batch of 512)" in page
    assert "## Right" not in page

    gpu_page.write_page(tmp_path, "", tmp_path / "other" / "card.md")
    assert (tmp_path / "other" / "card.md").exists()

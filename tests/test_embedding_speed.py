"""How embeddings are computed on a machine: precision, batch size, threads; and that none of them changes a result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SIGNAL, TINY, make_batch, unobserve

from leadwise import run as runs
from leadwise.config import Config, OptimConfig
from leadwise.evaluate import speed
from leadwise.evaluate.embed import embed_batch
from leadwise.nn.normalize import median, sorted_median
from leadwise.run import Run


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, in which nothing was measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    speed.bfloat16_is_faster.cache_clear()
    yield tmp_path / "cache"
    speed.bfloat16_is_faster.cache_clear()


def tiny_run(precision: str = "float32") -> Run:
    config = Config(
        signal=SIGNAL, method={"name": "cg_dmer", **TINY["cg_dmer"]}, optim=OptimConfig(precision=precision)
    )
    return runs.create(config, ["normal ecg."])


@pytest.mark.parametrize("seconds", [{"float32": 1.0, "bfloat16": 0.5}, {"float32": 1.0, "bfloat16": 6.0}])
def test_the_faster_precision_is_measured_once_and_stored(
    cache: Path, monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float]
) -> None:
    measured: list[bool] = []

    def clock(bfloat16: bool) -> float:
        measured.append(bfloat16)
        return seconds["bfloat16" if bfloat16 else "float32"]

    monkeypatch.setattr(speed, "_seconds", clock)
    expected = seconds["bfloat16"] < 1
    assert speed.bfloat16_is_faster() == expected
    speed.bfloat16_is_faster.cache_clear()  # another process
    assert speed.bfloat16_is_faster() == expected
    assert measured == [False, True]
    (key,) = json.loads((cache / "leadwise" / "bfloat16.json").read_text())
    assert torch.__version__ in key

    # only a run that was trained in bfloat16 may be embedded in it
    for precision, enabled in (("bfloat16", expected), ("float32", False)):
        with speed.embedding_precision(tiny_run(precision)):
            assert torch.is_autocast_enabled("cpu") == enabled


def test_a_cache_that_cannot_be_read_or_written_is_no_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = cache / "leadwise" / "bfloat16.json"
    file.parent.mkdir(parents=True)
    for content in ("{", "[]", json.dumps({f"{speed._processor()}, torch {torch.__version__}": {"float32": "x"}})):
        file.write_text(content)
        speed.bfloat16_is_faster.cache_clear()
        assert speed.bfloat16_is_faster() in (True, False)
        assert isinstance(json.loads(file.read_text()), dict)  # replaced
    (cache / "occupied").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "occupied"))  # a file: no folder can be made in it
    speed.bfloat16_is_faster.cache_clear()
    assert speed.bfloat16_is_faster() in (True, False)


def test_both_precisions_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    run, batch = tiny_run("bfloat16"), make_batch(6)
    by_precision = []
    for faster in (True, False):
        monkeypatch.setattr(speed, "bfloat16_is_faster", lambda faster=faster: faster)
        by_precision.append(embed_batch(run, batch, ["backbone"]))
    a, b = by_precision
    assert not np.array_equal(a, b)
    assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.999


def test_the_batch_follows_from_the_activations_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert speed.size_for(60 << 10, cpu) == 64
    assert speed.size_for(626 << 10, cpu) == 6
    assert speed.size_for(1 << 40, cpu) == 1
    run, batch, sizes = tiny_run(), make_batch(40), []
    whole = embed_batch(run, batch, ["backbone"])
    assert all(not module._forward_hooks for module in run.method.modules())
    n_bytes = speed._activation_bytes[run.method]
    assert n_bytes >= 12 * 10 * 4 * 32 * 4 / 4  # feed-forward of the tokens of a part, float32
    embed = run.method.embed_parts
    monkeypatch.setattr(run.method, "embed_parts", lambda some, parts: sizes.append(len(some)) or embed(some, parts))
    monkeypatch.setattr(speed, "_ACTIVATION_BYTES", 16 * n_bytes)
    np.testing.assert_allclose(embed_batch(run, batch, ["backbone"]), whole, rtol=1e-5, atol=1e-6)
    assert sizes == [16, 16, 8]
    again = embed_batch(run, batch, ["backbone"])
    np.testing.assert_array_equal(again, embed_batch(run, batch, ["backbone"]))


def test_rows_of_a_batch_are_those_of_each_field() -> None:
    batch = make_batch(5)
    some = batch.rows(1, 3)
    assert (some.record, some.report) == (batch.record[1:3], batch.report[1:3])
    for name in ("ecg", "observed", "label", "target"):
        assert torch.equal(getattr(some, name), getattr(batch, name)[1:3])
    assert some.statements is None


def test_threads_are_those_of_the_processors_unless_the_user_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert speed.available_processors(lambda: 0.5) == 1
    assert speed.available_processors(lambda: None) >= 1
    monkeypatch.setattr(speed, "available_processors", lambda: 1)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(2)
    try:
        with speed.threads_for_processors():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        with speed.threads_for_processors():
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("n", [400, 401])
def test_the_median_of_a_partition_is_that_of_a_sort(n: int) -> None:
    batch = make_batch(6)
    ecg = batch.ecg[..., :n] if n <= 400 else torch.cat([batch.ecg, batch.ecg[..., :1]], dim=-1)
    for leads, after in (([], None), ([2, 5], None), ([0], 333), (list(range(12)), None)):
        part = unobserve(make_batch(6), leads=leads, after=after)
        observed = torch.nn.functional.pad(part.observed, (0, n - 400), value=True)
        for some in (observed, observed & (torch.arange(6) % 2 == 0)[:, None, None] | (ecg > 9)):
            assert torch.equal(median(ecg, some), sorted_median(ecg, some))

"""Embeddings in parts: joined, they are the bytes of one process; a part that is missing, doubled or foreign is named."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from api_run import write_run
from command_line import invoke
from planted import PlantedCohort, PlantedRun

from leadwise.evaluate import embed, embed_parts, speed
from leadwise.evaluate.embed import EmbedError
from leadwise.evaluate.embed_parts import EmbeddingJob, embed_share, join, parts_folder


@pytest.fixture
def job() -> EmbeddingJob:
    """300 recordings without three of them: five batches, the last of 41."""
    run, cohort = PlantedRun(), PlantedCohort(n_patients=150)
    return EmbeddingJob(run, cohort, np.delete(np.arange(300), [0, 70, 299]))


def all_parts(job: EmbeddingJob, target: Path, n_parts: int) -> list[int]:
    return [embed_share(job, target, (which, n_parts)) for which in range(n_parts, 0, -1)]


@pytest.mark.parametrize("n_parts", [1, 2, 4, 5])
def test_parts_are_whole_batches_and_joined_the_embeddings_of_one_process(
    tmp_path: Path, job: EmbeddingJob, n_parts: int
) -> None:
    whole = embed.embed_cohort(job.run, job.cohort, rows=job.rows)
    sizes = all_parts(job, tmp_path / "e.npz", n_parts)
    assert sum(sizes) == 297
    assert all(size % 64 == 0 for size in sizes[1:])
    np.testing.assert_array_equal(join(job, tmp_path / "e.npz"), whole)
    names = [path.name for path in sorted(parts_folder(tmp_path / "e.npz").iterdir())]
    assert names == [f"part-{k:05d}-of-{n_parts:05d}.npz" for k in range(1, n_parts + 1)]


def test_the_command_line_writes_the_same_bytes(
    cohort_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each form of the file."""
    monkeypatch.setattr(speed, "LARGEST_BATCH", 8)
    run = write_run(tmp_path / "run", cohort_folder)
    for name in ("e.npz", "e.csv"):
        assert invoke("embed", run, cohort_folder, "-o", tmp_path / "whole" / name).returncode == 0
        shutil.rmtree(run / "embeddings")
        for which in (2, 1):
            done = invoke("embed", run, cohort_folder, "-o", tmp_path / "parts" / name, "--shard", f"{which}/2")
            assert done.returncode == 0, done.stderr
        assert not (run / "embeddings").exists()  # parts do not share a cache file
        joined = invoke("embed", run, cohort_folder, "-o", tmp_path / "parts" / name, "--join")
        assert joined.returncode == 0, joined.stderr
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_wrong_options_are_refused(cohort_folder: Path, tmp_path: Path) -> None:
    run, words = write_run(tmp_path / "run", cohort_folder), ("-o", tmp_path / "e.npz")
    for options, message in (
        (("--shard", "0/2"), "there is no part 0/2; use 1/2 to 2/2"),
        (("--shard", "2/9"), "9 parts of 60 recordings: a part has at least one batch of 64; use at most 1 parts"),
        (("--shard", "two"), "--shard two: it must be i/n"),
        (("--shard", "1/2", "--join"), "give --shard or --join"),
        (("--join",), r"e\.npz\.parts: no part yet; embed each with the same command and --shard i/n"),
    ):
        done = invoke("embed", run, cohort_folder, *words, *options)
        assert done.returncode != 0
        assert re.search(message, " ".join(done.stderr.replace("│", " ").split())), done.stderr
    assert not (tmp_path / "e.npz").exists()


def test_an_interrupted_part_goes_on(tmp_path: Path, job: EmbeddingJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "_ROWS_PER_PIECE", 64)
    target, run = tmp_path / "e.npz", job.run

    def interrupt(name: str, done: int, total: int) -> None:
        if done == 128:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_share(job, target, (2, 2), interrupt)
    n_before = run.method.n_embedded
    with pytest.raises(EmbedError, match=r"no part yet"):
        join(job, target)  # what is half embedded is no part
    n_rows = embed_share(job, target, (2, 2))
    assert run.method.n_embedded - n_before == n_rows - 64
    embed_share(job, target, (2, 2))  # finished: not computed again
    assert run.method.n_embedded - n_before == n_rows - 64
    embed_share(job, target, (1, 2))
    np.testing.assert_array_equal(join(job, target), embed.embed_cohort(PlantedRun(), job.cohort, rows=job.rows))


def test_parts_that_do_not_belong_together_are_named(tmp_path: Path, job: EmbeddingJob) -> None:
    target = tmp_path / "e.npz"
    folder = parts_folder(target)
    all_parts(job, target, 4)
    second = folder / "part-00002-of-00004.npz"
    content = second.read_bytes()

    # missing, there twice, cut off, of another division
    second.unlink()
    with pytest.raises(EmbedError, match=r"1 of 4 parts missing \(2/4\); embed each .* --shard 2/4"):
        join(job, target)
    for name in ("part-00002-of-00004.npz", "copy of 2.npz"):
        (folder / name).write_bytes(content)
    with pytest.raises(EmbedError, match=r"part 2/4 is there twice, as copy of 2\.npz and part-00002-of-00004\.npz"):
        join(job, target)
    (folder / "copy of 2.npz").unlink()
    second.write_bytes(content[: len(content) // 2])
    with pytest.raises(EmbedError, match=r"part-00002-of-00004\.npz is damaged"):
        join(job, target)
    second.write_bytes(content)
    embed_share(job, target, (1, 2))
    with pytest.raises(EmbedError, match=r"has parts of 2 and of 4 \(part-00001-of-00002\.npz, part-"):
        join(job, target)
    (folder / "part-00001-of-00002.npz").unlink()

    # the part of another run; other rows under the right name
    other = PlantedRun()
    other.fingerprint = "other"
    with pytest.raises(
        EmbedError, match=r"part-00001-of-00004\.npz is a part of other embeddings \(it has another run\)"
    ):
        join(EmbeddingJob(other, job.cohort, job.rows), target)
    with np.load(second) as arrays:
        shifted = {name: arrays[name] for name in arrays.files}
    np.savez(second, **shifted | {"row": shifted["row"] + 1})
    with pytest.raises(EmbedError, match=r"part-00002-of-00004\.npz does not have the recordings of part 2/4"):
        join(job, target)
    second.write_bytes(content)
    assert len(join(job, target)) == 297


def test_parts_run_side_by_side(tmp_path: Path, job: EmbeddingJob) -> None:
    """The lines of docs/scale.md for a pool of workers; Dask where it is installed."""

    def one(which: int) -> int:
        return embed_parts.embed_share(job, tmp_path / "e.npz", (which, 5))

    with ThreadPoolExecutor(1) as pool:
        assert sum(pool.map(one, range(1, 4))) == 3 * 64
    dask = pytest.importorskip("dask", reason="needs the extra cluster")
    sizes = dask.compute(*[dask.delayed(one)(which) for which in (4, 5)], scheduler="synchronous")
    assert sizes == (64, 41)
    assert len(join(job, tmp_path / "e.npz")) == 297

"""Small hearts for tests: batches that look like ECGs, a cohort on disk, and the smallest useful settings."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads only wait for each other
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch

from leadwise.batch import LEADS, Batch, Signal
from leadwise.methods.catalogue import find_method, method_names

REPORTS = (
    "normal sinus rhythm. normal ecg.",
    "atrial fibrillation. abnormal ecg.",
    "sinus bradycardia. left bundle branch block. abnormal ecg.",
    "sinus tachycardia. inferior infarct, age undetermined. abnormal ecg.",
)
SIGNAL = Signal(rate_hz=100, duration_s=4.0)


def tiny_settings() -> dict[str, dict]:
    """The smallest settings of every method (TINY in its file) by case: "merl", or "merl vit" for a variant."""
    return {
        f"{name} {variant}".strip(): settings
        for name in method_names()
        for variant, settings in find_method(name).tiny.items()
    }


TINY = tiny_settings()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Twenty steps of a method's variants, such as "merl vit", are slow; those of its main settings always run."""
    for item in items:
        if item.name.startswith("test_twenty_steps_lower_the_sum[") and " " in item.name:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_volumes(kind: torch.Tensor, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Discs in (B, 2, 3, 12, 10) whose size goes with `kind` (B,), smaller in systole; which exist; and two phenotypes.

    The second record has no systole, the third none of the second phenotype.
    """
    row, column = torch.meshgrid(torch.arange(12.0), torch.arange(10.0), indexing="ij")
    away = ((row - 6).square() + (column - 5).square()).sqrt()
    size = 2 + 0.7 * kind[:, None] + 0.3 * torch.rand(len(kind), 1, generator=g) - torch.tensor([0.0, 1.0])  # (B, 2)
    volume = (away < size[..., None, None, None]).float().expand(-1, -1, 3, -1, -1)
    volume = volume + 0.05 * torch.rand(volume.shape, generator=g)
    has_volume = torch.ones(len(kind), 2, dtype=torch.bool)
    has_volume[1:2, 1] = False
    phenotype = 10 * size.square()
    phenotype[2:3, 1] = torch.nan
    return volume * has_volume[..., None, None, None], has_volume, phenotype


def make_batch(n: int = 8, seed: int = 0, signal: Signal = SIGNAL) -> Batch:
    """Records whose beat rate goes with their report, a label for each kind of report, and images of that kind."""
    g = torch.Generator().manual_seed(seed)
    kind = torch.arange(n) % len(REPORTS)
    t = torch.arange(signal.n_samples) / signal.rate_hz
    rate = 0.8 + 0.7 * kind[:, None, None] + 0.05 * torch.rand(n, 1, 1, generator=g)
    phase = torch.rand(n, 1, 1, generator=g)
    size = 0.3 + torch.rand(n, len(signal.leads), 1, generator=g)
    beat = ((t * rate + phase) % 1.0 - 0.5) / 0.03
    ecg = size * torch.exp(-beat.square() / 2) + 0.02 * torch.randn(n, len(signal.leads), signal.n_samples, generator=g)
    names = tuple(f"r{seed}-{i}" for i in range(n))
    report = tuple(f"{REPORTS[k]} study {i}." if i % 3 else REPORTS[k] for i, k in enumerate(kind.tolist()))
    label = torch.nn.functional.one_hot(kind, len(REPORTS)).float()  # (B, K)
    target = torch.randn(len(REPORTS), 24, generator=torch.Generator().manual_seed(0))[kind]  # of a teacher
    target[:, :16] = torch.nn.functional.normalize(target[:, :16], dim=1)
    volume, has_volume, phenotype = make_volumes(kind, g)
    person = torch.stack([40.0 + 10 * kind, (kind % 2).float()], dim=1)
    person[2:3] = torch.nan
    return Batch(
        ecg, torch.ones_like(ecg, dtype=torch.bool), names, names, report, label, target=target,
        volume=volume, has_volume=has_volume, phenotype=phenotype, person=person,
    )  # fmt: skip


def unobserve(batch: Batch, leads: list[int] | None = None, after: int | None = None) -> Batch:
    """The batch with whole leads, or everything after a sample, not observed."""
    observed = batch.observed.clone()
    observed[:, leads or []] = False
    if after is not None:
        observed[..., after:] = False
    return dataclasses.replace(batch, ecg=batch.ecg * observed, observed=observed)


def close(a: float, b: float, rel: float = 1e-5) -> bool:
    return math.isclose(a, b, rel_tol=rel, abs_tol=1e-7)


@pytest.fixture(scope="session")
def cohort_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared cohort of 60 recordings of 30 patients with a task 'own' of three classes."""
    from leadwise.data.cohort.prepare import write
    from leadwise.data.sources import folder

    home = tmp_path_factory.mktemp("own")
    lines = ["path,patient,report,split,label.normal,label.afib,label.mi"]
    for i, split in enumerate(["train"] * 40 + ["val"] * 10 + ["test"] * 10):
        ecg = make_batch(4, seed=i).ecg[i % 4].numpy()
        np.save(home / f"ecg{i:02d}.npy", ecg)
        lines.append(
            f'ecg{i:02d}.npy,p{i // 2:02d},"{REPORTS[i % 4]}",{split},{i % 4 == 0:d},{i % 4 == 1:d},{i % 4 == 3:d}'
        )
    (home / "ecgs.csv").write_text("\n".join(lines) + "\n")
    source = folder.read_source(home / "ecgs.csv", folder.Options(LEADS, 100, "mV"))
    out = tmp_path_factory.mktemp("cohorts") / "own"
    write(source, out)
    return out


def config_table(cohort: Path, **optim: object) -> dict:
    """The settings of a tiny run on a cohort."""
    return {
        "signal": {"rate_hz": 100, "duration_s": 4.0},
        "data": {"cohort": str(cohort)},
        "method": {"name": "cg_dmer", **TINY["cg_dmer"]},
        "optim": {"steps": 6, "batch_size": 8, "lr": 1e-3, **optim},
        "log": {"every": 1, "validate_every": 3, "save_every": 5},
    }

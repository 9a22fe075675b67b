"""Small hearts for tests: batches that look like ECGs, a cohort on disk, and the smallest useful settings."""

from __future__ import annotations

import math
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads only wait for each other
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch

from leadwise.batch import LEADS, Batch, Signal

REPORTS = (
    "normal sinus rhythm. normal ecg.",
    "atrial fibrillation. abnormal ecg.",
    "sinus bradycardia. left bundle branch block. abnormal ecg.",
    "sinus tachycardia. inferior infarct, age undetermined. abnormal ecg.",
)
SIGNAL = Signal(rate_hz=100, duration_s=4.0)
TINY = {  # a method, and after a space what of it
    "cg_dmer": {
        "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2,
        "text_width": 32, "text_depth": 1, "text_heads": 2, "text_decoder_depth": 1, "vocab_size": 400, "max_tokens": 48,
        "shared_width": 16,
    },
    "merl": {
        "resnet_width": 8, "text_width": 32, "text_depth": 1, "text_heads": 2, "vocab_size": 400, "max_tokens": 48,
        "shared_width": 16,
    },
    "merl vit": {
        "encoder": "vit", "n_patches": 10, "vit_width": 32, "vit_depth": 2, "vit_heads": 4, "text_width": 32,
        "text_depth": 1, "text_heads": 2, "vocab_size": 400, "max_tokens": 48, "shared_width": 16,
    },
    "simclr": {"resnet_width": 8, "hidden_width": 32, "out_width": 16},
    "simclr vit": {"encoder": "vit", "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "hidden_width": 32, "out_width": 16},
    "simclr lead_time": {
        "encoder": "lead_time", "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "hidden_width": 32, "out_width": 16,
    },
    "simclr lead_time_conv": {
        "encoder": "lead_time_conv", "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "hidden_width": 32, "out_width": 16,
    },
    "ts_tcc": {"resnet_width": 8, "n_future": 4, "context_width": 16, "context_depth": 1, "hidden_width": 32, "out_width": 16},
    "ts_tcc vit": {
        "encoder": "vit", "n_patches": 10, "width": 32, "depth": 1, "heads": 4, "n_future": 3, "context_width": 16,
        "context_depth": 1, "hidden_width": 32, "out_width": 16,
    },
    "ts_tcc paper": {
        "paper_encoder": True, "n_future": 4, "context_width": 16, "context_depth": 1, "hidden_width": 32, "out_width": 16,
    },
    "clocs": {"resnet_width": 8},
    "clocs lead_time": {
        "encoder": "lead_time", "n_patches": 10, "width": 32, "depth": 1, "heads": 4, "project": True, "embedding_width": 16,
    },
    "clocs cmlc": {"kind": "cmlc", "paper_encoder": True, "embedding_width": 16},
    "clocs cmsmlc": {"kind": "cmsmlc", "encoder": "vit", "n_patches": 10, "width": 32, "depth": 1, "heads": 4},
    "c_melt": {
        "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "text_width": 32, "text_depth": 1, "text_heads": 2,
        "vocab_size": 400, "max_tokens": 48, "fusion_width": 16, "fusion_depth": 2, "fusion_heads": 2, "mem_layer": 1,
        "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "shared_width": 16,
    },
    "c_melt learnable": {
        "n_patches": 10, "width": 32, "depth": 1, "heads": 4, "pooling": "mean", "text_width": 32, "text_depth": 1,
        "text_heads": 2, "text_pooling": "mean", "vocab_size": 400, "max_tokens": 48, "fusion_width": 16, "fusion_depth": 1,
        "fusion_heads": 2, "mem_layer": 0, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "shared_width": 16,
        "ets": "learnable", "same_report": "ignore",
    },
    "astcl": {"resnet_width": 8, "hidden_width": 32, "out_width": 16, "predictor_width": 8, "discriminator_width": 16},
    "astcl lead_time": {
        "encoder": "lead_time", "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "hidden_width": 32, "out_width": 16,
        "predictor_width": 8, "discriminator_width": 16, "n_ahead": 2,
    },
    "astcl vit": {
        "encoder": "vit", "n_patches": 10, "width": 32, "depth": 1, "heads": 4, "hidden_width": 32, "out_width": 16,
        "predictor_width": 8, "discriminator_width": 16, "n_ahead": 2,
    },
    "st_mem": {
        "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2,
    },
    "st_mem time": {
        "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2,
        "masking": "time",
    },
    "st_mem lead": {
        "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2,
        "masking": "lead",
    },
    "crt": {"n_patches": 20, "patch_encoder": "linear", "width": 32, "depth": 2, "heads": 4, "decoder_depth": 1},
    "crt resnet": {"n_patches": 20, "width": 32, "depth": 1, "heads": 4, "decoder_depth": 1},
    "byol": {"resnet_width": 8, "hidden_width": 32, "out_width": 16},
    "byol lead_time": {
        "encoder": "lead_time", "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "hidden_width": 32, "out_width": 16,
    },
    "barlow_twins": {"resnet_width": 8, "hidden_width": 32, "out_width": 16},
    "barlow_twins vit": {
        "encoder": "vit", "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "hidden_width": 32, "out_width": 16,
    },
    "moco_v3": {"encoder": "resnet", "resnet_width": 8, "hidden_width": 32, "out_width": 16},
    "moco_v3 vit": {"n_patches": 10, "width": 32, "depth": 2, "heads": 4, "hidden_width": 32, "out_width": 16},
    "moco_v3 lead_time_conv": {
        "encoder": "lead_time_conv", "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "hidden_width": 32, "out_width": 16,
    },
    "simsiam": {"resnet_width": 8, "hidden_width": 32, "out_width": 32, "waist_width": 8},
    "simsiam vit": {
        "encoder": "vit", "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "hidden_width": 32, "out_width": 32,
        "waist_width": 8,
    },
    "etp": {
        "resnet_width": 8, "text_width": 32, "text_depth": 1, "text_heads": 2, "vocab_size": 400, "max_tokens": 48,
        "shared_width": 16,
    },
    "merit": {
        "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2,
        "text_width": 32, "text_depth": 1, "text_heads": 2, "vocab_size": 400, "max_tokens": 48, "shared_width": 16,
    },
    "melp": {
        "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "beat_queries": 3, "token_queries": 4, "query_heads": 2,
        "decoder_depth": 1, "decoder_heads": 2, "text_width": 32, "text_depth": 1, "text_heads": 2, "vocab_size": 400,
        "max_tokens": 48, "shared_width": 16, "local_group": 8,
    },
    "melp resnet": {
        "encoder": "resnet", "resnet_width": 8, "beat_queries": 3, "token_queries": 4, "query_heads": 2,
        "decoder_depth": 1, "decoder_heads": 2, "text_width": 32, "text_depth": 1, "text_heads": 2, "vocab_size": 400,
        "max_tokens": 48, "shared_width": 16, "local_group": 3,
    },
    "supervised": {"resnet_width": 8, "classes": ("normal", "afib", "brady", "tachy")},
    "supervised lead_time": {
        "encoder": "lead_time", "n_patches": 10, "width": 32, "depth": 2, "heads": 4,
        "classes": ("normal", "afib", "brady", "tachy"),
    },
}  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_batch(n: int = 8, seed: int = 0, signal: Signal = SIGNAL) -> Batch:
    """Records whose beat rate goes with their report, and a label for each kind of report."""
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
    return Batch(ecg, torch.ones_like(ecg, dtype=torch.bool), names, names, report, label)


def unobserve(batch: Batch, leads: list[int] | None = None, after: int | None = None) -> Batch:
    """The batch with whole leads, or everything after a sample, not observed."""
    observed = batch.observed.clone()
    observed[:, leads or []] = False
    if after is not None:
        observed[..., after:] = False
    return Batch(batch.ecg * observed, observed, batch.record, batch.patient, batch.report, batch.label)


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

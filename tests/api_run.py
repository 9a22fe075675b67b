"""For tests of the API: a tiny run in a folder, and ECG files that it can read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from conftest import REPORTS, TINY, config_table, make_batch

from leadwise import run as runs
from leadwise.batch import LEADS
from leadwise.config import Config, typed


def write_run(folder: Path, cohort: Path = Path("unused"), seed: int = 0) -> Path:
    """Write an untrained run of CG-DMER, which reads 4 s at 100 Hz, and return its folder."""
    table = config_table(cohort, seed=seed)
    config = typed(Config, {**table, "method": {"name": "cg_dmer", **TINY["cg_dmer"]}})
    provenance = {"cohort": "own", "source": "folder", "fingerprint": "0" * 16}
    runs.create(config, REPORTS * 20, folder, provenance).save_weights()
    return folder


def write_csv_files(folder: Path, n: int = 5) -> tuple[list[Path], np.ndarray]:
    """Write `n` ECGs as CSV files in mV with named columns at 100 Hz; return their paths and the arrays (n, L, T)."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = make_batch(n, seed=3).ecg.numpy()
    paths = [folder / f"e{i}.csv" for i in range(n)]
    for path, ecg in zip(paths, arrays):
        pd.DataFrame(ecg.T, columns=list(LEADS)).to_csv(path, index=False)
    return paths, arrays

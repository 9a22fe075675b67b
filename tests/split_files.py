"""For tests: small split files in the layout of the published ones."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.sources.ptbxl import PTBXL

NAMES = tuple(PTBXL["super"])


def ptbxl(folder: Path, orders: dict[str, tuple[str, ...]] | None = None, **changes: dict[str, object]) -> Path:
    """Files of the task super with one record a class in each split; record and class go by the same number."""
    home = folder / "ptbxl" / "super_class"
    home.mkdir(parents=True, exist_ok=True)
    for part, split in enumerate(("train", "val", "test")):
        lines = []
        for number, name in enumerate(NAMES):
            ecg = 100 * part + number + 1
            line = {
                "ecg_id": ecg, "patient_id": float(ecg), "strat_fold": 1, "filename_lr": f"records100/00000/{ecg:05d}_lr",
                "filename_hr": f"records500/00000/{ecg:05d}_hr", "super_class": f"['{name}']",
            }  # fmt: skip
            lines.append(line | {c: int(c == name) for c in (orders or {}).get(split, NAMES)})
        lines[0] |= changes.get(split, {})
        pd.DataFrame(lines).to_csv(home / f"ptbxl_super_class_{split}.csv", index=False)
    return folder


def csn(folder: Path, statements: dict[str, list[str]], classes: tuple[str, ...]) -> Path:
    (folder / "chapman").mkdir(parents=True)
    number = 0
    for split, statements_of in statements.items():
        lines = []
        for text in statements_of:
            number += 1
            line = {"ecg_path": f"/chapman/WFDBRecords/01/010/JS{number:05d}.mat", "age": 12, "diagnose": text}
            lines.append(line | {name: int(name in text) for name in classes})
        pd.DataFrame(lines).to_csv(folder / "chapman" / f"chapman_{split}.csv", index=False)
    return folder


def own_splits(folder: Path, cohort: Cohort) -> Path:
    """CSN files that list the records of a cohort under new names of that form, the last of the cohort first."""
    order = list(cohort.records)[::-1]
    statements_of = {
        "train": ["normal", "mi,afib"] * 15,
        "val": ["afib", "mi"] * 2,
        "test": ["mi,afib", "normal", "afib"] * 2,
    }
    csn(folder, statements_of, cohort.tasks["own"])
    names = iter(order)
    for split in statements_of:
        path = folder / "chapman" / f"chapman_{split}.csv"
        table = pd.read_csv(path)
        table["ecg_path"] = [f"/x/{next(names)}.mat" for _ in range(len(table))]
        table.to_csv(path, index=False)
    return folder


def named(folder: Path) -> Cohort:
    """A cohort's recordings under names of CSN's form."""
    cohort = Cohort.open(folder)
    cohort.records.column = pa.array([f"JS{row:05d}" for row in range(len(cohort))])
    return cohort

"""The numbers printed in CG-DMER's paper (arXiv 2602.21154, Tables 1-3 and Figure 2), macro AUROC x 100.

They are printed beside ours and never replace them. The paper's labels, windows and choices differ from the strict protocol.
Some cells are doubtful: ST-MEM's CSN cells at 10 and 100 % equal its PTB-XL super cells, and Random Init (CNN) has the same
value for sub and form at 1 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

TASKS = {  # (source, task) of a cohort -> the paper's name of the task, in the paper's order
    ("ptbxl", "super"): "PTBXL-Super",
    ("ptbxl", "sub"): "PTBXL-Sub",
    ("ptbxl", "form"): "PTBXL-Form",
    ("ptbxl", "rhythm"): "PTBXL-Rhythm",
    ("cpsc2018", "cpsc2018"): "CPSC2018",
    ("csn", "csn"): "CSN",
}
NOT_IN_PAPER = {("csn", "csn_full")}  # scored as well: the paper's CSN classes do not contain sinus bradycardia
FRACTIONS = (0.01, 0.1, 1.0)

# 1, 10, 100 % of each task in turn
_TABLE1 = """
Random Init (CNN): 70.45 77.09 81.61 55.82 67.60 77.91 55.82 62.54 73.00 46.26 62.36 79.29 54.96 71.47 78.33 47.22 63.17 73.13
Random Init (Trans): 70.31 75.27 77.54 53.36 67.56 77.43 53.47 61.84 72.08 45.36 60.33 77.26 52.93 68.00 77.44 45.55 60.23 71.37
SimCLR: 63.41 69.77 73.53 60.84 68.27 73.39 54.98 56.97 62.52 51.41 69.44 77.73 59.78 68.52 76.54 59.02 67.26 73.20
BYOL: 71.70 73.83 76.45 57.16 67.44 71.64 48.73 61.63 70.82 41.99 74.40 77.17 60.88 74.42 78.75 54.20 71.92 74.69
BarlowTwins: 72.87 75.96 78.41 62.57 70.84 74.34 52.12 60.39 66.14 50.12 73.54 77.62 55.12 72.75 78.39 60.72 71.64 77.43
MoCo-v3: 73.19 76.65 78.26 55.88 69.21 76.69 50.32 63.71 71.31 51.38 71.66 74.33 62.13 76.74 75.29 54.61 74.26 77.68
SimSiam: 73.15 72.70 75.63 62.52 69.31 76.38 55.16 62.91 71.31 49.30 69.47 75.92 58.35 72.89 75.31 58.25 68.61 77.41
TS-TCC: 70.73 75.88 78.91 53.54 66.98 77.87 48.04 61.79 71.18 43.34 69.48 78.23 57.07 73.62 78.72 55.26 68.48 76.79
CLOCS: 68.94 73.36 76.31 57.94 72.55 76.24 51.97 57.96 72.65 47.19 71.88 76.31 59.59 77.78 77.49 54.38 71.93 76.13
ASTCL: 72.51 77.31 81.02 61.86 68.77 76.51 44.14 60.93 66.99 52.38 71.98 76.05 57.90 77.01 79.51 56.40 70.87 75.79
CRT: 69.68 78.24 77.24 61.98 70.82 78.67 46.41 59.49 68.73 47.44 73.52 74.41 58.01 76.43 82.03 56.21 73.70 78.80
ST-MEM: 61.12 66.87 71.36 54.12 57.86 63.59 55.71 59.99 66.07 51.12 65.44 74.85 56.69 63.32 70.39 59.77 66.87 71.36
ETP: 77.25 83.06 83.90 60.34 76.66 82.07 56.60 68.75 76.13 51.88 77.32 81.00 67.67 82.40 87.97 62.05 77.30 84.44
MERL (ResNet): 82.39 86.27 88.67 64.90 80.56 84.72 58.26 72.43 79.65 53.33 82.88 88.34 70.33 85.32 90.57 66.60 82.74 87.95
MERL (ViT): 78.64 83.90 85.27 61.41 77.55 82.98 56.32 69.11 77.66 52.16 78.07 81.83 69.25 82.82 89.44 63.66 78.67 84.87
C-MELT: 83.54 87.69 88.22 67.60 80.37 83.96 59.55 71.86 80.54 62.88 83.00 88.76 70.50 86.00 90.72 66.01 82.11 91.94
CG-DMER: 84.22 88.18 90.31 69.60 81.58 87.67 60.25 73.95 81.01 64.47 84.69 90.76 71.70 86.43 91.32 70.70 83.21 93.55
"""

# each task in turn
_TABLE2 = """
ETP: 49.63 62.25 57.44 66.56 67.13 60.22
MERL (ResNet): 74.20 75.70 65.90 78.50 82.80 74.40
MERL (ViT): 73.43 72.62 62.75 75.90 79.21 72.37
C-MELT: 75.12 74.38 65.55 79.87 81.61 74.43
CG-DMER: 75.65 74.62 66.44 80.77 82.93 75.59
"""

TABLE3 = {  # variant -> (linear probe at 1 %, zero-shot), means over the six tasks
    "L_cons": (64.43, 73.36),
    "+ L_e_rec": (67.39, 74.87),
    "+ L_t_rec": (67.82, 75.00),
    "+ L_orth": (69.31, 75.77),
    "+ L_siglip": (70.15, 76.00),
}

N_PATCHES = (25, 50, 100, 200)  # Figure 2a; the paper names 25, 100 and 200 in its text
BEST_N_PATCHES = 100
MASK_RATIOS = (0.25, 0.5, 0.6, 0.75, 0.9)  # Figure 2b; the paper prints no values but the optimum
BEST_MASK_RATIO = 0.75

FIGURE3 = ("simclr", "st_mem", "merl", "cg_dmer")  # the methods in the paper's Figure 3

PRETRAINING = "MIMIC-IV-ECG, 779,891 pairs, 50 passes in batches of 512 on each of eight GPUs"
N_RECORDINGS_TRAINED = 50 * 779_891  # recordings processed in the paper's training, repeats included

ROW_NAMES = {  # (method, value of a setting in DEFAULT_SETTINGS) -> row name in the paper, which has no supervised row
    ("cg_dmer", ""): "CG-DMER",
    ("merl", "resnet"): "MERL (ResNet)",
    ("merl", "vit"): "MERL (ViT)",
    ("simclr", ""): "SimCLR",
    ("byol", ""): "BYOL",
    ("barlow_twins", ""): "BarlowTwins",
    ("moco_v3", ""): "MoCo-v3",
    ("simsiam", ""): "SimSiam",
    ("ts_tcc", ""): "TS-TCC",
    ("clocs", ""): "CLOCS",
    ("astcl", ""): "ASTCL",
    ("crt", ""): "CRT",
    ("st_mem", ""): "ST-MEM",
    ("st_mem", "time"): "MTAE",  # the one-axis variants of ST-MEM's paper; CG-DMER's tables have no row for them
    ("st_mem", "lead"): "MLAE",
    ("etp", ""): "ETP",
    ("c_melt", ""): "C-MELT",
    ("supervised", "resnet"): "Supervised (CNN)",
    ("supervised", "vit"): "Supervised (Trans)",
    ("merit", ""): "MERIT-style",  # this and the following have no row in the paper
    ("melp", ""): "MELP",
    ("simclr", "s4"): "SimCLR (S4)",
    ("merl", "s4"): "MERL (S4)",
    ("ecg_cpc", ""): "ECG-CPC",
    ("ecg_jepa", ""): "ECG-JEPA",
}

DEFAULT_SETTINGS = {"encoder": "resnet", "kind": "cmsc", "masking": "uniform"}
"""The settings that distinguish the rows of one method, with their values in the paper's row."""


def row_name(method: Mapping[str, object]) -> str:
    """Return the paper's name of a method's row, or the method's own name if the paper has no row.

    Args:
        method: the [method] table; values of distinguishing settings other than the default are appended to the name.
    """
    name = str(method.get("name"))
    settings = {setting: str(method[setting]) for setting in DEFAULT_SETTINGS if setting in method}
    for value in settings.values():
        if (name, value) in ROW_NAMES:
            return ROW_NAMES[name, value]
    row = ROW_NAMES.get((name, ""), name)
    changed = [value for setting, value in settings.items() if value != DEFAULT_SETTINGS[setting]]
    return f"{row} ({', '.join(changed)})" if changed else row


def scored_tasks(source: str, tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Return the tasks of a data set to score: the paper's and those in `NOT_IN_PAPER`; all tasks if there is none."""
    return tuple(task for task in tasks if (source, task) in TASKS or (source, task) in NOT_IN_PAPER) or tasks


def counts_in_mean(source: str, task: str) -> bool:
    """Return whether a task enters means over tasks: all do, except additional tasks on the paper's data sets."""
    return (source, task) not in NOT_IN_PAPER


def mean_of_cg_dmer(how: str, tasks: Sequence[tuple[str, str]]) -> float | None:
    """Return the paper's mean of CG-DMER over these tasks; None if one of them is not in the paper.

    Args:
        how: "zero-shot", else the linear probe on 1 % of the labels.
        tasks: (source, task) each.
    """
    row = ROW_NAMES["cg_dmer", ""]
    cells = [zero_shot(row, *key) if how == "zero-shot" else linear_probe(row, *key, 0.01) for key in tasks]
    printed = [cell for cell in cells if cell is not None]
    return sum(printed) / len(printed) if printed and len(printed) == len(cells) else None


def table3(label: str) -> tuple[float | None, float | None]:
    """Return a row of Table 3, linear probe at 1 % and zero-shot; None for both if the paper has no such row."""
    return TABLE3.get(label, (None, None))


def linear_probe(row: str, source: str, task: str, fraction: float) -> float | None:
    """Return a cell of Table 1, or None if the table has no such cell."""
    column, printed = _task_number(source, task), _parse(_TABLE1)
    if row not in printed or column is None or fraction not in FRACTIONS:
        return None
    return printed[row][3 * column + FRACTIONS.index(fraction)]


def zero_shot(row: str, source: str, task: str) -> float | None:
    """Return a cell of Table 2, or None if the table has no such cell."""
    column, printed = _task_number(source, task), _parse(_TABLE2)
    return None if row not in printed or column is None else printed[row][column]


@cache
def _parse(text: str) -> dict[str, list[float]]:
    table = dict(line.split(": ") for line in text.strip().splitlines())
    return {row: [float(cell) for cell in cells.split()] for row, cells in table.items()}


def _task_number(source: str, task: str) -> int | None:
    """Return the position of a task in the paper's tables, from 0; None if it is not in the paper."""
    keys = list(TASKS)
    return keys.index((source, task)) if (source, task) in keys else None

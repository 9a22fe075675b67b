"""Table 3's question in small: the objective without each of its four terms, on the demo's simulated cohort.

    python benchmarks/table3_simulated.py demo/cohort --steps 400

Same data, batch, steps and seed for each variant; the simulated hearts say how the terms work together, not how well the
method does on patients.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path

from machine import describe, table, write

from leadwise.config import DataConfig
from leadwise.data.cohort.cohort import Cohort
from leadwise.demo import CONFIG, TASK
from leadwise.evaluate.probe import run_probe
from leadwise.evaluate.zeroshot import run_zeroshot
from leadwise.training import loop as training

BASE = {**CONFIG.method, "w_siglip": 1.0}  # the demo weighs Eq. 6 down, because of what this table found
_CONTRAST_ALONE: dict[str, object] = {"w_e_rec": 0.0, "w_t_rec": 0.0, "w_orth": 0.0, "w_siglip": 0.0}
VARIANTS: dict[str, dict[str, object]] = {
    "all terms": {},
    "all terms, another seed": {},
    "Eq. 3 in place (text_task = mlm)": {"text_task": "mlm"},
    "equal reports are negatives": {"same_report": "negative"},
    "without L_e_rec (Eq. 2)": {"w_e_rec": 0.0},
    "without L_t_rec (Eq. 3)": {"w_t_rec": 0.0},
    "without L_orth (Eq. 5)": {"w_orth": 0.0},
    "without L_siglip (Eq. 6)": {"w_siglip": 0.0},
    "L_cons alone": _CONTRAST_ALONE,
    "L_cons alone, whole ECGs": {**_CONTRAST_ALONE, "contrast_view": "full"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--steps", type=int, default=CONFIG.optim.steps)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    cohort, rows = Cohort.open(args.cohort), []
    for name, weights in VARIANTS.items():
        config = dataclasses.replace(
            CONFIG,
            data=DataConfig(cohort=str(args.cohort)),
            method={**BASE, **weights},
            optim=dataclasses.replace(CONFIG.optim, steps=args.steps, seed=args.seed + name.endswith("another seed")),
        )
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            run = training.pretrain(config, Path(folder) / "run")
            seconds = time.perf_counter() - began
            probe, zero = run_probe(run, cohort, TASK, fractions=(0.01, 1.0)), run_zeroshot(run, cohort, TASK)
        row: dict[str, object] = {"objective": name, "zero-shot": f"{100 * zero.trained.macro:.1f}"}
        row |= {f"probe {f:.0%}": f"{100 * r['trained'].score.macro:.1f}" for f, r in probe.results.items()}
        row["seconds"] = round(seconds)
        rows.append(row)
        print(row, flush=True)
        if name == "all terms":
            untrained: dict[str, object] = {"objective": "untrained", "zero-shot": f"{100 * zero.untrained.macro:.1f}"}
            untrained |= {f"probe {f:.0%}": f"{100 * r['untrained'].score.macro:.1f}" for f, r in probe.results.items()}
            untrained["seconds"] = None
    text = f"""# Terms of the objective, left out one by one, on simulated ECGs

Command: `python {" ".join(sys.argv)}`. {describe()}.
{len(cohort)} simulated ECGs; {args.steps} steps of {CONFIG.optim.batch_size}, seed {args.seed}, one run each. Macro AUROC x 100
over {len(cohort.tasks[TASK])} findings on simulated patients of the test split. The row with another seed shows the noise.
All terms: weights of 1, L_t_rec {BASE["w_t_rec"]}. Only the row of whole ECGs contrasts them without masks; the others hide
{BASE["mask_ratio"]:.0%} of each lead's patches, also where nothing is reconstructed.

{table([*rows, untrained])}
"""
    print(write("table3_simulated", text))


if __name__ == "__main__":
    main()

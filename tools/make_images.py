"""Draw the pictures of README and documentation from a trained run and its cohort of simulated ECGs.

    leadwise demo -o demo
    python tools/make_images.py demo/run demo/cohort [docs/images]

    reconstruction.png   a held-out ECG on millimetre paper, hidden patches shaded, their reconstruction drawn over them
    embeddings.png       t-SNE of the embeddings of the test split, coloured by finding

The ECGs are simulated, so no patient's data is in the pictures.
"""

from __future__ import annotations

import sys
from pathlib import Path

from leadwise.data.cohort.cohort import Cohort
from leadwise.demo import TASK
from leadwise.pages.demo import draw_map, draw_reconstruction
from leadwise.pictures import ink
from leadwise.run import load

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"


def main(run_folder: str, cohort_folder: str, target: str = str(IMAGES)) -> None:
    """Write both pictures into the target folder."""
    run, cohort = load(run_folder, "cpu"), Cohort.open(Path(cohort_folder))
    Path(target).mkdir(parents=True, exist_ok=True)
    for name, figure in (
        ("reconstruction", draw_reconstruction(run, cohort)),
        ("embeddings", draw_map(run, cohort, TASK)),
    ):
        ink.save(figure, Path(target) / f"{name}.png", dpi=127)  # five pixels a millimetre
        print(f"{Path(target) / name}.png")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(f"usage: {sys.argv[0]} RUN COHORT [FOLDER]")
    main(*sys.argv[1:])

"""What `make demo` takes and finds on this machine, after set-up.

python benchmarks/demo.py demo
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from machine import describe, table, write

from leadwise.demo import CONFIG, demo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    began = time.perf_counter()
    result = demo(args.folder, overwrite=True)
    minutes = (time.perf_counter() - began) / 60
    gain, (low, high) = result.probe.gain(0.01)
    pages = "\n\n".join(f"{title}\n\n{table(rows)}" for title, rows in result.tables.items())
    counts = result.probe.n_recordings
    text = f"""# The demo

Command: `python {" ".join(sys.argv)}`. {describe()}.
{minutes:.1f} minutes in all. Simulated ECGs: {counts["train"]} for training, {counts["val"]} for validation,
{counts["test"]} for testing, of other patients;
{CONFIG.optim.steps} steps of {CONFIG.optim.batch_size}. Probe at 1 % of labels, trained minus untrained: {100 * gain:+.1f} points
(95 % interval {100 * low:+.1f} to {100 * high:+.1f}).

{pages}
"""
    print(write("demo", text))


if __name__ == "__main__":
    main()

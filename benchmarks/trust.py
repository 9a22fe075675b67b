"""Evidence that nothing is lost and nothing silently wrong: benchmarks/results/trust.md, by `make torture`.

    python benchmarks/trust.py -o torture                  # all suites with many cases, some hours on two cores
    python benchmarks/trust.py -o torture --only crash     # one suite, and the page of those that ran
    python benchmarks/trust.py -o torture --share 0.01     # a hundredth of the cases

The suites are those of the tests, where they run with few cases. Each writes OUT/SUITE.json when it has ended; a suite that has
one is not run again (delete it, or --again). The command ends with 1 if a case did not go as it must.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from machine import describe
from matplotlib import pyplot as plt

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from evidence import Row

from leadwise.files import replacing

RESULT = Path(__file__).parent / "results" / "trust.md"
N_INPUTS = 1_000_000
BYTES_A_RECORD = 45_000  # that the load needs on the disk
log = logging.getLogger("trust")


def fuzzing(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Mutated inputs of every reader."""
    from fuzz_targets import targets
    from fuzzing import read_every

    rows = []
    for result in read_every(targets(folder), round(options.share * N_INPUTS), 2, options.kinds):
        counts = result.counts
        details = f"{counts['value']:,} values, {counts['error']:,} errors; slowest {result.slowest_s:.2f} s"
        faults = [f"input {number}: {outcome} {what[-300:]}" for number, outcome, what in result.faults]
        rows.append(Row(result.name, counts.total(), tuple(faults), details))
        log.info("%s: %s, %d faults", result.name, details, result.n_faults)
    return rows


def crash(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Killed, without power, with a full disk, twice at once, with another clock."""
    import crashes

    return crashes.rows(folder, max(2, round(200 * options.share)), options.share >= 0.5, options.kinds)


def numbers(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Metrics, losses and resampling against slow plain versions."""
    import plain_numbers

    return plain_numbers.rows(max(5, round(1000 * options.share)), options.kinds or None)


def metamorphic(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Changes of the input that must not change the answer, for every method and verb."""
    import metamorphic as relations
    import metamorphic_files
    import metamorphic_verbs

    n_rounds, is_short = max(1, round(2 * options.share)), options.share < 0.1
    if options.kinds and all(kind.startswith("commands: ") for kind in options.kinds):
        return metamorphic_verbs.rows(n_rounds, folder, kinds=options.kinds)
    return [
        *relations.rows(max(20, round(240 * options.share)), folder),
        *metamorphic_verbs.rows(n_rounds, folder, is_short),
        *metamorphic_files.rows(n_rounds, folder, is_short),
    ]


def leaks(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Patients and signals in two splits, marked texts and names, identifiers from published files."""
    import leaks as suite

    n_numbers = max(100_000, round(10_000_000 * options.share))
    if options.cohort is None:
        return suite.rows(folder, n_each=max(2, round(10 * options.share)), n_numbers=n_numbers)
    n_each = max(2, round(24 * options.share))
    return suite.rows(folder, n_each, n_base=150, cohort=options.cohort, n_numbers=n_numbers)


def load(folder: Path, options: argparse.Namespace) -> list[Row]:
    """As many records as MIMIC-IV-ECG has, and processes that hang, lag or die."""
    import loads

    n_records = min(round(options.share * loads.N_MIMIC), shutil.disk_usage(folder).free // BYTES_A_RECORD)
    return loads.rows(folder, n_records, 8 if options.share >= 0.5 else 2)


SUITES: dict[str, Callable[[Path, argparse.Namespace], list[Row]]] = {
    one.__name__: one for one in (fuzzing, numbers, metamorphic, leaks, crash, load)
}
LONGEST_FIRST = ("load", "crash", "fuzzing", "metamorphic", "numbers", "leaks")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=sorted(SUITES), default=[])
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument(
        "--cohort", type=Path, help="of real ECGs, for the copies of the leaks; default: simulated ones"
    )
    parser.add_argument("--again", action="store_true", help="run suites that have a result already")
    parser.add_argument(
        "--faulty", action="store_true", help="run the kinds of case again that had a fault, after mending"
    )
    parser.add_argument("--at-once", type=int, default=2, help="suites that run side by side")
    parser.add_argument("--page", type=Path, default=RESULT)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.WARNING, filename=arguments.out / "torture.log", format="%(asctime)s %(message)s")
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler())

    names = arguments.only or list(LONGEST_FIRST)
    if len(names) == 1:
        run_suite(names[0], arguments)
    else:  # each in a process of its own; each writes the page of those that have ended
        words = [__file__, *sys.argv[1:]]
        with ThreadPoolExecutor(arguments.at_once) as pool:
            list(pool.map(lambda name: subprocess.run([sys.executable, *words, "--only", name]), names))
        missing = [name for name in names if not (arguments.out / f"{name}.json").is_file()]
        if missing:
            raise SystemExit(f"did not end: {', '.join(missing)}; see {arguments.out / 'torture.log'}")

    results = {name: json.loads((arguments.out / f"{name}.json").read_text()) for name in SUITES
               if (arguments.out / f"{name}.json").is_file()}  # fmt: skip
    draw(results, arguments.page.with_suffix(".png"))
    with replacing(arguments.page) as temporary:
        temporary.write_text(page(results, arguments.page.stem))
    n_faults = sum(totals(rows_of(result))[1] for result in results.values())
    log.info("%s: %d faults", arguments.page, n_faults)
    return int(n_faults > 0)


def run_suite(name: str, arguments: argparse.Namespace) -> None:
    """Run a suite and write OUT/SUITE.json, unless it is there."""
    path = arguments.out / f"{name}.json"
    before = json.loads(path.read_text()) if path.is_file() else {"rows": [], "seconds": 0.0}
    arguments.kinds = [row.what for row in rows_of(before) if row.faults] if arguments.faulty else []
    if path.is_file() and not arguments.again and not arguments.kinds:
        log.info("%s has run already: %s", name, path)
        return
    if not arguments.kinds:
        path.unlink(missing_ok=True)  # a suite that fails leaves no earlier result in the page
    work = arguments.out / f"{name}.work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    log.info("%s: %s", name, SUITES[name].__doc__)
    started = time.monotonic()
    rows = SUITES[name](work, arguments)
    seconds = time.monotonic() - started
    if arguments.kinds:  # a kind that ran again takes the place of its faults; those without any are not run again
        rows = list(({row.what: row for row in rows_of(before)} | {row.what: row for row in rows}).values())
        seconds += before["seconds"]
    result = {"seconds": seconds, "on": describe(), "share": arguments.share}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(result | {"rows": [dataclasses.asdict(row) for row in rows]}, indent=1))
    shutil.rmtree(work, ignore_errors=True)
    log.info("%s: %d cases, %d faults", name, *totals(rows))


def rows_of(result: dict) -> list[Row]:
    return [Row(**{**row, "faults": tuple(row["faults"])}) for row in result["rows"]]


def totals(rows: list[Row]) -> tuple[int, int]:
    """Cases and faults."""
    return sum(row.n_cases for row in rows), sum(len(row.faults) for row in rows)


def draw(results: dict[str, dict], path: Path) -> None:
    """A line for each suite, with a dot for each kind of case at its number of cases; one with faults is red, with its name."""
    figure, axes = plt.subplots(figsize=(9, 1 + 0.6 * len(results)), layout="constrained")
    titles = []
    for place, (name, result) in enumerate(results.items()):
        rows = rows_of(result)
        spread = np.random.default_rng(0).uniform(
            -0.3, 0.3, len(rows)
        )  # kinds of equally many cases do not hide each other
        for row, shift in zip(rows, spread):
            colour = "tab:red" if row.faults else "tab:blue"
            axes.scatter(max(row.n_cases, 1), place + shift, s=14, color=colour, alpha=0.6, linewidths=0)
            if row.faults:
                axes.annotate(row.what[:60], (max(row.n_cases, 1), place + shift), fontsize=7, color="tab:red")
        titles.append(f"{name}\n{len(rows)} kinds, {totals(rows)[1]} faults")
    axes.set_yticks(range(len(results)), titles, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("cases of a kind (each dot is a kind; red: a case did not go as it must)")
    axes.grid(axis="x", alpha=0.3)
    axes.invert_yaxis()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)


def page(results: dict[str, dict], name: str) -> str:
    rows = [row for result in results.values() for row in rows_of(result)]
    n_faults = totals(rows)[1]
    lines = [
        "# What was tried to break it",
        "",
        f"{len(rows)} kinds of case, {n_faults} faults. A case is an input, a command, a record or a tried name. Written by "
        "`make torture`; the tests run the same suites "
        "with fewer cases. A fault is a case that did not go as it must: an exception that is not ours, a wrong number, a "
        "file that is taken for whole and is not, a leak that is not found.",
        "",
        f"![A line for each suite, with a dot for each kind of case; red where there was a fault]({name}.png)",
        "",
        "| suite | what | kinds | cases | faults | minutes |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for suite, result in results.items():
        cases, faults = totals(rows_of(result))
        lines.append(
            f"| [{suite}](#{suite}) | {SUITES[suite].__doc__} | {len(result['rows'])} | {cases:,} | {faults} | "
            f"{result['seconds'] / 60:.0f} |"
        )
    for suite, result in results.items():
        lines += ["", f"## {suite}", "", f"{result['on']}." + share_text(result["share"]), ""]
        lines += ["| case | cases | faults | figures |", "|---|---:|---:|---|"]
        lines += [
            f"| {cell(row.what)} | {row.n_cases:,} | {len(row.faults)} | {cell(row.details)} |"
            for row in rows_of(result)
        ]
        listed = [f"- {row.what}: {fault}" for row in rows_of(result) for fault in row.faults]
        lines += ["", *listed] if listed else []
    return "\n".join(lines) + "\n"


def share_text(share: float) -> str:
    return "" if share == 1 else f" Run with {share:g} of the cases."


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())

"""The command line: each command calls a function of the package. Heavy imports are delayed until a command runs."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.logging import RichHandler

from leadwise import __version__
from leadwise.cli import (
    bench_qa,
    calibrate,
    card,
    check,
    compare,
    complete,
    convert,
    describe,
    export,
    finetune,
    generate,
    measure,
    methods,
    plot,
    predict,
    prepare,
    prompts,
    regress,
    report,
    reproduce,
    retrieve,
    scores,
    serve,
    shift,
    simulate,
    submit,
    tasks,
    training,
)
from leadwise.cli.output import console, out, rank

app = typer.Typer(
    name="leadwise",
    help="Learn representations of 12-lead ECGs and their reports; classify, retrieve and explain with them.\n\n"
    "To start: leadwise demo. Your own ECGs: leadwise prepare folder manifest.csv -o cohorts/mine. "
    "Research use only. Not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
COMMANDS = (
    training.demo,
    simulate.simulate,
    prepare.prepare,
    check.check,
    tasks.tasks,
    describe.describe,
    methods.methods,
    training.pretrain,
    scores.embed,
    scores.probe,
    finetune.finetune,
    regress.regress,
    shift.shift,
    scores.zeroshot,
    calibrate.calibrate,
    predict.predict,
    compare.compare,
    retrieve.retrieve,
    report.report,
    report.train_writer,
    report.score_writer,
    bench_qa.bench_qa,
    complete.complete,
    generate.generate,
    reproduce.reproduce,
    submit.submit,
    card.card,
    export.export,
    plot.plot,
    convert.convert,
    measure.measure,
    serve.serve,
)


def _print_version(requested: bool) -> None:
    if requested:
        out.print(f"leadwise {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of leadwise itself; `help` of the app describes it."""


for command in COMMANDS:
    app.command(cls=prepare.PrepareCommand if command is prepare.prepare else None)(command)
app.add_typer(prompts.app, name="prompts")


def main() -> None:
    """Entry point: prints one line for an error of leadwise or of a file, a traceback for any other error."""
    level = logging.WARNING if rank() else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)])
    for name in ("fontTools", "httpx", "huggingface_hub", "matplotlib", "transformers"):
        logging.getLogger(name).setLevel(logging.WARNING)
    out.stderr = False  # until --json - claims standard output
    logging.getLogger("ecgbench").setLevel(logging.ERROR)  # its warnings are for its own command line
    try:
        app(standalone_mode=True)
    except (ValueError, OSError, RuntimeError) as error:
        if not isinstance(error, OSError) and not _raised_by_leadwise(error):
            raise
        prefix = f"rank {rank()}: " if "RANK" in os.environ else ""
        console.print(f"{prefix}error: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


def _raised_by_leadwise(error: BaseException) -> bool:
    """Return whether code of this package raised the error: its message is for the user, others need a traceback."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and Path(last.tb_frame.f_code.co_filename).is_relative_to(Path(__file__).parents[1])


if __name__ == "__main__":
    main()

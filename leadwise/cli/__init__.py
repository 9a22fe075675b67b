"""The command line: each verb a few lines over a function of the same name. Heavy imports wait until a verb runs."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import typer
from rich.logging import RichHandler

from leadwise.cli import (
    card,
    check,
    compare,
    methods,
    plot,
    prepare,
    prompts,
    reproduce,
    retrieve,
    scores,
    simulate,
    tasks,
    training,
)
from leadwise.cli.output import console, rank

app = typer.Typer(
    name="leadwise",
    help="12-lead ECGs and their reports in; representations that classify, retrieve and explain out.\n\n"
    "A first look: leadwise demo. Your own ECGs: leadwise prepare folder manifest.csv -o cohorts/mine. "
    "Research use only. Not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
VERBS = (
    training.demo,
    simulate.simulate,
    prepare.prepare,
    check.check,
    tasks.tasks,
    methods.methods,
    training.pretrain,
    scores.embed,
    scores.probe,
    scores.zeroshot,
    compare.compare,
    retrieve.retrieve,
    reproduce.reproduce,
    card.card,
    plot.plot,
)
for verb in VERBS:
    app.command(cls=prepare.PrepareCommand if verb is prepare.prepare else None)(verb)
app.add_typer(prompts.app, name="prompts")


def main() -> None:
    """The entry point: one clear line for an error a person can mend, a traceback for the rest."""
    level = logging.WARNING if rank() else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)])
    for name in ("httpx", "huggingface_hub", "matplotlib", "transformers"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        app(standalone_mode=True)
    except (ValueError, OSError, RuntimeError) as error:
        if not isinstance(error, OSError) and not _raised_here(error):
            raise
        who = f"rank {rank()}: " if "RANK" in os.environ else ""
        console.print(f"{who}error: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


def _raised_here(error: BaseException) -> bool:
    """Whether our own code raised it: then its message is meant for a person, else it is a fault to be traced."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and Path(last.tb_frame.f_code.co_filename).is_relative_to(Path(__file__).parents[1])


if __name__ == "__main__":
    main()

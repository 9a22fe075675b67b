"""The verb that says which methods there are, and what each of them is."""

from __future__ import annotations

from typing import Annotated

import typer

from leadwise.cli.output import (
    Json,
    out,
    print_table,
    write_json,
)


def methods(
    method: Annotated[
        str | None, typer.Argument(help="Show this method's equations and settings, such as merl.")
    ] = None,
    json_file: Json = None,
) -> None:
    """List the methods that can be trained and compared, or one method's equations, departures and settings."""
    import dataclasses

    from leadwise.methods import catalogue
    from leadwise.reproduce.references import REFERENCES

    chosen = catalogue.entries(None if method is None else [method])
    rows = [
        {
            "method": one.name,
            "paper": f"{one.title}. {one.source}",
            "reads": one.reads,
            "zero-shot": "yes" if one.zero_shot else "",
            "parameters": _millions(one.n_parameters),
            "small": "" if one.n_small is None else _millions(one.n_small),
            "needs": one.needs,
        }
        for one in chosen
    ]
    print_table(rows, "methods; leadwise methods NAME says more" if method is None else chosen[0].title)
    if method is None:
        print_table([one._asdict() for one in REFERENCES], "what they are read against")
    else:
        out.print(chosen[0].objective, highlight=False, markup=False, soft_wrap=True)
        print_table(catalogue.settings(method), f"[method] of a config, name = '{method}'")
    write_json(json_file, {"command": "methods", "methods": [dataclasses.asdict(one) for one in chosen]})


def _millions(n: int) -> str:
    return f"{n / 1e6:.2f} M"

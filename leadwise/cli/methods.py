"""The command methods: list the methods and the encoders with public weights, or describe one method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from leadwise.cli.output import (
    Json,
    out,
    print_table,
    write_json,
)

if TYPE_CHECKING:
    from leadwise.encoders.catalogue import EncoderEntry


def methods(
    method: Annotated[
        str | None, typer.Argument(help="Show this method's equations and settings, such as merl.")
    ] = None,
    json_file: Json = None,
) -> None:
    """List methods, references and encoders with public weights, or one method's equations, departures and settings."""
    import dataclasses

    from leadwise.encoders import catalogue as encoders
    from leadwise.methods import catalogue
    from leadwise.reproduce.references import REFERENCES

    chosen = catalogue.entries(None if method is None else [method])
    rows = [
        {
            "method": entry.name,
            "paper": f"{entry.title}. {entry.source}",
            "reads": entry.reads,
            "zero-shot": "yes" if entry.zero_shot else "",
            "parameters": _millions(entry.n_parameters),
            "small": "" if entry.n_small is None else _millions(entry.n_small),
            "needs": entry.needs,
        }
        for entry in chosen
    ]
    print_table(rows, "methods; leadwise methods NAME describes one" if method is None else chosen[0].title)
    if method is None:
        print_table([reference._asdict() for reference in REFERENCES], "references that they are compared with")
        public = encoders.entries()
        print_table(
            [_public(entry) for entry in public],
            "encoders with public weights, which you bring; docs/public-weights.md",
        )
    else:
        out.print(chosen[0].objective, highlight=False, markup=False, soft_wrap=True)
        print_table(catalogue.settings(method), f"[method] of a config, name = '{method}'")
    result: dict[str, Any] = {"command": "methods", "methods": [dataclasses.asdict(entry) for entry in chosen]}
    if method is None:
        result["encoders"] = [dataclasses.asdict(entry) for entry in public]
    write_json(json_file, result)


def _public(entry: EncoderEntry) -> dict[str, str]:
    return {
        "encoder": entry.name,
        "paper": entry.paper,
        "licence": entry.licence,
        "reads": entry.signal,
        "width": str(entry.width),
        "parameters": _millions(entry.n_parameters),
        "state": entry.state,
    }


def _millions(n: int) -> str:
    return f"{n / 1e6:.2f} M"

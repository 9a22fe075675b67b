"""The command serve: a local page for ECG files, and its JSON API."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Any

import typer

from leadwise.cli.output import bars, out, progress_bars

_NEEDED = ("starlette", "uvicorn")


def serve(
    run: Annotated[str, typer.Option(help="Run folder, or a name that ships with leadwise.")] = "ptbxl",
    cohort: Annotated[
        Path | None,
        typer.Option(help="Cohort folder: neighbours, map and percentiles. Its embeddings are stored in it."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to bind; another than loopback needs --allow-remote.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0: a free one.")] = 8765,
    workers: Annotated[int, typer.Option(help="Processes that answer, each with its own copy of the model.")] = 1,
    show_reports: Annotated[
        bool, typer.Option("--show-reports", help="Answer the reports of the cohort's recordings too.")
    ] = False,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Let other machines connect; needs --token. HTTP is not encrypted.")
    ] = False,
    token: Annotated[
        str | None, typer.Option(help="Token of the address, 16 or more characters; default: a random one.")
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address and open no browser.")] = False,
) -> None:
    """Start a local page: drop an ECG file, look at it, score it, find its neighbours. Research use only. Stop: Ctrl-C."""
    # the options, before anything is loaded
    for package in _NEEDED:
        if importlib.util.find_spec(package) is None:
            raise typer.BadParameter(f"serve needs the package {package}: pip install 'leadwise[serve]'")
    from leadwise.serve.settings import ServeSettings, checked

    chosen: dict[str, Any] = {} if token is None else {"token": token}
    settings = ServeSettings(run, cohort, host, port, workers, show_reports, allow_remote, **chosen)
    settings = checked(settings, token)

    from leadwise.serve.server import serve as serve_until_stopped

    def announce(address: str) -> None:
        out.print(f"{address}", highlight=False, soft_wrap=True)
        out.print("Research use only. Not a medical device. Stop: Ctrl-C.", highlight=False)
        if not no_browser:
            import webbrowser

            webbrowser.open(address)

    if not settings.is_loopback:
        out.print(
            "Other machines can connect, and HTTP is not encrypted: use a tunnel or a proxy with TLS. "
            "There, put the name of this machine in place of 127.0.0.1 in the address.",
            soft_wrap=True,
        )
    with progress_bars() as progress:
        serve_until_stopped(settings, announce, bars(progress))

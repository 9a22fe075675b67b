"""What a server is started with: the run, the cohort, the address, and the limits of uploads and of their parsers."""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass, field
from pathlib import Path

LEAST_TOKEN = 16  # characters of a token that the user chooses
_TOKEN_BYTES = 24  # of a random token


class ServeError(ValueError):
    """A server that cannot be started with these options; the message names the option and the remedy."""


@dataclass(frozen=True)
class Limits:
    """Limits of one request, and of the process that reads its file."""

    upload_bytes: int = 20_000_000
    unpacked_bytes: int = 80_000_000  # of all files of an archive
    archive_files: int = 64
    samples: int = 500_000  # of each lead
    shortest_s: float = 1.0  # a shorter recording has no whole beat
    drawn_s: float = 300.0  # seconds of a recording that an answer contains
    upload_s: float = 60.0  # to receive a body
    parse_s: float = 20.0  # wall clock
    parse_cpu_s: int = 15
    parse_bytes: int = 1_000_000_000  # memory beyond that of the idle process
    parsers: int = 2  # processes per worker
    waiting: int = 64  # requests that wait for a parser or for the model; more are refused
    texts: int = 20  # of own words in one question
    text_characters: int = 200
    neighbours: int = 50
    thumbs: int = 64


@dataclass(frozen=True)
class ServeSettings:
    """The options of `leadwise serve`, checked."""

    run: str = "ptbxl"
    cohort: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8765
    workers: int = 1
    show_reports: bool = False
    allow_remote: bool = False
    token: str = field(default_factory=lambda: secrets.token_urlsafe(_TOKEN_BYTES), repr=False)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ServeError(f"--port {self.port} is out of range; it must be 0 to 65535 (0: a free port)")
        if self.workers < 1:
            raise ServeError(f"--workers {self.workers} is too small; it must be 1 or more")
        if not self.token.isascii() or not self.token.isprintable() or " " in self.token:
            raise ServeError("--token must consist of printable ASCII characters without spaces")
        if len(self.token) < LEAST_TOKEN:
            raise ServeError(
                f"--token has {len(self.token)} characters; it must have {LEAST_TOKEN} or more, or leave it out for a random one"
            )
        if ":" in self.host:
            raise ServeError(
                f"--host {self.host} is not an IPv4 address; this machine alone is 127.0.0.1, every IPv4 address 0.0.0.0"
            )
        if not self.is_loopback and not self.allow_remote:
            raise ServeError(
                f"--host {self.host} opens the page to other machines; add --allow-remote and a --token of {LEAST_TOKEN} or more "
                "characters, or leave --host out"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect, by IPv4."""
        if self.host == "localhost":
            return True
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return address.version == 4 and address.is_loopback


def checked(settings: ServeSettings, token: str | None) -> ServeSettings:
    """Return the settings, if another host is opened only with a token that the user chose.

    Raises:
        ServeError: another host than loopback without such a token.
    """
    if not settings.is_loopback and token is None:
        raise ServeError(
            f"--host {settings.host} needs a token of your own: --token with {LEAST_TOKEN} or more characters, such as "
            "$(openssl rand -hex 16)"
        )
    return settings

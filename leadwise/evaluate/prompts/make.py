"""Prompts that a language model writes: label names go out to an OpenAI-compatible endpoint, short statements come back.

Nothing of a record is sent: the request holds the template below with a class's plain name in it. One class a request;
what came back is checked strictly and kept at once in FILE.partial, so that a broken run goes on where it stopped.
"""

from __future__ import annotations

import datetime
import email.utils
import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import tomli_w

from leadwise.data import reports
from leadwise.evaluate.prompts import (
    PromptError,
    Prompts,
    load,
    style_problem,
)
from leadwise.files import replacing

log = logging.getLogger(__name__)

TEMPLATE = (
    "You write the statements that a computerised 12-lead ECG report prints. For the finding \"{name}\", write {n} different "
    "short reports of an ECG with that finding. Each: lower case, at most 18 words, one to three statements with a period "
    "after each, such as \"sinus rhythm. left bundle branch block. abnormal ecg.\" Name the finding in varied wording. No "
    "sentences about the ECG, no explanations, no numbering. Answer with a JSON list of {n} strings and with nothing else."
)  # fmt: skip
N_PROMPTS = 5
RETRIED = (408, 429, 500, 502, 503, 504)
MAX_TRIES = 6
LONGEST_PAUSE_S = 60.0
TIMEOUT_S = (10.0, 120.0)  # to connect, to answer
_MAX_ANSWER_BYTES = 1_000_000
_ON_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")

Sleep = Callable[[float], None]


class PromptGenerationError(RuntimeError):
    """An endpoint or answer that cannot be used; the message names the host, what it said and the remedy."""


@dataclass(frozen=True)
class Endpoint:
    """Where a language model is asked. The key is sent to it and goes nowhere else."""

    url: str  # base of the API: /chat/completions is added
    model: str
    key: str | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise PromptGenerationError(
                f"--url must begin with https:// (or http://) and name a host, not {parts.scheme or 'this'!r}"
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise PromptGenerationError("--url must hold neither a password nor a query; give a key by --key-env")
        if self.key and parts.scheme == "http" and parts.hostname not in _ON_THIS_MACHINE:
            raise PromptGenerationError(
                f"the key would travel to {parts.hostname} unencrypted; use https:// or no key (--key-env '')"
            )
        if self.key and not re.fullmatch(r"[\x21-\x7e]+", self.key):
            raise PromptGenerationError(
                "the key holds a blank, a line break or a letter outside ASCII; set the variable anew"
            )

    @property
    def host(self) -> str:
        """The host's name, for the record."""
        return urlsplit(self.url).netloc

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r}, {self.model!r})"  # without the key


def generate_prompts(
    target: Path,
    source: str,
    task: str,
    names: Mapping[str, str],
    endpoint: Endpoint,
    n_prompts: int = N_PROMPTS,
    progress: Callable[[str, int, int], None] | None = None,
    pause: Sleep = time.sleep,
) -> Prompts:
    """The prompt file that `endpoint` wrote for classes with these plain names, now at `target`, read back and checked.

    Raises:
        MakeError: the endpoint refused or answered with anything but statements. Classes answered before are kept.
        PromptError: what an earlier call left is of another model, host, template or task.
    """
    made = {
        "model": endpoint.model,
        "host": endpoint.host,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "prompt": TEMPLATE.replace("{n}", str(n_prompts)),
    }
    table: dict[str, Any] = {"source": source, "task": task, "made": made, "classes": {}}
    partial = target.with_name(f"{target.name}.partial")
    if partial.is_file():
        table = _resume_partial(partial, table)
    for done, (code, name) in enumerate(names.items()):
        if progress is not None:
            progress(f"ask {endpoint.model}", done, len(names))
        if code in table["classes"] and table["classes"][code]["name"] == name:
            continue
        answer = request_completion(endpoint, made["prompt"].replace("{name}", name), pause)
        texts = parse_statements(answer, n_prompts, f"{endpoint.host}, {endpoint.model}, class {code}")
        table["classes"][code] = {"name": name, "prompts": texts}
        _write(partial, table)
    table["classes"] = {code: table["classes"][code] for code in names}  # in the task's order, none of an older task
    _write(partial, table)
    load(partial)
    partial.replace(target)
    if progress is not None:
        progress(f"ask {endpoint.model}", len(names), len(names))
    return load(target)


def request_completion(endpoint: Endpoint, prompt: str, pause: Sleep = time.sleep) -> str:
    """What the model answers to one prompt; asked again, ever later, while the host is busy or away.

    Raises:
        MakeError: refused, still busy after MAX_TRIES, or no chat completion in the answer.
    """
    body = {"model": endpoint.model, "messages": [{"role": "user", "content": prompt}]}

    def signed(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if endpoint.key:
            request.headers["Authorization"] = f"Bearer {endpoint.key}"
        return request  # and no password of a .netrc, which requests would look up without this

    for number in range(1, MAX_TRIES + 1):
        wait_s = min(2.0 ** (number - 1), LONGEST_PAUSE_S)
        try:
            answer = requests.post(
                f"{endpoint.url.rstrip('/')}/chat/completions",
                json=body, auth=signed, timeout=TIMEOUT_S, allow_redirects=False,
            )  # fmt: skip
        except (requests.ConnectionError, requests.Timeout) as error:
            trouble = f"{endpoint.host} cannot be reached ({type(error).__name__})"
        except requests.RequestException as error:
            raise PromptGenerationError(
                f"{endpoint.host} cannot be asked ({type(error).__name__}); check --url"
            ) from None
        else:
            if answer.status_code == 200:
                return _content(answer, endpoint)
            trouble = f"{endpoint.host} answered {answer.status_code}{_reason(answer, endpoint)}"
            if answer.status_code not in RETRIED:
                raise PromptGenerationError(f"{trouble}; check --url, --model and the key")
            wait_s = _retry_pause_s(answer, wait_s)
        if number < MAX_TRIES:
            log.warning("%s; asked again in %.0f s", trouble, wait_s)
            pause(wait_s)
    raise PromptGenerationError(
        f"{trouble}, {MAX_TRIES} times; what was answered is kept, so the same command goes on later"
    )


def parse_statements(answer: str, n_prompts: int, where: str) -> list[str]:
    """The short reports in an answer that is a JSON list of them and nothing else.

    Raises:
        MakeError: chatter around the list, another number of texts, or a text that is no report; with what was found.
    """
    remedy = "run the same command again (finished classes are kept) or take another model"
    try:
        texts = json.loads(answer)
    except ValueError:
        raise PromptGenerationError(
            f"{where}: the answer is not a JSON list alone: {_shortened(answer)}; {remedy}"
        ) from None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise PromptGenerationError(f"{where}: the answer is JSON but no list of texts: {_shortened(answer)}; {remedy}")
    cleaned = [reports.clean(text) for text in texts]
    for text in cleaned:
        if why := style_problem(text):
            raise PromptGenerationError(f"{where}: {why}: {_shortened(text)}; {remedy}")
    if len(cleaned) != n_prompts or len(set(cleaned)) < n_prompts:
        raise PromptGenerationError(f"{where}: {len(set(cleaned))} different texts, not {n_prompts}; {remedy}")
    return cleaned


def _resume_partial(partial: Path, fresh: dict[str, Any]) -> dict[str, Any]:
    """What an earlier call left, once it is known to be of the same question to the same model."""
    begun = load(partial)
    wanted = {"source": fresh["source"], "task": fresh["task"], **fresh["made"]}
    found = {"source": begun.source, "task": begun.task, **(begun.generation or {})}
    other = [key for key in wanted if key != "date" and found.get(key) != wanted[key]]
    if other:
        raise PromptError(f"{partial} was begun with another {', '.join(other)}; delete it, or ask as it was begun")
    kept = {code: {"name": name, "prompts": list(begun.texts["own"][code])} for code, name in begun.names.items()}
    return {**fresh, "made": begun.generation, "classes": kept}


def _write(path: Path, table: dict[str, Any]) -> None:
    with replacing(path) as part:
        part.write_text(tomli_w.dumps(table), encoding="utf-8")


def _content(answer: requests.Response, endpoint: Endpoint) -> str:
    try:
        if len(answer.content) > _MAX_ANSWER_BYTES:
            raise ValueError
        content = answer.json()["choices"][0]["message"]["content"]
        if not isinstance(content, str):
            raise TypeError
    except (ValueError, KeyError, IndexError, TypeError):
        raise PromptGenerationError(f"{endpoint.host} answered 200, but with no chat completion; check --url") from None
    return content


def _reason(answer: requests.Response, endpoint: Endpoint) -> str:
    """What the host says of an error, in short; never after 401 or 403, where some hosts repeat the key."""
    if answer.status_code in (401, 403):
        return ""
    try:
        said = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""
    return f" ({_shortened(said.replace(endpoint.key, '...') if endpoint.key else said)})"


def _retry_pause_s(answer: requests.Response, wait_s: float) -> float:
    """The pause that a Retry-After header asks for, in seconds or as a date; else `wait_s`. A minute at most."""
    header = answer.headers.get("Retry-After", "")
    if re.fullmatch(r"\d{1,6}(\.\d+)?", header):
        wait_s = float(header)
    elif header:
        try:
            due = email.utils.parsedate_to_datetime(header)
            wait_s = (due - datetime.datetime.now(datetime.UTC)).total_seconds()
        except (ValueError, TypeError):
            log.debug("Retry-After cannot be read: %r", header)
    return min(max(wait_s, 0.0), LONGEST_PAUSE_S)


def _shortened(text: str) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= 120 else f"{flat[:117]}...")

"""Generate a prompt file with a language model behind an OpenAI-compatible endpoint.

No data of a recording is sent: a request contains the template below with the plain name of a class. There is one request
per class. Each answer is checked strictly and written to FILE.partial at once, so an interrupted call continues from there.
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
TIMEOUT_S = (10.0, 120.0)  # to connect, to read the answer
_MAX_ANSWER_BYTES = 1_000_000
_ON_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")

Sleep = Callable[[float], None]


class PromptGenerationError(RuntimeError):
    """An endpoint or answer that cannot be used; the message contains the host, its answer and the remedy."""


@dataclass(frozen=True)
class Endpoint:
    """URL, model and key of a language model. The key is sent to this URL only."""

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
            raise PromptGenerationError("--url must not contain a password or a query; pass a key with --key-env")
        if self.key and parts.scheme == "http" and parts.hostname not in _ON_THIS_MACHINE:
            raise PromptGenerationError(
                f"the key would be sent to {parts.hostname} unencrypted; use https:// or no key (--key-env '')"
            )
        if self.key and not re.fullmatch(r"[\x21-\x7e]+", self.key):
            raise PromptGenerationError(
                "the key contains a blank, a line break or a non-ASCII letter; set the variable again"
            )

    @property
    def host(self) -> str:
        """Host name, as written to prompt files."""
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
    """Generate prompts for classes with these plain names, write them to `target` and return the checked file.

    Raises:
        PromptGenerationError: the endpoint refused, or its answer is not a list of statements. Finished classes stay in
            FILE.partial.
        PromptError: FILE.partial of an earlier call is of another model, host, template or task.
    """
    # start a new file, or continue FILE.partial of an interrupted call
    generation = {
        "model": endpoint.model,
        "host": endpoint.host,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "prompt": TEMPLATE.replace("{n}", str(n_prompts)),
    }
    table: dict[str, Any] = {"source": source, "task": task, "made": generation, "classes": {}}
    partial = target.with_name(f"{target.name}.partial")
    if partial.is_file():
        table = _resume_partial(partial, table)

    # one request per class; each checked answer is written at once
    for done, (code, name) in enumerate(names.items()):
        if progress is not None:
            progress(f"request {endpoint.model}", done, len(names))
        if code in table["classes"] and table["classes"][code]["name"] == name:
            continue
        answer = request_completion(endpoint, generation["prompt"].replace("{name}", name), pause)
        texts = parse_statements(answer, n_prompts, f"{endpoint.host}, {endpoint.model}, class {code}")
        table["classes"][code] = {"name": name, "prompts": texts}
        _write(partial, table)

    # the classes in the task's order, without classes of an earlier call that are not in the task
    table["classes"] = {code: table["classes"][code] for code in names}
    _write(partial, table)
    load(partial)
    partial.replace(target)
    if progress is not None:
        progress(f"request {endpoint.model}", len(names), len(names))
    return load(target)


def request_completion(endpoint: Endpoint, prompt: str, pause: Sleep = time.sleep) -> str:
    """Return the model's answer to one prompt; retries with growing pauses while the host is busy or unreachable.

    Raises:
        PromptGenerationError: the request is refused, fails MAX_TRIES times, or the answer is not a chat completion.
    """
    body = {"model": endpoint.model, "messages": [{"role": "user", "content": prompt}]}

    def add_key(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if endpoint.key:
            request.headers["Authorization"] = f"Bearer {endpoint.key}"
        return request  # without `auth`, requests would send a password from .netrc

    for attempt in range(1, MAX_TRIES + 1):
        # post the request; a refusal or an unreachable host sets `problem`
        wait_s = min(2.0 ** (attempt - 1), LONGEST_PAUSE_S)
        try:
            answer = requests.post(
                f"{endpoint.url.rstrip('/')}/chat/completions",
                json=body, auth=add_key, timeout=TIMEOUT_S, allow_redirects=False,
            )  # fmt: skip
        except (requests.ConnectionError, requests.Timeout) as error:
            problem = f"{endpoint.host} cannot be reached ({type(error).__name__})"
        except requests.RequestException as error:
            raise PromptGenerationError(
                f"the request to {endpoint.host} failed ({type(error).__name__}); check --url"
            ) from None
        else:
            if answer.status_code == 200:
                return _content(answer, endpoint)
            problem = f"{endpoint.host} answered {answer.status_code}{_reason(answer, endpoint)}"
            if answer.status_code not in RETRIED:
                raise PromptGenerationError(f"{problem}; check --url, --model and the key")
            wait_s = _retry_pause_s(answer, wait_s)

        # wait before the next attempt
        if attempt < MAX_TRIES:
            log.warning("%s; retrying in %.0f s", problem, wait_s)
            pause(wait_s)
    raise PromptGenerationError(
        f"{problem}, {MAX_TRIES} times; finished classes are saved: run the same command again later"
    )


def parse_statements(answer: str, n_prompts: int, where: str) -> list[str]:
    """Return the short reports of an answer, which must be a JSON list of texts and nothing else.

    Raises:
        PromptGenerationError: text around the list, another number of texts, or a text that is not in the style of reports.
    """
    remedy = "run the same command again (finished classes are saved) or use another model"
    try:
        texts = json.loads(answer)
    except ValueError:
        raise PromptGenerationError(
            f"{where}: the answer is not a JSON list alone: {_shortened(answer)}; {remedy}"
        ) from None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise PromptGenerationError(
            f"{where}: the answer is JSON but not a list of texts: {_shortened(answer)}; {remedy}"
        )
    cleaned = [reports.clean(text) for text in texts]
    for text in cleaned:
        if why := style_problem(text):
            raise PromptGenerationError(f"{where}: {why}: {_shortened(text)}; {remedy}")
    if len(cleaned) != n_prompts or len(set(cleaned)) < n_prompts:
        raise PromptGenerationError(f"{where}: {len(set(cleaned))} distinct texts, not {n_prompts}; {remedy}")
    return cleaned


def _resume_partial(partial: Path, fresh: dict[str, Any]) -> dict[str, Any]:
    """Return the table of an interrupted call, after checking that it has the same settings.

    Raises:
        PromptError: source, task, model, host or template differ.
    """
    earlier = load(partial)
    expected = {"source": fresh["source"], "task": fresh["task"], **fresh["made"]}
    actual = {"source": earlier.source, "task": earlier.task, **(earlier.generation or {})}
    differing = [key for key in expected if key != "date" and actual.get(key) != expected[key]]
    if differing:
        raise PromptError(
            f"{partial} was started with another {', '.join(differing)}; delete it, or use the same settings"
        )
    classes = {
        code: {"name": name, "prompts": list(earlier.texts["own"][code])} for code, name in earlier.names.items()
    }
    return {**fresh, "made": earlier.generation, "classes": classes}


def _write(path: Path, table: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(tomli_w.dumps(table), encoding="utf-8")


def _content(answer: requests.Response, endpoint: Endpoint) -> str:
    try:
        if len(answer.content) > _MAX_ANSWER_BYTES:
            raise ValueError
        content = answer.json()["choices"][0]["message"]["content"]
        if not isinstance(content, str):
            raise TypeError
    except (ValueError, KeyError, IndexError, TypeError):
        raise PromptGenerationError(
            f"{endpoint.host} answered 200, but without a chat completion; check --url"
        ) from None
    return content


def _reason(answer: requests.Response, endpoint: Endpoint) -> str:
    """Return the host's error message, shortened; '' after 401 or 403, because some hosts repeat the key there."""
    if answer.status_code in (401, 403):
        return ""
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""
    return f" ({_shortened(message.replace(endpoint.key, '...') if endpoint.key else message)})"


def _retry_pause_s(answer: requests.Response, wait_s: float) -> float:
    """Return the pause of the Retry-After header (seconds or a date), else `wait_s`; at most one minute."""
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

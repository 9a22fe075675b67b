"""The writer `server`: a chat model behind an OpenAI-compatible address that the user names (vLLM, llama.cpp, Ollama, ...).

Such a server takes no embeddings. It gets facts (`leadwise.generate.facts`) and nothing else: no name, no sample, no label.
Requests have temperature 0 and a seed, the answer is a JSON object that is validated, and answers are stored by a hash of the
request, so that an interrupted command sends no request twice. No other address is contacted: redirects are errors, and a
server on this machine is never reached through a proxy.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from leadwise.data import reports
from leadwise.files import replacing
from leadwise.generate.bank import ReportBank
from leadwise.generate.facts import collect_facts
from leadwise.generate.writer import Writer, WriterError, WriterInput, shared_part
from leadwise.progress import Progress
from leadwise.run import Run

log = logging.getLogger(__name__)

T = TypeVar("T")

KEY_VARIABLE = "LEADWISE_SERVER_KEY"  # environment variable with the key of a server that needs one
MAX_CHARACTERS = 2000  # of a report
ON_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_MAX_BYTES = 1_000_000  # of an answer
_RETRIED = {408, 409, 425, 429, 500, 502, 503, 504}
_FENCE = re.compile(r"^\s*```(?:json)?\s*(.*?)\s*```\s*$", re.S)

INSTRUCTION = (
    "You write the report of a 12-lead ECG from facts that a computer extracted. Use only these facts. findings lists "
    "probabilities and the frequency of each finding among other ECGs; state a finding if its probability is high. "
    "measurements are in bpm, ms and degrees. reports_of_similar_ecgs belong to other patients: use their style, and their "
    "content only where the other facts agree. Write short statements in lower case, each ended by a period. "
    'Answer with one JSON object and nothing else: {"report": "..."}'
)


@dataclass(frozen=True)
class ServerOptions:
    """The server that the user names, and how it is called."""

    url: str  # such as http://localhost:8000/v1
    model: str = "default"
    seed: int = 0
    tries: int = 4  # of one request
    wait_s: float = 1.0  # before the second try; doubled before each further one
    timeout_s: float = 120.0
    cache: Path | None = None  # folder of stored answers

    def __post_init__(self) -> None:
        """Check the address.

        Raises:
            WriterError: the url is not http or https.
        """
        self.address  # noqa: B018

    @property
    def address(self) -> str:
        """The address of the chat endpoint.

        Raises:
            WriterError: the url is not http or https.
        """
        try:
            parts = urlsplit(self.url)
            is_address = parts.scheme in ("http", "https") and bool(parts.netloc)
        except ValueError:  # such as a bracket that is not closed
            is_address = False
        if not is_address:
            raise WriterError(f"--server-url {self.url} is no address; write it as http://localhost:8000/v1")
        base = self.url.rstrip("/")
        return base if base.endswith("/chat/completions") else f"{base}/chat/completions"


class InvalidAnswer(ValueError):
    """An answer that is not what was requested; the message does not quote it."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error: facts go to the named address only."""

    def redirect_request(self, *_: Any) -> None:
        return None


class ChatServer:
    """A client of a chat endpoint: one JSON answer for an instruction and a JSON object."""

    def __init__(self, options: ServerOptions) -> None:
        """Check the address; nothing is sent.

        Raises:
            WriterError: the address cannot be used.
        """
        self.options, self.address = options, options.address
        # a proxy would carry facts off this machine, on their way to a server on it
        no_proxy = [urllib.request.ProxyHandler({})] if urlsplit(self.address).hostname in ON_THIS_MACHINE else []
        self._opener = urllib.request.build_opener(_NoRedirect, *no_proxy)

    def answer(
        self,
        instruction: str,
        content: Mapping[str, Any],
        parse: Callable[[str], T],
        pack: Callable[[T], Mapping[str, Any]],
        wanted: str = "answer",
    ) -> T:
        """Return the stored answer to this request, or that of the server, which is stored.

        Args:
            instruction: the message of the system.
            content: the message of the user, as JSON.
            parse: the value of the text of an answer; raises InvalidAnswer.
            pack: what is stored of a value; `parse` reads it.
            wanted: what the answer is, for messages.

        Raises:
            WriterError: no try succeeded, or the server refuses the request.
        """
        request = self._request(instruction, content, self.options.seed)
        digest = hashlib.sha256(json.dumps([self.address, request], sort_keys=True).encode()).hexdigest()[:32]
        path = None if self.options.cache is None else self.options.cache / f"{digest}.json"
        if path is not None and path.is_file():
            try:
                return parse(path.read_text(encoding="utf-8"))
            except (InvalidAnswer, UnicodeDecodeError):
                log.warning("%s is damaged; the request is sent again", path)
        value = self._ask(instruction, content, parse, wanted)
        if path is not None:
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(pack(value)) + "\n", encoding="utf-8")
        return value

    def _request(self, instruction: str, content: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Return the body of a request."""
        messages = [
            {"role": "system", "content": instruction},
            {"role": "user", "content": json.dumps(content, sort_keys=True)},
        ]
        return {
            **{"model": self.options.model, "messages": messages, "temperature": 0, "seed": seed, "max_tokens": 512},
            "response_format": {"type": "json_object"},
        }

    def _ask(self, instruction: str, content: Mapping[str, Any], parse: Callable[[str], T], wanted: str) -> T:
        """Return the server's answer; after one that cannot be used, the next try has another seed."""
        reason = ""
        for number in range(self.options.tries):
            if number:
                time.sleep(self.options.wait_s * 2 ** (number - 1))
            try:
                return parse(_content(self._send(self._request(instruction, content, self.options.seed + number))))
            except urllib.error.HTTPError as error:
                reason = f"status {error.code}"
                if error.code not in _RETRIED:
                    break
            except urllib.error.URLError as error:
                reason = str(error.reason)
            except InvalidAnswer as error:
                reason = str(error)
            except (OSError, ValueError) as error:  # a connection that ends early, a timeout while reading
                reason = type(error).__name__
        stored = "" if self.options.cache is None else ": answers so far are stored"
        raise WriterError(
            f"the server {self.options.url} gives no {wanted} ({reason}); check that it runs, --server-url and --server-model, "
            f"and its key in {KEY_VARIABLE} if it needs one, then run the same command again{stored}"
        )

    def _send(self, body: dict[str, Any]) -> bytes:
        headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {os.environ[KEY_VARIABLE]}"
        request = urllib.request.Request(self.address, json.dumps(body).encode(), headers, method="POST")
        with self._opener.open(request, timeout=self.options.timeout_s) as answer:
            content: bytes = answer.read(_MAX_BYTES)
        return content


class ServerWriter(Writer):
    """Writes what a chat model makes of the facts about an ECG."""

    name = "server"
    reads_measurements = True
    no_report = "there are no facts about this ECG: nothing was measured, and no training report may be sent"

    def __init__(self, run: Run, options: ServerOptions, bank: ReportBank | None = None) -> None:
        """Check the address; nothing is sent.

        Raises:
            WriterError: the address cannot be used.
        """
        self.run, self.bank, self.part = run, bank, shared_part(run)
        self.server = ChatServer(options)

    def write(self, ecgs: WriterInput, progress: Progress | None = None) -> list[str]:
        """Return the reports of N ECGs; '' without a request for an ECG without facts.

        Raises:
            WriterError: there are no facts about any of them, or the server does not answer with reports.
        """
        texts: list[str] = []
        for facts in collect_facts(self.run, ecgs, self.bank):
            texts.append(self._report(facts) if facts else "")
            if progress is not None:
                progress("write reports", len(texts), len(ecgs))
        return texts

    def _report(self, facts: dict[str, Any]) -> str:
        return self.server.answer(INSTRUCTION, facts, _validated, lambda report: {"report": report}, "report")


def _content(answer: bytes) -> str:
    """Return the text of a chat answer."""
    try:
        text = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, TypeError, IndexError):
        raise InvalidAnswer("its answer is no chat completion") from None
    return str(text)


def _validated(text: str) -> str:
    """Return the cleaned report of an answer."""
    fenced = _FENCE.match(text)
    try:
        report = json.loads(fenced[1] if fenced else text)["report"]
    except (ValueError, KeyError, TypeError):
        raise InvalidAnswer("its answer is no JSON object with a report") from None
    if not isinstance(report, str) or len(report) > MAX_CHARACTERS or not reports.clean(report):
        raise InvalidAnswer(f"its report is empty, no text, or longer than {MAX_CHARACTERS} characters")
    return reports.clean(report)

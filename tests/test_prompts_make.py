"""Prompts from a language model, against a mock server: requests, saved files and refused answers."""

import json
import logging
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from command_line import invoke

from leadwise.evaluate import prompts
from leadwise.evaluate.prompts import PromptError
from leadwise.evaluate.prompts.make import (
    MAX_TRIES,
    TEMPLATE,
    Endpoint,
    PromptGenerationError,
    generate_prompts,
    parse_statements,
    request_completion,
)

NAMES = {"AFIB": "atrial fibrillation", "LBBB": "left bundle branch block"}
KEY = "sk-very-secret-0123"


def completion(content):
    return {"choices": [{"message": {"role": "assistant", "content": content}}]}


def texts_for(name, n=2):
    return json.dumps([f"{name}. abnormal ecg.", f"sinus rhythm. {name}.", f"possible {name}.", f"{name}."][:n])


class StandIn:
    """An endpoint that sends the answers of `script`, in turn, and then valid ones."""

    def __init__(self):
        self.script, self.requests = [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, dict(self.headers), body))
                status, answer, headers = outer.script.pop(0) if outer.script else outer.valid_answer(body)
                raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def valid_answer(self, body):
        prompt = body["messages"][0]["content"]
        name = next(name for name in (*NAMES.values(), "") if name in prompt)
        return 200, completion(texts_for(name)), {}


@pytest.fixture
def server():
    stand_in = StandIn()
    yield stand_in
    stand_in.server.shutdown()
    stand_in.server.server_close()


def generate(server, tmp_path, key=KEY, names=NAMES, pauses=None, model="stand-in-1", task="t"):
    pauses = [] if pauses is None else pauses
    return generate_prompts(
        tmp_path / "my.toml", "s", task, names, Endpoint(server.url, model, key), n_prompts=2, pause=pauses.append
    )


def test_names_are_sent_and_checked_statements_returned(server, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    generated = generate(server, tmp_path)
    assert generated.texts["own"]["AFIB"] == (
        "atrial fibrillation. abnormal ecg.",
        "sinus rhythm. atrial fibrillation.",
    )
    assert generated.names == NAMES
    assert (generated.source, generated.task) == ("s", "t")
    assert generated.generation["model"] == "stand-in-1"
    assert generated.generation["host"] == server.url.split("/")[2]
    assert generated.generation["prompt"] == TEMPLATE.replace("{n}", "2")
    assert len(generated.generation["date"]) == 10
    for (path, headers, body), name in zip(server.requests, NAMES.values(), strict=True):
        assert path == "/v1/chat/completions"
        assert headers["Authorization"] == f"Bearer {KEY}"
        content = TEMPLATE.replace("{n}", "2").replace("{name}", name)
        assert body == {"model": "stand-in-1", "messages": [{"role": "user", "content": content}]}  # and nothing else
    assert [path.name for path in tmp_path.iterdir()] == ["my.toml"]
    assert KEY not in (tmp_path / "my.toml").read_text()
    assert KEY not in caplog.text
    assert KEY not in repr(Endpoint(server.url, "m", KEY))


def test_busy_hosts_are_retried_with_growing_pauses(server, tmp_path):
    server.script = [(429, {}, {"Retry-After": "7"}), (503, b"busy", {}), (500, {}, {"Retry-After": "9999"})]
    pauses = []
    generate(server, tmp_path, pauses=pauses)
    assert pauses == [7.0, 2.0, 60.0]
    assert len(server.requests) == 3 + len(NAMES)


def test_a_host_that_stays_busy_is_an_error(server, tmp_path):
    server.script = [(429, {}, {})] * MAX_TRIES
    pauses = []
    with pytest.raises(PromptGenerationError, match=rf"answered 429, {MAX_TRIES} times"):
        generate(server, tmp_path, pauses=pauses)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_host_is_an_error(tmp_path, server):
    server.server.shutdown()
    server.server.server_close()
    pauses = []
    with pytest.raises(PromptGenerationError, match="cannot be reached"):
        request_completion(Endpoint(server.url, "m"), "hello", pauses.append)
    assert len(pauses) == MAX_TRIES - 1


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, {"error": {"message": f"Incorrect API key {KEY}"}}, "answered 401; check"),
        (404, {"error": {"message": "no such model"}}, "answered 404 .'no such model'.; check --url, --model"),
        (400, {"error": {"message": f"bad request of {KEY}"}}, "bad request of"),
        (302, b"", "answered 302"),
        (200, {"hello": 1}, "without a chat completion"),
        (200, b"<html>", "without a chat completion"),
        (200, {"choices": [{"message": {"content": None}}]}, "without a chat completion"),
    ],
)
def test_a_refusal_is_an_error_without_the_key(server, tmp_path, status, body, message):
    server.script = [(status, body, {"Location": "http://127.0.0.1:9/"} if status == 302 else {})]
    with pytest.raises(PromptGenerationError, match=message) as error:
        generate(server, tmp_path)
    assert KEY not in str(error.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ('Sure! Here are two: ["a b.", "c d."]', "not a JSON list alone"),
        ('```json\n["sinus rhythm.", "normal ecg."]\n```', "not a JSON list alone"),
        ('{"prompts": ["sinus rhythm.", "normal ecg."]}', "JSON but not a list of texts"),
        ('["sinus rhythm.", 3]', "JSON but not a list of texts"),
        ('["sinus rhythm."]', "1 distinct texts, not 2"),
        ('["sinus rhythm.", "Sinus rhythm"]', "1 distinct texts, not 2"),
        ('["sinus rhythm.", ""]', "not in the style"),
        ('["sinus rhythm.", "this ecg shows sinus rhythm."]', "the word 'this' is a statement about an ECG"),
        ('["sinus rhythm.", "<b>sinus</b> rhythm."]', "not in the style"),
        (json.dumps(["sinus rhythm.", "wide " * 30 + "qrs."]), "longer than 18 words"),
    ],
)
def test_other_answers_than_a_list_of_reports_are_refused(answer, message):
    with pytest.raises(PromptGenerationError, match=message) as error:
        parse_statements(answer, 2, "host, model, class X")
    assert "host, model, class X" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_statements_are_cleaned_like_reports():
    assert parse_statements('["Sinus rhythm; Normal EKG", "normal ecg"]', 2, "") == [
        "sinus rhythm. normal ecg.",
        "normal ecg.",
    ]


def test_an_interrupted_call_continues_from_its_partial_file(server, tmp_path):
    server.script = [(200, completion(texts_for("atrial fibrillation")), {}), (200, completion("I cannot."), {})]
    with pytest.raises(PromptGenerationError, match="class LBBB: the answer is not a JSON list"):
        generate(server, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["my.toml.partial"]
    partial = tomllib.loads((tmp_path / "my.toml.partial").read_text())
    assert list(partial["classes"]) == ["AFIB"]
    for other in ({"model": "another"}, {"task": "u"}):
        with pytest.raises(PromptError, match=f"started with another {next(iter(other))}; delete it"):
            generate(server, tmp_path, **other)
    server.requests.clear()
    generated = generate(server, tmp_path)
    assert len(server.requests) == 1
    assert "left bundle branch block" in server.requests[0][2]["messages"][0]["content"]
    assert list(generated.names) == list(NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["my.toml"]


def test_a_key_is_sent_encrypted_or_not_at_all():
    with pytest.raises(PromptGenerationError, match=r"the key would be sent to box\.lan unencrypted") as error:
        Endpoint("http://box.lan:8000/v1", "m", KEY)
    assert KEY not in str(error.value)
    Endpoint("http://box.lan:8000/v1", "m")
    for wrong in ("ftp://x/v1", "api.openai.com/v1", "https://user:word@x/v1", "https://x/v1?key=1"):
        with pytest.raises(PromptGenerationError, match="--url must"):
            Endpoint(wrong, "m")
    with pytest.raises(PromptGenerationError, match="line break"):
        Endpoint("https://x/v1", "m", "sk-1\nX-Other: 2")


def test_without_a_key_no_authorization_is_sent(server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password secret-word\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    request_completion(Endpoint(server.url, "m"), f'for "{NAMES["AFIB"]}"')
    assert "Authorization" not in server.requests[0][1]


def call(*words, **env):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        return invoke("prompts", *words)


def test_the_commands(server, tmp_path):
    (tmp_path / "like.toml").write_text(
        'source = "s"\ntask = "t"\n' + "".join(f'[classes.{code}]\nname = "{name}"\n' for code, name in NAMES.items())
    )
    words = (
        "make",
        "--like",
        tmp_path / "like.toml",
        "--model",
        "m-1",
        "--url",
        server.url,
        "-o",
        tmp_path / "my.toml",
    )
    done = call(*words, "--n", 2, "--key-env", "MY_KEY", "--json", tmp_path / "m.json", MY_KEY=KEY)
    assert done.returncode == 0, done.stderr
    assert server.requests[0][1]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in done.stdout + done.stderr + (tmp_path / "m.json").read_text() + (tmp_path / "my.toml").read_text()
    again = call(*words)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr

    checked = call("check", tmp_path / "my.toml", "--json", tmp_path / "c.json")
    assert checked.returncode == 0, checked.stderr
    result = json.loads((tmp_path / "c.json").read_text())
    assert result["made"]["model"] == "m-1"
    assert result["remarks"] == []
    (tmp_path / "bad.toml").write_text((tmp_path / "my.toml").read_text().replace("name =", "nome ="))
    wrong = call("check", tmp_path / "bad.toml")
    assert wrong.returncode == 1
    assert "unknown key 'nome'" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_file_is_checked_against_a_cohort(cohort_folder, tmp_path):
    head = 'source = "folder"\ntask = "own"\n'
    (tmp_path / "own.toml").write_text(
        head + '[classes.normal]\nname = "normal ecg"\n[classes.afib]\nname = "fibrillation"\n'
    )
    wrong = call("check", tmp_path / "own.toml", "--cohort", cohort_folder)
    assert wrong.returncode == 1
    assert "no prompts for mi" in wrong.stderr


def test_shipped_files_are_printed():
    listing = call("show")
    assert all(path.name in listing.stdout for path in prompts.shipped())
    one = call("show", "--source", "csn", "--task", "csn", "--set", "name")
    assert "atrial flutter." in one.stdout
    assert call("show", "--source", "csn").returncode == 2

"""Each route of `leadwise serve`, its values against the Python API, and the checks of every request."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serve_files import CANARY, HEADERS, TOKEN, example_bytes

pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("httpx", reason="needs httpx, the client of the tests")

from starlette.testclient import TestClient

from leadwise.batch import LEADS
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.sources.simulated import read_source, simulate
from leadwise.ecg import read
from leadwise.evaluate.search import positive_classes
from leadwise.evaluate.text_embeddings import unit
from leadwise.model import Model, load
from leadwise.serve.app import create_app
from leadwise.serve.safety import HEADERS as SAFETY_HEADERS
from leadwise.serve.server import address, bind
from leadwise.serve.settings import Limits, ServeError, ServeSettings, checked

LIMITS = Limits(upload_bytes=2_000_000, samples=20_000, parsers=1)


@pytest.fixture(scope="module")
def model() -> Model:
    return load("ptbxl-fast", device="cpu")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    simulate(folder / "files", 24, 3)
    write(read_source(folder / "files"), folder / "cohort")
    return folder / "cohort"


@pytest.fixture(scope="module")
def client(cohort: Path) -> Iterator[TestClient]:
    settings = ServeSettings("ptbxl-fast", cohort, token=TOKEN, limits=LIMITS)
    with TestClient(create_app(settings), base_url="http://127.0.0.1:8765", headers=HEADERS) as client:
        yield client


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return example_bytes(tmp_path_factory.mktemp("examples"))


def millivolts(samples: dict[str, Any]) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(samples["base64"]), dtype="<i2").astype(float)
    values[values == samples["missing"]] = np.nan
    return values * samples["mv_per_unit"]


def post(client: TestClient, path: str, content: bytes, name: str = "", **query: Any) -> Any:
    return client.post(path, content=content, params=query, headers={"X-File-Name": name})


# ------------------------------------------------------------------------------------------------------------- values


def test_read_answers_what_the_library_reads(client: TestClient, files: dict[str, bytes]) -> None:
    ecg = read(files["sinus_rhythm.xml"])
    answer = post(client, "/api/read", files["sinus_rhythm.xml"], "sinus_rhythm.xml").json()
    assert [lead["name"] for lead in answer["leads"]] == list(LEADS)
    assert [lead["origin"] for lead in answer["leads"]] == list(ecg.quality["origin"])
    for lead, expected in zip(answer["leads"], ecg.signal):
        step = lead["samples"]["mv_per_unit"]
        np.testing.assert_allclose(millivolts(lead["samples"]), expected, atol=0.51 * step)
        assert step < 0.0005
    measured = ecg.measure()
    for name, value in answer["measurements"].items():
        assert value == pytest.approx(getattr(measured, name), abs=0.06)
    assert answer["format"] == ecg.format
    assert answer["stated"] == dict(ecg.stated)
    assert answer["interpretable"]
    assert answer["remarks"] == list(ecg.remarks)
    assert len(answer["beats_s"]) == measured.n_beats
    middles = (measured.beats["qrs_onset_s"] + measured.beats["qrs_offset_s"]) / 2
    assert np.abs(np.array(answer["beats_s"]) - middles[np.isfinite(middles)]).max() < 0.08


@pytest.mark.parametrize("name", ["fibrillation.xml", "record.zip"])
def test_files_of_other_formats_are_read(client: TestClient, files: dict[str, bytes], name: str) -> None:
    answer = post(client, "/api/read", files[name], name)
    assert answer.status_code == 200, answer.text
    assert answer.json()["duration_s"] == 10


def test_what_a_file_does_not_state_is_a_question_of_the_error_and_an_option(
    client: TestClient, files: dict[str, bytes]
) -> None:
    refused = post(client, "/api/read", files["table.csv"], "table.csv")
    assert refused.status_code == 422
    text = "the file does not state the sampling rate and the unit; pass them (rate_hz; units)"  # the names of the API
    assert refused.json() == {"error": text}
    answer = post(client, "/api/read", files["table.csv"], "table.csv", rate_hz=500, units="mV")
    assert answer.json()["file_rate_hz"] == 500


@pytest.mark.parametrize(
    "path", ["read", "embed", "zeroshot?task=super", "explain?task=super&class=NORM", "neighbours"]
)
def test_a_recording_of_milliseconds_is_refused_with_the_shortest_duration(client: TestClient, path: str) -> None:
    facts = {"rate_hz": "500", "leads": "I,II", "units": "mV"}
    wave = np.round(np.sin(2 * np.pi * 1.2 * np.arange(1200) / 500) ** 15, 4)
    rows = [f"{value},{value / 2:.4f}" for value in wave]
    separator = "&" if "?" in path else "?"
    address = f"/api/{path}{separator}{'&'.join(f'{key}={value}' for key, value in facts.items())}"

    def answer(n: int) -> Any:
        return client.post(address, content="\n".join(rows[:n]).encode(), headers={"X-File-Name": "a.csv"})

    for n, lasting in ((2, "0.004 s (2 samples at 500 Hz)"), (499, "0.998 s (499 samples at 500 Hz)")):
        refused = answer(n)
        assert refused.status_code == 422
        text = f"the recording lasts {lasting}; at least 1 s is needed: export all of it, or correct the sampling rate"
        assert refused.json() == {"error": text}
    assert path.startswith("explain") or answer(1200).status_code == 200  # an occlusion map needs more
    assert path != "read" or answer(500).json()["duration_s"] == 1.0


def test_embed_and_zeroshot_equal_the_model(
    client: TestClient, files: dict[str, bytes], model: Model, cohort: Path
) -> None:
    content = files["fibrillation.xml"]
    answer = post(client, "/api/embed", content, part="shared").json()
    np.testing.assert_allclose(answer["vector"], model.embed(content, part="shared")[0], rtol=1e-4, atol=1e-5)
    assert answer["run"] == model.fingerprint

    # of a task that the cohort has, and of a task with a calibration
    expected = model.zeroshot(content, "findings", reference=cohort).set_index("class")
    rows = {row["class"]: row for row in post(client, "/api/zeroshot", content, task="findings").json()["rows"]}
    assert list(expected.index.sort_values()) == sorted(rows)
    for name, row in rows.items():
        for column in ("cosine", "low", "high"):
            assert row[column] == pytest.approx(expected.loc[name, column], abs=1e-4)
        assert row["percentile"] == pytest.approx(
            expected.loc[name, "percentile"], abs=4.2
        )  # one of 24 may change sides
    expected = model.zeroshot(content, "ptbxl_super").set_index("class")
    answer = post(client, "/api/zeroshot", content, task="super").json()
    assert answer["calibration"]["sentence"].startswith("Probabilities by")
    probabilities = [row["probability"] for row in answer["rows"]]
    assert probabilities == sorted(probabilities, reverse=True)
    for row in answer["rows"]:
        assert row["probability"] == pytest.approx(expected.loc[row["class"], "probability"], abs=1e-3)


def test_own_words_name_the_unknown_ones(client: TestClient, files: dict[str, bytes]) -> None:
    words = ["atrial fibrillation", "gallimaufry of the heart"]
    rows = post(client, "/api/zeroshot", files["fibrillation.xml"], words=words).json()["rows"]
    unknown = {row["text"]: row["unknown_words"] for row in rows}
    assert unknown[words[0]] == []
    assert "gallimaufry" in unknown[words[1]]
    assert all(row["percentile"] is not None and row["probability"] is None for row in rows)


def test_no_answer_for_an_ecg_that_is_not_interpretable(client: TestClient) -> None:
    for name in ("flat", "unit-doubt"):
        content = client.get(f"/api/examples/{name}").content
        assert not post(client, "/api/read", content).json()["interpretable"]
        answer = post(client, "/api/zeroshot", content, task="super").json()
        assert (answer["interpretable"], answer["rows"]) == (False, [])
        assert answer["refusal"].startswith("not interpretable: ")
        for path in ("embed", "neighbours"):
            assert post(client, f"/api/{path}", content).status_code == 422
    doubts = post(client, "/api/read", client.get("/api/examples/unit-doubt").content).json()["doubts"]
    assert [doubt["kind"] for doubt in doubts] == ["unit"]


def test_exchanged_arms_and_exchanged_names_are_doubted(client: TestClient) -> None:
    normal, exchanged = (client.get(f"/api/examples/{name}").content for name in ("normal", "arms-exchanged"))
    assert post(client, "/api/read", normal).json()["lead_swap"] is None
    answer = post(client, "/api/read", exchanged).json()
    assert "arm electrodes" in answer["lead_swap"]["text"]
    assert answer["doubts"] == []  # the equations of the limb leads hold

    # two names exchanged: the equations of the limb leads name them
    text = exchanged.replace(b"MDC_ECG_LEAD_AVL", b"X").replace(b"MDC_ECG_LEAD_AVF", b"MDC_ECG_LEAD_AVL")
    answer = post(client, "/api/read", text.replace(b'"X"', b'"MDC_ECG_LEAD_AVF"')).json()
    assert [doubt["kind"] for doubt in answer["doubts"]] == ["leads"]
    assert answer["lead_swap"]["proposal"] == "exchange the names aVL and aVF"


def test_explain_equals_the_model(client: TestClient, files: dict[str, bytes], model: Model) -> None:
    content = files["fibrillation.xml"]
    expected = model.explain(content, "atrial fibrillation")
    answer = post(client, "/api/explain", content, words="atrial fibrillation").json()
    assert answer["cosine"] == pytest.approx(expected.score, abs=1e-4)
    table = expected.drops
    assert len(answer["windows"]) == np.isfinite(table.to_numpy()).sum()
    for window in answer["windows"][:: max(1, len(answer["windows"]) // 20)]:
        assert window["drop"] == pytest.approx(table.loc[window["lead"], round(window["start_s"], 6)], abs=1e-4)


def test_neighbours_are_the_nearest_by_a_plain_loop(client: TestClient, model: Model, cohort: Path) -> None:
    opened = Cohort.open(cohort)
    vectors = unit(model.embed(opened))
    own = client.get("/api/examples/normal").content
    query = unit(model.embed(own))[0]
    expected = sorted(range(len(opened)), key=lambda row: -float(vectors[row] @ query))[:5]
    answer = post(client, "/api/neighbours", own, top=5).json()
    assert [row["row"] for row in answer["rows"]] == expected
    assert answer["n"] == len(opened)
    for row in answer["rows"]:
        assert row["record"] == opened.records[row["row"]]
        assert row["cosine"] == pytest.approx(float(vectors[row["row"]] @ query), abs=1e-4)
        labels = opened.labels("findings", np.array([row["row"]]))[0]
        assert row["labels"]["findings"] == [name for name, is_so in zip(opened.tasks["findings"], labels) if is_so]
        assert "report" not in row


def test_recordings_of_the_cohort_thumbs_and_map(client: TestClient, cohort: Path) -> None:
    opened = Cohort.open(cohort)
    signal, rate_hz = opened.signal(3)
    answer = client.get("/api/ecg/3").json()
    assert answer["rate_hz"] == min(rate_hz, 500)
    if rate_hz <= 500:
        lead = answer["leads"][1]
        np.testing.assert_allclose(
            millivolts(lead["samples"]), signal[:, 1], atol=0.51 * lead["samples"]["mv_per_unit"]
        )
    assert "report" not in answer
    assert client.get("/api/ecg/24").status_code == client.get("/api/ecg/-1").status_code == 404

    thumb = client.get("/api/thumb/3").json()
    step = round(rate_hz / 100)
    plain = [np.mean(signal[k * step : (k + 1) * step, 1]) for k in range(len(signal) // step)]
    np.testing.assert_allclose(millivolts(thumb["samples"]), plain, atol=1e-3)
    thumbs = client.post("/api/thumbs", json={"rows": [3, 5]}).json()
    assert thumbs["3"] == thumb
    assert list(thumbs) == ["3", "5"]
    for body in ({"rows": [24]}, {"rows": "3"}, {"rows": [True]}, {"rows": list(range(65))}, [1]):
        assert client.post("/api/thumbs", json=body).status_code == 400

    answer = client.get("/api/map").json()
    rows = np.frombuffer(base64.b64decode(answer["rows"]), "<i4")
    assert rows.tolist() == list(range(24))
    split = answer["columns"]["split"]
    codes = np.frombuffer(base64.b64decode(split["codes"]), "u1")
    assert [split["names"][code] for code in codes] == opened.splits(rows).tolist()
    ages = np.frombuffer(base64.b64decode(answer["columns"]["age"]["values"]), "<f4")
    np.testing.assert_allclose(ages, opened.column("age", rows).to_numpy(dtype=float))
    assert {"x", "y"} <= set(answer)
    assert answer["records"] == [opened.records[row] for row in range(24)]

    # a recording with several classes counts as its rarest
    task = next(iter(opened.main_tasks))
    positive = [one[task] for one in positive_classes(opened, rows)]
    often = Counter(name for names in positive for name in names)
    column = answer["columns"][task]
    drawn = [column["names"][code] for code in np.frombuffer(base64.b64decode(column["codes"]), "u1")]
    assert any(len(names) > 1 for names in positive)
    for name, names in zip(drawn, positive):
        assert name in names if names else name == "none"
        assert not names or often[name] == min(often[each] for each in names)


def test_compare_two_ecgs(client: TestClient, model: Model) -> None:
    first, second = (client.get(f"/api/examples/person-{name}").content for name in ("first", "second"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("1/a.xml", first)
        archive.writestr("2/b.xml", second)
    answer = post(client, "/api/compare", buffer.getvalue(), "pair.zip").json()
    one, other = read(first).measure(), read(second).measure()
    rows = {row["name"]: row for row in answer["differences"]}
    change = other.heart_rate_bpm - one.heart_rate_bpm
    assert rows["heart_rate_bpm"]["change"] == pytest.approx(change, abs=0.06)
    assert rows["heart_rate_bpm"]["is_notable"] == (abs(change) >= 10)
    vectors = unit(np.concatenate([model.embed(first), model.embed(second)]))
    assert answer["cosine"] == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-4)
    for lead in answer["leads"]:
        beats = [millivolts(lead["median_beat"][side]) for side in ("first", "second")]
        rms = 1000 * np.sqrt(np.nanmean((beats[1] - beats[0]) ** 2))
        assert lead["rms_uv"] == pytest.approx(rms, abs=0.5)
    assert post(client, "/api/compare", first, "a.xml").status_code == 422


def test_state_examples_and_description(client: TestClient) -> None:
    state = client.get("/api/state").json()
    assert state["tasks"][0]["name"] == "findings"
    assert {task["name"]: task["calibrated"] for task in state["tasks"]}["super"]
    assert state["cohort"]["n"] == 24
    assert "Research use only" in state["remark"]
    for example in state["examples"]:
        answer = client.get(f"/api/examples/{example['name']}")
        assert post(client, "/api/read", answer.content, answer.headers["X-File-Name"]).status_code == 200
    described = client.get("/api/openapi.json").json()
    assert described["openapi"] == "3.1.0"
    for path, methods in described["paths"].items():
        for method in methods:
            url = path.replace("{row}", "0").replace("{name}", "normal")
            content = {"content": b"x"} if method == "post" else {}
            assert client.request(method, url, **content).status_code not in (404, 405), path
    used = set(json.dumps(described).split('"#/components/schemas/')[1:])
    assert {name.split('"')[0] for name in used} <= set(described["components"]["schemas"])


# ------------------------------------------------------------------------------------------------------------- safety


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:8765"}, 403),
        ({"Host": "[::1]:8765"}, 403),
        ({"Host": "127.0.0.1:8765@evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"X-Leadwise-Token": ""}, 401),
        ({"X-Leadwise-Token": TOKEN + "a"}, 401),
        ({"X-Leadwise-Token": "ä".encode("latin-1")}, 401),
        ({"Host": "localhost:8765"}, 200),
        ({"Origin": "http://127.0.0.1:8765"}, 200),
    ],
)
def test_host_origin_and_token(client: TestClient, headers: dict[str, Any], status: int) -> None:
    answer = client.get("/api/state", headers=headers)
    assert answer.status_code == status
    for name, value in SAFETY_HEADERS.items():
        assert answer.headers[name] == value
    assert "access-control-allow-origin" not in answer.headers


def test_only_listed_files_are_served(client: TestClient) -> None:
    for path in ("..%2fapp.py", "../app.py", "%2e%2e/app.py", "app.py", "index.html/..", "nothing.js"):
        assert client.get(f"/static/{path}").status_code == 404
    policy = client.get("/").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_uploads_are_limited_by_what_arrives(client: TestClient) -> None:
    large = b"\0" * (LIMITS.upload_bytes + 1)
    assert post(client, "/api/read", large).status_code == 413
    assert client.post("/api/read", content=iter([large[:1_000_000]] * 3)).status_code == 413
    assert post(client, "/api/read", b"").status_code == 400
    assert client.post("/api/read", files={"file": b"x"}).status_code == 400
    n = LIMITS.samples + 1
    long = (",".join(LEADS) + "\n" + (",".join(["0.1"] * 12) + "\n") * n).encode()
    answer = post(client, "/api/read", long, "long.csv", rate_hz=500, units="mV")
    assert answer.status_code == 413
    assert "samples per lead" in answer.json()["error"]


def test_an_archive_that_unpacks_to_much_is_refused(client: TestClient) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.hea", b"\0" * 200_000_000)
    assert len(buffer.getvalue()) < LIMITS.upload_bytes
    assert post(client, "/api/read", buffer.getvalue(), "a.zip").status_code == 413
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../evil.hea", b"evil 1 500 10\n../x.dat 16 1/mV 16 0 0 0 0 I\n")
        archive.writestr("/x.dat", b"\0" * 20)
    answer = post(client, "/api/read", buffer.getvalue(), "a.zip")
    assert answer.status_code == 422
    assert "/" not in answer.json()["error"].replace("n/a", "")


def test_no_error_names_a_path_or_the_file(client: TestClient) -> None:
    for name, content in (
        (f"{CANARY}.xml", b"<a/>"),
        (f"{CANARY}.npz", b"PK\x03\x04"),
        (f"/etc/{CANARY}.dcm", b"\0" * 300),
    ):
        answer = post(client, "/api/read", content, name)
        assert answer.status_code == 422
        text = answer.json()["error"]
        assert CANARY not in text
        assert "/tmp" not in text
        assert "/dev" not in text
        assert "bytes:" not in text


@pytest.mark.parametrize(
    "query",
    [
        {"task": "none"},
        {"task": "super", "words": "x"},
        {},
        {"words": "..."},
        {"words": "x" * 201},
        {"words": ["a"] * 21},
        {"task": "super", "rate_hz": "nan"},
        {"task": "super", "rate_hz": "1e9"},
        {"task": "super", "units": "parsec"},
    ],
)
def test_questions_that_are_not_valid(client: TestClient, files: dict[str, bytes], query: dict[str, Any]) -> None:
    answer = post(client, "/api/zeroshot", files["sinus_rhythm.xml"], **query)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}


def test_another_host_needs_a_flag_and_a_token() -> None:
    with pytest.raises(ServeError, match="--allow-remote"):
        ServeSettings(host="0.0.0.0")
    with pytest.raises(ServeError, match="--token"):
        checked(ServeSettings(host="0.0.0.0", allow_remote=True), None)
    with pytest.raises(ServeError, match="16"):
        ServeSettings(token="short")
    assert checked(ServeSettings(host="0.0.0.0", allow_remote=True, token=TOKEN), TOKEN).token == TOKEN
    assert ServeSettings(host="127.0.0.5").is_loopback
    assert not ServeSettings(host="192.0.2.1", allow_remote=True).is_loopback
    assert len({ServeSettings().token, ServeSettings().token}) == 2


def test_an_address_that_cannot_be_bound_has_a_remedy_that_fits() -> None:
    with pytest.raises(ServeError, match=r"::1 is not an IPv4 address.*127\.0\.0\.1"):
        ServeSettings(host="::1")
    with pytest.raises(ServeError, match="IPv4 address of this machine"):
        bind(ServeSettings(host="192.0.2.1", port=0, allow_remote=True, token=TOKEN))
    with bind(ServeSettings(port=0)) as bound:
        bound.listen()
        with pytest.raises(ServeError, match="another --port"):
            bind(ServeSettings(port=bound.getsockname()[1]))
    everywhere = ServeSettings(host="0.0.0.0", allow_remote=True, token=TOKEN)
    assert address(everywhere, 80) == f"http://127.0.0.1:80/#token={TOKEN}"


def test_a_file_without_a_name_is_refused_with_the_header(client: TestClient, files: dict[str, bytes]) -> None:
    answer = client.post("/api/read", content=files["table.csv"])
    assert answer.status_code == 422
    assert "X-File-Name" in answer.json()["error"]
    named = client.post("/api/read", content=b"no ECG", headers={"X-File-Name": "a.bin"})
    assert named.status_code == 422
    assert "X-File-Name" not in named.json()["error"]


def test_reports_only_with_the_flag(cohort: Path, model: Model) -> None:
    from leadwise.serve.bank import Bank

    opened = Cohort.open(cohort)
    bank = Bank(model.run, opened)
    assert bank.labels(2, show_reports=True)["report"] == opened.reports[2]
    assert "report" not in bank.labels(2, show_reports=False)
    assert sorted(path.suffix for path in bank.folder.iterdir()) == [".npz", ".npz", ".npz"]

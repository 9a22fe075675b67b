"""Questions about ECGs: truth and options, what follows from beliefs, the controls, and what is sent to a server."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from api_run import write_run
from command_line import invoke
from page_order import assert_pictures_first
from test_writers import SMALL, StandIn, completion, stand_in, write_cohort  # noqa: F401  (a fixture)

from leadwise import run as runs
from leadwise.data.cohort.cohort import Cohort
from leadwise.generate.training import train_writer
from leadwise.generate.writers.server import ChatServer, InvalidAnswer, ServerOptions
from leadwise.questions import answerers, bench
from leadwise.questions.answerers import Probe, ask_server, believe_reports, majority
from leadwise.questions.beliefs import Beliefs, answer
from leadwise.questions.make import make_questions
from leadwise.questions.question import KINDS, Question, QuestionError, read_questions, score, write_questions
from leadwise.questions.truth import Truth, range_names, range_of, read_truth, read_truth_table
from leadwise.run import Run

CLASSES = ("SR", "AFIB", "LVH", "CLBBB", "IMI", "STD")


def truth_of(n: int = 60, seed: int = 0, prefix: str = "r") -> Truth:
    """Recordings of patients with two each, and findings of different frequency; every one has a rhythm."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, len(CLASSES))) < [0.7, 0.3, 0.3, 0.1, 0.2, 0.1]).astype(np.int8)
    labels[:, 1] = 1 - labels[:, 0]
    ranges = {"heart_rate_bpm": rng.integers(0, 4, n), "qrs_ms": np.where(labels[:, 3], 3, rng.integers(0, 3, n))}
    ranges["heart_rate_bpm"][0] = -1
    names = [f"{prefix}{k}" for k in range(n)]
    patients = [f"{prefix}p{k // 2}" for k in range(n)]
    return Truth(np.arange(n), names, patients, CLASSES, {c: c.lower() for c in CLASSES}, labels, ranges, "true values")


def right_beliefs(truth: Truth) -> Beliefs:
    """What is true, with certainty."""
    odds = np.where(truth.labels > 0, 8.0, -8.0)
    ranges = {name: np.eye(4)[values] for name, values in truth.ranges.items()}
    return Beliefs(truth.records, CLASSES, odds, np.full(len(CLASSES), -1.0), truth.labels > 0, ranges)


# ------------------------------------------------------------------------------------------------------------ questions


def test_every_question_is_true_to_the_labels() -> None:
    truth = truth_of()
    place = {name: k for k, name in enumerate(truth.records)}
    questions = make_questions(truth)
    assert {one.kind for one in questions} == set(KINDS)
    for one in questions:
        rows = [place[name] for name in one.records]
        labels = [dict(zip(CLASSES, truth.labels[row])) for row in rows]
        assert len(set(one.keys)) == len(one.options) == len(one.keys)
        right = [one.keys[k] for k in one.answer]
        if one.kind == "presence":
            assert right == ["yes" if labels[0][one.about] else "no"]
            assert one.about.lower() in one.text
        elif one.kind == "choice":
            assert len(one.options) == 4
            assert [key for key in one.keys if labels[0][key]] == right == [one.about]
        elif one.kind == "range":
            assert right == [str(truth.ranges[one.about][rows[0]])]
            assert one.options[one.answer[0]] == range_names(one.about)[int(right[0])]
        elif one.kind == "list":
            assert set(right) == {key for key, has in labels[0].items() if has}
        else:
            assert truth.patients[rows[0]] == truth.patients[rows[1]]
            states = {"new": (0, 1), "gone": (1, 0), "both": (1, 1)}
            true = [key for key in one.keys if states[key.split()[0]] == tuple(x[key.split()[1]] for x in labels)]
            assert true == right
    assert not any(
        one.kind == "range" and one.about == "heart_rate_bpm" and one.records == ("r0",) for one in questions
    )


def test_options_are_shuffled_by_the_seed_and_positions_say_nothing() -> None:
    truth = truth_of(400)
    questions = make_questions(truth, seed=1)
    assert questions == make_questions(truth, seed=1)
    assert questions != make_questions(truth, seed=2)
    choice = [one for one in questions if one.kind == "choice"]
    counts = Counter(one.answer[0] for one in choice)
    assert all(0.18 * len(choice) < counts[k] < 0.32 * len(choice) for k in range(4))
    only = make_questions(truth, seed=1, kinds=("choice",))
    assert only == choice  # a question does not depend on the other kinds


def test_a_findings_frequency_is_no_answer() -> None:
    """Findings that an ECG does not have are drawn by frequency: yes and no are balanced for each finding."""
    presence = [one for one in make_questions(truth_of(1200), kinds=("presence",)) if one.kind == "presence"]
    for name in CLASSES:
        own = [one.keys[one.answer[0]] for one in presence if one.about == name]
        assert 0.2 < own.count("yes") / len(own) < 0.8, name  # rhythms exclude each other
    truth = truth_of(600, seed=1)
    questions = make_questions(truth, kinds=("presence",))
    chosen = answer(majority(truth_of(1200), truth), questions)
    values = [score(q, a) for q, a in zip(questions, chosen) if q.kind in ("presence",)]
    assert 0.35 < np.mean(values) < 0.7


def test_ranges() -> None:
    assert [range_of("qrs_ms", x) for x in (80, 90, 104.9, 119, 120, 200, math.nan)] == [0, 1, 1, 2, 3, 3, -1]
    assert range_names("heart_rate_bpm")[1] == "60 to below 80 bpm"


def test_scores_of_lists_are_f1() -> None:
    one = Question("list", ("r",), "", "?", tuple("abcd"), tuple("ABCD"), (0, 2))
    assert [score(one, chosen) for chosen in ((0, 2), (0,), (1,), (), (0, 1, 2, 3))] == pytest.approx(
        [1, 2 / 3, 0, 0, 2 / 3]
    )
    assert one.chance == 0.5
    closed = Question("choice", ("r",), "A", "?", tuple("abcd"), tuple("ABCD"), (1,))
    assert [score(closed, (k,)) for k in range(4)] == [0, 1, 0, 0]


def test_a_file_of_questions_is_read_back(tmp_path: Path) -> None:
    questions = make_questions(truth_of(10))
    write_questions(tmp_path / "q.jsonl", questions)
    assert read_questions(tmp_path / "q.jsonl") == questions
    lines = (tmp_path / "q.jsonl").read_text().splitlines()
    (tmp_path / "bad.jsonl").write_text("\n".join([lines[0], lines[1][:-9]]))
    with pytest.raises(QuestionError, match=r"bad\.jsonl: line 2 is no question"):
        read_questions(tmp_path / "bad.jsonl")


# -------------------------------------------------------------------------------------------------------------- answers


def test_what_is_true_answers_everything() -> None:
    truth = truth_of()
    questions = make_questions(truth)
    assert all(score(q, a) == 1 for q, a in zip(questions, answer(right_beliefs(truth), questions)))
    ignorant = Beliefs(truth.records, CLASSES, np.zeros(truth.labels.shape), np.zeros(6), truth.labels < 0, {})
    lots = [score(q, a) for q, a in zip(questions, answer(ignorant, questions)) if q.kind == "choice"]
    assert 0.1 < np.mean(lots) < 0.45  # by lot
    assert answer(ignorant, questions) == answer(ignorant, questions)


def test_evidence_counts_and_not_frequency() -> None:
    """An ECG whose odds of a rare finding are raised has it rather than a frequent finding at its usual odds."""
    question = Question("choice", ("r",), "B", "?", ("a", "b"), ("A", "B"), (1,))
    beliefs = Beliefs(["r"], ["A", "B"], np.array([[1.0, -1.0]]), np.array([1.0, -3.0]), np.zeros((1, 2), bool), {})
    assert answer(beliefs, [question]) == [(1,)]
    presence = Question("presence", ("r",), "B", "?", ("no", "yes"), ("no", "yes"), (1,))
    assert answer(beliefs, [presence]) == [(1,)]


def test_a_probe_answers_from_features_that_contain_the_findings() -> None:
    train, val, test = truth_of(400, 1), truth_of(200, 2), truth_of(200, 3)
    rng = np.random.default_rng(0)

    def features(truth: Truth) -> np.ndarray:
        known = np.concatenate([truth.labels, np.eye(4)[truth.ranges["qrs_ms"]]], axis=1)
        return (known + 0.1 * rng.standard_normal(known.shape)).astype(np.float32)

    probe = Probe(train, features(train), val, features(val))
    questions = make_questions(test)
    own = features(test)
    shuffled = probe.believe(test, own).of_others(bench._other_patients(test.patients, 0))
    for beliefs, low, high in ((probe.believe(test, own), 0.95, 1.0), (shuffled, 0.1, 0.6)):
        values = [
            score(q, a) for q, a in zip(questions, answer(beliefs, questions)) if q.kind in ("presence", "choice")
        ]
        assert low <= np.mean(values) <= high
    ranges = [
        score(q, a) for q, a in zip(questions, answer(probe.believe(test, own), questions)) if q.about == "qrs_ms"
    ]
    assert np.mean(ranges) > 0.9


def test_reports_are_read_by_the_labeller() -> None:
    truth = truth_of(4)
    texts = [
        "sinus rhythm. heart rate 72 bpm. qrs duration 125 ms.",
        "atrial fibrillation.",
        "",
        "no left bundle branch block.",
    ]
    beliefs = believe_reports(truth, "simulated", texts)
    assert [[CLASSES[k] for k in np.flatnonzero(row)] for row in beliefs.listed] == [["SR"], ["AFIB"], [], []]
    assert beliefs.ranges["heart_rate_bpm"][0].tolist() == [0, 1, 0, 0]
    assert beliefs.ranges["qrs_ms"][0].tolist() == [0, 0, 0, 1]
    assert not beliefs.ranges["qrs_ms"][1].any()


# ----------------------------------------------------------------------------------------------------- server and bench


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return write_cohort(tmp_path_factory.mktemp("questions"))


@pytest.fixture(scope="module")
def trained(records: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return runs.load(write_run(tmp_path_factory.mktemp("run") / "run", records.folder))


def test_a_server_gets_facts_and_options_and_no_name(stand_in: StandIn, tmp_path: Path) -> None:  # noqa: F811
    questions = make_questions(truth_of(4, prefix="secret"), kinds=("choice", "list"))
    stand_in.answers = [(200, completion('{"answer": ["B"]}')) for _ in questions]
    facts = {f"secret{k}": {"measurements": {"qrs_ms": 90 + k}} for k in range(4)}
    server = ChatServer(ServerOptions(stand_in.url, "m", wait_s=0.0, cache=tmp_path))
    assert ask_server(server, questions, facts) == [(1,)] * len(questions)
    bodies = [body for _, _, body in stand_in.requests]
    assert not any("secret" in (body.decode() if isinstance(body, bytes) else body) for body in bodies)
    content = json.loads(json.loads(bodies[0])["messages"][1]["content"])
    assert set(content) == {"facts", "question", "options"}
    assert list(content["options"].values()) == list(questions[0].options)
    # stored answers are not requested again
    assert ask_server(server, questions, facts) == [(1,)] * len(questions)
    assert len(stand_in.requests) == len(bodies)


def test_answers_that_are_not_options_are_refused() -> None:
    assert answerers._parsed('{"answer": "b"}', ["A", "B"], False) == (1,)
    assert answerers._parsed('```json\n{"answer": ["B", "A"]}\n```', ["A", "B"], True) == (0, 1)
    assert answerers._parsed('{"answer": []}', ["A", "B"], True) == ()
    for text, several in (
        ('{"answer": ["C"]}', False),
        ('{"answer": ["A", "B"]}', False),
        ("A", True),
        ('{"answer": 3}', True),
    ):
        with pytest.raises(InvalidAnswer):
            answerers._parsed(text, ["A", "B"], several)
    assert answerers._letters(28)[24:] == ["Y", "Z", "AA", "AB"]


def test_a_bench_by_a_probe_and_its_files(records: Cohort, trained: Run, tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    lines = [f"{name},{50 + k},{100 + 2 * k},{80 + k}" for k, name in enumerate(records.records)]
    truth.write_text("record,rate_bpm,pr_ms,qrs_ms\n" + "\n".join(lines) + "\n")
    files = {name: tmp_path / f"out.{name}" for name in ("json", "jsonl", "html", "png")}
    done = invoke(
        "bench-qa", trained.folder, records.folder, "--truth", truth, "--json", files["json"], "--questions", files["jsonl"],
        "--page", files["html"], "--picture", files["png"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(files["json"].read_text())
    assert list(result["rows"]) == ["probe of backbone", "shuffled ECG", "zero ECG", "majority", "chance"]
    assert result["numbers_from"] == "true values"
    assert result["n_questions"] == len(read_questions(files["jsonl"]))
    assert {len(row) for row in result["rows"].values()} == {len(result["rows"]["chance"])}
    page = files["html"].read_text()
    assert "shuffled ECG" in page
    assert_pictures_first(page)
    for name in ("json", "html"):
        assert "secret" not in files[name].read_text()
        assert "person" not in files[name].read_text().replace("personal", "")
    assert files["png"].stat().st_size > 1000


def test_a_bench_by_a_writer(records: Cohort, trained: Run, tmp_path: Path) -> None:
    writer = train_writer(trained, records, tmp_path / "w", SMALL)
    result = bench.run_bench(trained, records, "tiny", writer=writer, kinds=("presence", "list"))
    assert [row.name for row in result.rows] == ["tiny w", "shuffled ECG", "zero ECG", "majority", "chance"]
    assert set(result.overlaps) == {"run", "writer"}
    value, low, high = result.value(result.rows[0], "list")
    assert low <= value <= high
    gain, _, _ = result.value(result.rows[0], "list", result.rows[0])
    assert gain == 0


def test_what_cannot_be_asked_is_one_error(records: Cohort, trained: Run, tmp_path: Path) -> None:
    for arguments, message in (
        (("--answers", "gpt"), "must be probe, tiny or server"),
        (("--answers", "tiny"), "--answers tiny and --writer FOLDER belong together"),
        (("--answers", "server"), "--answers server and --server-url belong together"),
        (("--task", "none"), "has no task 'none'; choose --task from "),
        (("--kinds", "closed"), "must be of presence, choice, range, list, change"),
        (("--split", "train"), "must be test or val"),
        (("--truth", tmp_path / "t.csv"), "needs the columns record and heart_rate_bpm"),
    ):
        (tmp_path / "t.csv").write_text("name\na\n")
        done = invoke("bench-qa", trained.folder, records.folder, "--json", tmp_path / "out.json", *arguments)
        assert done.returncode != 0
        assert message in " ".join((done.stdout + done.stderr).replace("│", " ").split())
        assert not (tmp_path / "out.json").exists()


def test_true_values_are_read_by_the_name_of_the_record(records: Cohort, tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    rows = [f"{name},{40 + k}" for k, name in enumerate(records.records)]
    path.write_text("record,rate_bpm\n" + "\n".join(rows[::-1]) + "\n")
    some = records.rows("test")
    task = next(iter(records.tasks))
    truth = read_truth(records, some, task, read_truth_table(path))
    assert truth.ranges["heart_rate_bpm"].tolist() == [range_of("heart_rate_bpm", 40 + row) for row in some]
    assert list(truth.ranges) == ["heart_rate_bpm"]

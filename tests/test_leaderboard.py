"""The leaderboard: which results it accepts, what it stores of them, and its page."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest
from api_run import write_run
from command_line import invoke

from leadwise.evaluate.leaderboard import Leaderboard, LeaderboardError, entries_of


def score(macro: float) -> dict:
    return {"macro": macro, "interval": [macro - 0.02, macro + 0.02], "n_records": 90, "n_patients": 80}


def result(command: str = "probe", macro: float = 0.8, **changes) -> dict:
    """The parts of a result file that a leaderboard reads."""
    about = {
        "command": command, "protocol": "strict", "cohort": "ptbxl", "run": "mine", "task": "super", "part": "backbone",
        "width": None, "window": None, "n_people_seen_in_pretraining": 0, "n_signals_seen_in_pretraining": 0,
        "fingerprints": {"cohort": "c0ffee", "run": "beef"}, "versions": {"leadwise": "0.1.0", "torch": "2.13.0"},
    }  # fmt: skip
    if command == "zeroshot":
        scores = {"trained": score(macro), "untrained": score(0.5), "shuffled": {"mean": 0.5, "interval": [0.48, 0.52]}}
        about |= {**scores, "split": "test", "prompts": {"set": "rich", "sha256": "0123456789abcdef"}}
    else:
        cell = {"trained": score(macro), "untrained": score(0.7), "handcrafted": score(0.75)}
        about["fractions"] = {"0.01": cell, "1": {**cell, "trained": score(macro + 0.1)}}
    return {**about, **changes}


def write(path: Path, table: dict | str) -> Path:
    path.write_text(table if isinstance(table, str) else json.dumps(table), encoding="utf-8")
    return path


def test_each_fraction_is_a_score_with_its_controls(tmp_path: Path) -> None:
    low, whole = entries_of(write(tmp_path / "p.json", result()), "My method", "arXiv 1")
    assert (low.column, whole.column) == ("probe 1 %", "probe 100 %")
    assert (low.macro, low.interval) == (0.8, pytest.approx((0.78, 0.82)))
    assert whole.macro == pytest.approx(0.9)
    assert low.controls == {"untrained": 0.7, "handcrafted": 0.75}
    assert (low.name, low.source, low.settings) == ("My method", "arXiv 1", {"part": "backbone"})
    assert (low.run_digest, low.cohort_digest, low.people_seen_in_pretraining) == ("beef", "c0ffee", 0)
    (zero,) = entries_of(write(tmp_path / "z.json", result("zeroshot")))
    assert (zero.column, zero.name) == ("zero-shot", "mine")
    assert zero.controls == {"untrained": 0.5, "shuffled": 0.5}
    assert zero.settings == {"part": "backbone", "prompt_set": "rich", "prompts": "0123456789ab"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("{", "p.json is no JSON .* name a file that --json wrote"),
        ({"command": "check"}, "p.json: command 'check'; submit what `leadwise probe`, `leadwise finetune`"),
        ("[1]", "p.json: command None"),
        (result(protocol="both"), "protocol 'both' is not comparable"),
        (
            result(n_people_seen_in_pretraining=3),
            "3 persons and 0 signals of the scored split were in the pre-training",
        ),
        (result(n_people_seen_in_pretraining=None, n_signals_seen_in_pretraining=2), "0 persons and 2 signals"),
        (result(versions=None), "has no versions; run `leadwise probe` again"),
        (result(fingerprints={"cohort": "c0ffee"}), "has no digests of cohort and run"),
        (result(fractions={}), "has no score"),
        (
            result(fractions={"1": {"trained": score(0.9), "untrained": score(0.7)}}),
            "no control 'handcrafted' at 100 %",
        ),
        (result("zeroshot", shuffled=None), "has no control 'shuffled', and a score without controls"),
        ({key: value for key, value in result().items() if key != "task"}, "p.json has no task"),
    ],
)
def test_results_that_cannot_be_judged_are_refused(tmp_path: Path, table: dict | str, message: str) -> None:
    with pytest.raises(LeaderboardError, match=message):
        entries_of(write(tmp_path / "p.json", table))


def test_an_encoder_without_random_weights_has_the_other_controls(tmp_path: Path) -> None:
    cell = {"trained": score(0.9), "handcrafted": score(0.75), "gain_over_untrained": None}
    (entry,) = entries_of(write(tmp_path / "p.json", result(fractions={"1": cell}, pretraining_data="CODE")))
    assert entry.controls == {"handcrafted": 0.75}
    assert entry.pretraining_data == "CODE"
    del cell["gain_over_untrained"]
    with pytest.raises(LeaderboardError, match="no control 'untrained' at 100 %"):
        entries_of(write(tmp_path / "p.json", result(fractions={"1": cell})))


def test_persons_that_are_not_known_are_accepted_as_not_known(tmp_path: Path) -> None:
    table = result(n_people_seen_in_pretraining=None, n_signals_seen_in_pretraining=None)
    assert entries_of(write(tmp_path / "p.json", table))[0].people_seen_in_pretraining is None


def test_a_board_has_one_score_for_each_place(tmp_path: Path) -> None:
    path, board = tmp_path / "board.json", Leaderboard()
    first = entries_of(write(tmp_path / "p.json", result()))
    better = entries_of(write(tmp_path / "q.json", result(macro=0.85)))
    assert board.add(first) == first
    assert board.add(first) == []
    with pytest.raises(
        LeaderboardError, match=r"mine, probe 1 % of super, is on the board with 0\.800, and this result has 0\.850"
    ):
        board.add(better)
    assert board.entries == first
    assert board.add(better, replace=True) == better
    board.write(path)
    assert Leaderboard.read(path).entries == better
    # another width is another place
    assert len(board.add(entries_of(write(tmp_path / "w.json", result(width=64))))) == 2
    with pytest.raises(LeaderboardError, match="is no leaderboard"):
        Leaderboard.read(write(tmp_path / "other.json", "{}"))
    with pytest.raises(LeaderboardError, match="has format 9"):
        Leaderboard.read(write(tmp_path / "other.json", '{"format": 9, "entries": []}'))


def test_the_page_has_a_picture_and_a_table_for_each_task_best_method_first(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.json", result()), write(tmp_path / "z.json", result("zeroshot"))]
    paths += [write(tmp_path / "o.json", result(task="form"))]
    done = invoke("submit", *paths, "--name", "A", "--board", "b.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "5 new of 5" in done.stdout
    better = write(tmp_path / "b2.json", result(macro=0.88, n_people_seen_in_pretraining=None))
    assert invoke("submit", better, "--name", "B", "--board", "b.json", cwd=tmp_path).returncode == 0
    text = (tmp_path / "b.md").read_text(encoding="utf-8")
    assert (
        text.index("## ptbxl, super")
        < text.index("b_1.png")
        < text.index("| B | probe 1 %")
        < text.index("| A | zero-shot")
    )
    assert "not known" in text
    assert "untrained 70.0, handcrafted 75.0" in text
    assert {p.name for p in tmp_path.glob("*.png")} == {"b_1.png", "b_2.png"}

    # one bad file: nothing is written
    before = (tmp_path / "b.json").read_bytes()
    bad = write(tmp_path / "bad.json", result(protocol="both"))
    refused = invoke("submit", paths[0], bad, "--name", "C", "--board", "b.json", cwd=tmp_path)
    assert refused.returncode == 1
    assert "bad.json: protocol 'both'" in refused.stderr
    assert (tmp_path / "b.json").read_bytes() == before
    assert invoke("submit", paths[0], "--board", "b.txt", cwd=tmp_path).returncode == 2


def test_results_of_the_commands_are_accepted(tmp_path: Path, cohort_folder: Path) -> None:
    run = write_run(tmp_path / "run", cohort_folder)
    prompts = tmp_path / "prompts.toml"
    classes = "".join(f'[classes.{one}]\nname = "{one}"\nprompts = ["{one}"]\n' for one in ("normal", "afib", "mi"))
    prompts.write_text('source = "folder"\ntask = "own"\n' + classes)
    for command, options in (("probe", ("--fractions", "1")), ("zeroshot", ("--prompts", prompts))):
        done = invoke(command, run, cohort_folder, "--task", "own", *options, "--json", tmp_path / f"{command}.json")
        assert done.returncode == 0, done.stderr
    one, other = (entries_of(tmp_path / f"{command}.json")[0] for command in ("probe", "zeroshot"))
    assert one.cohort_digest == other.cohort_digest
    assert one.pretraining_data == other.pretraining_data == "folder"
    assert one.versions["torch"] == importlib.metadata.version("torch")  # torch.__version__ may add +cu130
    assert 0 <= one.macro <= 1

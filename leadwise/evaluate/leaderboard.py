"""A leaderboard: a JSON file of scores that may stand side by side, each with its controls, digests and versions.

Scores come from the files that `leadwise probe`, `finetune` and `zeroshot` write with --json. Only results of the strict
protocol with all of their controls are accepted; a result whose test persons were in the pre-training is not.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leadwise.files import first_line, replacing

FORMAT = 1  # of the file
Json = dict[str, Any]

# The controls that each command computes beside the trained features.
CONTROLS = {
    "probe": ("untrained", "handcrafted"),
    "finetune": ("untrained",),
    "zeroshot": ("untrained", "shuffled"),
}
_SCORE = ("macro", "interval", "n_records", "n_patients")


class LeaderboardError(ValueError):
    """A result or a board that cannot be used; the message names the file, the value and the remedy."""


@dataclass(frozen=True)
class LeaderboardEntry:
    """One score of one method, macro AUROC on a test split."""

    name: str  # of the method, as printed
    command: str  # a key of CONTROLS
    cohort: str
    cohort_digest: str
    task: str
    split: str
    fraction: float | None  # of the training labels; None: zero-shot
    settings: dict[str, Any]  # what else decides the score: part, width, window, prompts, published splits
    macro: float
    interval: tuple[float, float]  # 95 %, over patients
    n_records: int
    n_patients: int
    controls: dict[str, float]  # macro of each
    pretraining_data: str  # the data sets that the encoder was trained on, or "unknown"
    people_seen_in_pretraining: int | None  # 0, or None where it is not known
    run_digest: str
    versions: dict[str, str]
    source: str = ""  # where the method is described: a paper, an address

    @property
    def place(self) -> tuple[Any, ...]:
        """What identifies the entry on a board: another score of the same place replaces it."""
        settings = json.dumps(self.settings, sort_keys=True)
        return self.name, self.command, self.cohort_digest, self.task, self.split, self.fraction, settings

    @property
    def column(self) -> str:
        """The column of a table: "zero-shot", "probe 1 %", "finetune 100 %"."""
        return "zero-shot" if self.fraction is None else f"{self.command} {100 * self.fraction:g} %"


@dataclass
class Leaderboard:
    """The entries of a board, in the order in which they were submitted."""

    entries: list[LeaderboardEntry] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Leaderboard:
        """Return the board in a file; an empty one if the file does not exist.

        Raises:
            LeaderboardError: the file is no board.
        """
        if not path.exists():
            return cls()
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            if table["format"] != FORMAT:
                raise LeaderboardError(
                    f"{path} has format {table['format']}, and this version reads {FORMAT}; update leadwise"
                )
            return cls([LeaderboardEntry(**{**one, "interval": tuple(one["interval"])}) for one in table["entries"]])
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, LeaderboardError):
                raise
            raise LeaderboardError(
                f"{path} is no leaderboard ({type(error).__name__}: {first_line(error)}); restore it, or name another --board"
            ) from None

    def write(self, path: Path) -> None:
        """Write the file as a whole."""
        table = {"format": FORMAT, "entries": [dataclasses.asdict(one) for one in self.entries]}
        with replacing(path) as part:
            part.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def add(self, entries: Iterable[LeaderboardEntry], replace: bool = False) -> list[LeaderboardEntry]:
        """Add entries; return those that were not on the board. All are added, or none.

        Raises:
            LeaderboardError: a place has another score, and `replace` is False.
        """
        by_place = {one.place: one for one in self.entries}
        new = []
        for entry in entries:
            old = by_place.get(entry.place)
            if old == entry:
                continue
            if old is not None and not replace:
                raise LeaderboardError(
                    f"{entry.name}, {entry.column} of {entry.task}, is on the board with {old.macro:.3f}, and this result has "
                    f"{entry.macro:.3f}; --replace exchanges it, another --name adds it"
                )
            by_place[entry.place] = entry
            new.append(entry)
        self.entries = list(by_place.values())
        return new

    def tables(self) -> dict[tuple[str, str, str], list[LeaderboardEntry]]:
        """Return the entries that may be compared: by cohort name, digest and task."""
        result: dict[tuple[str, str, str], list[LeaderboardEntry]] = {}
        for one in self.entries:
            result.setdefault((one.cohort, one.cohort_digest, one.task), []).append(one)
        return result


def entries_of(path: Path, name: str = "", source: str = "") -> list[LeaderboardEntry]:
    """Return the scores in a result file of `probe`, `finetune` or `zeroshot`.

    Args:
        name: of the method; default: that of the run.
        source: where the method is described.

    Raises:
        LeaderboardError: the file is no such result, or is not acceptable: another protocol, a missing control, persons of the
            test split in the pre-training, no digests or versions.
    """
    result = _read(path)
    command = str(result["command"])
    if result.get("protocol") != "strict":
        raise LeaderboardError(
            f"{path}: protocol {result.get('protocol')!r} is not comparable; submit a result of the strict protocol"
        )
    split = str(result.get("split", "test"))
    if split != "test":
        raise LeaderboardError(f"{path} is of the split '{split}'; submit a result of the test split (--split test)")
    n_people = _seen_in_pretraining(path, result)
    digests, used = result.get("fingerprints") or {}, result.get("versions") or {}
    missing = [one for one, there in (("fingerprints", digests), ("versions", used)) if not there]
    if missing or not {"cohort", "run"} <= set(digests):
        raise LeaderboardError(
            f"{path} has no {' and no '.join(missing or ['digests of cohort and run'])}; run `leadwise {command}` again with "
            "this version"
        )

    # each fraction of the labels is a score of its own
    about: Json = {
        "name": name or str(result["run"]), "command": command, "cohort": str(result["cohort"]),
        "cohort_digest": str(digests["cohort"]), "task": str(result["task"]), "split": split,
        "settings": _settings(result), "people_seen_in_pretraining": n_people,
        "pretraining_data": str(result.get("pretraining_data") or "unknown"), "run_digest": str(digests["run"]),
        "versions": dict(used), "source": source,
    }  # fmt: skip
    scored = {None: result} if command == "zeroshot" else result.get("fractions", {})
    if not scored:
        raise LeaderboardError(f"{path} has no score; run `leadwise {command}` again")
    try:
        return [_entry(path, about, None if at is None else float(at), cell) for at, cell in scored.items()]
    except LeaderboardError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise LeaderboardError(
            f"{path} has a score that cannot be read ({first_line(error)}); run `leadwise {command}` again"
        ) from None


def _read(path: Path) -> Json:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LeaderboardError(f"{path} cannot be read ({error.strerror}); name a file that --json wrote") from None
    except ValueError as error:
        raise LeaderboardError(f"{path} is no JSON ({error}); name a file that --json wrote") from None
    command = result.get("command") if isinstance(result, dict) else None
    if command not in CONTROLS:
        raise LeaderboardError(
            f"{path}: command {command!r}; submit what `leadwise {'`, `leadwise '.join(CONTROLS)}` writes with --json"
        )
    missing = [one for one in ("run", "cohort", "task") if one not in result]
    if missing:
        raise LeaderboardError(f"{path} has no {', '.join(missing)}; run `leadwise {command}` again with --json")
    checked: Json = result
    return checked


def _seen_in_pretraining(path: Path, result: Mapping[str, Any]) -> int | None:
    """Return 0, or None where it is not known."""
    people, signals = result.get("n_people_seen_in_pretraining"), result.get("n_signals_seen_in_pretraining")
    if people or signals:
        raise LeaderboardError(
            f"{path}: {people or 0} persons and {signals or 0} signals of the scored split were in the pre-training; score "
            "a run that was trained without them"
        )
    return None if people is None else 0


def _settings(result: Mapping[str, Any]) -> Json:
    """Return what decides a score besides cohort, task and fraction; settings with their default value are left out."""
    settings = {key: result.get(key) for key in ("part", "width", "window")}
    settings["published_splits"] = (result.get("published_splits") or {}).get("fingerprint")
    if result["command"] == "zeroshot":
        prompts = result.get("prompts") or {}
        settings |= {"prompt_set": prompts.get("set"), "prompts": str(prompts.get("sha256", ""))[:12]}
    if result["command"] == "finetune":
        settings |= dict(result.get("settings") or {})
    return {key: value for key, value in settings.items() if value not in (None, "")}


def _entry(path: Path, about: Json, fraction: float | None, cell: Mapping[str, Any]) -> LeaderboardEntry:
    """Return the entry of one score with its controls."""
    trained = cell.get("trained") or {}
    absent = [key for key in _SCORE if key not in trained]
    if absent:
        raise LeaderboardError(f"{path}: the trained features have no {', '.join(absent)}; run the command again")
    controls: dict[str, float] = {}
    for control in CONTROLS[about["command"]]:
        value = _macro_of_control(cell.get(control))
        if value is None and control == "untrained" and cell.get("gain_over_untrained", 0) is None:
            continue  # an encoder of another program, of which there are no random weights; the other controls remain
        if value is None:
            where = "" if fraction is None else f" at {100 * fraction:g} % of the labels"
            raise LeaderboardError(
                f"{path} has no control '{control}'{where}, and a score without controls cannot be judged; run `leadwise "
                f"{about['command']}` again"
            )
        controls[control] = value
    low, high = trained["interval"]
    return LeaderboardEntry(
        **about, fraction=fraction, macro=float(trained["macro"]), interval=(float(low), float(high)),
        n_records=int(trained["n_records"]), n_patients=int(trained["n_patients"]), controls=controls,
    )  # fmt: skip


def _macro_of_control(control: Any) -> float | None:
    """Return the macro of a control; None where it was not computed."""
    value = control.get("macro", control.get("mean")) if isinstance(control, dict) else None
    return None if value is None else float(value)


def best_first(entries: Sequence[LeaderboardEntry]) -> list[str]:
    """Return the names of the methods, those with the highest mean over their columns first."""
    names = list(dict.fromkeys(one.name for one in entries))

    def mean(name: str) -> float:
        values = [one.macro for one in entries if one.name == name]
        return sum(values) / len(values)

    return sorted(names, key=mean, reverse=True)

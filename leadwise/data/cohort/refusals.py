"""Refuse a source with rows that cannot be used, or recordings that cannot be read, unless they may be left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from leadwise.data.cohort import left_out
from leadwise.data.cohort.left_out import LeftOutError
from leadwise.data.cohort.shard import Dropped, Shard
from leadwise.data.formats.reading import missing_file
from leadwise.data.messages import first_few
from leadwise.data.sources.source import Facts, Source, check, in_slices


def check_source(source: Source, partial: Path, allow_missing: bool, allow_bad_rows: bool) -> Facts:
    """Check the source; rows without a usable file or cells are all reported at once.

    Raises:
        CohortError: the source contradicts itself.
        LeftOutError: there are such rows and they may not be left out, or no other row; `dropped.csv` lists them.
    """
    facts = check(source) if len(source.rows) or not source.bad_rows else None
    problems = []
    if source.bad_rows and (facts is None or not allow_bad_rows):
        problems.append(_bad_rows_message(source, facts is None))
    if facts is not None and facts.n_absent and not allow_missing:
        problems.append(_missing_message(source, facts.n_absent, facts.absent))
    if facts is not None and not problems:
        return facts
    dropped = partial / left_out.FILE
    left_out.write(dropped, [*_bad_rows(source), *(_absent_rows(source, facts) if facts is not None else ())])
    raise LeftOutError(f"source {source.name}: {'; '.join(problems)}; {dropped} lists all", dropped)


def refuse_dropped(
    source: Source, shards: list[Shard], partial: Path, allow_missing: bool, allow_unreadable: bool
) -> None:
    """Check that the recordings that packing dropped may be left out.

    Raises:
        LeftOutError: files are missing or unreadable and may not be left out; `dropped.csv` lists them.
    """
    dropped = [entry for shard in shards for entry in shard.dropped]
    images = [entry for shard in shards for entry in shard.volume_problems]
    missing = [entry for entry in dropped if entry.reason == "missing_file"]
    unreadable = [entry for entry in dropped if entry.reason == "unreadable"]
    problems = []
    if missing and not allow_missing:
        problems.append(_missing_message(source, len(missing), [entry.detail for entry in missing]))
    if unreadable and not allow_unreadable:
        reasons = left_out.groups(unreadable)
        listed = "; ".join(group.text() for group in reasons[:3]) + ("; ..." if len(reasons) > 3 else "")
        problems.append(
            f"{len(unreadable)} recordings are unreadable ({listed}); repair them, or leave them out with --allow-unreadable "
            "(allow_unreadable=True)"
        )
    problems += _image_problems(images, allow_missing, allow_unreadable)
    if problems:
        file = partial / left_out.FILE
        left_out.write(file, [*_bad_rows(source), *dropped, *images])
        raise LeftOutError(
            f"source {source.name}: {'; '.join(problems)}; {file} lists all; finished shards stay there for the next run",
            file,
        )


def _image_problems(images: list[Dropped], allow_missing: bool, allow_unreadable: bool) -> list[str]:
    """What is wrong with heart images, as texts, unless these may be left out: then the recording is retained without them."""
    problems = []
    missing = [entry for entry in images if entry.reason == "missing_file"]
    unusable = [entry for entry in images if entry.reason != "missing_file"]
    if missing and not allow_missing:
        listed = first_few(entry.detail.partition(": ")[2] for entry in missing[:4])
        problems.append(
            f"{len(missing)} heart images have a missing file ({listed}); fetch them, or leave them out with --allow-missing "
            "(allow_missing=True)"
        )
    if unusable and not allow_unreadable:
        listed = "; ".join(
            f"record {entry.record}, {entry.reason.replace('_', ' ')}, {entry.detail}" for entry in unusable[:3]
        )
        problems.append(
            f"{len(unusable)} heart images cannot be used ({listed}{'; ...' if len(unusable) > 3 else ''}); repair them, or "
            "leave them out with --allow-unreadable (allow_unreadable=True)"
        )
    return problems


def _bad_rows(source: Source) -> list[Dropped]:
    return [Dropped(row.record, "bad_row", row.reason) for row in source.bad_rows]


def _absent_rows(source: Source, facts: Facts) -> Iterator[Dropped]:
    absent = set(facts.absent_rows.tolist())
    for number, row in enumerate(in_slices(source.rows)):
        if number in absent:
            yield Dropped(row.record, "missing_file", str(missing_file(row.path) or row.path))


def _bad_rows_message(source: Source, is_all: bool) -> str:
    total = len(source.rows) + len(source.bad_rows)
    listed = "; ".join(row.reason for row in source.bad_rows[:3]) + ("; ..." if len(source.bad_rows) > 3 else "")
    remedy = "" if is_all else ", or leave them out with --allow-unreadable (allow_unreadable=True)"
    return f"{len(source.bad_rows)} of {total} rows cannot be used ({listed}); correct them{remedy}"


def _missing_message(source: Source, n: int, files: Sequence[str]) -> str:
    return (
        f"{n} of {len(source.rows)} recordings have a missing file ({first_few(files)}); fetch them, or leave them out with "
        "--allow-missing (allow_missing=True)"
    )

"""Copies of a cohort in which ECGs have other reports or the images of other people: controls for methods trained on pairs.

A copy has an index of its own. The samples and heart images are links to the same files, or copies where the file system has
no links, so that a control needs hardly any space.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from leadwise.data import reports
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError, creating_folder, sha256

Rows = NDArray[np.integer]

_OF_REPORT = ("report", "report_words", "statements")
_OF_IMAGES = "volume_"  # prefix of the columns that belong to the images


def write_with_other_reports(cohort: Cohort, out: Path, rows: Rows, others: Rows) -> None:
    """Write a copy of a cohort in which recording `rows[k]` has the report of recording `others[k]`.

    Everything else is the same, also labels and the order of the recordings.

    Raises:
        CohortError: `out` exists.
    """
    _write(cohort, out, lambda table: _exchange(table, _OF_REPORT, rows, others))


def write_with_other_images(cohort: Cohort, out: Path, rows: Rows, others: Rows) -> None:
    """Write a copy of a cohort in which recording `rows[k]` has the heart images of recording `others[k]`.

    Everything else is the same, also the phenotypes, which remain those of the ECG's own heart.

    Raises:
        CohortError: `out` exists, or the cohort has no heart images.
    """
    if cohort.volumes is None:
        raise CohortError(f"cohort {cohort.name} has no heart images; prepare one with `leadwise prepare ecg_cmr`")
    columns = [name for name in cohort.column_names if name.startswith(_OF_IMAGES)]
    _write(cohort, out, lambda table: _exchange(table, columns, rows, others))


def write_with_texts(cohort: Cohort, out: Path, texts: Sequence[str]) -> None:
    """Write a copy of a cohort in which recording k has the report `texts[k]`.

    Raises:
        CohortError: `out` exists.
        ValueError: there are not as many texts as recordings.
    """
    if len(texts) != len(cohort):
        raise ValueError(f"{len(texts)} texts for the {len(cohort)} recordings of {cohort.name}")
    statements = [reports.statements(text) for text in texts]
    joined = [reports.join_statements(each) for each in statements]
    columns = dict(zip(_OF_REPORT, (joined, [len(text.split()) for text in joined], statements)))

    def change(table: pa.Table) -> pa.Table:
        for name, values in columns.items():
            field = table.schema.field(name)
            table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, type=field.type))
        return table

    _write(cohort, out, change)


def link_equal_files(folder: Path, other: Path) -> int:
    """Replace samples and images of a cohort folder that another one has too by links; return the bytes that were freed."""
    freed = 0
    for file in sorted(folder.glob("*.npy")):
        twin = other / file.name
        if not twin.is_file() or twin.samefile(file) or twin.stat().st_size != file.stat().st_size:
            continue
        if sha256([twin]) == sha256([file]):
            link = file.with_name(f".{file.name}.{os.getpid()}.partial")
            try:
                os.link(twin, link)
            except OSError:  # the file system has no links: both files remain
                return freed
            freed += file.stat().st_size
            link.replace(file)
    return freed


def _exchange(table: pa.Table, columns: Sequence[str], rows: Rows, others: Rows) -> pa.Table:
    """Return the table in which row `rows[k]` has the values of row `others[k]` in some columns."""
    source = np.arange(len(table))
    source[rows] = others
    for name in columns:
        column = table.column(name).combine_chunks().take(pa.array(source))
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    return table


def _write(cohort: Cohort, out: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    with creating_folder(out) as partial:
        index = partial / cohort.index_file.name
        pq.write_table(change(pq.read_table(cohort.index_file)), index)

        # the samples, then the description, which holds the checksum of the index
        for shard in (*cohort.shard_files, *cohort.volume_files):
            try:
                os.link(shard, partial / shard.name)
            except OSError:
                shutil.copyfile(shard, partial / shard.name)
        description = json.loads((cohort.folder / "cohort.json").read_text(encoding="utf-8"))
        description.pop("rows", None)  # the digest of the source's rows, which differ
        description["index"] |= {"size": index.stat().st_size, "sha256": sha256([index])}
        (partial / "cohort.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")

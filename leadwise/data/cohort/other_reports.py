"""A copy of a cohort in which ECGs have the reports of others: a control for methods that are trained on pairs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import creating_folder, sha256

_OF_REPORT = ("report", "report_words", "statements")


def write_with_other_reports(cohort: Cohort, out: Path, rows: NDArray[np.integer], others: NDArray[np.integer]) -> None:
    """Write a copy of a cohort in which recording `rows[k]` has the report of recording `others[k]`.

    Everything else is the same, also labels and the order of the recordings. The samples and heart images are links to the
    same files, or copies where the file system has no links.

    Raises:
        CohortError: `out` exists.
    """
    with creating_folder(out) as partial:
        # the index with the reports exchanged
        table = pq.read_table(cohort.index_file)
        source = np.arange(len(cohort))
        source[rows] = others
        for name in _OF_REPORT:
            place = table.schema.get_field_index(name)
            column = table.column(name).combine_chunks().take(pa.array(source))
            table = table.set_column(place, table.schema.field(name), column)
        index = partial / cohort.index_file.name
        pq.write_table(table, index)

        # the samples, then the description, which holds the checksum of the index
        for shard in (*cohort.shard_files, *cohort.volume_files):
            try:
                os.link(shard, partial / shard.name)
            except OSError:
                shutil.copyfile(shard, partial / shard.name)
        description = json.loads((cohort.folder / "cohort.json").read_text(encoding="utf-8"))
        description.pop("rows", None)  # the digest of the source's rows, which have other reports
        description["index"] |= {"size": index.stat().st_size, "sha256": sha256([index])}
        (partial / "cohort.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")

"""Tables that embed and predict write: .npz, .csv or .parquet. Only a file that they wrote themselves is replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from leadwise.files import npz_names, replacing

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

MARKER = ("ecg", "refused")
"""The first two columns of every table; a file that begins with other columns belongs to the user."""
_NPZ_KEYS = {"embedding", "record"}


def check_target(path: Path, suffixes: tuple[str, ...]) -> None:
    """Check before the work that a table can be written to `path`.

    Raises:
        typer.BadParameter: another suffix, or a file or folder that leadwise did not write.
    """
    if path.suffix.lower() not in suffixes:
        raise typer.BadParameter(f"-o {path}: the name must end in {' or '.join(suffixes)}")
    if path.exists() and not _is_ours(path):
        raise typer.BadParameter(f"-o {path}: it exists, and leadwise did not write it; choose another name")


def _is_ours(path: Path) -> bool:
    """Return whether an existing file has the content that `embed` or `predict` writes."""
    if not path.is_file():
        return False
    try:
        if path.suffix.lower() == ".csv":
            with path.open(encoding="utf-8") as file:
                return file.readline().rstrip("\r\n").split(",")[:2] == list(MARKER)
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            return tuple(pq.read_schema(path).names[:2]) == MARKER
        return set(npz_names(path)) >= _NPZ_KEYS
    except Exception:  # whatever it is, no reader of its suffix can read it, so leadwise did not write it
        return False


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table whose first columns are MARKER to .csv or .parquet, atomically."""
    assert tuple(table.columns[:2]) == MARKER
    with replacing(path) as temporary:
        if path.suffix.lower() == ".csv":
            table.to_csv(temporary, index=False, float_format="%.6g")
        else:
            table.to_parquet(temporary, index=False)


def write_embeddings(
    path: Path,
    features: NDArray[np.float32],
    records: Sequence[str],
    reasons: Sequence[str],
    about: Mapping[str, Sequence[str] | NDArray[Any]] | None = None,
) -> None:
    """Write embeddings (N, D) with N names and, where there is no embedding, reasons; `about` has further columns."""
    if path.suffix.lower() == ".npz":
        import numpy as np

        columns = {"record": records, "refused": reasons, **(about or {})}
        texts: dict[str, Any] = {name: np.array(list(values), dtype=np.str_) for name, values in columns.items()}
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, embedding=np.asarray(features, dtype=np.float32), **texts)
        return
    import pandas as pd

    names = dict(zip(MARKER, (list(records), list(reasons)))) | {name: list(v) for name, v in (about or {}).items()}
    vectors = pd.DataFrame(features, columns=[f"embedding{k}" for k in range(features.shape[1])])
    write_table(pd.concat([pd.DataFrame(names), vectors], axis=1), path)

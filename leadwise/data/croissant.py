"""Croissant metadata of a cohort: JSON-LD that dataset catalogues read, version 1.0 with its responsible-AI fields.

It describes the files of a cohort and the columns of its index. It contains no report text, no patient's name and no value
of a single recording; age and sex appear as summaries.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import SPLITS, sha256
from leadwise.progress import Progress

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_ID = re.compile(r"[^A-Za-z0-9._/-]+")
_NOT_SMALL = 20  # fewer recordings are not summarised: a summary of a few people describes persons

_TERMS = (
    "citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet", "format",
    "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex",
    "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{name: f"cr:{name}" for name in _TERMS},
}

_COLUMNS = {
    "record": "name of the recording, unique in the cohort",
    "patient": "pseudonym of the patient, as in the source",
    "split": "train, val or test; all recordings of a patient are in one split",
    "report": "report text, as in the source; empty where there is none",
    "report_words": "number of words in the report",
    "statements": "statements of the report",
    "rate_hz": "sampling rate in Hz",
    "n_samples": "samples per lead",
    "shard": "number of the file samples-NNNNN.npy",
    "offset": "place of the first sample in that file, in samples",
    "uv_per_step": "microvolts per step of the int16 samples, per lead",
    "baseline": "step that is 0 microvolts, per lead",
    "age": "age in years",
    "sex": "male or female",
}


def describe(
    cohort: Cohort, facts: Mapping[str, str] | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Croissant metadata of a cohort, as a JSON object.

    `facts` replace what the source states in `cohort.about`: title, licence, citation, url, version and date (of
    publication, as 2026-11-27; default: the day on which the cohort was prepared). Every file is hashed.
    """
    about = {**cohort.about, **{key: text for key, text in (facts or {}).items() if text}}
    description = cohort.folder / "cohort.json"
    prepared = datetime.date.fromtimestamp(description.stat().st_mtime).isoformat()
    files, schema = _files(cohort, progress), pq.read_schema(cohort.index_file)
    stated = {
        "url": about.get("url"),
        "license": about.get("licence"),
        "citeAs": about.get("citation"),
        "sameAs": f"https://doi.org/{about['doi']}" if "doi" in about else None,
    }
    version = about.get("version", "")
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [CONFORMS_TO, "http://mlcommons.org/croissant/RAI/1.0"],
        "name": _identifier(cohort.name),
        "description": _summary(cohort, about),
        **{key: value for key, value in stated.items() if value},
        "datePublished": about.get("date", prepared),
        "version": version if _VERSION.fullmatch(version) else "1.0.0",
        "isLiveDataset": False,
        "keywords": ["ECG", "electrocardiogram", "12-lead", cohort.source],
        "rai:dataCollection": f"Prepared with leadwise from the source {cohort.source}; samples at their recorded rate.",
        "rai:dataBiases": _biases(cohort),
        "rai:personalSensitiveInformation": _personal(cohort),
        "distribution": files,
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "recordings",
                "name": "recordings",
                "description": "One row per recording: the index of the cohort.",
                "key": {"@id": "recordings/record"},
                "field": [_field(column, schema.field(column).type) for column in schema.names],
            }
        ],
    }


def _files(cohort: Cohort, progress: Progress | None) -> list[dict[str, Any]]:
    """A FileObject with size and SHA-256 for the description, the index and every shard."""
    formats = {".json": "application/json", ".parquet": "application/x-parquet", ".npy": "application/x-npy"}
    paths = [cohort.folder / "cohort.json", cohort.index_file, *cohort.shard_files, *cohort.volume_files]
    objects = []
    for done, path in enumerate(paths):
        if progress is not None:
            progress("hash files", done, len(paths))
        objects.append(
            {
                "@type": "cr:FileObject",
                "@id": path.name,
                "name": path.name,
                "contentUrl": path.name,
                "contentSize": f"{path.stat().st_size} B",
                "encodingFormat": formats[path.suffix],
                "sha256": sha256([path]),
            }
        )
    if progress is not None:
        progress("hash files", len(paths), len(paths))
    return objects


def _field(column: str, kind: pa.DataType) -> dict[str, Any]:
    """A Field of the index: its type, and where it is in the file."""
    is_list = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    task, _, name = column.removeprefix("label.").partition(".")
    meaning = (
        f"label of class {name} in task {task}; empty = not in the task" if column.startswith("label.") else column
    )
    return {
        "@type": "cr:Field",
        "@id": f"recordings/{_identifier(column)}",
        "name": column,
        "description": _COLUMNS.get(column, meaning.replace("_", " ")),
        "dataType": _data_type(kind.value_type if is_list else kind),
        **({"repeated": True} if is_list else {}),
        "source": {"fileObject": {"@id": "index.parquet"}, "extract": {"column": column}},
    }


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"


def _identifier(text: str) -> str:
    """A name without blanks and marks, as identifiers have it."""
    return _ID.sub("_", text).strip("_")


def _summary(cohort: Cohort, about: Mapping[str, str]) -> str:
    """What the cohort is: recordings by split, tasks and origin."""
    splits = ", ".join(f"{len(cohort.rows(split))} {split}" for split in SPLITS)
    tasks = ", ".join(f"{task} ({len(classes)} classes)" for task, classes in cohort.tasks.items()) or "none"
    origin = about.get("title", cohort.source)
    labels = f" Labels: {about['labels']}." if "labels" in about else ""
    return (
        f"{len(cohort)} twelve-lead ECGs ({splits}) of {origin}, prepared with leadwise: int16 samples in shards, one index "
        f"table. Tasks: {tasks}.{labels}"
    )


def _biases(cohort: Cohort) -> str:
    """Age and sex of the recordings, as summaries."""
    if len(cohort) < _NOT_SMALL:
        return "Too few recordings for a summary of age and sex."
    texts = []
    every = np.arange(len(cohort))
    if "sex" in cohort.column_names:
        counts = cohort.column("sex", every).value_counts(normalize=True)
        texts.append("sex: " + ", ".join(f"{value} {100 * share:.0f} %" for value, share in counts.items()))
    if "age" in cohort.column_names:
        ages = cohort.column("age", every).dropna()
        if len(ages) >= _NOT_SMALL:
            low, median, high = np.percentile(ages.to_numpy(dtype=float), [25, 50, 75])
            texts.append(f"age: median {median:.0f} years, quartiles {low:.0f} and {high:.0f}")
    return ("Recordings by " + "; ".join(texts) + ".") if texts else "Age and sex are not in the index."


def _personal(cohort: Cohort) -> str:
    """Which columns are about persons."""
    personal = [name for name in ("patient", "report", "statements", "age", "sex") if name in cohort.column_names]
    return (
        f"ECGs are health data of persons. The index has the columns {', '.join(personal)}; the patient is a pseudonym of the "
        "source. This description contains none of their values. An ECG may identify a person who is known from another ECG."
    )

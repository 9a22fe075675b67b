"""The description of the JSON API, OpenAPI 3.1, which /api/openapi.json answers."""

from __future__ import annotations

from typing import Any

from leadwise import __version__
from leadwise.serve.requests import NAME_HEADER
from leadwise.serve.safety import TOKEN_HEADER
from leadwise.serve.settings import Limits

_ERRORS = {
    "400": "the request is not valid",
    "401": "the token is absent or wrong",
    "403": "the host or the origin is another one",
    "413": "the file is too large",
    "422": "the file cannot be read, or the ECG is not interpretable",
    "503": "too many requests, or the file was given up by a limit of time or memory",
}
_NUMBER, _TEXT, _WHOLE, _FLAG = {"type": "number"}, {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
_MAYBE = {"type": ["number", "null"]}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _table(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _map_of(values: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": values}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"oneOf": [schema, {"type": "null"}]}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_SCHEMAS: dict[str, Any] = {
    "Error": _table(error=_TEXT),
    "Samples": {
        **_table(dtype=_TEXT, mv_per_unit=_NUMBER, missing=_WHOLE, base64=_TEXT),
        "description": "mV = integer * mv_per_unit, little-endian; the value `missing` is an unobserved sample",
    },
    "Thumb": _table(rate_hz=_NUMBER, lead=_TEXT, samples=_or_null(_ref("Samples"))),
    "Read": _table(
        format=_TEXT,
        rate_hz=_NUMBER,
        file_rate_hz=_NUMBER,
        duration_s=_NUMBER,
        leads=_list(
            _table(
                name=_TEXT,
                origin={"enum": ["recorded", "derived", "missing"]},
                quality={"enum": ["good", "poor", "bad", "missing"]},
                remarks=_list(_TEXT),
                samples=_or_null(_ref("Samples")),
            )
        ),
        remarks=_list(_TEXT),
        doubts=_list(_table(kind={"enum": ["leads", "unit", "rate"]}, text=_TEXT, remedy=_TEXT)),
        stated=_map_of({}),
        statements=_list(_TEXT),
        measurements=_map_of(_MAYBE),
        beats_s=_list(_NUMBER),
        interpretable=_FLAG,
        refusal=_TEXT,
        lead_swap=_or_null(_table(text=_TEXT, proposal=_TEXT)),
    ),
    "Embedding": _table(part=_TEXT, vector=_list(_NUMBER), run=_TEXT),
    "Scores": _table(
        interpretable=_FLAG,
        refusal=_TEXT,
        reference=_or_null(_table(name=_TEXT, n=_WHOLE)),
        calibration=_or_null(_table(sentence=_TEXT)),
        rows=_list(
            {
                **_table(
                    name=_TEXT,
                    text=_TEXT,
                    cosine=_NUMBER,
                    low=_MAYBE,
                    high=_MAYBE,
                    percentile=_MAYBE,
                    probability=_MAYBE,
                    share=_MAYBE,
                    unknown_words=_list(_TEXT),
                ),
                "description": "also `class`; ordered by probability, else by percentile, else by class",
            }
        ),
    ),
    "Explanation": _table(
        text=_TEXT,
        cosine=_NUMBER,
        leads=_list(_table(name=_TEXT, drop=_MAYBE)),
        windows=_list(_table(lead=_TEXT, start_s=_NUMBER, end_s=_NUMBER, drop=_NUMBER)),
        largest=_NUMBER,
        is_reliable=_FLAG,
    ),
    "Neighbours": _table(
        cohort=_TEXT,
        n=_WHOLE,
        index=_TEXT,
        rows=_list(
            _table(row=_WHOLE, record=_TEXT, cosine=_NUMBER, split=_TEXT, labels=_map_of(_list(_TEXT)), report=_TEXT)
        ),
    ),
    "Comparison": _table(
        first=_ref("Read"),
        second=_ref("Read"),
        cosine=_MAYBE,
        differences=_list(_table(name=_TEXT, first=_MAYBE, second=_MAYBE, change=_MAYBE, unit=_TEXT, text=_TEXT)),
        leads=_list(_table(name=_TEXT, rms_uv=_MAYBE, median_beat=_map_of({}))),
    ),
    "State": _table(
        version=_TEXT, run=_map_of({}), tasks=_list(_map_of({})), cohort=_or_null(_map_of({})), remark=_TEXT
    ),
    "Map": _table(
        n=_WHOLE,
        x=_TEXT,
        y=_TEXT,
        rows=_TEXT,
        records=_list(_TEXT),
        columns=_map_of(_map_of({})),
        method=_TEXT,
        remark=_TEXT,
    ),
}


def description(limits: Limits) -> dict[str, Any]:
    """Return the description of all routes."""
    words = _parameter("words", "query", _list(_TEXT), "your own texts, worded as in a report; can be repeated")
    task = _parameter("task", "query", _TEXT, "a task of /api/state")
    top = _parameter("top", "query", {**_WHOLE, "minimum": 1, "maximum": limits.neighbours})
    paths = {
        "/api/state": _get("The run, its tasks, the cohort and the limits", "State"),
        "/api/examples/{name}": {
            "get": {
                "summary": "The bytes of a simulated example file",
                "parameters": [_parameter("name", "path", _TEXT)],
                "responses": {"200": {"description": "a file", "content": _bytes()}, **_errors()},
            }
        },
        "/api/read": _file("The tracing of a file, its quality and measurements", "Read"),
        "/api/embed": _file(
            "The embedding of an ECG",
            "Embedding",
            _parameter("part", "query", _TEXT, "a part of the run; default: backbone"),
        ),
        "/api/zeroshot": _file("Scores of a task, or of your own words", "Scores", task, words),
        "/api/explain": _file(
            "Which parts of the ECG a score depends on", "Explanation", task, _parameter("class", "query", _TEXT), words
        ),
        "/api/neighbours": _file("The nearest recordings of the cohort", "Neighbours", top),
        "/api/compare": _file("Two ECGs: a .zip with the files 1/NAME and 2/NAME", "Comparison"),
        "/api/ecg/{row}": _get("A recording of the cohort", "Read", _parameter("row", "path", _WHOLE)),
        "/api/thumb/{row}": _get(
            "10 s of one lead of a recording of the cohort", "Thumb", _parameter("row", "path", _WHOLE)
        ),
        "/api/thumbs": {
            "post": {
                "summary": f"The same of at most {limits.thumbs} recordings, by row",
                "requestBody": {
                    "content": {"application/json": {"schema": _table(rows=_list(_WHOLE))}},
                    "required": True,
                },
                "responses": {
                    "200": {
                        "description": "by row",
                        "content": {"application/json": {"schema": _map_of(_ref("Thumb"))}},
                    },
                    **_errors(),
                },
            }
        },
        "/api/map": _get("The embeddings of the cohort in two dimensions, at most 20,000 points", "Map"),
        "/api/openapi.json": {
            "get": {"summary": "This description", "responses": {"200": {"description": "OpenAPI 3.1"}}}
        },
    }
    security = {"token": {"type": "apiKey", "in": "header", "name": TOKEN_HEADER}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "leadwise serve",
            "version": __version__,
            "description": "Research use only. Not a medical device. The server keeps nothing of a file after its answer.",
        },
        "paths": paths,
        "components": {"schemas": _SCHEMAS, "securitySchemes": security},
        "security": [{"token": []}],
    }


def _parameter(name: str, place: str, schema: dict[str, Any], text: str = "") -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema, "description": text}


def _bytes() -> dict[str, Any]:
    return {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def _errors() -> dict[str, Any]:
    content = {"application/json": {"schema": _ref("Error")}}
    return {status: {"description": text, "content": content} for status, text in _ERRORS.items()}


def _get(summary: str, schema: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    return {"get": {"summary": summary, "parameters": list(parameters), "responses": _answer(schema)}}


def _answer(schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(schema)}}
    return {"200": {"description": "the answer", "content": content}, **_errors()}


def _file(summary: str, schema: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    """Return a question about a file, which is the body."""
    stated = [
        _parameter(
            NAME_HEADER, "header", _TEXT, "the name of the file, percent-encoded; its suffix helps to find the format"
        ),
        _parameter("rate_hz", "query", _NUMBER, "if the file does not state it"),
        _parameter("leads", "query", _TEXT, "comma-separated names, if the file does not state them"),
        _parameter("units", "query", {"enum": ["mV", "uV", "nV", "V"]}, "if the file does not state it"),
        _parameter("item", "query", _TEXT, "which recording, in a file that holds several"),
    ]
    body = {"content": _bytes(), "required": True}
    return {
        "post": {
            "summary": summary,
            "parameters": [*stated, *parameters],
            "requestBody": body,
            "responses": _answer(schema),
        }
    }

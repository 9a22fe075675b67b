"""One file per file format. `reading` finds the format of a file by its suffix, then by its content, and reads it.

A module here that defines `SUFFIXES` is a format. It has:

    SUFFIXES: tuple[str, ...]                          suffixes in lower case with their dot; "" = a name without suffix
    matches(first_bytes: bytes) -> bool                whether a file that begins with these bytes has this format
    read(path: Path, given: Given) -> Recording        the recording; raises RecordError

and, if a recording has several files:

    main_file(path: Path) -> Path                      the file that describes the recording; the disk is not accessed
    files(path: Path) -> tuple[Path, ...]              every file that `read` opens, the main file first

`Given` holds what the caller states: leads, sampling rate, unit. A format uses these where the file states nothing.
A library that is slow to import, or that only this format needs, is imported inside `read`.
"""

"""One file per file format. `reading` finds the format of a file by its suffix, then by its content, and reads it.

A module here that defines `SUFFIXES` is a format. It has:

    SUFFIXES: tuple[str, ...]                          suffixes in lower case with their dot; "" = a name without suffix
    matches(first_bytes: bytes) -> bool                whether a file that begins with these bytes has this format

and one or both of:

    decode(content: bytes, path: Path, given: Given) -> Recording    the recording in a file's content; `path` names it
    read(path: Path, given: Given) -> Recording        the recording in a file; for formats that need not read all of it

Both raise RecordError. If one file may hold several recordings:

    items(path: Path) -> tuple[str, ...]               the names that `given.item` may have; () for one recording

If a recording has several files:

    main_file(path: Path) -> Path                      the file that describes the recording; the disk is not accessed
    files(path: Path) -> tuple[Path, ...]              every file that `read` opens, the main file first

A format first decides which channels it uses (`channels.choose_channels`), then checks units and gains of these only.
`Given` holds what the caller states: leads, sampling rate, unit, item. Given leads replace the names in a file. Rate and
unit are used where the file states nothing. `decode` never stores a patient's name or number.
Shared: `arrays` and `named_arrays` (arrays of numbers), `device_channels` and `parsing` (integers with a step and an offset,
errors of libraries), `stated` (age, sex, device), `text_table`, `xml_text`, `clean_statements`.
A library that is slow to import, or that only this format needs, is imported inside these functions.
"""

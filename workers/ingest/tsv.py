"""Lines of subject, relation and object, with a tab or another character between them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from workers.ingest.blocks import FIELDS, Block, Rejects, block

BINARY = {name: pa.binary() for name in FIELDS}
"""Not texts at once: of those that are no UTF-8 the reader says but that there are some."""


def parse(data: bytes, delimiter: str, separator: str) -> Block:
    """Reads whole lines. There is no quoting; empty lines are none.

    separator: between the objects of one line; empty where it has one.
    """
    rejects, skipped = Rejects(), list[int]()

    def broken(row: csv.InvalidRow) -> str:
        skipped.append(row.number)
        if row.text.strip():
            rejects.add(row.number, f"{row.actual_columns} fields in place of 3", row.text)
        return "skip"

    if not data.strip():
        return block([pa.array([], pa.string())] * 3, 0, rejects, int, separator)
    if not _is_text(data):
        data = _without_foreign(data, delimiter.encode(), rejects)
    table = csv.read_csv(
        pa.py_buffer(data),
        # Row numbers are told by one thread alone; a block that holds all has no seam.
        csv.ReadOptions(use_threads=False, column_names=list(FIELDS), block_size=len(data) + 1),
        csv.ParseOptions(
            delimiter=delimiter,
            quote_char=False,
            ignore_empty_lines=False,
            invalid_row_handler=broken,
        ),
        csv.ConvertOptions(column_types=BINARY),
    )
    lines = len(table) + len(skipped)
    blank = _blank(table, data, skipped)
    table = table.filter(pa.array(~blank)) if blank.any() else table

    def line_of(row: int) -> int:
        return int(_lines(lines, skipped)[~blank][row])

    return block(table.columns, lines, rejects, line_of, separator)


def _is_text(data: bytes) -> bool:
    """Whether all of it is UTF-8; nothing is copied."""
    ends = pa.py_buffer(np.array([0, len(data)], np.int32))
    try:
        pa.Array.from_buffers(pa.binary(), 1, [None, ends, pa.py_buffer(data)]).cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return True


def _without_foreign(data: bytes, delimiter: bytes, rejects: Rejects) -> bytes:
    """Rejects and empties lines of other than three fields that are no UTF-8.

    The reader tells of a line of too few or too many fields by its text, and ends where it is none.
    """
    lines = data.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        fields = line.count(delimiter) + 1
        if fields != len(FIELDS) and not _is_text(line):
            text = line.rstrip(b"\r\n").decode("utf-8", "backslashreplace")
            rejects.add(number, f"{fields} fields in place of 3", text)
            lines[number - 1] = b"\r\n"  # which runs into neither of its neighbours
    return b"".join(lines)


def _lines(lines: int, skipped: list[int]) -> np.ndarray:
    """The lines, from 1, that the reader made rows of."""
    whole = np.ones(lines + 1, bool)
    whole[[0, *skipped]] = False
    return np.flatnonzero(whole)


def _blank(table: pa.Table, data: bytes, skipped: list[int]) -> np.ndarray:
    """Which rows come from an empty line; a line of two tabs looks the same to the reader."""
    blank = np.ones(len(table), bool)
    for column in table.columns:
        blank &= pc.equal(pc.binary_length(column), 0).to_numpy()
    if blank.any():
        texts = data.splitlines()
        rows = np.flatnonzero(blank)
        lines = _lines(len(table) + len(skipped), skipped)
        blank[rows] = [not texts[lines[row] - 1] for row in rows.tolist()]
    return blank

"""Files in the formats that Freebase's subsets and SimpleQuestions were published in.

facts.txt             subject TAB relation TAB objects with spaces between: freebase-FB5M.txt
names.txt             <fb:m.0…> TAB <fb:type.object.name> TAB "name": FB5M.name.txt; other relations
                      are of aliases
questions-SPLIT.txt   subject TAB relation TAB object TAB question: annotated_fb_data_train.txt

Subjects, relations and objects are www.freebase.com/m/0… and so on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from models.tasks.knowledge import TaskDataError

SITE = "www.freebase.com/"
FACTS, NAMES, TRAIN, TEST = "facts.txt", "names.txt", "questions-train.txt", "questions-test.txt"

BLOCK_BYTES = 4 << 20
"""Read at a time."""

_QUOTED = r'^"(?P<text>.*)"(?:@[A-Za-z-]+)?(?: ?\.)?$'


def names(path: Path) -> Iterator[pa.Table]:
    """The names of a file, some at a time: `entity` as facts name it, `alias`, `first`: whether it
    is a name, no alias.  Raises `TaskDataError`."""
    for table in _read(path, ["entity", "called", "alias"]):
        marked = pc.replace_substring(pc.utf8_trim(table["entity"], "<>"), "fb:", "")
        text = pc.struct_field(pc.extract_regex(table["alias"], _QUOTED), "text")
        yield pa.table(
            {
                "entity": pc.binary_join_element_wise(
                    SITE, pc.replace_substring(marked, ".", "/"), ""
                ),
                "alias": pc.coalesce(pc.replace_substring(text, '\\"', '"'), table["alias"]),
                "first": pc.match_substring(table["called"], "type.object.name"),
            }
        )


def questions(path: Path) -> Iterator[pa.Table]:
    """The questions of a file, some at a time: `subject`, `relation`, `object`, `text`.

    Raises `TaskDataError`."""
    yield from _read(path, ["subject", "relation", "object", "text"])


def _read(path: Path, columns: list[str]) -> Iterator[pa.Table]:
    try:
        with csv.open_csv(
            path,
            csv.ReadOptions(column_names=columns, block_size=BLOCK_BYTES, use_threads=False),
            csv.ParseOptions(delimiter="\t", quote_char=False),
            csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string())),
        ) as batches:
            for batch in batches:
                yield pa.Table.from_batches([batch])
    except (pa.ArrowInvalid, OSError) as error:
        raise TaskDataError(
            f"{path}: {str(error).splitlines()[0]}",
            f"lines of {', '.join(columns)} with tabs between",
            "look at the file",
        ) from error

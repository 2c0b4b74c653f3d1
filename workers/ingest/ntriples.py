"""N-Triples, by the parser of pyoxigraph.

A fact is named by its terms: an IRI as it is, without brackets; a literal as N-Triples writes it,
with quotes, language and type; a blank node as `_:FILE-LABEL`, since its label is its file's own.

Where but some relations are wanted, lines that name none of these are left out unread: of a dump of
all of Freebase or Wikidata that is most of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from memstore.errors import Unsupported
from memstore.extras import install
from workers.ingest.blocks import Block, Rejects, block

BATCH = 32_768
"""Triples held as Python's strings, which take several times the bytes of Arrow's."""


def parse(data: bytes, scope: str, relations: tuple[str, ...] = ()) -> Block:
    """Reads whole lines.

    scope: of blank nodes, the same for the lines of one file.  relations: as of `Reading`; some
    facts of others may be read as well.
    """
    lines = data.count(b"\n") + (not data.endswith(b"\n") and len(data) > 0)
    numbers: Sequence[int] = range(1, lines + 1)
    if relations:
        data, numbers = _naming(data, relations)
    # A broken line ends the parser: only then is each line parsed alone.
    rejects, at = Rejects(), list[int]()
    try:
        columns = _columns(_parser()(data), scope)
    except SyntaxError:
        columns = _columns(_whole(data, numbers, rejects, at), scope)

    def line_of(row: int) -> int:
        return at[row] if at else numbers[row]

    found = block(columns, lines, rejects, line_of, "")
    return replace(found, left_out=lines - len(numbers))


def _naming(data: bytes, relations: tuple[str, ...]) -> tuple[bytes, Sequence[int]]:
    """The lines that name one of the relations anywhere, and their numbers, from 1."""
    named = re.compile(b"|".join(re.escape(b"<" + prefix.encode()) for prefix in relations)).search
    kept = [(n, line) for n, line in enumerate(data.split(b"\n"), 1) if named(line)]
    return b"\n".join(line for _, line in kept), [number for number, _ in kept]


def _parser() -> Callable[[bytes], Iterable[Any]]:
    try:
        import pyoxigraph
    except ImportError as error:
        raise Unsupported(
            "N-Triples are parsed by pyoxigraph, which is not installed",
            hint=install("cluster"),
        ) from error
    return lambda data: pyoxigraph.parse(data, format=pyoxigraph.RdfFormat.N_TRIPLES)


def _whole(data: bytes, numbers: Sequence[int], rejects: Rejects, at: list[int]) -> Iterable[Any]:
    """The triples of the lines that are not broken, and the line of each."""
    parse = _parser()
    for number, line in zip(numbers, data.split(b"\n"), strict=False):
        try:
            for triple in parse(line):
                at.append(number)
                yield triple
        except SyntaxError as error:
            why = str(error).partition(": ")[2] or str(error)
            rejects.add(number, why, line.decode("utf-8", "backslashreplace"))


def _columns(triples: Iterable[Any], scope: str) -> list[pa.Array]:
    from pyoxigraph import BlankNode, NamedNode

    def name(term: Any) -> str:
        if type(term) is NamedNode:
            return term.value
        return f"_:{scope}-{term.value}" if type(term) is BlankNode else str(term)

    parts = list[list[pa.Array]]()
    subjects, relations, objects = list[str](), list[str](), list[str]()
    for triple in triples:
        subjects.append(name(triple.subject))
        relations.append(triple.predicate.value)
        objects.append(name(triple.object))
        if len(subjects) == BATCH:
            parts.append([pa.array(each, pa.string()) for each in (subjects, relations, objects)])
            for each in (subjects, relations, objects):
                each.clear()
    parts.append([pa.array(each, pa.string()) for each in (subjects, relations, objects)])
    return [pa.concat_arrays(column) for column in zip(*parts, strict=True)]

"""N-Triples: how terms are named, and what becomes of broken lines."""

from __future__ import annotations

import bz2
import json
from pathlib import Path

import pytest

from tests.ingest.made import SMALL, expected, facts, records
from workers.ingest import ingest, ntriples, plan


def test_terms_are_named_so_that_no_two_share_a_name(tmp_path: Path) -> None:
    a, b = tmp_path / "a.nt", tmp_path / "b.nt"
    a.write_text(
        "# a comment\n"
        "<http://x/1> <http://x/p> <http://x/2> .\n"
        '<http://x/1> <http://x/p> "http://x/2" .\n'
        '<http://x/1> <http://x/p> "zw\\u00F6lf"@de .\n'
        '<http://x/1>   <http://x/p> "2"^^<http://www.w3.org/2001/XMLSchema#integer> . # here\n'
        "\n"
        "_:n <http://x/p> _:m .\n",
        encoding="utf-8",
    )
    b.write_text("_:n <http://x/p> _:n .")
    report = ingest([a, b], tmp_path / "store", layout=SMALL)
    one = "http://x/1"
    integer = '"2"^^<http://www.w3.org/2001/XMLSchema#integer>'
    objects = ["http://x/2", '"http://x/2"', '"zwölf"@de', integer]
    rows = [(one, "http://x/p", name) for name in objects]
    rows += [("_:0-n", "http://x/p", "_:0-m"), ("_:1-n", "http://x/p", "_:1-n")]
    assert records(tmp_path / "store") == expected(rows)
    assert (report.given, report.rejected) == (6, 0)


def test_broken_lines_leave_their_neighbours_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "MOST_BLOCK_BYTES", 4096)
    rows = [tuple(f"http://x{name}" for name in row) for row in facts(1_000)]
    lines = ["{} .".format(" ".join(f"<{name}>" for name in row)).encode() for row in rows]
    broken = {
        700: b'<http://x/a> <http://x/p> "open .',
        333: b"<http://x/a> <http://x/p>",
        332: b"<http://x/a> <http://x/p> <http://x/\xff> .",
        0: b'"no" <http://x/p> <http://x/a> .',
    }
    for at, line in broken.items():
        lines.insert(at, line)
    data = b"\n".join(lines) + b"\n"
    for name, whole in (("plain.nt", data), ("packed.nt.bz2", bz2.compress(data))):
        (tmp_path / name).write_bytes(whole)
        report = ingest([tmp_path / name], tmp_path / f"{name}.store", layout=SMALL)
        assert records(tmp_path / f"{name}.store") == expected(rows)  # type: ignore[arg-type]
        assert (report.lines, report.given, report.rejected) == (1_004, 1_000, 4)
        text = (tmp_path / f"{name}.store.ingest" / "rejects.jsonl").read_text()
        found = [json.loads(line) for line in text.splitlines()]
        assert [each["line"] for each in found] == [1, 334, 336, 704]


def test_many_triples_keep_their_order_and_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ntriples, "BATCH", 3)
    data = b"".join(b"<http://x/%d> <http://x/p> <http://x/o> .\n" % i for i in range(10))
    block = ntriples.parse(data, "0")
    assert block.subjects.to_pylist() == [f"http://x/{i}" for i in range(10)]
    assert (block.lines, block.rejects.count) == (10, 0)

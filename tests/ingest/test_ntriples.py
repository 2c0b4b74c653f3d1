"""N-Triples: how terms are named, and what becomes of broken lines."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path

import pytest

from tests.ingest.made import SMALL, expected, facts, records
from workers.ingest import Reading, ingest, ntriples, plan


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


NS, XSD = "http://rdf.freebase.com/ns/", "http://www.w3.org/2001/XMLSchema#"

FREEBASE = f"""\
<{NS}m.01a>\t<{NS}type.object.name>\t"Kismet"@en\t.
<{NS}m.01a>\t<{NS}type.object.name>\t"Кисмет"@ru\t.
<{NS}m.01a>\t<{NS}type.object.key>\t"/wikipedia/en/Kismet_$00281955$0029"\t.
<{NS}m.01a>\t<http://rdf.freebase.com/key/wikipedia.en>\t"Kismet_$00281955$0029"\t.
<{NS}m.01a>\t<{NS}film.film.directed_by>\t<{NS}m.0_b>\t.
<{NS}m.01a>\t<{NS}film.film.directed_by>\t<{NS}m.0c1>\t.
<{NS}m.01a>\t<{NS}common.topic.official_website>\t<http://www.example.com/a b>\t.
<{NS}m.01a>\t<http://www.w3.org/1999/02/22-rdf-syntax-ns#type>\t<{NS}film.film>\t.
<{NS}m.01a>\t<{NS}film.film.initial_release_date>\t"1955-12"^^<{XSD}gYearMonth>\t.
<{NS}m.01a>\t<{NS}film.film.directed_by>\tnobody\t.
<{NS}g.11v>\t<{NS}measurement_unit.dated_percentage.rate>\t4.5\t.
<{NS}film.film.directed_by>\t<{NS}type.object.name>\t"Directed by"@en\t.
"""

WD = "http://www.wikidata.org/"

WIKIDATA = f"""\
<{WD}entity/Q42> <{WD}prop/direct/P31> <{WD}entity/Q5> .
<{WD}entity/Q42> <{WD}prop/direct/P569> "+1952-03-11T00:00:00Z"^^<{XSD}dateTime> .
<{WD}entity/Q42> <{WD}prop/direct/P40> _:0a1b .
<{WD}entity/Q42> <http://www.w3.org/2000/01/rdf-schema#label> "Douglas Adams"@be-tarask .
<{WD}entity/Q42> <{WD}prop/direct-normalized/P214> <http://viaf.org/viaf/113230702> .
<{WD}entity/Q84> <{WD}prop/direct/P625> "Point(-0.1 51.5)"^^<http://opengis.net/ont#wktLiteral> .
"""


def test_a_dump_of_freebase_is_read_for_some_relations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tabs, a dot behind a tab, keys with $ in hexadecimal, and lines that are no N-Triples."""
    monkeypatch.setattr(plan, "MOST_BLOCK_BYTES", 4096)
    source = tmp_path / "freebase-rdf-latest.gz"
    source.write_bytes(gzip.compress(FREEBASE.encode() * 50))
    dump = Reading(format="nt")
    whole = ingest([source], tmp_path / "all", reading=dump, layout=SMALL, reject_share=0.3)
    assert (whole.lines, whole.given, whole.rejected, whole.left_out) == (600, 450, 150, 0)
    names = [row["name"] for row in records(tmp_path / "all")["entities"]]
    assert '"Kismet_$00281955$0029"' in names
    assert '"Кисмет"@ru' in names

    films = Reading(format="nt", relations=(f"{NS}film.film.directed", f"{NS}type.object.name"))
    report = ingest([source], tmp_path / "some", reading=films, layout=SMALL, reject_share=0.1)
    assert (report.lines, report.given, report.rejected) == (600, 250, 50)
    assert report.left_out == 300
    rows = [(f"{NS}m.01a", f"{NS}film.film.directed_by", f"{NS}{m}") for m in ("m.0_b", "m.0c1")]
    rows += [(f"{NS}m.01a", f"{NS}type.object.name", n) for n in ('"Kismet"@en', '"Кисмет"@ru')]
    rows += [(f"{NS}film.film.directed_by", f"{NS}type.object.name", '"Directed by"@en')]
    assert records(tmp_path / "some") == expected(rows)
    text = (tmp_path / "some.ingest/rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in text] == [12 * i + 10 for i in range(50)]


def test_a_dump_of_wikidata_is_read_for_its_properties(tmp_path: Path) -> None:
    source = tmp_path / "latest-truthy.nt.bz2"
    source.write_bytes(bz2.compress(WIKIDATA.encode()))
    direct = f"{WD}prop/direct/"
    reading = Reading(relations=(direct,))
    report = ingest([source], tmp_path / "store", reading=reading, layout=SMALL)
    assert (report.lines, report.given, report.rejected, report.left_out) == (6, 4, 0, 2)
    human = f"{WD}entity/Q5"
    found = records(tmp_path / "store")
    assert {row["name"] for row in found["relations"]} == {
        f"{direct}P{number}" for number in (31, 40, 569, 625)
    }
    names = [row["name"] for row in found["entities"]]
    assert {human, "_:0-0a1b"} < set(names)


def test_many_triples_keep_their_order_and_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ntriples, "BATCH", 3)
    data = b"".join(b"<http://x/%d> <http://x/p> <http://x/o> .\n" % i for i in range(10))
    block = ntriples.parse(data, "0")
    assert block.subjects.to_pylist() == [f"http://x/{i}" for i in range(10)]
    assert (block.lines, block.rejects.count) == (10, 0)

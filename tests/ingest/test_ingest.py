"""What comes out of an ingest: the records of a plain reading, however the facts were given."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import memstore
from memstore.errors import InvalidArgument, MemoryExists
from models.tasks.knowledge import TaskDataError
from models.tasks.memories import KnowledgeMemories
from tests.ingest.made import SMALL, Fact, contents, expected, facts, records, write_tsv
from workers import cli
from workers.ingest import Layout, Reading, SourceError, ingest, lines, plan, targets, tsv


@pytest.fixture
def cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cuts sources into blocks of 4 KiB, so that little has many pieces and ranges."""
    monkeypatch.setattr(plan, "MOST_BLOCK_BYTES", 4096)


def columns(rows: list[Fact]) -> pa.Table:
    return pa.table(
        dict(zip(("subject", "relation", "object"), zip(*rows, strict=True), strict=True))
    )


def test_an_index_has_all_facts_when_an_ingest_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_tsv(tmp_path / "facts.tsv", facts(3_000))
    layout = Layout(dim=16, window=300)

    def cut_off(self: object, name: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(targets.Embedded, "index", cut_off)
        with pytest.raises(KeyboardInterrupt):
            ingest([source], tmp_path / "store", layout=layout)
    with memstore.open(tmp_path / "store", read_only=True) as store:
        assert store.memory("facts").describe().shards[0].sealed == 0
    report = ingest([source], tmp_path / "store", layout=layout)
    with memstore.open(tmp_path / "store", read_only=True) as store:
        state = store.memory("facts").describe().shards[0]
        assert (state.sealed, state.fresh) == (report.facts, 0)
        assert state.clusters > 1


@pytest.mark.usefixtures("cut_small")
def test_a_table_becomes_memories_that_are_searched_and_looked_up(tmp_path: Path) -> None:
    rows = facts(3_000)
    source = write_tsv(tmp_path / "facts.tsv", rows)
    report = ingest([source], tmp_path / "store", layout=SMALL)
    wanted = expected(rows)
    assert records(tmp_path / "store") == wanted
    assert (report.lines, report.given, report.rejected) == (3_000, 3_000, 0)
    assert (report.entities, report.relations) == (len(wanted["entities"]), 9)
    assert report.facts == len(wanted["facts"])
    with memstore.open(tmp_path / "store") as store:
        found = store.memory("facts")
        subject = wanted["facts"][50]["subject"]
        slots = [i for i, fact in enumerate(wanted["facts"]) if fact["subject"] == subject]
        assert found.lookup("subject", [subject], 1_000).slots.tolist() == slots
        parts = (("entities", "subject"), ("relations", "relation"))
        keys = [store.memory(n).gather([wanted["facts"][50][c]]).keys_BD for n, c in parts]
        assert keys[0] is not None
        assert keys[1] is not None
        np.testing.assert_array_equal(found.gather([50]).keys_BD, keys[0] + keys[1])
        assert found.search(keys[0] + keys[1], 1).slots_QK[0, 0] == 50
        memories = KnowledgeMemories.of(store)
        assert memories.words.lookup("word", ["r"], 1).slots.tolist() == [9]
        name = wanted["entities"][7]["name"]
        assert store.memory("entities").lookup("name", [name], 2).slots.tolist() == [7]


@pytest.mark.usefixtures("cut_small")
def test_the_way_facts_are_given_changes_nothing(tmp_path: Path) -> None:
    rows = facts(1_500)
    whole = columns(rows)
    write_tsv(tmp_path / "one.tsv", rows)
    ingest([tmp_path / "one.tsv"], tmp_path / "one", layout=SMALL)
    wanted = contents(tmp_path / "one")
    folder = tmp_path / "many"
    folder.mkdir()
    data = [b"".join("\t".join(r).encode() + b"\n" for r in rows[i::5]) for i in range(5)]
    (folder / "a.tsv.gz").write_bytes(gzip.compress(data[0]))
    (folder / "b.tsv.bz2").write_bytes(bz2.compress(data[1]))
    pq.write_table(columns(rows[2::5]), folder / "c.parquet", row_group_size=70)
    for name, make, part in (("d.arrow", pa.ipc.new_file, 3), ("e.arrow", pa.ipc.new_stream, 4)):
        table = columns(rows[part::5])
        with make(str(folder / name), table.schema) as writer:
            writer.write_table(table, max_chunksize=50)
    report = ingest([folder], tmp_path / "store", layout=SMALL)
    assert contents(tmp_path / "store") == wanted
    assert report.lines == len(whole)


def test_objects_come_as_lists_or_in_one_field(tmp_path: Path) -> None:
    (tmp_path / "freebase.txt").write_text("s\tr\to1 o2  o3\ns\tr\to1\nt\tr\to2\n")
    table = pa.table({"s": ["s", "t"], "r": ["r", "r"], "o": [["o3", "o1", "o2"], ["o2"]]})
    pq.write_table(table, tmp_path / "lists.parquet")
    wanted = expected([("s", "r", "o1"), ("s", "r", "o2"), ("s", "r", "o3"), ("t", "r", "o2")])
    spaced = Reading(separator=" ")
    ingest([tmp_path / "freebase.txt"], tmp_path / "a", reading=spaced, layout=SMALL)
    ingest([tmp_path / "lists.parquet"], tmp_path / "b", layout=SMALL)
    assert records(tmp_path / "a") == records(tmp_path / "b") == wanted


def test_entities_begin_near_others_around_the_same_direction(tmp_path: Path) -> None:
    source = write_tsv(tmp_path / "facts.tsv", facts(3_000))
    ingest([source], tmp_path / "store", layout=Layout(dim=64, index="none"))
    with memstore.open(tmp_path / "store") as store:
        entities = store.memory("entities")
        keys_ND = entities.gather(np.arange(entities.describe().rows)).keys_BD
    assert keys_ND is not None
    rows_ND = keys_ND / np.linalg.norm(keys_ND, axis=1, keepdims=True)
    # Some ten share each direction; with cosines of 0.6 to it the fifth nearest is at about 0.4.
    fifth_N = np.sort(rows_ND @ rows_ND.T, axis=1)[:, -6]
    assert np.median(fifth_N) > 0.5


def test_facts_of_some_relations_are_kept(tmp_path: Path) -> None:
    text = "s\t/film/by\to1 o2\ns\t/book/by\to1 o3 o4\nt\t/film/of\to5\nu\t/fil\to1\nbroken\n"
    (tmp_path / "freebase.txt").write_text(text)
    table = pa.table({"s": ["s", "t"], "r": ["/film/by", "/book/of"], "o": ["o1", "o2"]})
    pq.write_table(table, tmp_path / "facts.parquet")
    some = Reading(separator=" ", relations=("/film/", "/music/"))
    source = [tmp_path / "freebase.txt", tmp_path / "facts.parquet"]
    report = ingest(source, tmp_path / "store", reading=some, layout=SMALL, reject_share=0.5)
    rows = [("s", "/film/by", "o1"), ("s", "/film/by", "o2"), ("t", "/film/of", "o5")]
    assert records(tmp_path / "store") == expected(rows)
    assert (report.lines, report.given, report.rejected, report.left_out) == (7, 4, 1, 5)


def test_another_delimiter_and_chosen_columns(tmp_path: Path) -> None:
    (tmp_path / "kb.txt").write_text('a "film"|directed by|b\tc\n')
    ingest([tmp_path / "kb.txt"], tmp_path / "a", reading=Reading(delimiter="|"), layout=SMALL)
    names = [row["name"] for row in records(tmp_path / "a")["entities"]]
    assert names == ['a "film"', "b\tc"]
    table = pa.table({"x": ["no"], "to": ["b"], "by": ["r"], "from": ["a"]})
    pq.write_table(table, tmp_path / "x.parquet")
    chosen = Reading(columns=("from", "by", "to"))
    ingest([tmp_path / "x.parquet"], tmp_path / "b", reading=chosen, layout=SMALL)
    assert records(tmp_path / "b") == expected([("a", "r", "b")])
    wrong = Reading(columns=("from", "by", "there"))
    with pytest.raises(SourceError, match=r"got columns .* in .*x\.parquet"):
        ingest([tmp_path / "x.parquet"], tmp_path / "c", reading=wrong, layout=SMALL)


@pytest.mark.usefixtures("cut_small")
def test_broken_lines_are_counted_kept_and_fatal_where_they_are_many(tmp_path: Path) -> None:
    rows = facts(2_000)
    texts = ["\t".join(row).encode() for row in rows]
    # After so many sound lines; the number of each is what it is by then.
    for at, broken in (
        (1_999, b"a\tb"),
        (1_500, b"a\xff\tb"),
        (900, b"\tb\tc"),
        (400, b"a\t\xff\tc"),
        (0, b"\t\t"),
    ):
        texts.insert(at, broken)
    texts.insert(1, b"")
    source = tmp_path / "facts.tsv"
    source.write_bytes(b"\r\n".join(texts))
    report = ingest([source], tmp_path / "store", layout=SMALL, work=tmp_path / "work")
    assert records(tmp_path / "store") == expected(rows)
    assert (report.rejected, report.given) == (5, 2_000)
    found = [
        json.loads(line) for line in (tmp_path / "work/rejects.jsonl").read_text().splitlines()
    ]
    assert [each["line"] for each in found] == [1, 403, 904, 1505, 2005]
    assert {each["file"] for each in found} == {str(source)}
    with pytest.raises(
        SourceError, match=r"5 broken lines of 2,006, the first in .* line 1"
    ) as error:
        ingest([source], tmp_path / "other", layout=SMALL, reject_share=0.001)
    assert (error.value.path, error.value.line) == (source, 1)


def test_lines_that_are_no_text_are_counted_whatever_ends_them() -> None:
    for end, after in ((b"\r", b"\n"), (b"\n", b"\r"), (b"\r\n", b"\r\n")):
        data = end.join([b"a\tb\tc", b"a", b"\xff" + after + b"d\te\tf", b"\xff\tb", b"g\th\ti"])
        block = tsv.parse(data, "\t", "")
        assert block.subjects.to_pylist() == ["a", "d", "g"]
        assert (block.lines, block.rejects.count) == (6, 3)
        assert sorted(each.line for each in block.rejects.sample) == [2, 3, 5]


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    torn = gzip.compress(b"a\tb\tc\n" * 10_000)[:-20]
    (tmp_path / "torn.tsv.gz").write_bytes(torn)
    (tmp_path / "none.parquet").write_bytes(b"no parquet")
    (tmp_path / "none.arrow").write_bytes(b"\xff\xff\xff\xff\x00\x00\x00\x80" * 8)
    (tmp_path / "none.tsv").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "foreign.xyz").write_bytes(b"a\tb\tc\n")
    for name, why in (
        ("torn.tsv.gz", "a whole stream"),
        ("none.parquet", "a whole parquet file"),
        ("none.arrow", "a whole arrow file"),
        ("none.tsv", "broken lines"),
        ("foreign.xyz", "an unknown format"),
        ("absent.tsv", "no file"),
    ):
        with pytest.raises(SourceError, match=why) as error:
            ingest([tmp_path / name], tmp_path / f"of-{name}", layout=SMALL)
        assert error.value.path == tmp_path / name
    with pytest.raises(InvalidArgument, match="budget is too small"):
        ingest([tmp_path / "foreign.xyz"], tmp_path / "store", memory_bytes=1 << 20)


def test_where_nothing_can_be_kept_is_said_before_anything_is_read(tmp_path: Path) -> None:
    source = write_tsv(tmp_path / "facts.tsv", facts(50))
    with pytest.raises(InvalidArgument, match=r"facts\.tsv cannot be made the work folder"):
        ingest([source], tmp_path / "store", work=source)
    with pytest.raises(InvalidArgument, match=r"not ingested into that: got 's3://bucket/store'"):
        ingest([source], "s3://bucket/store")
    with pytest.raises(InvalidArgument, match="seed is out of range: got -1"):
        Layout(seed=-1)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("end", "packed"),
    [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".zst", lambda data: pa.compress(data, codec="zstd", asbytes=True)),
    ],
)
def test_streams_behind_each_other_are_all_read_and_torn_ones_told(
    end: str, packed: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    data = b"".join(b"a\tb\t%d\n" % i for i in range(10_000))
    path = tmp_path / f"facts.tsv{end}"
    path.write_bytes(packed(data) + packed(data) + packed(b"") + packed(data))
    assert b"".join(lines.chunks(path, 0, 0, 4096)) == data * 3
    path.write_bytes((packed(data) + packed(data))[:-9])
    with pytest.raises(SourceError, match="a whole stream") as error:
        list(lines.chunks(path, 0, 0, 4096))
    assert error.value.line is not None
    assert error.value.line > 10_000 - 1_000


def test_memories_of_others_and_other_calls_are_left_alone(tmp_path: Path) -> None:
    source = write_tsv(tmp_path / "facts.tsv", facts(50))
    with memstore.open(tmp_path / "store") as store:
        store.create("facts", memstore.MemoryConfig(dim=4))
    with pytest.raises(MemoryExists, match="facts"):
        ingest([source], tmp_path / "store", layout=SMALL)
    first = ingest([source], tmp_path / "mine", layout=SMALL)
    assert ingest([source], tmp_path / "mine", layout=SMALL) == first
    (tmp_path / "mine").rename(tmp_path / "elsewhere")
    with pytest.raises(TaskDataError, match=r"remove .*mine\.ingest too"):
        ingest([source], tmp_path / "mine", layout=SMALL)
    (tmp_path / "elsewhere").rename(tmp_path / "mine")
    with pytest.raises(TaskDataError, match="begun with other layout"):
        ingest([source], tmp_path / "mine", layout=Layout(dim=32))
    write_tsv(source, facts(51))
    with pytest.raises(TaskDataError, match="begun with other sources"):
        ingest([source], tmp_path / "mine", layout=SMALL)


def test_a_command_that_failed_is_corrected_in_the_same_place(tmp_path: Path) -> None:
    rows = facts(50)
    source = tmp_path / "facts.tsv"
    source.write_text("".join("|".join(row) + "\n" for row in rows))
    with pytest.raises(SourceError, match="50 broken lines of 50"):
        ingest([source], tmp_path / "store", layout=SMALL)
    corrected = Reading(delimiter="|")
    assert ingest([source], tmp_path / "store", reading=corrected, layout=SMALL).given == 50
    assert records(tmp_path / "store") == expected(rows)
    # What has loaded something is another matter.
    with pytest.raises(TaskDataError, match="begun with other reading"):
        ingest([source], tmp_path / "store", layout=SMALL)


def test_nothing_at_all_makes_empty_memories(tmp_path: Path) -> None:
    (tmp_path / "none.tsv").write_text("\n\n")
    report = ingest([tmp_path / "none.tsv"], tmp_path / "store", layout=SMALL)
    assert (report.facts, report.entities, report.relations) == (0, 0, 0)
    assert not any(records(tmp_path / "store").values())


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = facts(200)
    source = write_tsv(tmp_path / "facts.tsv", rows)
    command = ["ingest", str(source), "--into", str(tmp_path / "store"), "--dim", "8"]
    assert cli.main(command) == 0
    assert "200 facts read" in capsys.readouterr().out
    assert records(tmp_path / "store") == expected(rows)
    assert cli.main([*command[:1], "absent.tsv", *command[2:4]]) == 1

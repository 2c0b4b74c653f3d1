"""Facts into and out of mediators become facts past them: what a plain join makes."""

from __future__ import annotations

import gzip
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import pytest

from memstore import files
from models.tasks.knowledge import TaskDataError
from tests.benchmarks import mediated, scale_mediators
from tests.ingest.made import SMALL, Fact, contents, expected, facts, records, write_tsv
from workers import cli
from workers.ingest import Reading, Report, SourceError, ingest, joining, mediators, plan

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cuts sources, lists and ranges of mediators into parts of 4 KiB at most."""
    monkeypatch.setattr(plan, "MOST_BLOCK_BYTES", 4096)


def write_names(path: Path, names: Iterable[str]) -> Path:
    path.write_text("".join(name + "\n" for name in names), encoding="utf-8")
    return path


def some(rows: list[Fact], every: int = 3) -> list[str]:
    """Names of some entities, double and unused ones among them."""
    names = sorted({name for s, _, o in rows for name in (s, o)})[::every]
    return [*names, "/m/nowhere", names[0]]


def plain(rows: list[Fact], named: Iterable[str]) -> tuple[list[Fact], Counter[str]]:
    """The facts that are left, and counts, by a plain reading of the rules."""
    those, times = set(named), Counter(rows)
    left = [row for row in times if row[0] not in those and row[2] not in those]
    counts = Counter[str](between=sum(n for r, n in times.items() if {r[0], r[2]} <= those))
    for each in those:
        into = [row for row in times if row[2] == each and row[0] not in those]
        out = [row for row in times if row[0] == each and row[2] not in those]
        if len(into) * len(out) > joining.MOST_PAIRS:
            counts["crowded"] += sum(times[row] for row in into + out)
            continue
        pairs = [(a, b) for a, b in product(into, out) if a[0] != b[2]]
        left += [(a[0], f"{a[1]}.{b[1]}", b[2]) for a, b in pairs]
        counts["made"] += len(pairs)
        used = {row for pair in pairs for row in pair}
        counts["joined"] += sum(times[row] for row in used)
        counts["alone"] += sum(times[row] for row in into + out if row not in used)
    return left, counts


def counted(report: Report) -> Counter[str]:
    return Counter({n: getattr(report, n) for n in (*joining.COUNTED, "between")})


@pytest.mark.usefixtures("cut_small")
def test_random_facts_are_joined_as_a_plain_join_does(tmp_path: Path) -> None:
    rows = facts(3_000)
    named = some(rows)
    source = write_tsv(tmp_path / "facts.tsv", rows)
    reading = Reading(mediators=str(write_names(tmp_path / "named", named)))
    report = ingest([source], tmp_path / "store", reading=reading, layout=SMALL)
    left, counts = plain(rows, named)
    assert min(counts[kind] for kind in (*joining.COUNTED, "between")) > 10
    assert records(tmp_path / "store") == expected(left)
    assert counted(report) == counts
    assert (report.lines, report.given, report.mediators) == (3_000, 3_000, len(set(named)))


def test_however_facts_are_given_and_names_packed_it_comes_out_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = facts(1_000)
    named = some(rows, 2)
    source = write_tsv(tmp_path / "facts.tsv", rows)
    reading = Reading(mediators=str(write_names(tmp_path / "named", named)))
    wanted = ingest([source], tmp_path / "one", reading=reading, layout=SMALL)

    grouped: dict[tuple[str, str], list[str]] = {}
    for s, r, o in reversed(rows):
        grouped.setdefault((s, r), []).append(o)
    lines = (f"{s}\t{r}\t{' '.join(objects)}\n" for (s, r), objects in grouped.items())
    (tmp_path / "freebase.txt").write_text("".join(lines), encoding="utf-8")
    packed = tmp_path / "named.gz"
    packed.write_bytes(gzip.compress("\r\n".join([*named[::-1], "", ""]).encode()))
    reading = Reading(mediators=str(packed), separator=" ")
    monkeypatch.setattr(plan, "MOST_BLOCK_BYTES", 4096)
    # Nearly all names have one hash.
    monkeypatch.setattr(mediators, "xxh3_64_intdigest", lambda name: len(name) % 2)
    report = ingest([tmp_path / "freebase.txt"], tmp_path / "two", reading=reading, layout=SMALL)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert counted(report) == counted(wanted)


NS = "http://rdf.freebase.com/ns/"

PLAYED = """\
m.0kismet film.film.starring m.0_cvt1
m.0_cvt1 film.performance.film m.0kismet
m.0_cvt1 film.performance.actor m.0keel
m.0_cvt1 film.performance.character m.0hajj
m.0keel film.actor.film m.0_cvt1
m.0keel people.person.spouse_s m.0_cvt2
m.0_cvt3 people.marriage.to m.0keel
m.0_cvt1 freebase.valuenotation.is_reviewed m.0_cvt2
m.0kismet film.film.directed_by m.0minnelli
"""
"""A film and who played in it; a marriage of one, and one with nobody."""

PAST = [
    ("m.0kismet", ("film.film.starring", "film.performance.actor"), "m.0keel"),
    ("m.0kismet", ("film.film.starring", "film.performance.character"), "m.0hajj"),
    ("m.0keel", ("film.actor.film", "film.performance.film"), "m.0kismet"),
    ("m.0keel", ("film.actor.film", "film.performance.character"), "m.0hajj"),
    ("m.0kismet", ("film.film.directed_by",), "m.0minnelli"),
]


@pytest.mark.parametrize("form", ["nt", "txt"])
def test_lines_of_freebase_lead_past_their_mediators(form: str, tmp_path: Path) -> None:
    def entity(name: str) -> str:
        return NS + name if form == "nt" else "www.freebase.com/" + name.replace(".", "/")

    triples = [[entity(name) for name in line.split()] for line in PLAYED.splitlines()]
    source = tmp_path / f"freebase.{form}"
    line = "<{}>\t<{}>\t<{}>\t.\n" if form == "nt" else "{}\t{}\t{}\n"
    source.write_text("".join(line.format(*each) for each in triples))
    named = write_names(tmp_path / "named", [entity(f"m.0_cvt{i}") for i in (1, 2, 3)])
    reading = Reading(separator=" ", mediators=str(named))
    report = ingest([source], tmp_path / "store", reading=reading, layout=SMALL)
    left = [(entity(s), ".".join(map(entity, r)), entity(o)) for s, r, o in PAST]
    assert records(tmp_path / "store") == expected(left)
    # The marriages have one side each, and the way from an actor to himself is none.
    assert counted(report) == Counter(joined=5, made=4, alone=2, crowded=0, between=1)
    assert (report.given, report.facts) == (9, 5)


def test_relations_that_are_not_wanted_are_left_out_before_facts_are_joined(
    tmp_path: Path,
) -> None:
    rows = [("a", "/film/by", "m"), ("m", "/film/of", "b"), ("m", "/book/of", "c")]
    source = write_tsv(tmp_path / "facts.tsv", rows)
    named = str(write_names(tmp_path / "named", ["m"]))
    reading = Reading(mediators=named, relations=("/film/",))
    report = ingest([source], tmp_path / "store", reading=reading, layout=SMALL)
    assert records(tmp_path / "store") == expected([("a", "/film/by./film/of", "b")])
    assert (report.given, report.left_out, report.joined) == (2, 1, 2)


def test_a_mediator_of_too_many_pairs_makes_none(tmp_path: Path) -> None:
    def star(name: str, into: int, out: int) -> list[Fact]:
        rows = [(f"s{i}", "r", name) for i in range(into)]
        return rows + [(name, "q", f"o{i}") for i in range(out)]

    assert joining.MOST_PAIRS == 32 * 32
    # Double ones are not counted as pairs.
    rows = star("all", 32, 32) * 2 + star("none", 32, 33)
    source = write_tsv(tmp_path / "facts.tsv", rows)
    reading = Reading(mediators=str(write_names(tmp_path / "named", ["all", "none"])))
    report = ingest([source], tmp_path / "store", reading=reading, layout=SMALL)
    wanted = [(f"s{i}", "r.q", f"o{j}") for i, j in product(range(32), range(32))]
    assert records(tmp_path / "store") == expected(wanted)
    assert counted(report) == Counter(joined=128, made=1_024, alone=0, crowded=65, between=0)


def test_nothing_is_left_where_all_are_mediators(tmp_path: Path) -> None:
    rows = facts(100)
    source = write_tsv(tmp_path / "facts.tsv", rows)
    reading = Reading(mediators=str(write_names(tmp_path / "named", some(rows, 1))))
    report = ingest([source], tmp_path / "store", reading=reading, layout=SMALL)
    assert counted(report) == Counter(joined=0, made=0, alone=0, crowded=0, between=100)
    assert not any(records(tmp_path / "store").values())


def test_names_that_are_not_to_be_read_and_other_names_are_refused(tmp_path: Path) -> None:
    source = write_tsv(tmp_path / "facts.tsv", facts(50))
    named = tmp_path / "named"
    reading = Reading(mediators=str(named))

    def run(reading: Reading = reading) -> Report:
        return ingest([source], tmp_path / "store", reading=reading, layout=SMALL)

    with pytest.raises(SourceError, match=r"no file in .*named"):
        run()
    named.write_text("\n\n")
    with pytest.raises(SourceError, match=r"no names in .*named"):
        run()
    named.write_bytes(b"a\nb\n\xff\nc")
    with pytest.raises(SourceError, match=r"no UTF-8 in .*named, line 3"):
        run()
    named.write_text("/m/001\n")
    assert run().mediators == 1
    assert run().mediators == 1
    other = Reading(mediators=str(write_names(tmp_path / "other", ["/m/001"])))
    for another in (other, Reading()):
        with pytest.raises(TaskDataError, match="begun with other reading"):
            run(another)
    named.write_text("/m/001\n/m/002\n")
    with pytest.raises(TaskDataError, match="begun with other mediators"):
        run()


def test_killed_where_it_lists_reads_and_joins_it_ends_as_if_it_had_not_been(
    tmp_path: Path,
) -> None:
    rows = facts(500)
    source = write_tsv(tmp_path / "facts.tsv", rows)
    named = write_names(tmp_path / "named", some(rows))

    def run(after: int) -> subprocess.CompletedProcess[str]:
        arguments = [str(source), str(tmp_path / "store"), str(after), "1", str(named)]
        command = [sys.executable, "-m", "tests.ingest.killed", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)

    for after, stage in ((6, "Listing mediators"), (12, "Reading"), (18, "Joining facts")):
        ended = run(after)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert ended.stdout.strip() == stage
    ended = run(0)
    assert ended.returncode == 0, ended.stderr
    left, counts = plain(rows, some(rows))
    assert records(tmp_path / "store") == expected(left)
    work = tmp_path / "store.ingest"
    assert counted(Report(**files.read_json(work / "report.json"))) == counts
    assert {p.name for p in work.iterdir()} == {"plan.json", "report.json", "rejects.jsonl", "LOCK"}


def test_what_is_made_for_the_benchmark_comes_out_as_a_plain_join_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mediated, "PARTIES", {1: 0.1, 2: 0.3, 3: 0.3, 4: 0.25, 40: 0.05})
    told = mediated.write(12_000, tmp_path)
    paths = [tmp_path / name for name in mediated.SOURCES]
    rows = [tuple(line.split("\t")) for path in paths for line in path.read_text().splitlines()]
    named = tmp_path / mediated.NAMED
    left, counts = plain(rows, named.read_text().split())  # type: ignore[arg-type]
    assert min(counts[kind] for kind in (*joining.COUNTED, "between")) > 10
    assert {kind: told[kind] for kind in counts} == counts
    assert (told["lines"], len(rows), told["facts"]) == (12_000, 12_000, len(set(left)))
    assert told["entities"] == len({name for s, _, o in left for name in (s, o)})
    ingest(paths, tmp_path / "store", reading=Reading(mediators=str(named)), layout=SMALL)
    kept = scale_mediators.kept(tmp_path / "store")
    assert kept == {name: told[name] for name in kept}


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("a", "/r", "m"), ("m", "/q", "b"), ("m", "/q", "m")]
    source = write_tsv(tmp_path / "facts.tsv", rows)
    named = write_names(tmp_path / "named", ["m"])
    store = str(tmp_path / "store")
    command = ["ingest", str(source), "--into", store, "--mediators", str(named), "--dim", "8"]
    assert cli.main(command) == 0
    assert "2 facts at 1 mediators became 1 past them" in capsys.readouterr().out
    assert records(tmp_path / "store") == expected([("a", "/r./q", "b")])

"""Synthetic Freebase: its statistics, the same facts from the same seed, texts and files."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from models.tasks.knowledge import TaskDataError
from models.tasks.questions import held_out_of
from models.tasks.synthetic_counted import counted
from models.tasks.synthetic_files import questions, texts_of, write
from models.tasks.synthetic_freebase import (
    FB2M,
    FB5M,
    MOST_FACTS,
    Statistics,
    SyntheticFreebase,
)
from models.tasks.synthetic_texts import LARGEST, WORDINGS
from workers import cli

EXACT = ("entities", "subjects", "relations", "facts", "rows", "single_subjects")


@pytest.mark.parametrize("like", [FB2M, FB5M])
@pytest.mark.parametrize("facts", [10_000, 200_000])
def test_the_statistics_are_those_published_scaled(like: Statistics, facts: int) -> None:
    wanted = like.scaled(facts)
    found = counted(SyntheticFreebase(wanted, seed=3).blocks(), wanted)
    for name in EXACT:
        assert getattr(found, name) == getattr(wanted, name), name
    assert abs(found.single_relations - wanted.single_relations) <= 5
    assert found.largest_relation == pytest.approx(wanted.largest_relation, rel=0.03)
    assert 0.8 * wanted.largest_subject < found.largest_subject <= wanted.largest_subject


@pytest.mark.parametrize("like", [FB2M, FB5M, FB2M.scaled(MOST_FACTS), FB5M.scaled(MOST_FACTS)])
def test_what_is_made_of_any_size_adds_up_to_the_statistics(like: Statistics) -> None:
    base = SyntheticFreebase(like)
    assert (int(base.relations_R.sum()), len(base.relations_R)) == (like.rows, like.relations)
    assert base.relations_R[0] == like.largest_relation
    assert (np.diff(base.relations_R) <= 0).all()
    assert np.count_nonzero(base.relations_R == 1) == like.single_relations
    for counts_C, things, total in (
        (base.rows_S, like.subjects, like.rows),
        (base.objects_C, like.rows, like.facts),
    ):
        sums = int(counts_C.sum()), int(counts_C @ np.arange(len(counts_C)))
        assert sums == (things, total)
        assert counts_C.min() == 0
    assert base.rows_S[1] == like.single_subjects
    # A block comes whatever there is of others.
    block = next(base.blocks())
    assert len(set(block["subject"].to_pylist())) == 1 << 16


def test_no_fact_comes_twice_and_rows_rise() -> None:
    wanted = FB2M.scaled(30_000)
    seen = set[tuple[int, int, int]]()
    before = (-1, -1)
    for block in SyntheticFreebase(wanted).blocks():
        for row in block.to_pylist():
            last, before = before, (row["subject"], row["relation"])
            assert last < before
            seen.update((*before, o) for o in row["objects"])
    assert len(seen) == wanted.facts


def test_the_same_seed_makes_the_same_facts_and_another_others(tmp_path: Path) -> None:
    wanted = FB5M.scaled(10_000)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write(SyntheticFreebase(wanted, seed), tmp_path / name, count=50)
    files = {path.name for path in (tmp_path / "a").iterdir()}
    assert files == {
        "facts.txt", "names.txt", "types.txt", "questions-train.txt", "questions-test.txt"
    }  # fmt: skip
    for file in files:
        a, b, c = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert a == b != c


def test_files_are_as_published(tmp_path: Path) -> None:
    base = SyntheticFreebase(FB2M.scaled(20_000))
    texts = texts_of(base)
    write(base, tmp_path, count=200)
    numbers = np.arange(base.statistics.entities)
    mids = texts.identifiers(numbers, "/", "", "/").to_pylist()
    assert len(set(mids)) == len(mids)
    facts = defaultdict[tuple[str, str], list[str]](list)
    for line in (tmp_path / "facts.txt").read_text().splitlines():
        subject, relation, objects = line.split("\t")
        bare = [text.removeprefix("www.freebase.com") for text in objects.split(" ")]
        facts[subject, relation] += bare
    rows = [row for block in base.blocks() for row in block.to_pylist()]
    site = "www.freebase.com"
    assert facts == {
        (site + mids[row["subject"]], site + texts.relation_names[row["relation"]]): [
            mids[o] for o in row["objects"]
        ]
        for row in rows
    }
    assert texts.relation_names[0] == LARGEST
    assert len(set(texts.relation_names)) == base.statistics.relations

    names = [line.split("\t") for line in (tmp_path / "names.txt").read_text().splitlines()]
    own = [name for _, what, name in names if what == "<fb:type.object.name>"]
    aliases = [name for _, what, name in names if what == "<fb:common.topic.alias>"]
    assert len(own) == len(numbers)
    assert len(aliases) == pytest.approx(len(numbers) / 4, rel=0.1)
    bearers = Counter(own)
    shared = sum(count for count in bearers.values() if count > 1)
    assert 0.25 < shared / len(own) < 0.6
    assert max(bearers.values()) > 5

    typed = {tuple(line.split("\t")) for line in (tmp_path / "types.txt").read_text().splitlines()}
    for row in rows[:200]:
        domain, kind, _ = texts.relation_names[row["relation"]][1:].split("/")
        entity = mids[row["subject"]].replace("/m/", "<fb:m.") + ">"
        assert (entity, "<fb:type.object.type>", f"<fb:{domain}.{kind}>") in typed
    assert len({entity for entity, _, _ in typed}) == len(numbers)

    for split, held in (("train", False), ("test", True)):
        asked = [
            line.split("\t")
            for line in (tmp_path / f"questions-{split}.txt").read_text().splitlines()
        ]
        assert len(asked) == 200
        for subject, relation, object_, text in asked:
            assert object_.removeprefix(site) == facts[subject, relation][0]
            number = mids.index(subject.removeprefix(site))
            assert held_out_of(np.array([number]))[0] == held
            name = texts.names(np.array([number]))[0].as_py()
            phrase = relation.rpartition("/")[2].replace("_", " ")
            wordings = WORDINGS[-1:] if held else WORDINGS[:-1]
            assert text in [wording.format(phrase, name) for wording in wordings]


def test_questions_are_of_all_parts_of_the_base() -> None:
    base = SyntheticFreebase(FB2M.scaled(1_000_000))
    asked = [row for rows in questions(base, "seen_entity", 2_000) for row in rows.to_pylist()]
    assert len(asked) == 2_000
    subjects = np.array([row["subject"] for row in asked])
    assert subjects.mean() == pytest.approx(base.statistics.subjects / 2, rel=0.05)
    share = np.mean([row["relation"] == 0 for row in asked])
    assert share == pytest.approx(FB2M.largest_relation / FB2M.rows, abs=0.03)


def test_memory_does_not_grow_with_the_facts() -> None:
    """Five times the facts take hardly more of it."""
    code = """
import resource, sys
from models.tasks.synthetic_freebase import FB2M, SyntheticFreebase
for _ in SyntheticFreebase(FB2M.scaled(int(sys.argv[1]))).blocks(): pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10)
"""
    few, many = (
        int(subprocess.check_output([sys.executable, "-c", code, str(facts)], text=True))
        for facts in (600_000, 3_000_000)
    )
    assert many - few < 32 << 20


def test_what_cannot_be_made_is_said() -> None:
    with pytest.raises(TaskDataError, match=r"got 9,999 facts; expected 10,000 to 1,000,000,000"):
        FB2M.scaled(9_999)
    with pytest.raises(TaskDataError, match="expected counts that can be"):
        list(SyntheticFreebase(dataclasses.replace(FB2M, facts=FB2M.rows - 1)).blocks())


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["synthesize", "--like", "FB2M", "--facts", "10000", "--out", str(tmp_path / "made")]
    assert cli.main([*command, "--questions", "20"]) == 0
    assert "10,000 facts in 7,646 rows" in capsys.readouterr().out
    into = ["ingest", str(tmp_path / "made/facts.txt"), "--separator", " ", "--dim", "8"]
    assert cli.main([*into, "--into", str(tmp_path / "store")]) == 0
    assert "10,000 facts read, 7,646 rows" in capsys.readouterr().out
    assert cli.main(["synthesize", "--facts", "5", "--out", str(tmp_path)]) == 1

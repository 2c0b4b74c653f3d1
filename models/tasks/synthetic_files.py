"""Writes a synthetic knowledge base in the formats that Freebase's subsets are published in.

facts.txt             subject TAB relation TAB objects with spaces between, each with
                      www.freebase.com before it, as in freebase-FB2M.txt and freebase-FB5M.txt
names.txt             <fb:m.0…> TAB <fb:type.object.name> TAB "name", as in FB5M.name.txt; an alias
                      has <fb:common.topic.alias>
types.txt             <fb:m.0…> TAB <fb:type.object.type> TAB <fb:domain.type>, as in FB5M.type.txt:
                      of a subject those of its relations, of others common.topic
questions-SPLIT.txt   subject TAB relation TAB object TAB question, as in annotated_fb_data_*.txt
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.tasks.knowledge import FACT_SCHEMA, Int64s
from models.tasks.questions import Split, held_out_of
from models.tasks.synthetic_freebase import SUBJECTS, SyntheticFreebase
from models.tasks.synthetic_texts import Texts, joined, lines
from models.tasks.worded import SPLITS

SITE = "www.freebase.com"

QUESTION_SCHEMA = FACT_SCHEMA.append(pa.field("question", pa.large_string()))

Progress = Callable[[str, int, int], None]
"""Told of (what, done, of how many)."""


def texts_of(base: SyntheticFreebase) -> Texts:
    """The texts of a base."""
    return Texts(base.statistics.entities, base.statistics.relations, base.seed)


def write_facts(
    base: SyntheticFreebase,
    path: Path,
    types: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> None:
    """Writes the facts, and, where asked, the types of the entities, block by block."""
    texts, told, done = texts_of(base), base.statistics, 0
    relation_names = pa.array([SITE + name for name in texts.relation_names], pa.large_string())
    with ExitStack() as open_:
        facts = open_.enter_context(path.open("wb"))
        of_types = open_.enter_context(types.open("wb")) if types else None
        for block in base.blocks():
            subject, relation = (block[name].to_numpy() for name in ("subject", "relation"))
            objects = block["objects"].combine_chunks()
            facts.write(
                lines(
                    texts.identifiers(subject, f"{SITE}/", "", "/"),
                    relation_names.take(pa.array(relation)),
                    _listed(texts, objects),
                )
            )
            if of_types is not None:
                of_types.write(_types(texts, subject, relation))
            done += len(objects.flatten())
            progress("facts", done, told.facts)
        if of_types is not None:
            for leaf_B in _numbers(told.subjects, told.entities):
                of_types.write(_types(texts, leaf_B, None))


def write_names(base: SyntheticFreebase, path: Path) -> None:
    """Writes the names and aliases of all entities, block by block."""
    texts = texts_of(base)
    with path.open("wb") as file:
        for entity_B in _numbers(0, base.statistics.entities):
            for called, names in (
                ("type.object.name", texts.names(entity_B)),
                ("common.topic.alias", texts.aliases(entity_B)),
            ):
                there = pc.is_valid(names)
                own = texts.identifiers(entity_B[there.to_numpy(zero_copy_only=False)], *_FB)
                quoted = joined('"', names.filter(there), '"', between="")
                file.write(lines(own, f"<fb:{called}>", quoted))


def questions(
    base: SyntheticFreebase, split: Split, count: int, *, seed: int = 0, split_seed: int = 0
) -> Iterator[pa.Table]:
    """About so many questions about rows drawn uniformly: rows with `question`, some at a time.

    split: which wordings, and which subjects, as of `models.tasks.worded`; split_seed chooses the
    subjects that are held out.
    """
    texts, told = texts_of(base), base.statistics
    rng = np.random.default_rng((seed, list(SPLITS).index(split)))
    rows_left, left = told.rows, count
    for block in base.blocks():
        subject = block["subject"].to_numpy()
        # Each block has its share of them, by chance.
        share = rng.binomial(left, len(block) / rows_left)
        rows_left -= len(block)
        eligible = np.flatnonzero(held_out_of(subject, seed=split_seed) == SPLITS[split][1])
        if not share or not len(eligible):
            continue
        left -= share
        rows = block.take(np.sort(rng.choice(eligible, share)))
        subject, relation = (rows[name].to_numpy() for name in ("subject", "relation"))
        asked = texts.questions(rng, subject, relation, split)
        yield rows.append_column(QUESTION_SCHEMA.field("question"), asked)


def write_questions(base: SyntheticFreebase, path: Path, split: Split, count: int) -> None:
    """Writes questions, each with the first object of its fact, as those of SimpleQuestions."""
    texts = texts_of(base)
    relation_names = pa.array([SITE + name for name in texts.relation_names], pa.large_string())
    with path.open("wb") as file:
        for rows in questions(base, split, count):
            first = pc.list_element(rows["objects"].combine_chunks(), 0).to_numpy()
            subjects, objects = (
                texts.identifiers(each, f"{SITE}/", "", "/")
                for each in (rows["subject"].to_numpy(), first)
            )
            used = relation_names.take(rows["relation"].combine_chunks())
            file.write(lines(subjects, used, objects, rows["question"].combine_chunks()))


def write(
    base: SyntheticFreebase,
    folder: Path,
    *,
    count: int = 10_000,
    progress: Progress = lambda what, done, total: None,
) -> None:
    """Writes all files of a base into a folder.  count: of the questions of each split."""
    folder.mkdir(parents=True, exist_ok=True)
    write_facts(base, folder / "facts.txt", folder / "types.txt", progress)
    write_names(base, folder / "names.txt")
    for split in ("train", "test"):
        write_questions(base, folder / f"questions-{split}.txt", split, count)


_FB = ("<fb:", ">", ".")
"""How names.txt and types.txt say who an entity is: before, behind, in between."""


def _listed(texts: Texts, objects: pa.ListArray) -> pa.Array:
    """The objects of each row as one text: identifiers lie one behind the other as it is."""
    flat = texts.identifiers(objects.flatten().to_numpy(), f"{SITE}/", " ", "/")
    ends = np.frombuffer(flat.buffers()[1], np.int64)[objects.offsets.to_numpy()]
    buffers = [None, pa.py_buffer(ends), flat.buffers()[2]]
    return pc.utf8_rtrim(pa.Array.from_buffers(pa.large_string(), len(objects), buffers), " ")


def _types(texts: Texts, entity: Int64s, relation: Int64s | None) -> pa.Buffer:
    names, of_relation = texts.types
    if relation is None:
        typed = pa.array(["<fb:common.topic>"] * len(entity), pa.large_string())
    else:
        both = np.unique(entity * len(names) + of_relation[relation])
        entity, number = both // len(names), both % len(names)
        known = pa.array([f"<fb:{name}>" for name in names], pa.large_string())
        typed = known.take(pa.array(number))
    return lines(texts.identifiers(entity, *_FB), "<fb:type.object.type>", typed)


def _numbers(first: int, last: int) -> Iterator[Int64s]:
    for start in range(first, last, SUBJECTS):
        yield np.arange(start, min(start + SUBJECTS, last))

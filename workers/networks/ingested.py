"""A knowledge base too large to be held: files of facts, ingested, and questions in files.

What is of its size is in the memories of the run, or in files of the run folder that are mapped:

aliases/            names by text             titles/    names by entity
questions/          the questions of each split by the slots of their subjects and relations
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from memstore import NO_SLOT, Memory
from memstore.errors import InvalidArgument
from memstore.memory import Slots
from models.tasks import answers, published, synthetic_files
from models.tasks.knowledge import Int64s, TaskDataError
from models.tasks.linking import AliasIndex, words
from models.tasks.memories import Initial, KnowledgeMemories, Progress, unit
from models.tasks.questions import Question, Split
from models.tasks.synthetic_freebase import PUBLISHED, SyntheticFreebase
from models.tasks.titles import SCHEMA, Titles
from workers.checkpoints import Holder
from workers.ingest import Layout, Reading, ingest
from workers.ingest.plan import GATHERED
from workers.networks.knowledge_recipe import KnowledgeRecipe

ALIASES, TITLES, QUESTIONS = "aliases", "titles", "questions"

FILES: dict[Split, str] = {"train": published.TRAIN, "test": published.TEST}

BLOCK = 65_536
"""Entities, or questions, at a time."""

WORD = 3.0
"""Norm of the rows of words before training: those of many relations are hardly ever learnt from,
and are to count beside those that are."""

LONGEST = 10_000
"""Objects of a fact that count as answers."""


@dataclass(frozen=True)
class FactFiles:
    """Where the facts are from; read when the memories are built, and not after it.

    folder: of files as of `models.tasks.published`; None makes `facts` of them, `like` a base of
    which the size is published.  counts: of the questions then made.
    """

    folder: Path | None
    like: str
    facts: int | None
    seed: int
    counts: dict[Split, int]

    @classmethod
    def of(cls, recipe: KnowledgeRecipe) -> FactFiles:
        """Those of a recipe; raises `InvalidArgument`."""
        if recipe.like not in PUBLISHED:
            raise InvalidArgument(
                "like is unknown", got=repr(recipe.like), expected=f"one of {list(PUBLISHED)}"
            )
        if recipe.places is not None or recipe.answers is not None:
            raise InvalidArgument(
                "facts from files are taken whole, with entities as the answers",
                got=f"places={recipe.places}, answers apart: {recipe.answers}",
                expected="neither",
            )
        return cls(
            None if recipe.source is None else Path(recipe.source),
            recipe.like,
            recipe.facts,
            recipe.seed,
            {"train": recipe.questions, "test": recipe.test_questions},
        )

    def make(self, folder: Path, told: Progress) -> None:
        """Writes the files."""
        like = PUBLISHED[self.like]
        base = SyntheticFreebase(like if self.facts is None else like.scaled(self.facts), self.seed)
        folder.mkdir()
        synthetic_files.write_facts(base, folder / published.FACTS, progress=told)
        synthetic_files.write_names(base, folder / published.NAMES)
        for split, name in FILES.items():
            synthetic_files.write_questions(base, folder / name, split, self.counts[split])


def build(
    recipe: KnowledgeRecipe,
    files: FactFiles,
    holder: Holder,
    folder: Path,
    told: Progress,
    *,
    initial: Initial = Initial(),
    indexed: bool = True,
) -> None:
    """Ingests the facts into memories of the run, and keeps names and questions in its folder.

    Raises `TaskDataError`, and what `ingest` raises.
    """
    initial = replace(initial, word=WORD, gathered=GATHERED if indexed else initial.gathered)
    made, work = folder / "source", folder / "ingest"
    for left in (made, work, *(folder / name for name in (ALIASES, TITLES, QUESTIONS))):
        shutil.rmtree(left, ignore_errors=True)
    source = files.folder
    if source is None:
        files.make(made, told)
        source = made
    missing = [
        name
        for name in (published.FACTS, published.NAMES, *FILES.values())
        if not (source / name).exists()
    ]
    if missing:
        raise TaskDataError(
            f"no {', '.join(missing)} in {source}",
            "a folder of facts, names and questions",
            "`memtrain synthesize --out DIR` makes one",
        )
    layout = Layout(
        dim=recipe.dim,
        shards=recipe.shards,
        updates=recipe.updates,
        index="clustered" if indexed else "none",
        probe=recipe.probe if indexed else None,
        # A seed gives the same run only where the index is kept by the calls themselves.
        maintenance="inline",
        seed=recipe.seed,
        initial=initial,
        spelt=True,
    )
    ingest(
        [source / published.FACTS],
        folder / "store",
        reading=Reading(separator=" "),
        layout=layout,
        work=work,
        holder=holder,
        progress=told,
    )
    found = KnowledgeMemories.of(holder)
    entities = found.entities.describe().next_slot
    titles = Titles.keep(folder / TITLES, _named(found, source / published.NAMES, told), entities)
    aliases = AliasIndex.streamed(titles.batches, _weights(found.entities))
    aliases.save(folder / ALIASES)
    (folder / QUESTIONS).mkdir()
    for split, name in FILES.items():
        asked = _slots(found, source / name)
        with pa.OSFile(str(_of(folder, split)), "wb") as file, pa.ipc.new_file(file, ASKED) as out:
            out.write_table(asked)
        if split == "train":
            _add_words(found.words, _spoken(asked, aliases), recipe, initial)
    for left in (made, work):
        shutil.rmtree(left, ignore_errors=True)


class Filed:
    """Asks what was kept of the files; called as `workers.tasks.Asks`, of which it takes no base:
    the answers are the objects of the facts in the memory, and popularity is that of the files."""

    def __init__(self, memories: KnowledgeMemories, folder: Path) -> None:
        self._memories, self._folder = memories, folder

    def __call__(
        self, base: object, /, *, split: Split, count: int, seed: int, popular_share: float
    ) -> list[Question]:
        if split not in FILES:
            raise TaskDataError(f"split {split!r}", f"one of {tuple(FILES)}", "choose one")
        with pa.memory_map(str(_of(self._folder, split))) as file:
            asked = pa.ipc.open_file(file).read_all()
            if count < len(asked):
                rng = np.random.default_rng(seed)
                asked = asked.take(np.sort(rng.choice(len(asked), count, replace=False)))
            return [
                question
                for first in range(0, len(asked), BLOCK)
                for question in self._questions(asked.slice(first, BLOCK))
            ]

    def _questions(self, asked: pa.Table) -> Iterator[Question]:
        subject_Q, relation_Q = (asked[name].to_numpy() for name in ("subject", "relation"))
        relations = self._memories.relations.describe().next_slot
        slot_Q = answers.facts_of(self._memories.facts, subject_Q, relation_Q, relations)
        flat, counts_QK = answers.objects(self._memories.facts, slot_Q[:, None], LONGEST)
        right = np.split(flat, np.cumsum(counts_QK[:, 0])[:-1])
        columns = (asked["text"].to_pylist(), subject_Q.tolist(), relation_Q.tolist(), right)
        for text, subject, relation, objects in zip(*columns, strict=True):
            yield Question(text, subject, (relation,), objects, "")


ASKED = pa.schema([("subject", pa.int64()), ("relation", pa.int64()), ("text", pa.string())])


def _of(folder: Path, split: Split) -> Path:
    return folder / QUESTIONS / f"{split}.arrow"


def _lookup(memory: Memory, names: pa.ChunkedArray) -> Slots:
    """The slots of names; those of texts that occur often are looked up once."""
    coded = names.combine_chunks().dictionary_encode()
    slots = memory.lookup("name", coded.dictionary.to_pylist(), 1).padded(1)[:, 0]
    return np.asarray(slots[coded.indices.to_numpy()])


def _named(found: KnowledgeMemories, path: Path, told: Progress) -> Iterator[pa.RecordBatch]:
    """The names of entities that are in facts, by slot."""
    done, entities = 0, found.entities.describe().next_slot
    for table in published.names(path):
        table = table.set_column(0, "entity", pa.array(_lookup(found.entities, table["entity"])))
        table = table.filter(pa.array(table["entity"].to_numpy() != NO_SLOT)).combine_chunks()
        yield from table.select(SCHEMA.names).cast(SCHEMA).to_batches()
        done += int(np.count_nonzero(table["first"].to_numpy()))
        told("names", min(done, entities), entities)


def _weights(entities: Memory) -> Int64s:
    total = entities.describe().next_slot
    weights_N = np.empty(total, np.int64)
    for first in range(0, total, BLOCK):
        slots = np.arange(first, min(first + BLOCK, total))
        records = entities.gather(slots, vectors=False, columns=["weight"]).records
        assert records is not None
        weights_N[slots] = records["weight"].to_numpy()
    return weights_N


def _slots(found: KnowledgeMemories, path: Path) -> pa.Table:
    """The questions of a file whose subject and relation are in facts."""
    tables = [ASKED.empty_table()]
    for table in published.questions(path):
        subject_Q = _lookup(found.entities, table["subject"])
        relation_Q = _lookup(found.relations, table["relation"])
        known_Q = (subject_Q != NO_SLOT) & (relation_Q != NO_SLOT)
        made = pa.table([subject_Q, relation_Q, table["text"]], schema=ASKED)
        tables.append(made.filter(pa.array(known_Q)))
    asked = pa.concat_tables(tables).combine_chunks()
    if not len(asked):
        raise TaskDataError(
            f"no question in {path} about the facts", "at least one", "look at its names"
        )
    return asked


def _spoken(asked: pa.Table, aliases: AliasIndex) -> set[str]:
    """The words of questions, without the names of what they are about."""
    spoken = set[str]()
    for text, subject in zip(asked["text"].to_pylist(), asked["subject"].to_pylist(), strict=True):
        for mention in aliases.link(text):
            if subject in mention.candidates:
                text = f"{text[: mention.start]} {text[mention.end :]}"
                break
        spoken.update(words(text))
    return spoken


def _add_words(memory: Memory, spoken: set[str], recipe: KnowledgeRecipe, initial: Initial) -> None:
    """Adds the words that names of relations have not."""
    live = np.arange(memory.describe().next_slot)
    records = memory.gather(live, vectors=False, columns=["word"]).records
    assert records is not None
    fresh = sorted(spoken.difference(records["word"].to_pylist()))
    if not fresh:
        return
    about = round(recipe.dim * initial.relation_share)
    rng = np.random.default_rng((recipe.seed, len(live)))
    rows_BD = np.zeros((len(fresh), recipe.dim), np.float32)
    rows_BD[:, recipe.dim - about :] = initial.word * unit(
        rng.standard_normal((len(fresh), about), np.float32)
    )
    memory.append(rows_BD, None, pa.table({"word": fresh}))

"""Simple question answering: `models.simple_qa`, over the facts of candidate subjects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from memstore import NO_SLOT, IndexConfig, Memory, MemoryConfig
from memstore.errors import InvalidArgument
from memstore.memory import Array, Slots
from memstore.torch import RowTable
from models.simple_qa import Bag, Facts, SimpleQA, ranking_loss
from models.tasks import answers, memories, naming
from models.tasks.linking import AliasIndex, words
from models.tasks.memories import Initial, KnowledgeMemories, Progress
from models.tasks.naming import Namer
from models.tasks.simple_questions import SimpleQuestions
from models.tasks.simple_reading import SimpleReader
from workers import ask_simple, path_accuracy
from workers.ask_simple import SimpleReply
from workers.checkpoints import Holder
from workers.evaluate import bytes_of
from workers.figures import Evaluation, Published
from workers.group import Group
from workers.learner import Drawn, Network, Step
from workers.networks.ingested import ALIASES
from workers.recipe import Recipe
from workers.tasks import SimpleTask, task_of

INITIAL = Initial(entity=1.0, relation=1.0, word=0.1, relation_share=0.5, gathered=0.0)
"""Subject and relation count alike in a cosine, and are told apart by different dimensions."""


@dataclass(frozen=True, kw_only=True)
class SimpleRecipe(Recipe):
    """Ranks the facts of the subjects that a question may be about.

    dim: numbers a row.  shards, updates: as of the networks over a knowledge base.
    margin: γ.  negatives: wrong facts sampled for a question in a step: half of them facts of its
        candidates, a quarter the right subject with a relation that other questions ask for, a
        quarter another candidate with the right relation.
    names, each: the longest so many names of a question, and of each the so many entities in most
        triples, are candidates.  key_limit: facts of an entity that are looked at, at most.
    objects: of a fact that its bag has, the first so many; 0 leaves them out.
    vocabulary: training questions that a word, or a pair of words, is to stand in.
    row_lr, entity_lr: of the rows of words and relations, and of names and entities, which learn
        slowly, so that those never asked about in training stay comparable. Both fall to 0 by the
        last step.
    """

    network: str = "simple"
    task: str = "simple-dbpedia"
    steps: int = 600
    batch: int = 128
    dim: int = 128
    shards: int = 1
    updates: str = "checkpointed"
    margin: float = 0.3
    negatives: int = 64
    names: int = 5
    each: int = 2
    key_limit: int = 64
    objects: int = 0
    vocabulary: int = 2
    row_lr: float = 0.1
    entity_lr: float = 0.01

    LEAST: ClassVar = {**Recipe.LEAST, "margin": 0, "objects": 0, "row_lr": 0, "entity_lr": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        MemoryConfig(dim=self.dim, shards=self.shards, updates=self.updates)  # type: ignore[arg-type]


def read(recipe: SimpleRecipe) -> SimpleQuestions:
    """Reads the base and the questions of the recipe's task."""
    return task_of(recipe.task, SimpleTask).load()


def build(
    recipe: SimpleRecipe, base: SimpleQuestions, holder: Holder, folder: Path, told: Progress
) -> None:
    """Fills the memories, and keeps the dictionary of names."""
    known = base.base
    made = memories.build(
        holder,
        known,
        base.vocabulary(recipe.vocabulary),
        dim=recipe.dim,
        shards=recipe.shards,
        updates=recipe.updates,  # type: ignore[arg-type]
        index=IndexConfig(kind="none"),
        initial=INITIAL,
        seed=recipe.seed,
        progress=told,
    )
    keep_names(base, made.entities, holder, folder, each=recipe.each, updates=recipe.updates)


def keep_names(
    base: SimpleQuestions,
    entities: Memory,
    holder: Holder,
    folder: Path,
    *,
    each: int,
    updates: str,
    norm: float = 1.0,
) -> None:
    """Keeps the dictionary of names, and fills the memory of their rows: see `naming.build`.

    norm: of the row of a name of one word that no question has.
    """
    aliases = AliasIndex.build(base.base.aliases, base.base.weights)
    aliases.save(folder / ALIASES)
    counts = Counter(word for q in base.taught for word in set(words(q.text)))
    spelt = [aliases.alias(number) for number in range(len(aliases))]
    naming.build(
        holder,
        aliases,
        entities,
        np.float32(norm) * naming.rarity(spelt, counts, len(base.taught)),
        each=each,
        shards=entities.config.shards,
        updates=updates,  # type: ignore[arg-type]
    )


@dataclass(frozen=True)
class Taught:
    """The questions to learn from: those that have their subject among the candidates, and where
    there are `others` those that say what asks for a relation.

    asked, entities_QE: as they were read. slots_QP: their right facts; right_QR: the relations of
    these; both `NO_SLOT` padded. asked_R: the relations that any asks for, each once.
    """

    asked: Bag
    entities_QE: Slots
    slots_QP: Slots
    right_QR: Slots
    asked_R: Slots


def taught(reader: SimpleReader, base: SimpleQuestions, *, others: bool = True) -> Taught:
    """The questions that have their subject among the candidates, and the others of the task, with
    their right facts."""
    asked_of = base.taught if others else base.train
    asked, entities_QE = reader.read([q.text for q in asked_of])
    subject_Q = np.array([q.subject for q in asked_of], np.int64)
    among_Q = (entities_QE == subject_Q[:, None]).any(axis=1)
    among_Q[len(base.train) :] = True
    among = np.flatnonzero(among_Q)
    right_QR = answers.lists([np.array(asked_of[i].relations) for i in among])
    slots_QF = reader.proposed(subject_Q[among, None], len(base.base.relations))
    right_QF = answers.is_right(reader.facts(slots_QF).relation_QK, right_QR)
    slots_QP = answers.ragged(slots_QF[right_QF], right_QF.sum(axis=1))
    asked_R = np.unique(right_QR[right_QR != NO_SLOT])
    return Taught(asked.take(among), entities_QE[among], slots_QP, right_QR, asked_R)


class SimpleLearner:
    """A `Learner` of simple questions."""

    def __init__(self, recipe: SimpleRecipe, holder: Holder, folder: Path, group: Group) -> None:
        self.recipe = recipe
        self.memories = KnowledgeMemories.of(holder)
        namer = Namer(AliasIndex.load(folder / ALIASES), names=recipe.names, each=recipe.each)
        self.reader = SimpleReader(
            self.memories, namer, key_limit=recipe.key_limit, objects=recipe.objects
        )
        self.module = SimpleQA(
            RowTable(self.memories.words),
            RowTable(holder.memory(naming.NAMES)),
            RowTable(self.memories.entities),
            RowTable(self.memories.relations),
        )
        self.own = group.share(recipe.batch)

    @property
    def dense(self) -> torch.optim.Optimizer | None:
        return None

    @property
    def tables(self) -> Sequence[tuple[Sequence[RowTable], float]]:
        module = self.module
        return [
            ([module.words, module.relations], self.recipe.row_lr),
            ([module.names, module.entities], self.recipe.entity_lr),
        ]

    def describe(self) -> str:
        facts, entities = self.memories.facts.describe(), self.memories.entities.describe()
        names = self.module.names.memory.describe()
        told = f"{facts.rows:,} facts, {entities.rows:,} entities, {names.rows:,} names"
        return f"{told}, width {self.recipe.dim}"

    def data(self, base: SimpleQuestions) -> Taught:
        return taught(self.reader, base)

    def prepare(self, step: int) -> None:
        """Facts are looked up, and never searched for: none is encoded anew."""

    def draw(self, data: Taught, step: int) -> Drawn:
        """All is drawn for the whole batch, of which each trainer takes its share."""
        rng = np.random.default_rng((self.recipe.seed, step))
        at = rng.integers(0, len(data.asked), self.recipe.batch)
        facts = self._sample(data, at, rng).take(self.own)
        return Drawn(step, "ranked", rng, (data.asked.take(at[self.own]), facts))

    def _sample(self, data: Taught, at: Slots, rng: np.random.Generator) -> Facts:
        """A right fact in column 0, wrong ones behind it: see `SimpleRecipe.negatives`."""
        count = self.recipe.negatives
        relations, others = count // 4, count // 4
        entities_QE, right_QR = data.entities_QE[at], data.right_QR[at]
        read = self.reader.facts(
            np.concatenate(
                [
                    _pick(data.slots_QP[at], 1, rng),
                    _pick(self.reader.proposed(entities_QE), count - relations - others, rng),
                ],
                axis=1,
            )
        )
        subject_Q1, relation_Q1 = read.subject_QK[:, :1], read.relation_QK[:, :1]
        drawn_QR = rng.choice(data.asked_R, (len(at), relations))
        subject_QK = np.concatenate(
            [
                read.subject_QK,
                np.repeat(subject_Q1, relations, axis=1),
                _pick(entities_QE, others, rng),
            ],
            axis=1,
        )
        relation_QK = np.concatenate(
            [read.relation_QK, drawn_QR, np.repeat(relation_Q1, others, axis=1)], axis=1
        )
        # What is right too is no mistake.
        right_QK = answers.is_right(relation_QK, right_QR) & (subject_QK == subject_Q1)
        right_QK[:, 0] = False
        subject_QK[right_QK] = NO_SLOT
        relation_QK[subject_QK == NO_SLOT] = NO_SLOT
        objects_QKO = read.objects_QKO
        if objects_QKO is not None:
            # Facts made up keep the objects of the right one, which would tell it else.
            made = np.repeat(objects_QKO[:, :1], relations + others, axis=1)
            objects_QKO = np.concatenate([objects_QKO, made], axis=1)
            objects_QKO[subject_QK == NO_SLOT] = NO_SLOT
        return Facts(subject_QK, relation_QK, objects_QKO)

    def propose(self, drawn: Drawn) -> Drawn:
        return drawn

    def loss(self, parallel: nn.Module, drawn: Drawn) -> tuple[Tensor, float]:
        return ranking_loss(parallel(*drawn.batch), self.recipe.margin)

    def took(self, step: Step) -> None:
        """There is no curriculum."""

    def finish(self) -> None:
        self.memories.facts.refresh()

    def position(self) -> dict[str, Any]:
        return {}

    def go_on(self, position: Mapping[str, Any]) -> None:
        """What a step draws depends on its number alone."""

    def evaluate(self, base: SimpleQuestions) -> list[Evaluation]:
        """Questions about held-out subjects: over the facts of the base, and over all relations."""
        self.module.eval()
        known, names = self.memories, self.module.names.memory
        tables = (known.words, names, known.entities, known.relations, known.facts)
        held = sum(map(bytes_of, tables))
        ways = {
            "facts of the base": partial(path_accuracy.over_facts, self.module),
            "all relations": partial(path_accuracy.over_relations, self.module),
        }
        return path_accuracy.evaluate(ways, self.reader, base, held)

    def reply(self, texts: Sequence[str], *, searched: bool) -> list[SimpleReply]:
        """Answers a person's questions."""
        if searched:
            raise InvalidArgument(
                "its facts are not searched for",
                got="--search",
                expected="the facts of whom a question names",
            )
        self.module.eval()
        return ask_simple.ask(self._scored, self.reader, texts)

    def _scored(self, asked: Bag, entities_QE: Slots) -> tuple[Slots, Array]:
        """The facts of candidates, and their scores."""
        slots_QK = self.reader.proposed(entities_QE)
        with torch.no_grad():
            return slots_QK, self.module(asked, self.reader.facts(slots_QK)).numpy()


def _pick(rows_QX: Slots, count: int, rng: np.random.Generator) -> Slots:
    """Draws from each row, which is filled from the left, `[Q, count]`; `NO_SLOT` of an empty
    one."""
    there_Q1 = (rows_QX != NO_SLOT).sum(axis=1, keepdims=True)
    column = (rng.random((len(rows_QX), count)) * there_Q1).astype(np.int64)
    return np.take_along_axis(rows_QX, column, axis=1)


def recipe(task: str) -> SimpleRecipe:
    """One of the two tasks."""
    return replace(SimpleRecipe(), task=task)


def open_(recipe: SimpleRecipe, holder: Holder, folder: Path, group: Group) -> SimpleLearner:
    return SimpleLearner(recipe, holder, folder, group)


NETWORK = Network(
    recipe=SimpleRecipe,
    recipes={name: partial(recipe, name) for name in ("simple-dbpedia", "simple-freebase")},
    read=read,
    build=build,
    open=open_,
    published={
        name: Published(
            figure=0.627,
            source="a memory network on SimpleQuestions, Bordes et al. 2015, arXiv 1506.02075",
            note="0.627 to 0.639 by base and training sets, candidate recall 0.86, over 2 million "
            f"entities of Freebase and more, trained on 75,910 questions; here {what}",
        )
        for name, what in (
            (
                "simple-dbpedia",
                "SimpleDBpediaQA's part of the same questions, split by subject, over the facts "
                "asked for and 340,000 triples of Freebase.",
            ),
            (
                "simple-freebase",
                "the questions about subjects whose names are known, split by subject, over "
                "340,000 triples.",
            ),
        )
    },
)

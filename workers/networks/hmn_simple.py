"""The hierarchical memory network on simple questions: of all facts of a base, which is asked for.

Questions are read as by `workers.networks.simple`, by their n-grams and the names in them, but
which fact is meant is found among all: those that are proposed stand for the whole base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memstore import IndexConfig
from memstore.errors import InvalidArgument
from memstore.memory import Array, Slots
from memstore.torch import RowTable, SparseReader
from models.hmn import NamedHMN, Propose, cell_loss, everything, heaviest
from models.simple_qa import Bag
from models.tasks import memories, naming
from models.tasks.linking import AliasIndex
from models.tasks.memories import Initial, KnowledgeMemories, Progress
from models.tasks.naming import Namer
from models.tasks.simple_questions import SimpleQuestions
from models.tasks.simple_reading import SimpleReader
from workers import ask_simple, path_accuracy
from workers.ask_simple import SimpleReply
from workers.checkpoints import Holder
from workers.evaluate import bytes_of
from workers.figures import Evaluation
from workers.group import Group
from workers.learner import Drawn, Step
from workers.networks.hmn_recipe import HMNRecipe
from workers.networks.ingested import ALIASES
from workers.networks.simple import Taught, keep_names, taught
from workers.tasks import SimpleTask

NAMES, EACH = 5, 2
"""Names of a question, and entities that begin the row of a name: see `models.tasks.naming`."""

INITIAL, NAME_NORM = Initial(gathered=0.8), 5.0
"""Before training. Rows of words grow as they are learnt, those of names that training never asks
about do not: begun as long as those of `workers.networks.simple`, which looks at candidates alone,
they are lost among all facts. Entities lie nearer together than elsewhere, since a query is the sum
of several names, and the lists that it is nearest to are to have its subject."""


def read(recipe: HMNRecipe, task: SimpleTask) -> SimpleQuestions:
    """Reads the base and the questions."""
    if recipe.places is not None:
        raise InvalidArgument(
            "the base of simple questions is taken whole",
            got=f"places={recipe.places}",
            expected="none",
        )
    return task.load()


def build(
    recipe: HMNRecipe, base: SimpleQuestions, holder: Holder, folder: Path, told: Progress
) -> None:
    """Fills the memories, and keeps the dictionary of names."""
    made = memories.build(
        holder,
        base.base,
        base.vocabulary(),
        dim=recipe.dim,
        shards=recipe.shards,
        updates=recipe.updates,  # type: ignore[arg-type]
        # A seed gives the same run only where the index is kept by the calls themselves.
        index=IndexConfig(probe=recipe.probe, maintenance="inline"),
        initial=INITIAL,
        seed=recipe.seed,
        progress=told,
    )
    keep_names(
        base, made.entities, holder, folder, each=EACH, updates=recipe.updates, norm=NAME_NORM
    )


@dataclass(frozen=True)
class Lesson:
    """The questions of a step that are one trainer's.

    right_QP: the cells asked for.  slots_QK: those proposed, None before they are.
    """

    asked: Bag
    right_QP: Slots
    slots_QK: Slots | None = None


class NamedLearner:
    """A `Learner` of simple questions over all facts."""

    def __init__(self, recipe: HMNRecipe, holder: Holder, folder: Path, group: Group) -> None:
        self.recipe, self.group = recipe, group
        self.memories = KnowledgeMemories.of(holder)
        known, facts = self.memories, self.memories.facts
        namer = Namer(AliasIndex.load(folder / ALIASES), names=NAMES, each=EACH)
        self.reader = SimpleReader(known, namer, key_limit=recipe.key_limit, objects=0)
        self.entities, self.relations = RowTable(known.entities), RowTable(known.relations)
        # Who trains reads more than who tests, and counts its searches, which a checkpoint has.
        self.cells, self.tested = (
            SparseReader(
                facts,
                k=recipe.k,
                options=options,
                parts=[self.entities, self.relations],
                list_limit=recipe.list_limit,
                spare=recipe.spare,
            )
            for options in (recipe.taught, recipe.tested)
        )
        self.full: Propose | None = None
        if recipe.read == "all":
            self.full = everything(np.arange(facts.describe().next_slot))
        self.module = NamedHMN(
            RowTable(known.words),
            RowTable(holder.memory(naming.NAMES)),
            self.cells,
            propose=self.full,
        )
        self.dense = torch.optim.Adam(self.module.parameters(), lr=recipe.dense_lr)
        self.own = group.share(recipe.batch)

    @property
    def tables(self) -> Sequence[tuple[Sequence[RowTable], float]]:
        return [
            ([self.module.words, self.relations], self.recipe.row_lr),
            ([self.module.names, self.entities], self.recipe.entity_lr),
        ]

    def describe(self) -> str:
        facts, entities = self.memories.facts.describe(), self.memories.entities.describe()
        names = self.module.names.memory.describe()
        told = f"{facts.rows:,} facts, {entities.rows:,} entities, {names.rows:,} names"
        return f"{told}, width {self.recipe.dim}"

    def data(self, base: SimpleQuestions) -> Taught:
        """The questions that have their subject among the candidates: which cell is meant cannot
        be learnt from others."""
        return taught(self.reader, base, others=False)

    def prepare(self, step: int) -> None:
        if self.recipe.refreshed(step):
            self.group.once(self.memories.facts.refresh)

    def draw(self, data: Taught, step: int) -> Drawn:
        """All is drawn for the whole batch, of which each trainer takes its share."""
        rng = np.random.default_rng((self.recipe.seed, step))
        at = rng.integers(0, len(data.asked), self.recipe.batch)[self.own]
        return Drawn(step, "searched", rng, Lesson(data.asked.take(at), data.slots_QP[at]))

    def propose(self, drawn: Drawn) -> Drawn:
        lesson: Lesson = drawn.batch
        with torch.no_grad():
            slots_QK = self.module.propose(self.module.encode(lesson.asked))
        return replace(drawn, batch=replace(lesson, slots_QK=slots_QK))

    def loss(self, parallel: torch.nn.Module, drawn: Drawn) -> tuple[Tensor, float]:
        lesson: Lesson = drawn.batch
        reading = parallel(lesson.asked, lesson.slots_QK, lesson.right_QP)
        return cell_loss(reading, lesson.right_QP)

    def took(self, step: Step) -> None:
        """There is no curriculum."""

    def finish(self) -> None:
        # So that who reads it finds facts by the keys that were learnt.
        self.memories.facts.refresh()

    def position(self) -> dict[str, Any]:
        return {"searches": self.cells.searches}

    def go_on(self, position: Mapping[str, Any]) -> None:
        self.cells.searches = position["searches"]

    def evaluate(self, base: SimpleQuestions) -> list[Evaluation]:
        """Questions about held-out subjects: over the facts of the candidates, as who reads names
        alone proposes them, and over those that search proposes of all."""
        self.module.eval()
        known, names = self.memories, self.module.names.memory
        tables = (known.words, names, known.entities, known.relations, known.facts)
        ways: dict[str, path_accuracy.Way] = {
            "facts of the candidates": self._named,
            "inner product search": self._searched,
        }
        return path_accuracy.evaluate(ways, self.reader, base, sum(map(bytes_of, tables)))

    def _named(
        self, reader: SimpleReader, asked: path_accuracy.Asked, counts_R: Slots
    ) -> dict[str, np.ndarray]:
        slots_QK, weights_QK = self.read_of(asked.bag, reader.proposed(asked.entities_QE))
        best_Q = weights_QK.argmax(axis=1)
        return path_accuracy.chosen(reader, asked, counts_R, reader.facts(slots_QK), best_Q)

    def _searched(
        self, reader: SimpleReader, asked: path_accuracy.Asked, counts_R: Slots
    ) -> dict[str, np.ndarray]:
        before = self.tested.scored
        slots_QK, weights_QK = self.read_of(asked.bag)
        found = path_accuracy.chosen(
            reader, asked, counts_R, reader.facts(slots_QK), weights_QK.argmax(axis=1)
        )
        scored = (self.tested.scored - before) / len(
            asked.bag
        ) or self.memories.facts.describe().rows
        return found | {"scored": np.full(len(asked.bag), scored)}

    def read_of(self, asked: Bag, slots_QK: Slots | None = None) -> tuple[Slots, Array]:
        """The cells that questions read, and their weights, `[Q, K]`.  slots_QK: None has them
        proposed."""
        with torch.no_grad():
            query_QD = self.module.encode(asked)
            if slots_QK is None:
                slots_QK = (self.full or self.tested.search)(query_QD)
            return heaviest(self.tested, query_QD, slots_QK)

    def reply(self, texts: Sequence[str], *, searched: bool) -> list[SimpleReply]:
        """Answers a person's questions."""
        self.module.eval()
        return ask_simple.ask(
            lambda asked, entities_QE: self.read_of(
                asked, None if searched else self.reader.proposed(entities_QE)
            ),
            self.reader,
            texts,
        )

"""What networks over a knowledge base share: its memories, questions, lessons and tests.

A network of this kind is an `Answering` over a `Knowledge`, and `KnowledgeLearner` the rest:

    def open_(recipe, holder, folder, group):
        return KnowledgeLearner(Knowledge(recipe, holder, folder, group), MyAnswering)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from memstore import NO_SLOT, IndexConfig, SearchOptions
from memstore.memory import Slots
from memstore.torch import RowTable, SparseReader
from models.tasks import answers, memories
from models.tasks.asking import QuestionReader, Questions
from models.tasks.knowledge import KnowledgeBase
from models.tasks.linking import AliasIndex
from models.tasks.memories import Initial, Progress
from models.tasks.titles import Titles
from workers.answering import Answering, Lesson
from workers.ask import Reply, ask
from workers.checkpoints import Holder
from workers.evaluate import evaluate
from workers.figures import Evaluation
from workers.group import Group
from workers.learner import Drawn, Step
from workers.networks import ingested
from workers.networks.ingested import ALIASES, TITLES, FactFiles, Filed
from workers.networks.knowledge_recipe import KnowledgeRecipe
from workers.tasks import Asks, Knows, Task, task_of


def read(recipe: KnowledgeRecipe) -> KnowledgeBase | FactFiles:
    """Reads the knowledge base of the recipe's task, or says from which files it is built."""
    task = task_of(recipe.task, Knows)
    return task.base(recipe.places) if isinstance(task, Task) else FactFiles.of(recipe)


def build(
    recipe: KnowledgeRecipe,
    base: KnowledgeBase | FactFiles,
    holder: Holder,
    folder: Path,
    told: Progress,
    *,
    initial: Initial = Initial(),
    indexed: bool = True,
) -> None:
    """Fills the memories, and keeps the dictionary of names.

    indexed: whether facts are searched for, and not looked up alone.
    """
    if isinstance(base, FactFiles):
        ingested.build(recipe, base, holder, folder, told, initial=initial, indexed=indexed)
        return
    # A seed gives the same run only where the index is kept by the calls themselves.
    lists = IndexConfig(probe=recipe.probe, maintenance="inline")
    memories.build(
        holder,
        base,
        task_of(recipe.task, Task).vocabulary(),
        dim=recipe.dim,
        shards=recipe.shards,
        updates=recipe.updates,  # type: ignore[arg-type]
        index=lists if indexed else IndexConfig(kind="none"),
        initial=initial,
        apart=recipe.answers,
        seed=recipe.seed,
        progress=told,
    )
    keep_names(base, folder)


def keep_names(base: KnowledgeBase, folder: Path) -> None:
    """Keeps the dictionary of names in a run folder."""
    AliasIndex.build(base.aliases, base.weights).save(folder / ALIASES)


@dataclass(frozen=True)
class Taught:
    """The questions to learn from; right_QA and relations_QP as in `Lesson`."""

    questions: Questions
    right_QA: Slots
    relations_QP: Slots


class Knowledge:
    """The memories of a run, open: their rows as tables, and who reads them.

    by: as of a `QuestionReader`.  reachable: as of `answers.sample`.
    """

    by: ClassVar[str] = "subject"
    reachable: ClassVar[bool] = False

    def __init__(
        self, recipe: KnowledgeRecipe, holder: Holder, folder: Path, group: Group = Group()
    ) -> None:
        task = task_of(recipe.task, Knows)
        titles = None if isinstance(task, Task) else Titles(folder / TITLES)
        found = memories.KnowledgeMemories.of(
            holder, apart=recipe.answers is not None, titles=titles
        )
        self.asks: Asks = task.questions if isinstance(task, Task) else Filed(found, folder)
        aliases = AliasIndex.load(folder / ALIASES)
        questions = QuestionReader(found, aliases, by=self.by, reach=recipe.reach)
        self._set(recipe, questions, group)

    @classmethod
    def over(
        cls, recipe: KnowledgeRecipe, questions: QuestionReader, group: Group = Group()
    ) -> Knowledge:
        """Of memories that are open."""
        made = cls.__new__(cls)
        made.asks = task_of(recipe.task, Task).questions
        made._set(recipe, questions, group)
        return made

    def _set(self, recipe: KnowledgeRecipe, questions: QuestionReader, group: Group) -> None:
        self.recipe, self.questions, self.group = recipe, questions, group
        self.memories = questions.memories
        self.words, self.entities, self.relations = (
            RowTable(memory)
            for memory in (self.memories.words, self.memories.entities, self.memories.relations)
        )
        own = self.memories.answers
        self.answers = None if own is None else RowTable(own)
        self.facts = self._reader()
        self._entities = self.memories.entities.describe().next_slot

    def _reader(self) -> Any:
        """Who reads the facts."""
        recipe = self.recipe
        return SparseReader(
            self.memories.facts,
            k=recipe.k,
            options=SearchOptions(probe=recipe.probe),
            parts=[self.entities, self.relations],
            list_limit=recipe.list_limit,
            spare=recipe.spare,
        )

    def objects_of(self, slots_QK: Slots, entity_Q: Slots) -> Slots:
        """The candidate answers of facts, `[Q, C]`: `answers.objects_of`."""
        return answers.objects_of(self.memories.facts, slots_QK, entity_Q, self.recipe.list_limit)

    def sampled(self, lesson: Lesson, slots_QK: Slots) -> Slots:
        """A right answer in column 0, and others, many of them of the facts read: `[Q, C]`."""
        read_QC = self.objects_of(slots_QK, lesson.asked.entity_Q)
        more = self.group.largest(read_QC.shape[1]) - read_QC.shape[1]
        read_QC = np.pad(read_QC, ((0, 0), (0, more)), constant_values=NO_SLOT)
        return answers.sample(
            lesson.right_QA,
            read_QC,
            self._entities,
            self.recipe.negatives,
            lesson.rng,
            lesson.own,
            reachable=self.reachable,
        )


class KnowledgeLearner:
    """A `Learner` of any network that answers questions over a knowledge base.

    searches: whether it can be tested on facts that it searches for, beside those of the entity.
    """

    def __init__(
        self,
        known: Knowledge,
        make: Callable[[Knowledge], Answering],
        *,
        searches: bool = True,
    ) -> None:
        self.limits = (known.recipe.key_limit, None) if searches else (known.recipe.key_limit,)
        self.known, self.recipe, self.group = known, known.recipe, known.group
        self.answering = make(known)
        self.memories, self.questions = known.memories, known.questions
        self.own = known.group.share(self.recipe.batch)

    @property
    def module(self) -> nn.Module:
        return self.answering.module

    @property
    def dense(self) -> torch.optim.Optimizer | None:
        return self.answering.dense

    @property
    def tables(self) -> Sequence[tuple[Sequence[RowTable], float]]:
        known = self.known
        entities = [known.entities] if known.answers is None else [known.entities, known.answers]
        return [
            ([known.words, known.relations], self.recipe.row_lr),
            (entities, self.recipe.entity_lr),
        ]

    def describe(self) -> str:
        facts, entities = self.memories.facts.describe(), self.memories.entities.describe()
        return f"{facts.rows:,} facts, {entities.rows:,} entities, width {facts.config.dim}"

    def data(self, base: KnowledgeBase | FactFiles) -> Taught:
        """The questions whose entity is linked rightly, and that the base answers."""
        asked = self.known.asks(
            base,
            split="train",
            count=self.recipe.questions,
            seed=self.recipe.seed + 1,
            popular_share=0.5,
        )
        read = self.questions.read([question.text for question in asked])
        subject_Q = np.array([question.subject for question in asked])
        # A network cannot learn a relation from a question about something else.
        answered_Q = np.array([len(question.answers) > 0 for question in asked])
        linked = np.flatnonzero((read.entity_Q == subject_Q) & (subject_Q >= 0) & answered_Q)
        limit = self.recipe.right_limit
        right = answers.lists([asked[i].answers[:limit] for i in linked])
        paths = answers.lists([np.array(asked[i].relations) for i in linked])
        return Taught(read.take(linked), right, paths)

    def prepare(self, step: int) -> None:
        if self.recipe.refreshed(step):
            self.group.once(self.memories.facts.refresh)

    def draw(self, data: Taught, step: int) -> Drawn:
        rng = np.random.default_rng((self.recipe.seed, step))
        at = rng.integers(0, len(data.questions), self.recipe.batch)
        searched = self.recipe.searched(step)
        limit = None if searched else self.recipe.key_limit
        asked = self.questions.ask(data.questions, at[self.own], limit)
        lesson = Lesson(asked, self.own, data.right_QA[at], data.relations_QP[at], rng)
        return Drawn(step, "searched" if searched else "hashed", rng, lesson)

    def propose(self, drawn: Drawn) -> Drawn:
        lesson: Lesson = drawn.batch
        if lesson.asked.slots_QK is not None:
            return drawn
        return replace(drawn, batch=replace(lesson, asked=self.answering.propose(lesson.asked)))

    def loss(self, parallel: nn.Module, drawn: Drawn) -> tuple[Tensor, float]:
        return self.answering.loss(parallel, drawn.batch)

    def took(self, step: Step) -> None:
        """There is no curriculum."""

    def finish(self) -> None:
        # So that who reads it finds facts by the keys that were learnt, where keys are kept.
        if self.memories.facts.config.encoding is not None:
            self.memories.facts.refresh()

    def position(self) -> dict[str, Any]:
        return {"searches": self.known.facts.searches}

    def go_on(self, position: Mapping[str, Any]) -> None:
        self.known.facts.searches = position["searches"]

    def evaluate(self, base: KnowledgeBase | FactFiles) -> list[Evaluation]:
        """Held-out wordings of held-out entities, both ways of proposing facts."""
        self.module.eval()
        asked = self.known.asks(
            base,
            split="test",
            count=self.recipe.test_questions,
            seed=self.recipe.seed + 2,
            popular_share=0.0,
        )
        return [
            evaluate(
                self.answering,
                self.questions,
                asked,
                key_limit=limit,
                list_limit=self.recipe.list_limit,
            )
            for limit in self.limits
        ]

    def reply(self, texts: Sequence[str], *, searched: bool) -> list[Reply]:
        """Answers a person's questions."""
        self.module.eval()
        limit = None if searched else self.recipe.key_limit
        return ask(
            self.answering,
            self.questions,
            list(texts),
            key_limit=limit,
            list_limit=self.recipe.list_limit,
        )

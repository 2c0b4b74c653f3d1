"""Documents in the place of facts: sentences or windows, for the key-value memory network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from memstore import MemoryConfig
from memstore.errors import InvalidArgument
from models.document_reader import DocumentReader
from models.tasks import documents, memories
from models.tasks.documents import KINDS
from models.tasks.knowledge import Int64s, KnowledgeBase
from models.tasks.memories import BLOCK, Apart, Initial, Progress
from workers.checkpoints import Holder
from workers.networks import knowledge
from workers.networks.knowledge import Knowledge
from workers.networks.knowledge_recipe import KnowledgeRecipe
from workers.tasks import Task, task_of

READS = ("facts", "sentences", "windows")

INITIAL = Initial(entity=2.0, relation=0.5, word=0.5, relation_share=0.5, gathered=0.0)
"""Slots are looked up by their entities, so that these need not stand out by their length."""


@dataclass(frozen=True, kw_only=True)
class DocumentRecipe(KnowledgeRecipe):
    """A run over a knowledge base, or over the texts about it.

    reads: what a slot is: one of the base's `facts`, or of the `sentences` or `windows` of texts.
    window: tokens of a window, odd.  titled: the title of the document is in its key.
    centre: center encoding: centres, values and answers are of a second dictionary.
    title: each window once more, with the title as its value.
    """

    reads: str = "facts"
    window: int = 7
    titled: bool = True
    centre: bool = False
    title: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reads not in READS:
            raise InvalidArgument(
                "reads is unknown", got=repr(self.reads), expected=f"one of {READS}"
            )
        if self.reads != "windows" and (self.centre or self.title):
            raise InvalidArgument(
                "centre and title are of windows", got=f"reads={self.reads}", expected="windows"
            )
        if self.window % 2 == 0:
            raise InvalidArgument("a window has a centre", got=self.window, expected="odd tokens")

    @property
    def answers(self) -> Apart | None:
        return "drawn" if self.centre else None


class DocumentKnowledge(Knowledge):
    """Memories of documents, open. A slot is found by any entity of its key."""

    by = "entities"
    reachable = True

    def _reader(self) -> DocumentReader:
        assert isinstance(self.recipe, DocumentRecipe)
        return DocumentReader(
            self.memories.facts,
            self.words,
            self.entities,
            self.relations,
            answers=self.answers,
            whole=self.recipe.reads == "sentences",
            list_limit=self.recipe.list_limit,
        )


def build(
    recipe: DocumentRecipe, base: KnowledgeBase, holder: Holder, folder: Path, told: Progress
) -> None:
    """Reads the texts about what the base knows, and fills the memories."""
    task = task_of(recipe.task, Task)
    if task.texts is None:
        raise InvalidArgument(
            f"task {recipe.task!r} has no texts", got=f"reads={recipe.reads}", expected="facts"
        )
    texts = documents.read(base, task.texts(base))
    vocabulary = {*task.vocabulary(), *texts.vocabulary()}
    memories.tables(
        holder,
        base,
        vocabulary,
        (*base.relations, *KINDS),
        dim=recipe.dim,
        shards=recipe.shards,
        updates=recipe.updates,  # type: ignore[arg-type]
        initial=INITIAL,
        apart=recipe.answers,
        seed=recipe.seed,
    )
    slots = slots_of(recipe, texts, texts.slots_of(vocabulary), len(base.relations))
    facts = holder.create(
        "facts",
        MemoryConfig(
            # A slot is its record: its row is nothing.
            dim=1,
            index="none",
            shards=recipe.shards,
            records={field.name: memories.kind_of(field) for field in documents.SCHEMA},
            lookup=("subject", "entities"),
        ),
    )
    for start in range(0, len(slots), BLOCK):
        block = slots.slice(start, BLOCK)
        facts.append(np.zeros((len(block), 1), np.float32), None, block)
        told(recipe.reads, start + len(block), len(slots))
    knowledge.keep_names(base, folder)


def slots_of(
    recipe: DocumentRecipe, texts: documents.Texts, word_T: Int64s, relations: int
) -> pa.Table:
    """The records of the slots.  relations: of the base, behind which the kinds are numbered."""
    sentence, window, title = range(relations, relations + len(KINDS))
    if recipe.reads == "sentences":
        return documents.sentences(texts, word_T, sentence)
    found = documents.windows(texts, word_T, recipe.window, window, titled=recipe.titled)
    return documents.with_titles(found, title) if recipe.title else found

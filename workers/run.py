"""A run folder: the store, the alias dictionary, the network's weights and the figures.

store/          the memories          aliases/        the dictionary of names
recipe.json     the configuration     network.npz     weights, optimizer, step
steps.parquet   the training curve    figures.json    the evaluations
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import memstore
from memstore import IndexConfig, SearchOptions
from memstore.torch import RowTable, SparseReader
from models.kv_memnn import KVMemNN
from models.tasks import answers, memories
from models.tasks.asking import QuestionReader
from models.tasks.geography import load_geography
from models.tasks.geography_questions import questions, vocabulary
from models.tasks.knowledge import KnowledgeBase, TaskDataError
from models.tasks.linking import AliasIndex
from workers.evaluate import Evaluation, evaluate
from workers.loop import Step, Trainer, as_columns
from workers.recipes import Recipe

logger = logging.getLogger(__name__)


class Run:
    """One run in its folder, built once, opened after that."""

    def __init__(self, folder: Path) -> None:
        """Opens a run that `build` made; raises `TaskDataError` where there is none."""
        if not is_built(folder):
            raise TaskDataError(
                f"no run in {folder}", "a folder made by `fit`", "run `memtrain fit`"
            )
        self.folder = folder
        self.recipe = Recipe(**json.loads((folder / "recipe.json").read_text()))
        self.store = memstore.open(folder / "store")
        try:
            self.memories = memories.KnowledgeMemories.of(self.store)
            aliases = AliasIndex.load(folder / "aliases")
        except BaseException:
            self.store.close()
            raise
        self.reader = QuestionReader(self.memories, aliases)
        entities, relations = RowTable(self.memories.entities), RowTable(self.memories.relations)
        facts = SparseReader(
            self.memories.facts,
            k=self.recipe.k,
            options=SearchOptions(probe=self.recipe.probe),
            parts=[entities, relations],
            list_limit=self.recipe.list_limit,
        )
        words = RowTable(self.memories.words)
        self.network = KVMemNN(words, entities, facts, hops=self.recipe.hops)
        self.trainer = Trainer(self.network, self.reader, self.recipe)
        self.steps: list[Step] = []
        if (folder / "network.npz").exists():
            self.trainer.load(folder / "network.npz")
            self.steps = [
                Step(**row) for row in pq.read_table(folder / "steps.parquet").to_pylist()
            ]

    @staticmethod
    def build(
        folder: Path, recipe: Recipe, base: KnowledgeBase, progress: memories.Progress
    ) -> None:
        """Builds the memories and the alias dictionary; recipe.json, written last, says done."""
        shutil.rmtree(folder / "store", ignore_errors=True)
        for left in ("recipe.json", "network.npz", "steps.parquet", "figures.json"):
            (folder / left).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        with memstore.open(folder / "store") as store:
            memories.build(
                store,
                base,
                vocabulary(),
                dim=recipe.dim,
                shards=recipe.shards,
                index=IndexConfig(probe=recipe.probe),
                seed=recipe.seed,
                progress=progress,
            )
        AliasIndex.build(base.aliases, base.weights).save(folder / "aliases")
        (folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1))

    @property
    def trained(self) -> bool:
        return self.trainer.done >= self.recipe.steps

    def train(self, base: KnowledgeBase) -> Iterator[Step]:
        """Takes the steps that are left; whatever ends it, the run is saved as it then is."""
        asked = questions(
            base,
            split="train",
            count=self.recipe.questions,
            seed=self.recipe.seed + 1,
            popular_share=0.5,
        )
        read = self.reader.read([question.text for question in asked])
        subject_Q = np.array([question.subject for question in asked])
        # A network cannot learn a relation from a question about something else.
        linked = np.flatnonzero(read.entity_Q == subject_Q)
        right = [asked[i].answers[: self.recipe.list_limit] for i in linked]
        right_QA = answers.ragged(np.concatenate(right), np.array([len(r) for r in right]))
        try:
            for step in self.trainer.run(read.take(linked), right_QA):
                self.steps.append(step)
                yield step
        finally:
            self.save()

    def save(self) -> None:
        """Makes the memories and the network durable."""
        self.trainer.save(self.folder / "network.npz")
        pq.write_table(pa.table(as_columns(self.steps)), self.folder / "steps.parquet")
        self.store.checkpoint()

    def evaluate(self, base: KnowledgeBase) -> list[Evaluation]:
        """Tests on held-out wordings of held-out entities, both ways of proposing facts."""
        self.memories.facts.refresh()
        asked = questions(
            base, split="test", count=self.recipe.test_questions, seed=self.recipe.seed + 2
        )
        found = [
            evaluate(
                self.network,
                self.reader,
                asked,
                key_limit=key_limit,
                list_limit=self.recipe.list_limit,
            )
            for key_limit in (self.recipe.key_limit, None)
        ]
        figures = json.dumps([asdict(each) for each in found])
        (self.folder / "figures.json").write_text(figures)
        return found

    @property
    def figures(self) -> list[Evaluation]:
        """The evaluations of last time; empty where there was none."""
        path = self.folder / "figures.json"
        saved: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        return [Evaluation(**each) for each in saved]

    def base(self) -> KnowledgeBase:
        """The knowledge base that the memories were built from, read anew."""
        return load_geography(limit=self.recipe.places)

    def close(self) -> None:
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def is_built(folder: Path) -> bool:
    """Whether the folder holds a run whose memories are whole."""
    return (folder / "recipe.json").exists()

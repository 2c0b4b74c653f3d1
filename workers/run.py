"""A run folder: the store, the alias dictionary, the network's weights and the figures.

store/          the memories          aliases/        the dictionary of names
recipe.json     the configuration     network.npz     weights, optimizer, step
steps.parquet   the training curve    figures.json    the evaluations
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator
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

SAVE_STEPS = 200
"""Steps between saves while it trains: what a killed process loses at most."""


class Run:
    """One run in its folder, built once, opened after that."""

    def __init__(self, folder: Path) -> None:
        """Opens a run that `build` made; raises `TaskDataError` where there is none."""
        if not is_built(folder):
            raise TaskDataError(
                f"no run in {folder}", "a folder made by `fit`", "run `memtrain fit`"
            )
        self.folder = folder
        self.recipe = recipe_of(folder)
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
            try:
                self.trainer.load(folder / "network.npz")
                rows = pq.read_table(folder / "steps.parquet").to_pylist()
                self.steps = [Step(**row) for row in rows if row["number"] < self.trainer.done]
            except (OSError, ValueError, KeyError, TypeError) as error:
                self.store.close()
                raise _unreadable(folder / "network.npz", error) from error

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
                # A seed gives the same run only where the index is kept by the calls themselves.
                index=IndexConfig(probe=recipe.probe, maintenance="inline"),
                seed=recipe.seed,
                progress=progress,
            )
        AliasIndex.build(base.aliases, base.weights).save(folder / "aliases")
        draft = folder / "recipe.new"
        draft.write_text(json.dumps(asdict(recipe), indent=1))
        draft.replace(folder / "recipe.json")

    @property
    def trained(self) -> bool:
        return self.trainer.done >= self.recipe.steps

    def train(self, base: KnowledgeBase) -> Generator[Step, None, None]:
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
                if step.number % SAVE_STEPS == SAVE_STEPS - 1:
                    self.save()
                yield step
        finally:
            self.save()

    def save(self) -> None:
        """Makes the memories and the network durable.

        The memories first: whoever stops in between goes on from the older step of the network.
        """
        self.store.checkpoint()
        draft = self.folder / "steps.new"
        pq.write_table(pa.table(as_columns(self.steps)), draft)
        draft.replace(self.folder / "steps.parquet")
        self.trainer.save(self.folder / "network.npz")

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


def recipe_of(folder: Path) -> Recipe:
    """The recipe that a run was built by; raises `TaskDataError` if it cannot be read."""
    path = folder / "recipe.json"
    try:
        return Recipe(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> TaskDataError:
    return TaskDataError(f"{path}: {error}", "a file of this version", "delete the run, fit anew")


def is_built(folder: Path) -> bool:
    """Whether the folder holds a run whose memories are whole."""
    return (folder / "recipe.json").exists()

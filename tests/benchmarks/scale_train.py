"""Training steps over 100,000 facts and over as many as Freebase FB5M has: what grows, what not.

Runs of the recipe `freebase` (key-value network, batch 256, K = 32, 2 hops) are built. Each learns,
on facts proposed by key hashing in the first half of its steps and mostly by inner product search
in the second, beside a worker that encodes facts anew. Its share is of the processor's seconds, and
counts all that is done beside the steps. Now and then both are held: recall of the index is the
share of the 32 found for held-out questions that score no less than the true 32nd of all facts, all
scored by the rows of entities and relations as they then are.

Then one process opens two sizes and takes steps by turns, each way of proposing by itself; the
search is told apart from everything else. Seconds are those of the processor. What steps take
beside the memories is the most that a process of its own held meanwhile, without what it held
before and what the memories grew by; the median of three, since what an allocator keeps differs.

    python -m tests.benchmarks.scale_train 100000 1000000      # other sizes, the first beside each
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import memstore
from memstore import NO_SLOT
from memstore.memory import Array, Slots
from memstore.torch import RowGradients
from tests.benchmarks.alone import measured_alone, tell
from tests.benchmarks.peers.client import ROOT
from tests.benchmarks.runner import Curve, Figure, Measured, at_least, at_most
from tests.benchmarks.synthetic import FULL
from tests.ingest.measured import resident
from workers.evaluate import bytes_of
from workers.ingest import keeping
from workers.networks import knowledge
from workers.networks.knowledge import KnowledgeLearner
from workers.networks.kv import KVAnswering, KVRecipe, freebase
from workers.refresh import Refresher
from workers.run import Run

LEAST = 100_000
K, HOPS, BATCH = 32, 2, 256

STEPS, QUICK_STEPS = 1_800, 40
"""What an opened memory does once, at its first sealing, is spread over them."""

MOMENTS, JUDGED = 8, 256
"""How often recall is told, and of how many questions."""

SHARE, GIVEN = 0.2, 0.15
"""Of the processor, for encoding facts anew, and what the worker is told of its time."""

WARM, ROUNDS = 4, 20
"""Steps of each size that are not timed, and that are."""

HELD, LOOK_S, PROCESSES = "RssAnon", 0.001, 3
"""What a process holds without the files that it maps, how often that is looked at, and in how
many where there are targets."""

BLOCK = 1 << 17

MOST_HASHED, MOST_ELSE, MOST_BYTES, LEAST_RECALL = 1.5, 1.2, 1.1, 0.95


@dataclass(frozen=True)
class Split:
    """Seconds of a step: of its search, and of everything else."""

    search_s: float
    else_s: float


class Stepping:
    """A run that is open, and takes steps."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.run = stack.enter_context(Run(folder))
        learner, recipe = self.run.learner, self.run.recipe
        assert isinstance(learner, KnowledgeLearner)
        assert isinstance(recipe, KVRecipe)
        self.learner, self.recipe = learner, recipe
        self._data = learner.data(self.run.base())
        found = learner.memories
        self._all = (found.words, found.entities, found.relations, found.facts)
        rows = found.facts.describe().rows
        self.case = f"{recipe.facts or FULL:,} facts in {rows:,} rows of {recipe.dim}"

    @property
    def bytes(self) -> int:
        """That the memories hold."""
        return sum(map(bytes_of, self._all))

    def step(self, number: int) -> Split:
        """Takes the step of a number, without a refresh before it."""
        begun = time.process_time()
        drawn = self.learner.draw(self._data, number)
        drawn_s = time.process_time()
        drawn = self.learner.propose(drawn)
        proposed_s = time.process_time()
        self.run.trainer.learn(drawn)
        return Split(proposed_s - drawn_s, drawn_s - begun + time.process_time() - proposed_s)

    def changed(self, numbers: Sequence[int]) -> int:
        """Takes steps; returns how many distinct rows each changed, all together."""
        counts = list[int]()

        def count(memory: memstore.Memory, sent: RowGradients) -> RowGradients:
            counts.append(len(np.unique(sent.slots_B)))
            return sent

        for optimizer, _ in self.run.trainer.rows:
            optimizer.exchange = count
        for number in numbers:
            self.step(number)
        return sum(counts)

    def numbers(self, *, searched: bool) -> list[int]:
        """The steps of one way of proposing facts."""
        every = range(self.recipe.steps)
        return [number for number in every if self.recipe.searched(number) == searched]


def run(quick: bool) -> Iterator[Measured]:
    """Measures in a process of one thread."""
    steps, sizes = (QUICK_STEPS, (10_000, 20_000)) if quick else (STEPS, (LEAST, 1_000_000, FULL))
    told = (*sizes, "--steps", steps, "--tell", *([] if quick else ["--targets"]))
    yield from measured_alone("tests.benchmarks.scale_train", *told)


def measure(sizes: Sequence[int], steps: int, *, targets: bool) -> Iterator[Measured]:
    """Measures each size, and the first beside each of the others."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".train-") as scratch:
        least, *others = (Path(scratch) / str(size) for size in sizes)
        build(least, sizes[0], steps)
        yield from _learning(least, targets=targets)
        processes = PROCESSES if targets else 1
        few, few_rows = _beyond(least, processes)
        for folder, size in zip(others, sizes[1:], strict=True):
            build(folder, size, steps)
            yield from _learning(folder, targets=targets)
            yield from _turns(least, folder, (size / sizes[0]) ** 0.5, targets=targets)
            case, peer = f"{size:,} facts", f"peer: {sizes[0]:,}"
            most, rows = _beyond(folder, processes)
            held = Figure("step_bytes", f"{case}, beside the memories; {peer}", most, "bytes", few)
            yield at_most(MOST_BYTES, held) if targets else held
            words = f"{case}, distinct rows that a step changes; {peer}"
            yield Figure("step_rows", words, rows, "rows", few_rows)


def build(folder: Path, facts: int, steps: int) -> None:
    """Builds a run of so many facts."""
    said = [""]
    made = replace(
        freebase(),
        facts=None if facts == FULL else facts,
        batch=BATCH,
        hops=HOPS,
        k=K,
        key_limit=K,
        steps=steps,
        hashed_steps=steps // 2,
        questions=20_000,
        test_questions=1_000,
    )

    def told(what: str, done: int, total: int) -> None:
        if what != said[0]:
            said[0] = what
            print(f"{facts:,} facts: {what}", file=sys.stderr, flush=True)

    Run.build(folder, made, knowledge.read(made), told)


def _turns(least: Path, folder: Path, root: float, *, targets: bool) -> Iterator[Figure]:
    """Steps of two sizes, by turns.  root: of how many times as many facts there are."""
    with ExitStack() as stack:
        small, large = Stepping(least, stack), Stepping(folder, stack)
        case = f"{large.case}, batch {BATCH}, K {K}, {HOPS} hops; peer: {small.case}"
        for searched in (False, True):
            numbers = small.numbers(searched=searched)[: WARM + ROUNDS]
            pairs = [(small.step(number), large.step(number)) for number in numbers][WARM:]
            words = f"{'inner product search' if searched else 'key hashing'}; {case}"
            if not searched:
                figure = _paired("step_hashed", words, pairs, lambda split: split.else_s)
                yield at_most(MOST_HASHED, figure) if targets else figure
                continue
            figure = _paired("step_else", words, pairs, lambda split: split.else_s)
            yield at_most(MOST_ELSE, figure) if targets else figure
            figure = _paired("step_search", words, pairs, lambda split: split.search_s)
            yield at_most(root, figure) if targets else figure


def _paired(
    name: str, case: str, pairs: list[tuple[Split, Split]], of: Callable[[Split], float]
) -> Figure:
    """Medians in milliseconds, and the median of the ratios."""
    small, large = (1e3 * statistics.median(of(pair[i]) for pair in pairs) for i in (0, 1))
    ratio = statistics.median(of(large) / of(small) for small, large in pairs)
    return Figure(name, case, large, "ms", small, ratio)


def _beyond(folder: Path, processes: int) -> tuple[float, float]:
    """What steps take beside the memories, in processes of their own, and rows that they change."""
    command = [sys.executable, "-m", "tests.benchmarks.scale_train", "--beyond", str(folder)]
    told = [
        subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout
        for _ in range(processes)
    ]
    most, rows = zip(*(map(float, each.split()) for each in told), strict=True)
    return statistics.median(most), statistics.median(rows)


def beyond(folder: Path) -> tuple[int, float]:
    """Takes steps; returns the most bytes held, without those of before and of the memories, and
    how many distinct rows a step changed, the mean of some taken again."""
    with ExitStack() as stack:
        stepping = Stepping(folder, stack)
        ways = [stepping.numbers(searched=way) for way in (False, True)]
        keeping.give_back()
        before, rows = resident(HELD), stepping.bytes
        most, over = [before], threading.Event()

        def look() -> None:
            while not over.wait(LOOK_S):
                most[0] = max(most[0], resident(HELD))

        looking = threading.Thread(target=look)
        looking.start()
        for number in (number for way in ways for number in way[:ROUNDS]):
            stepping.step(number)
        over.set()
        looking.join()
        held = most[0] - before - (stepping.bytes - rows)
        counted = [number for way in ways for number in way[:WARM]]
        return held, stepping.changed(counted) / len(counted)


def _learning(folder: Path, *, targets: bool) -> Iterator[Measured]:
    """Recall while rows learn and a worker encodes facts anew."""
    points, steps_s = list[tuple[float, float]](), 0.0
    with ExitStack() as stack:
        stepping = Stepping(folder, stack)
        judged, steps, trainer = Judged(stepping), stepping.recipe.steps, stepping.run.trainer
        all_s, own_s = time.process_time(), time.thread_time()
        store = stepping.run.holder
        assert isinstance(store, memstore.Store)
        refresher = stack.enter_context(Refresher(store, share=GIVEN))
        for moment in range(MOMENTS + 1):
            begun = time.thread_time()
            while trainer.done < steps * moment // MOMENTS:
                stepping.step(trainer.done)
                trainer.done += 1
            steps_s += time.thread_time() - begun
            with refresher.paused():
                points.append((trainer.done, judged.recall()))
                print(points[-1], refresher.progress, file=sys.stderr, flush=True)
        done = refresher.progress
        # Of the worker, and of whatever else is done in the background, as the index's sealing.
        beside_s = (time.process_time() - all_s) - (time.thread_time() - own_s)
        case = f"{stepping.case}, {steps:,} steps, encoded anew meanwhile"
    least = Figure("recall_least", case, min(recall for _, recall in points), "share")
    yield at_least(LEAST_RECALL, least) if targets else least
    yield Figure("recall_mean", case, statistics.mean(recall for _, recall in points), "share")
    share = Figure("refresh_share", case, beside_s / (beside_s + steps_s), "share")
    yield at_most(SHARE, share) if targets else share
    yield Figure("refreshed", f"{case}, facts a step", done.encoded / steps, "facts")
    yield Curve("recall while rows learn", stepping.case, "steps", f"recall@{K}", points)


class Judged:
    """Held-out questions, of which recall is told.

    What is true of them is found by the rows of entities and relations as they are: keys of facts
    are sums as of when they were encoded last.
    """

    def __init__(self, stepping: Stepping) -> None:
        learner = stepping.learner
        asked = learner.known.asks(None, split="test", count=JUDGED, seed=0, popular_share=0.0)
        read = learner.questions.read([question.text for question in asked])
        self._asked = learner.questions.ask(read, np.arange(len(read)), None)
        assert isinstance(learner.answering, KVAnswering)
        self._module, self._memories = learner.answering.module, learner.memories
        self._rows = learner.memories.facts.describe().next_slot

    def recall(self) -> float:
        """The share of what is found that scores no less than the true last of K."""
        with torch.no_grad():
            query_QD = self._module.encode(self._asked)
            slots_QK = self._module.reader.search(query_QD)
        queries_QD = query_QD.numpy()
        best_QK = np.full((len(queries_QD), K), -np.inf, np.float32)
        for first in range(0, self._rows, BLOCK):
            keys_BD = self._keys(np.arange(first, min(first + BLOCK, self._rows)))
            both_QC = np.concatenate([best_QK, queries_QD @ keys_BD.T], axis=1)
            best_QK = np.partition(both_QC, -K, axis=1)[:, -K:]
        floor_Q1 = best_QK.min(axis=1, keepdims=True)
        there_QK = slots_QK != NO_SLOT
        scores_QK = np.full(slots_QK.shape, -np.inf, np.float32)
        keys_BD = self._keys(slots_QK[there_QK])
        scores_QK[there_QK] = np.einsum("bd,bd->b", queries_QD[np.nonzero(there_QK)[0]], keys_BD)
        return float((scores_QK >= floor_Q1 - 1e-5 * np.abs(floor_Q1)).sum(axis=1).mean() / K)

    def _keys(self, slots_B: Slots) -> Array:
        """Keys of facts by the rows as they are."""
        named = self._memories.facts.gather(
            slots_B, vectors=False, columns=["subject", "relation"]
        ).records
        assert named is not None
        keys_BD = np.zeros((len(slots_B), self._memories.facts.config.dim), np.float32)
        for column, memory in (
            ("subject", self._memories.entities),
            ("relation", self._memories.relations),
        ):
            slots_U, at_B = np.unique(named[column].to_numpy(), return_inverse=True)
            rows_UD = memory.gather(slots_U).keys_BD
            assert rows_UD is not None
            keys_BD += rows_UD[at_B]
        return keys_BD


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", nargs="*", type=int, default=[LEAST, 1_000_000, FULL])
    parser.add_argument("--steps", type=int, default=STEPS, help="that each learns for")
    parser.add_argument("--targets", action="store_true", help="says whether they are met")
    parser.add_argument("--tell", action="store_true", help="as `measured_alone` reads it")
    parser.add_argument("--beyond", type=Path, help="a run: the bytes of its steps, alone")
    told = parser.parse_args()
    if told.beyond is not None:
        print(*beyond(told.beyond))
        return
    if told.tell:
        tell(measure(told.sizes, told.steps, targets=told.targets))
        return
    # In a process of one thread: what others of it do counts as encoding anew.
    for measured in measured_alone("tests.benchmarks.scale_train", *sys.argv[1:], "--tell"):
        print(measured, flush=True)


if __name__ == "__main__":
    main()

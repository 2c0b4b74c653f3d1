"""Follows facts: what is reached from an entity along relations, and along which it is reached."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from models.tasks.knowledge import Int64s, KnowledgeBase

Path = tuple[int, ...]
"""Numbers of relations, in the order in which they are followed."""

WIDEST = 2_000
"""Entities on the way that a path is looked for along: all films of a genre are none."""


class Facts:
    """The facts of a knowledge base, to be followed in main memory."""

    def __init__(self, base: KnowledgeBase) -> None:
        subject_G, relation_G, count_G, objects = base.columns()
        self._weights = base.weights
        self._of: dict[int, dict[int, list[int]]] = {}
        ends = itertools.accumulate(count_G.tolist())
        flat, start = objects.tolist(), 0
        rows = zip(subject_G.tolist(), relation_G.tolist(), ends, strict=True)
        for subject, relation, end in rows:
            self._of.setdefault(subject, {})[relation] = flat[start:end]
            start = end

    def subjects(self, relation: int) -> list[int]:
        """The entities that have facts of a relation, rising."""
        return [subject for subject, facts in self._of.items() if relation in facts]

    def follow(self, subject: int, path: Path) -> Int64s:
        """What is reached, by falling weight, then rising. The subject itself is reached by no
        path: what shares a director with a film is another film."""
        reached = {subject}
        for relation in path:
            reached = self._step(subject, reached, relation)
        return self.ordered(reached)

    def ordered(self, entities: Iterable[int]) -> Int64s:
        """Entities by falling weight, then rising: the order of the objects of a fact."""
        rising = np.array(sorted(entities), np.int64)
        return rising[np.argsort(-self._weights[rising], kind="stable")]

    def leading(self, subject: int, answers: set[int], length: int) -> Iterator[tuple[Path, float]]:
        """The paths of a length that reach some of the answers, with the F1 of what they reach."""
        for path, reached in self._along(subject, length):
            right = len(reached & answers)
            if right:
                yield path, 2 * right / (len(reached) + len(answers))

    def likeliest(self, asked: Iterable[tuple[int, set[int]]], length: int) -> Path | None:
        """The path along which several subjects reach their answers best; None if none does."""
        votes: Counter[Path] = Counter()
        for subject, answers in asked:
            for path, fit in self.leading(subject, answers, length):
                votes[path] += fit  # type: ignore[assignment]
        return min(votes, key=lambda path: (-votes[path], path), default=None)

    def _along(self, subject: int, length: int) -> Iterator[tuple[Path, set[int]]]:
        found: list[tuple[Path, set[int]]] = [((), {subject})]
        for _ in range(length):
            longer = []
            for path, reached in found:
                if len(reached) > WIDEST:
                    continue
                for relation in {r for entity in reached for r in self._of.get(entity, ())}:
                    after = self._step(subject, reached, relation)
                    if after:
                        longer.append(((*path, relation), after))
            found = longer
        yield from found

    def _step(self, subject: int, reached: set[int], relation: int) -> set[int]:
        after: set[int] = set()
        for entity in reached:
            after.update(self._of.get(entity, {}).get(relation, ()))
        after.discard(subject)
        return after

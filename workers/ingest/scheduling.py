"""Who does the tasks of a stage: this process, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

Task = Callable[[int], Any]
"""Does the task of a number; done again, it finds what it did."""


class Scheduler(Protocol):
    """Does tasks, all of them once at least."""

    def each(self, task: Task, numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Does the task of each number; gives numbers and results, as they are done."""
        ...

    def close(self) -> None: ...


class Plain:
    """Does them in this process."""

    def each(self, task: Task, numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
        for number in numbers:
            yield number, task(number)

    def close(self) -> None:
        """Has nothing to end."""


def scheduler(workers: int, memory_bytes: int) -> Scheduler:
    """One for so many workers, which have the memory together."""
    return Plain()

"""Who does the tasks of a stage: this process, one after another, or workers of Ray Data.

A task is the same for both, and leaves what it makes in the work folder: Ray says only who does
which, and has a task done again whose worker died.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from memstore import errors
from memstore.errors import InvalidArgument, MemstoreError, Unsupported
from memstore.extras import install
from workers.ingest.errors import SourceError

Task = Callable[[int], Any]
"""Does the task of a number, and returns what JSON has; done again, it finds what it did."""

STORE_BYTES = 80 << 20
"""For Ray's objects, the least that it takes: what goes through it are a few words a task."""


class Scheduler(Protocol):
    """Does tasks, each of them once at least."""

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


class OnRay:
    """Does them in workers of the Ray that this process is part of, else in one of its own."""

    def __init__(self, workers: int, memory_bytes: int) -> None:
        """workers: at most so many at a time.  memory_bytes: that they have together."""
        ray = _ray()
        self._workers, self._share = workers, memory_bytes // workers
        self._own = not ray.is_initialized()
        if self._own:
            # Whatever else runs on the machine: of a Ray that is there the workers are not ours.
            ray.init(
                address="local",
                num_cpus=workers,
                include_dashboard=False,
                object_store_memory=STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )

    def each(self, task: Task, numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
        if not numbers:
            return
        import ray

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        rows = ray.data.from_items(
            [{"number": number} for number in numbers], override_num_blocks=len(numbers)
        )
        done = rows.map(
            lambda row: _done(task, row["number"]),
            num_cpus=1,
            memory=self._share,
            compute=ray.data.TaskPoolStrategy(size=min(self._workers, len(numbers))),
        )
        for row in done.iter_rows():
            result = json.loads(row["result"])
            if "error" in result:
                raise _error(**result["error"])
            yield row["number"], result["made"]

    def close(self) -> None:
        if self._own:
            _ray().shutdown()


def scheduler(workers: int, memory_bytes: int) -> Scheduler:
    """One for so many workers, which have the memory together; raises `Unsupported`."""
    return Plain() if workers == 1 else OnRay(workers, memory_bytes)


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise Unsupported(
            "more than one worker are Ray's, which is not installed",
            hint=f"{install('cluster')}, or workers=1",
        ) from error
    for name in ("ray.data", "ray._private"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return ray


def _done(task: Task, number: int) -> dict[str, Any]:
    """What a task made, or how it failed: Ray would do again what it does not know to be wrong."""
    try:
        result = {"made": task(number)}
    except SourceError as error:
        fields = {"path": str(error.path), "line": error.line, "facts": error.facts}
        result = {"error": {"name": "SourceError", **fields}}
    except MemstoreError as error:
        facts = [error.problem, error.got, error.expected, error.hint]
        result = {"error": {"name": type(error).__name__, "facts": [f and str(f) for f in facts]}}
    return {"number": number, "result": json.dumps(result)}


def _error(name: str, facts: Sequence[Any], path: str = "", line: int | None = None) -> Exception:
    """The error that a worker told."""
    if name == "SourceError":
        return SourceError(path, line, *facts)
    problem, got, expected, hint = facts
    kind = getattr(errors, name, InvalidArgument)
    made: Exception = kind(problem, got=got, expected=expected, hint=hint or "")
    return made

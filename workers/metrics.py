"""Metrics of a run: its steps as Parquet, and as logs of TensorBoard while it trains.

metrics/from-00000200.parquet     the steps from there to the next checkpoint, written once
live.json                         the newest steps, of a run whose memories are those of a cluster
tensorboard/                      the same, live, where tensorboardX is installed
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from memstore import files
from memstore.disk import DISK
from workers.learner import Step
from workers.loop import as_columns

LIVE = "live.json"

RECENT = 20
"""Steps of which who looks on is told."""

LIVE_S = 0.5
"""From one telling to the next."""


class Metrics:
    """The steps of a run, by parts that a checkpoint each ends; a part is whole, or not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, end: int) -> list[Step]:
        """The steps before `end`, rising."""
        tables = [pq.read_table(path) for path in self._parts() if self._first(path) < end]
        rows = pa.concat_tables(tables).to_pylist() if tables else []
        return [Step(**row) for row in rows if row["number"] < end]

    def add(self, steps: Sequence[Step]) -> None:
        """Adds a part; what is there is not written again."""
        if not steps:
            return
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"from-{steps[0].number:08d}.parquet"
        draft = path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        table = pa.table(as_columns(list(steps)))
        # The checkpoint that follows is durable: a run goes on from it that finds its steps whole.
        files.make(draft, lambda file: pq.write_table(table, file))
        draft.replace(path)
        DISK.sync_folder(self.folder)

    def cut(self, end: int) -> None:
        """Takes away the parts of steps from `end` on: those are taken again."""
        for path in self._parts():
            if self._first(path) >= end:
                path.unlink()

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("from-*.parquet"))

    @staticmethod
    def _first(path: Path) -> int:
        return int(path.stem[5:])


class Live:
    """The newest steps of a run that is trained elsewhere, in one file, for who looks on."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LIVE
        self._told_s = -LIVE_S

    def tell(self, steps: Sequence[Step], *, at_once: bool = False) -> None:
        """Writes the last steps of those that were taken, unless some were written just now."""
        now_s = time.monotonic()
        if not at_once and now_s - self._told_s < LIVE_S:
            return
        self._told_s = now_s
        draft = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):  # Training is worth more than who looks on.
            draft.write_text(json.dumps([asdict(step) for step in steps[-RECENT:]]))
            draft.replace(self._path)

    def read(self) -> list[Step]:
        """What was told last; nothing where nothing was."""
        try:
            return [Step(**told) for told in json.loads(self._path.read_text())]
        except OSError:
            return []

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)


class Board:
    """Writes steps as TensorBoard reads them; nothing where tensorboardX is not installed."""

    def __init__(self, folder: Path | None, step: int) -> None:
        """folder: None writes nothing.  step: the first that will be written; later ones that are
        there are not shown then."""
        self._writer: Any = None
        if folder is None:
            return
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(folder), purge_step=step)

    def add(self, step: Step, batch: int) -> None:
        """batch: questions a step."""
        self.put(
            step.number,
            {
                # Steps of two kinds differ in difficulty: one curve each.
                f"loss/{step.kind}": step.loss,
                f"hits_at_1/{step.kind}": step.hits,
                "level": step.level,
                "speed/questions_per_s": batch / step.seconds,
            },
        )

    def put(self, number: int, values: dict[str, float]) -> None:
        """Writes numbers by name."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, number)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

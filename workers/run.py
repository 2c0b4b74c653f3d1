"""A run folder: what a run is, its memories, its checkpoints and what was seen of it.

recipe.json     the configuration           aliases/       the dictionary of names, where there is
store/          the memories as they are    checkpoints/   network and memories, step by step
metrics/        the training curve          tensorboard/   the same, live
figures.json    the evaluation              report.html    plots and figures
live.json       the newest steps of a run on a cluster
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import memstore
from memstore import MemstoreError, checks
from models.tasks.knowledge import TaskDataError
from models.tasks.memories import Progress
from workers import networks, recipes
from workers.checkpoints import Checkpoints, Holder, made_of, made_since
from workers.figures import Evaluation
from workers.group import Group
from workers.learner import Learner, Step
from workers.loop import Trainer
from workers.metrics import LIVE, Board, Live, Metrics
from workers.recipe import Recipe

FORMAT = 3
"""Of recipe.json."""

SHARE = 0.05
"""Of the time of a run that checkpoints may take, unless it is told after how many steps."""

PAUSES_S = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Before a checkpoint that failed for a reason that may pass is tried again."""


class Run:
    """One run in its folder, built once, opened after that as it was at its last checkpoint."""

    def __init__(
        self,
        folder: Path,
        holder: Holder | None = None,
        *,
        step: int | None = None,
        group: Group = Group(),
    ) -> None:
        """Opens a run that `build` made; raises `TaskDataError` where there is none.

        holder: what has its memories, if not the store in the folder; the caller closes it.
        step: that of a checkpoint other than the newest.
        group: the trainers that open it together, the first of which alone writes what it keeps.
        """
        check_built(folder)
        self.folder, self.group = folder, group
        self.recipe = recipe_of(folder)
        self.network = networks.of(self.recipe)
        self.checkpoints = Checkpoints(folder / "checkpoints", asdict(self.recipe))
        self._metrics, self.live = Metrics(folder / "metrics"), Live(folder)
        of_step = "" if step is None else f"-{step:08d}"
        self._figures = folder / f"figures{of_step}.json"
        self.paused: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext
        """Holds off whoever changes the memories beside the steps, while a checkpoint is made."""
        self._own = holder is None
        if holder is None and not (folder / "store").exists():
            raise TaskDataError(
                f"{folder} has no memories of its own",
                "a run that was not built on a cluster",
                "--cluster NAMESPACE/NAME says in which cluster they are",
            )
        self.holder: Holder = memstore.open(folder / "store") if holder is None else holder
        try:
            self._open(step)
        except BaseException:
            self.close()
            raise

    def _open(self, step: int | None) -> None:
        # Before the first step there is none: then the memories are as they were built.
        found = None
        self.group.once(lambda: self._restore(step))
        made = self.group.first(made_of(self.holder))
        if step is not None or self.checkpoints.steps():
            found = self.checkpoints.read(step)
        self.learner: Learner = self.network.open(self.recipe, self.holder, self.folder, self.group)
        self.trainer = Trainer(self.learner, self.recipe, self.group)
        self.steps: list[Step] = []
        if found is not None:
            self.trainer.take(found.arrays())
            self.learner.go_on(found.position["learner"])
            self.steps = self._metrics.read(found.step)
        # All have the memories that the first one has: what others put in their place since is
        # changed by none of them.
        if made_of(self.holder) != made:
            raise made_since("nothing was changed")
        self.checkpoints.made = made

    def _restore(self, step: int | None) -> None:
        if step is not None or self.checkpoints.steps():
            self.checkpoints.restore(self.holder, step, anew=self.group.replaced)

    @classmethod
    @contextlib.contextmanager
    def at(cls, folder: Path, step: int) -> Iterator[Self]:
        """Opens a copy of a run as it was at the checkpoint of a step, beside the run itself."""
        check_built(folder)
        with (
            tempfile.TemporaryDirectory(prefix="step-", dir=folder) as scratch,
            memstore.open(Path(scratch) / "store") as store,
            cls(folder, store, step=step) as run,
        ):
            yield run

    @staticmethod
    def build(
        folder: Path,
        recipe: Recipe,
        base: Any,
        progress: Progress,
        holder: Holder | None = None,
    ) -> None:
        """Builds what the network reads from; recipe.json, written last, says done.

        base: what `Network.read` gave.
        """
        (folder / "recipe.json").unlink(missing_ok=True)
        for left in ("store", "checkpoints", "metrics", "tensorboard"):
            shutil.rmtree(folder / left, ignore_errors=True)
        for path in (*folder.glob("figures*.json"), folder / "report.html", folder / LIVE):
            path.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            if holder is None:
                holder = stack.enter_context(memstore.open(folder / "store"))
            networks.of(recipe).build(recipe, base, holder, folder, progress)
        draft = folder / "recipe.new"
        draft.write_text(json.dumps({"format": FORMAT, "recipe": asdict(recipe)}, indent=1))
        draft.replace(folder / "recipe.json")

    @property
    def trained(self) -> bool:
        return self.trainer.done >= self.recipe.steps

    def train(self, base: Any, checkpoint_steps: int | None = None) -> Generator[Step, None, None]:
        """Takes the steps that are left; ended between two of them, it makes a checkpoint.

        checkpoint_steps: from one to the next; None lets them take a twentieth of the time, of
        which several trainers have each their own idea: they are to be told. Where these are apart
        it is made when they meet next.
        """
        if checkpoint_steps is not None or self.group.size > 1:
            checks.positive("checkpoint_steps", checkpoint_steps)
        if not self.trainer.done:
            self.save()
            # Until it is there who opens the run takes the memories as they are for those built.
            self.group.once(self.checkpoints.wait)
        data = self.learner.data(base)
        done, writes = self.trainer.done, self.group.rank == 0
        if writes:
            self._metrics.cut(done)
        # Who started it is another process, which looks on.
        live = self.live if writes and not self._own else None
        board = Board(self.folder / "tensorboard" if writes else None, done)
        with closing(board), closing(self.trainer.run(data)) as steps:
            last, due = time.perf_counter(), False
            try:
                for step in steps:
                    self.steps.append(step)
                    board.add(step, self.recipe.batch)
                    if live is not None:
                        live.tell(self.steps, at_once=self.trained)
                    yield step
                    now = time.perf_counter()
                    due = due or (
                        self.trainer.done % checkpoint_steps == 0
                        if checkpoint_steps
                        else not self.checkpoints.is_copying
                        and now - last >= max(self.checkpoints.seconds, 0.5) / SHARE
                    )
                    if due and self.trainer.met and not self.trained:
                        self.save()
                        due = False
                        last = time.perf_counter()
                        waited = {"speed/checkpoint_wait_s": last - now}
                        board.put(step.number, waited)
            except GeneratorExit:
                # In the middle of a step it stays as it was: network and rows are not of one step.
                # Several are ended together with those that wait for them.
                if not self.trained and self.group.size == 1:
                    self.save()
                    self.checkpoints.wait()
                raise
            self.group.once(self.learner.finish)
            self.save()
            self.group.once(self.checkpoints.wait)

    def save(self) -> None:
        """Begins a checkpoint of the network and the memories, unless there is one of this step.

        It is copied while the next steps are taken; the one before is waited for.
        """
        self.group.once(self._save)

    def _save(self) -> None:
        self.checkpoints.wait()
        done = self.trainer.done
        saved = self.checkpoints.steps()
        if done in saved:
            return
        first = max((step for step in saved if step < done), default=0)
        self._metrics.add([step for step in self.steps if step.number >= first])
        position = {"seed": self.recipe.seed, "learner": self.learner.position()}
        with self.paused():
            self.checkpoints.begin(self.holder, done, self.trainer.arrays(), position)

    def evaluate(self, base: Any) -> list[Evaluation]:
        """Tests on what was held out of training.

        Where training is not over, its memories are put back when the run is opened next.
        """
        if not self.trained:
            self.learner.finish()
        found = self.learner.evaluate(base)
        self._figures.write_text(json.dumps([asdict(each) for each in found]))
        return found

    @property
    def figures(self) -> list[Evaluation]:
        """The evaluations of last time; empty where there was none."""
        there = self._figures.exists()
        saved: list[dict[str, Any]] = json.loads(self._figures.read_text()) if there else []
        return [Evaluation.from_dict(each) for each in saved]

    def base(self) -> Any:
        """What the memories were built from, read anew."""
        return self.network.read(self.recipe)

    def close(self) -> None:
        with contextlib.suppress(MemstoreError, OSError):  # what `train` would have told
            self.checkpoints.wait()
        if self._own:
            self.holder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def check_built(folder: Path) -> None:
    """Raises `TaskDataError` unless the folder holds a run whose memories are whole."""
    if not is_built(folder):
        raise TaskDataError(f"no run in {folder}", "a folder made by `fit`", "run `memtrain fit`")


def recipe_of(folder: Path) -> Recipe:
    """The recipe that a run was built by; raises `TaskDataError` if it cannot be read."""
    path = folder / "recipe.json"
    try:
        body = json.loads(path.read_text())
        if body.pop("format", None) != FORMAT:
            raise ValueError("of another version")
        return recipes.from_dict(body["recipe"])
    except (ValueError, TypeError, KeyError, MemstoreError) as error:
        raise TaskDataError(
            f"{path}: {error}", "a file of this version", "delete the run, fit anew"
        ) from error


def is_built(folder: Path) -> bool:
    """Whether the folder holds a run whose memories are whole."""
    return (folder / "recipe.json").exists()

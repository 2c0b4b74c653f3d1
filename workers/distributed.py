"""Training on Ray: the trainers of one run, all of them again from its last checkpoint if one dies.

    up(ClusterSpec(name="facts", …))                              memtrain cluster up
    fit(Job(folder=…, memory="ray:memstore/facts", trainers=4))   memtrain fit --cluster …

Ray Train starts a process for each trainer and joins them to one group of torch.distributed; the
loop is that of `workers.run`, and asks Ray for nothing. What a run keeps is in its folder, as
without Ray: Ray keeps no checkpoint of it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

from memstore.extras import install

try:
    import ray
    from ray.train.torch import TorchConfig
    from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
    from ray.train.v2.torch.torch_trainer import TorchTrainer
except ImportError as error:
    raise ImportError(f"trainers on Ray need it: {install('cluster,rpc,train')}") from error

import torch

import memstore
from memstore import checks, files
from memstore.errors import InvalidArgument, MemstoreError, Unreachable
from workers.cluster.spec import group_of
from workers.group import Group, Pace, Trainers
from workers.learner import Step
from workers.metrics import LIVE_S, Live
from workers.recipe import Recipe
from workers.run import Run, check_built

STARTS = 5
"""How often trainers are asked room for, a minute each time, before that is given up."""

MEET_S = 1_800
"""For trainers to wait for each other, as while one takes a snapshot."""


Told: TypeAlias = Callable[[Sequence[Step]], None]
Watch: TypeAlias = Callable[[Recipe, int], AbstractContextManager[Told]]
"""Is given what a run is, and the steps that it has taken; gives what is told the newest steps."""


@contextlib.contextmanager
def _unwatched(recipe: Recipe, done: int) -> Iterator[Told]:
    yield lambda steps: None


@dataclass(frozen=True, kw_only=True)
class Job:
    """Who trains a run; raises `InvalidArgument`.

    folder: of a run that was built, absolute: every trainer and every server of the memory has it
        there, from storage that they share.
    memory: where its memories are, as `memstore.connect` takes it.
    trainers: how many share each batch.  pace: how far they may be apart.
    cpus: kept for each by Ray, and how many threads it calculates with.
    checkpoint_steps: from one checkpoint to the next: what is lost at most with a trainer.
    losses: how often trainers may be lost before that is given up.
    deadline_s: for each call of a trainer, so long is a part that is away waited for.
    """

    folder: Path
    memory: str
    trainers: int = 1
    pace: Pace = Pace()
    cpus: float = 1.0
    checkpoint_steps: int = 200
    losses: int = 8
    deadline_s: float = 300.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        if not self.folder.is_absolute():
            raise InvalidArgument(
                "each trainer is to have the folder at one place",
                got=str(self.folder),
                expected="an absolute path",
            )
        checks.positive("trainers", self.trainers)
        checks.positive("checkpoint_steps", self.checkpoint_steps)
        if not self.cpus > 0 or self.losses < 0:
            raise InvalidArgument(
                "a job is out of range",
                got=f"cpus {self.cpus}, losses {self.losses}",
                expected="cpus > 0, losses ≥ 0",
            )

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Self:
        return cls(**told | {"folder": Path(told["folder"]), "pace": Pace(**told["pace"])})

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder)}


def fit(
    job: Job,
    each: Callable[[dict[str, Any]], None] | None = None,
    *,
    watch: Watch = _unwatched,
) -> None:
    """Takes the steps that are left of a run.

    each: what a trainer does with the job told to it, if not `train`.  watch: who is shown how far
    training is, as `workers.showing.trained`; what is shown is read in the run folder.

    Raises what opening the run raises, `InvalidArgument` where its batch cannot be shared or the
    trainers can never be placed, `StoreLocked` where another call trains it, and `Unreachable`
    where they find no room in time or are lost too often; called again, it goes on from the last
    checkpoint.
    """
    if not ray.is_initialized():
        raise InvalidArgument("Ray was not connected to", hint="ray.init(address=…) first")
    _check_room(job)
    check_built(job.folder)
    # Two at once would take away each other's checkpoints.
    with files.lock(job.folder / "LOCK"):
        _fit(job, each or train, watch)


def _fit(job: Job, each: Callable[[dict[str, Any]], None], watch: Watch) -> None:
    # What is wrong with the run is found here, before a trainer starts.
    with opened(job) as run:
        if run.trained:
            return
        if run.recipe.batch % job.trainers:
            raise InvalidArgument(
                "each trainer takes as many questions",
                got=f"a batch of {run.recipe.batch} for {job.trainers}",
                expected="a batch that they divide",
            )
        run.live.clear()
    trainer = TorchTrainer(
        each,
        train_loop_config=job.to_dict(),
        torch_config=TorchConfig(backend="gloo", timeout_s=MEET_S),
        scaling_config=ScalingConfig(
            num_workers=job.trainers, resources_per_worker={"CPU": job.cpus}
        ),
        run_config=RunConfig(
            storage_path=str(job.folder / "ray"),
            failure_config=FailureConfig(
                max_failures=job.losses, controller_failure_limit=STARTS - 1
            ),
        ),
    )
    try:
        watched = watch(run.recipe, run.trainer.done)
        with watched as told, followed(run.live, told), _interruptible():
            trainer.fit()
    except TrainingFailedError as error:
        raise _told(error, job) from error


def train(told: dict[str, Any]) -> None:
    """What each trainer does, from the last checkpoint to the last step."""
    job = Job.from_dict(told)
    torch.set_num_threads(max(1, int(job.cpus)))
    with opened(job, Trainers(job.pace)) as run:
        for _ in run.train(run.base(), job.checkpoint_steps):
            pass


@contextlib.contextmanager
def followed(live: Live, told: Told) -> Iterator[None]:
    """Tells, in a thread, the newest steps of trainers wherever they are, as these write them."""
    over = threading.Event()

    def follow() -> None:
        last, ended = list[Step](), False
        while not ended:
            ended = over.wait(LIVE_S)
            steps = live.read()
            if steps and steps != last:
                told(steps)
                last = steps

    thread = threading.Thread(target=follow, name="memstore-follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def opened(job: Job, group: Group = Group()) -> Iterator[Run]:
    """The run of a job, on the memories that are served."""
    with (
        memstore.connect(job.memory, deadline_s=job.deadline_s) as client,
        Run(job.folder, client, group=group) as run,
    ):
        yield run


def _check_room(job: Job) -> None:
    """Raises `InvalidArgument` where the nodes never have room for all trainers.

    Not counted is what the parts of the memory keep, if it is on this Ray.
    """
    left = {
        node["NodeID"]: float(node["Resources"].get("CPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    }
    name = group_of(job.memory.rpartition("/")[2])
    for group in ray.util.placement_group_table().values():
        if group["name"] == name and group["state"] == "CREATED":
            for bundle, node in group["bundles_to_node_id"].items():
                left[node] = left.get(node, 0.0) - group["bundles"][bundle].get("CPU", 0.0)
    room = sum(int(max(cpus, 0.0) // job.cpus) for cpus in left.values())
    if room < job.trainers:
        raise InvalidArgument(
            f"{job.trainers} trainers can never be placed",
            got=f"CPU {job.cpus:g} each",
            expected=f"trainers ≤ {room}: beside the parts of {job.memory} the nodes have "
            f"CPU {', '.join(f'{cpus:g}' for cpus in left.values())}",
            hint="ask for less, for fewer trainers, or add nodes",
        )


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Gives SIGINT back to who had it: Ray Train takes it, and keeps it."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # Not the main thread: Ray Train did not take it.
            signal.signal(signal.SIGINT, before)


def _told(error: TrainingFailedError, job: Job) -> MemstoreError:
    """What a trainer raised, where that was typed; else that training was given up."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    for failure in failures:
        cause = getattr(failure, "_base_exc", failure)
        if isinstance(cause, MemstoreError):
            return cause
    lines = [line for line in str(error).splitlines() if line.strip()]
    return Unreachable(
        f"training of {job.folder} was given up",
        got=lines[-1].strip() if lines else type(error).__name__,
        expected=f"trainers that are placed within {STARTS} min, and lost {job.losses} times at "
        "most",
        hint="once that is mended, fit goes on from the last checkpoint",
    )

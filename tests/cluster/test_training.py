"""Trainers on the Ray of the tests: what they learn together, also where some are killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import memstore
from memstore import files
from memstore.errors import InvalidArgument
from tests.cluster.conftest import NAMESPACE
from tests.training import small, test_sam_facts

pytest.importorskip("ray", reason="Ray is not installed: the extra cluster")

from tests.cluster import counted
from workers import cli, distributed, metrics, networks
from workers.checkpoints import ABOUT, Checkpoints
from workers.cluster import ClusterSpec, down, up
from workers.distributed import Job, fit
from workers.learner import Step
from workers.metrics import RECENT, Live
from workers.networks import kv
from workers.networks.factual import FactualRecipe
from workers.networks.hmn_recipe import HMNRecipe
from workers.networks.simple import SimpleRecipe
from workers.recipe import Recipe
from workers.run import Run

# Ray Train passes on settings of Ray Data that Ray Data warns of.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

LONG_S = 240.0
"""For a process to be started on a machine that is busy."""

RECIPE = replace(
    small.recipe(),
    places=150,
    shards=4,
    k=8,
    probe=1,
    steps=80,
    hashed_steps=100,
    test_questions=200,
)
WORLD: dict[str, Any] = {
    "task": RECIPE.task,
    "places": 150,
    "dim": 16,
    "shards": 4,
    "batch": 16,
    "steps": 40,
    "questions": 600,
    "test_questions": 200,
}
HMN = HMNRecipe(**WORLD, k=8, probe=1, refresh_steps=10)
FACTUAL = FactualRecipe(**WORLD, layers=2)
SAM = replace(test_sam_facts.recipe(400), dense_lr=0.01, test_episodes=400)
SIMPLE = SimpleRecipe(
    task="tests.training.simples:task", steps=80, batch=32, dim=24, negatives=16, shards=4
)
FREEBASE = replace(
    kv.freebase(),
    facts=10_000,
    shards=4,
    batch=64,
    probe=4,
    steps=160,
    hashed_steps=100,
    refresh_steps=10,
    questions=6_000,
    test_questions=400,
)
EVERY = 10
"""Steps from one checkpoint to the next."""


@pytest.fixture(scope="module")
def spec(nodes: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSpec]:
    folder = tmp_path_factory.mktemp("cluster")
    spec = ClusterSpec(folder=folder, name="learnt", namespace=NAMESPACE, parts=2)
    up(spec, LONG_S)
    yield spec
    down(spec.name, NAMESPACE)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def job(spec: ClusterSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """A run that was built on the cluster, for two trainers."""
    folder = tmp_path_factory.mktemp("run")
    with memstore.connect(spec.address, deadline_s=LONG_S) as client:
        Run.build(folder, RECIPE, small.base(RECIPE.places), lambda *told: None, client)
    yield Job(
        folder=folder,
        memory=spec.address,
        trainers=2,
        checkpoint_steps=EVERY,
        deadline_s=LONG_S,
    )
    shutil.rmtree(folder)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def disturb(job: Job, part: Path, over: threading.Event, killed: list[str]) -> None:
    """Kills the first trainer behind a checkpoint, and a part once those after it went on."""
    checkpoints = Checkpoints(job.folder / "checkpoints", asdict(RECIPE))
    while len(killed) < 2 and not over.wait(0.02):
        done = max(checkpoints.steps(), default=0)
        if not killed and done >= EVERY:
            [first] = job.folder.glob("trainer-0-*")
            kill(int(first.name.rpartition("-")[2]))
            killed.append("trainer")
        elif killed and done >= 3 * EVERY:
            [lock] = part.glob("**/LOCK")
            kill(int(lock.read_text()))
            killed.append("part")


@pytest.mark.timeout(900)
def test_a_run_goes_on_where_a_trainer_and_a_part_are_killed(
    spec: ClusterSpec, job: Job, tmp_path: Path
) -> None:
    over, killed = threading.Event(), list[str]()
    disturbing = threading.Thread(target=disturb, args=(job, spec.home("part-1"), over, killed))
    disturbing.start()
    try:
        fit(job, counted.train)
    finally:
        over.set()
        disturbing.join()
    assert killed == ["trainer", "part"]
    notes = [path.read_text() for path in job.folder.glob("trainer-*")]
    ended = [json.loads(note) for note in notes if note]
    # The part that was lost was waited for: two trainers, and two after the first had been killed.
    assert (len(notes), len(ended)) == (4, 2)
    # Ray is asked where a server went that does not answer, and for nothing else.
    assert all(len(steps) <= 2 for steps in ended)
    with distributed.opened(job) as run:
        assert [step.number for step in run.steps] == list(range(RECIPE.steps))
        got = [each.hits_1 for each in run.evaluate(run.base())]
    Run.build(tmp_path, RECIPE, small.base(RECIPE.places), lambda *told: None)
    with Run(tmp_path) as run:
        for _ in run.train(run.base(), EVERY):
            pass
        undisturbed = [each.hits_1 for each in run.evaluate(run.base())]
    # Half a point is one of 200 questions; what a part forgot is learnt anew, not quite the same.
    assert all(own >= alone - 0.02 for own, alone in zip(got, undisturbed, strict=True))


def test_the_command_line_trains_on_a_cluster_and_tells_how_well(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a run that has all its steps: it is tested alone."""
    where = ["fit", "--cluster", job.memory.partition(":")[2], "--trainers", "2"]
    assert cli.main([*where, "--recipe", f"{__name__}:RECIPE", "--out", str(job.folder)]) == 0
    told = capsys.readouterr().out
    assert f"All {RECIPE.steps} steps are done." in told
    assert "hits@1" in told
    assert cli.main([*where, "--out", str(job.folder)]) == 1
    assert "another recipe" in capsys.readouterr().out
    same = [*where, "--recipe", f"{__name__}:RECIPE", "--out", str(job.folder)]
    with files.lock(job.folder / "LOCK"):
        assert cli.main(same) == 1
    assert "is open elsewhere" in capsys.readouterr().out
    assert cli.main([*same, "--checkpoint-steps", "0"]) == 1
    assert "checkpoint_steps" in capsys.readouterr().out
    for words in (["fit", "--out", str(tmp_path)], ["evaluate", str(job.folder)]):
        assert cli.main([*words, "--cluster", "learnt"]) == 1
        assert "expected NAMESPACE/NAME" in capsys.readouterr().out


def test_a_run_on_a_cluster_is_gone_on_with_tested_and_asked(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, at = str(job.folder), ["--cluster", job.memory.partition(":")[2]]
    assert cli.main(["resume", folder, *at, "--trainers", "2"]) == 0
    assert f"All {RECIPE.steps} steps are done." in capsys.readouterr().out
    assert cli.main(["evaluate", folder, *at]) == 0
    assert f"After step {RECIPE.steps} of {RECIPE.steps}:" in capsys.readouterr().out
    assert cli.main(["ask", "In which country is Placeia A0?", "--out", folder, *at]) == 0
    assert "about Placeia A0" in capsys.readouterr().out
    assert cli.main(["evaluate", folder]) == 1
    assert "--cluster NAMESPACE/NAME says in which cluster they are" in capsys.readouterr().out
    assert cli.main(["evaluate", folder, *at, "--step", "10"]) == 1
    assert "expected one of them" in capsys.readouterr().out


def test_what_cannot_be_trained_is_refused_before_a_trainer_starts(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong, what in (
        (replace(job, cpus=64.0), r"2 trainers can never be placed: got CPU 64 each"),
        (replace(job, trainers=7), r"7 trainers can never be placed: .* trainers ≤ 6"),
    ):
        with pytest.raises(InvalidArgument, match=what):
            fit(wrong)
    with pytest.raises(InvalidArgument, match="an absolute path"):
        replace(job, folder=Path("run"))
    with monkeypatch.context() as patch:
        patch.setattr(Run, "trained", False)
        with pytest.raises(InvalidArgument, match=r"a batch of 16 for 3"):
            fit(replace(job, trainers=3))
    # Where the memories lie on other servers than they did.
    checkpoints = Checkpoints(job.folder / "checkpoints", asdict(RECIPE))
    about = checkpoints.folder / f"step-{RECIPE.steps:08d}" / ABOUT
    kept = about.read_bytes()
    told = files.read_json(about)
    files.replace_json(about, told | {"topology": told["topology"] | {"servers": 5}})
    try:
        with pytest.raises(InvalidArgument, match="another topology"):
            fit(job)
    finally:
        about.write_bytes(kept)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["HMN", "FACTUAL", "SAM", "SIMPLE", "FREEBASE"])
def test_a_network_learns_on_four_shards_what_it_learns_alone(
    spec: ClusterSpec, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last here: the run of before has no memories any more. The key-value network's is
    above, where some of those that train it are killed; here it learns facts in files, which the
    servers ingest. SAM's facts are there, the memories of its episodes are each trainer's own.
    """
    recipe: Recipe = globals()[name]
    with memstore.connect(spec.address, deadline_s=LONG_S) as client:
        there = [client.memory(name) for name in client.list()]
        for memory in sorted(there, key=lambda memory: memory.config.encoding is None):
            client.drop(memory.name)
    out, alone = tmp_path / "run", tmp_path / "alone"
    where = ["--cluster", spec.address.partition(":")[2], "--trainers", "2", "--out", str(out)]
    fit = ["fit", "--network", recipe.network, "--recipe", f"{__name__}:{name}"]
    assert cli.main([*fit, *where]) == 0
    # What the trainers took was shown, and how well it went.
    assert re.search(rf"{recipe.steps}/{recipe.steps} .*loss .* questions/s", _told(capsys))
    got = [each["hits_1"] for each in json.loads((out / "figures.json").read_text())]
    base = networks.of(recipe).read(recipe)
    Run.build(alone, recipe, base, lambda *told: None)
    with Run(alone) as run:
        for _ in run.train(base, recipe.steps):
            pass
        expected = [each.hits_1 for each in run.evaluate(base)]
    if name == "SAM":
        # Longer episodes than it learnt of it answers by chance.
        got, expected = got[:1], expected[:1]
    assert min(expected) > 0.8
    assert got == pytest.approx(expected, abs=0.01)


def _told(capsys: pytest.CaptureFixture[str]) -> str:
    """What was told, on one line."""
    return " ".join(capsys.readouterr().out.split())


def test_who_looks_on_is_told_the_newest_steps_of_trainers_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "LIVE_S", LONG_S)
    taken = [Step(number, "hashed", 1.0, 0.5, 0.1) for number in range(2 * RECENT)]
    told: list[Sequence[Step]] = []
    trainer, looking = Live(tmp_path), Live(tmp_path)
    with distributed.followed(looking, told.append):
        trainer.tell(taken)
        wait_for(lambda: told)
        assert told == [taken[-RECENT:]]
        # Not each step is written; the last one is.
        trainer.tell(taken[:1])
        assert looking.read() == taken[-RECENT:]
        # Others go on from the checkpoint before.
        Live(tmp_path).tell(taken[:3])
        wait_for(lambda: len(told) == 2)
        trainer.tell(taken, at_once=True)
    assert told == [taken[-RECENT:], taken[:3], taken[-RECENT:]]
    looking.clear()
    assert looking.read() == []


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_without_ray_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import workers

    monkeypatch.delitem(sys.modules, "workers.distributed")
    monkeypatch.delattr(workers, "distributed")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["fit", "--cluster", "a/b", "--out", "runs/never"]) == 1
    assert "pip install 'neural-memstore[cluster" in capsys.readouterr().out

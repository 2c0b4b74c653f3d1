"""The command line of training: recipes and settings, one run after another, its folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import memstore
from memstore import MemoryConfig, files
from memstore.errors import InvalidArgument
from memstore.rpc.server import Server
from tests.training import small
from workers.cli import main
from workers.learner import Step
from workers.metrics import Board, Metrics
from workers.networks.kv import KVRecipe, geography
from workers.recipes import recipe_of
from workers.run import Run

OWN = "tests.training.small:recipe"
SHORT = ("--set", "steps=8", "--set", "hashed_steps=4", "--set", "refresh_steps=2")


@pytest.mark.parametrize("command", ["demo", "fit", "resume", "evaluate", "ask"])
def test_every_command_tells_what_it_takes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main([command, "--help"])
    said = capsys.readouterr().out
    assert f"memtrain {command}" in said
    assert ("hashed_steps=300" in said) == (command == "fit")


def test_a_recipe_is_found_by_name_or_is_ones_own() -> None:
    assert recipe_of("geography") == geography()
    assert recipe_of("geography-quick") == geography(quick=True)
    assert recipe_of(OWN) == small.recipe()
    assert recipe_of("geography", network="kv") == geography()
    changed = recipe_of(OWN, ["batch=7", "row_lr=1", "places=None", "task=x"])
    assert (changed.batch, changed.task) == (7, "x")
    assert isinstance(changed, KVRecipe)
    assert (changed.row_lr, changed.places, changed.dim) == (1.0, None, small.recipe().dim)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("geografy", [], "'geografy', expected 'geography'"),
        ("nothing_like_it:f", [], "'nothing_like_it:f' is not found"),
        ("tests.training.small:nothing", [], "no attribute 'nothing'"),
        ("tests.training.small:base", [], "is none: got KnowledgeBase"),
        (OWN, ["bacth=3"], "no such setting: got 'bacth', expected 'batch'"),
        (OWN, ["batch"], "not a setting: got 'batch', expected key=value"),
        (OWN, ["batch=many"], "batch cannot be that: got 'many', expected an integer ≥ 1"),
        (OWN, ["batch=0"], "batch is out of range: got 0, expected an integer ≥ 1"),
        (OWN, ["shards=5000"], "shards is out of range: got 5000, expected an integer from 1 to"),
        (OWN, ["places=2.5"], "expected an integer ≥ 1 or none"),
        (OWN, ["row_lr=nan"], "row_lr is out of range: got nan, expected a number ≥ 0"),
    ],
)
def test_what_is_no_recipe_is_refused_by_name(name: str, settings: list[str], said: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(said)):
        recipe_of(name, settings)


def test_numbers_of_another_kind_are_refused() -> None:
    for wrong in ({"batch": 2.0}, {"batch": True}, {"task": 3}, {"seed": -1}):
        with pytest.raises(InvalidArgument, match="out of range"):
            KVRecipe(**wrong)


def test_the_examples_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs/training.md").read_text()
    own, client = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "my_recipes.py").write_text(own)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert recipe_of("my_recipes:small") == KVRecipe(places=10_000, dim=32, batch=64)

    with memstore.open("store") as store, Server(store) as server:
        store.create("m", MemoryConfig(dim=2)).append(np.ones((3, 2), np.float32))
        client = client.replace("127.0.0.1:7437", server.address)
        client = client.replace("/shared/run/memories", str(tmp_path / "memories"))
        names = {"step": 7, "arrays": {"weight": np.ones(2)}}
        exec(client, names)
    assert names["position"] == {"seed": 0}


def test_fit_resume_and_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    fit = ("fit", "--recipe", OWN, *SHORT, "--out", str(folder))
    assert main([*fit, "--checkpoint-steps", "3"]) == 0
    assert json.loads((folder / "recipe.json").read_text())["recipe"]["steps"] == 8
    said = capsys.readouterr().out
    assert "2,232 entities" in said
    with Run(folder) as run:
        assert run.checkpoints.steps() == [3, 6, 8]
        before = [(step.number, step.loss) for step in run.steps]
    assert [number for number, _ in before] == list(range(8))
    parts = sorted(path.name for path in (folder / "metrics").iterdir())
    assert parts == [f"from-{first:08d}.parquet" for first in (0, 3, 6)]
    assert pq.read_table(folder / "metrics")["loss"].to_pylist() == [loss for _, loss in before]
    assert list((folder / "tensorboard").glob("events*"))
    assert "Not evaluated" in (folder / "report.html").read_text()

    (folder / "report.html").unlink()  # as if it were killed between the last step and the report
    (folder / "training.png").unlink()
    assert main([*fit]) == 0
    assert (folder / "training.png").exists()
    assert main(["resume", str(folder)]) == 0
    assert "All 8 steps are done." in capsys.readouterr().out
    assert main([*fit, "--set", "batch=5"]) == 1
    said = capsys.readouterr().out
    assert "another recipe: got {'batch': 16}, expected {'batch': 5}" in said
    assert f"memtrain resume {folder}" in said

    with Run(folder):  # as while it trains
        assert main(["evaluate", str(folder), "--step", "3"]) == 0
        assert main(["evaluate", str(folder)]) == 1
    assert "StoreLocked" in capsys.readouterr().out
    assert main(["evaluate", str(folder), "--step", "3"]) == 0
    assert "After step 3 of 8" in capsys.readouterr().out
    assert not (folder / "figures.json").exists()
    assert (folder / "figures-00000003.json").exists()
    assert main(["evaluate", str(folder)]) == 0
    figures = json.loads((folder / "figures.json").read_text())
    assert np.isfinite(figures[0]["more"]["mean reciprocal rank"])
    assert "Not evaluated" not in (folder / "report.html").read_text()
    with Run(folder) as run:
        assert [(step.number, step.loss) for step in run.steps] == before
    assert main(["evaluate", str(folder), "--step", "4"]) == 1
    assert "no such checkpoint: got step 4, expected one of [3, 6, 8]" in capsys.readouterr().out
    assert not list(folder.glob("step-*"))

    assert main(["resume", str(tmp_path / "nowhere")]) == 1
    assert "no run in" in capsys.readouterr().out

    shutil.rmtree(folder / "store")  # as of one whose memories a cluster has
    assert main(["resume", str(folder)]) == 1
    assert "--cluster NAMESPACE/NAME says in which cluster they are" in capsys.readouterr().out
    assert not (folder / "store").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"task": "geography", "seed": 0}', "of another version"),
        ('{"format": 2, "recipe": {"task": "geography"}}', "of another version"),
        ('{"format": 3, "recipe": {"network": "kw"}}', "no such network: got 'kw'"),
        ('{"format": 3, "recipe": {"network": "kv", "bacth": 1}}', "bacth"),
        ('{"format": 3, "recipe": {"network": "kv", "batch": 0}}', "batch is out of range"),
        ('{"format": 3', "delimiter"),
    ],
)
def test_a_folder_of_another_version_is_refused(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.json").write_text(text)
    assert main(["resume", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert said in told
    assert "delete the run, fit anew" in told
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]


def test_an_evaluation_halfway_changes_nothing_of_what_comes(tmp_path: Path) -> None:
    recipe = recipe_of(OWN, SHORT[1::2])
    base = small.base()
    curves = []
    for name in ("whole", "tested"):
        folder = tmp_path / name
        Run.build(folder, recipe, base, lambda what, done, total: None)
        with Run(folder) as run:
            steps = run.train(base)
            for step in steps:
                if name == "tested" and step.number == 5:
                    steps.close()
        if name == "tested":
            with Run(folder) as run:
                assert run.trainer.done == 6
                run.evaluate(base)
            with Run(folder) as run:
                assert len(list(run.train(base))) == 2
        with Run(folder) as run:
            curves.append([(step.number, step.loss, step.hits) for step in run.steps])
    assert curves[0] == curves[1]


def test_facts_may_be_refreshed_beside_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    pace = ("--checkpoint-steps", "2", "--refresh-share")
    fit = ("fit", "--recipe", OWN, *SHORT, "--out", str(folder))
    assert main([*fit, *pace, "2"]) == 1
    assert "a share is out of range: got 2.0" in capsys.readouterr().out
    assert not folder.exists()
    assert main([*fit, *pace, "0.5"]) == 0
    with Run(folder) as run:
        assert (run.trainer.done, len(run.steps)) == (8, 8)
        assert run.holder.memory("facts").describe().drift == 0.0
    assert main(["evaluate", str(folder), "--step", "6"]) == 0


def test_a_folder_that_is_none_or_being_built_in_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = tmp_path / "run", tmp_path / "file"
    file.touch()
    fit = ("fit", "--recipe", OWN, *SHORT, "--out")
    for wrong in (file, file / "run"):
        assert main([*fit, str(wrong)]) == 1
        assert f"{wrong} cannot be made the run folder" in capsys.readouterr().out
    assert main([*fit, str(folder), "--checkpoint-steps", "0"]) == 1
    assert not folder.exists()
    folder.mkdir()
    with files.lock(folder / "LOCK"):
        assert main([*fit, str(folder)]) == 1
    told = capsys.readouterr().out
    assert f"{folder} is open elsewhere: got a lock held by process {os.getpid()}" in told
    assert [path.name for path in folder.iterdir()] == ["LOCK"]


def test_an_error_in_the_middle_of_a_step_saves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(OWN, SHORT[1::2])
    base = small.base()
    folder = tmp_path / "run"
    Run.build(folder, recipe, base, lambda what, done, total: None)
    with Run(folder) as run:
        steps = run.train(base, checkpoint_steps=2)
        for _ in range(5):
            next(steps)
        # The network learns then, and the rows do not.
        (_, _), (entities, _) = run.trainer.rows
        monkeypatch.setattr(entities, "step", stopped)
        with pytest.raises(KeyboardInterrupt):
            next(steps)
    with Run(folder) as run:
        assert run.trainer.done == 4
        assert len(run.steps) == 4


def stopped() -> None:
    raise KeyboardInterrupt


def test_steps_that_are_taken_again_take_the_place_of_those_before(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics")
    steps = [Step(number, "hashed", float(number), 0.5, 0.1) for number in range(6)]
    metrics.add(steps[:2])
    first = (tmp_path / "metrics/from-00000000.parquet").stat().st_mtime_ns
    metrics.add(steps[2:4])
    metrics.add(steps[4:])
    assert metrics.read(5) == steps[:5]
    assert metrics.read(2) == steps[:2]
    metrics.cut(2)
    assert metrics.read(6) == steps[:2]
    assert (tmp_path / "metrics/from-00000000.parquet").stat().st_mtime_ns == first
    metrics.add([])
    assert metrics.read(6) == steps[:2]


def test_the_logs_are_what_tensorboard_reads(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    board = Board(tmp_path, 3)
    board.add(Step(3, "searched", 1.5, 0.25, 0.5, 2), batch=8)
    board.close()
    (path,) = tmp_path.iterdir()
    data, found = path.read_bytes(), dict[tuple[int, str], float]()
    while data:  # length, its checksum, an event, its checksum
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
        data = data[12 + length + 4 :]
    assert found == {
        (3, "loss/searched"): 1.5,
        (3, "hits_at_1/searched"): 0.25,
        (3, "level"): 2.0,
        (3, "speed/questions_per_s"): 16.0,
    }

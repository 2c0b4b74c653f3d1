"""Checkpoints of network and memories: whole, a few of them, and refused where they do not fit."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import EncodingConfig, IndexConfig, MemoryConfig, SearchOptions, files
from memstore.errors import CorruptFile, InvalidArgument, SnapshotFailed, UnsupportedVersion
from memstore.memory import Array
from memstore.rpc.server import Server
from tests.congruence.spread import Servers
from workers.checkpoints import ABOUT, DENSE, Checkpoints, Holder

RECIPE = {"batch": 4, "lr": 0.1, "names": ("a", "b")}
WIDTH, PARTS, FACTS = 8, 40, 400


@pytest.fixture(params=["store", "client", "client of two"])
def holder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Holder]:
    with ExitStack() as stack:
        if request.param == "client of two":
            servers = stack.enter_context(closing(Servers(tmp_path / "servers", 2)))
            address = servers.servers[1].address
            client = stack.enter_context(memstore.connect(address, deadline_s=120))
            fill(client)
            yield client
            return
        store = stack.enter_context(memstore.open(tmp_path / "store"))
        if request.param == "store":
            fill(store)
            yield store
            return
        server = stack.enter_context(Server(store))
        client = stack.enter_context(memstore.connect(server.address, deadline_s=120))
        fill(client)
        yield client


def fill(holder: Holder, shards: int = 2) -> None:
    rng = np.random.default_rng(0)
    parts = MemoryConfig(dim=WIDTH, index="none", optimizer="adam", shards=shards)
    for name in ("subjects", "relations"):
        rows = rng.standard_normal((PARTS, WIDTH), np.float32)
        holder.create(name, parts).append(rows)
    encoding = EncodingConfig(key={"subject": "subjects", "relation": "relations"})
    facts = MemoryConfig(
        dim=WIDTH,
        shards=shards,
        index=IndexConfig(probe=2, maintenance="inline"),
        records={"subject": "int64", "relation": "int64"},
        encoding=encoding,
    )
    records = {name: rng.integers(0, PARTS, FACTS) for name in ("subject", "relation")}
    holder.create("facts", facts).append(records=records)


def learn(holder: Holder, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name in ("subjects", "relations"):
        grads = rng.standard_normal((20, WIDTH), np.float32)
        holder.memory(name).update(rng.integers(0, PARTS, 20), grads, lr=0.1)
    holder.memory("facts").refresh()


def seen(holder: Holder) -> list[Array]:
    """What can be read: rows, as the next step leaves them too, and what an index proposes."""
    found: list[Array] = []
    for name in ("subjects", "relations", "facts"):
        rows = holder.memory(name).gather(np.arange(PARTS)).keys_BD
        assert rows is not None
        found.append(rows)
    result = holder.memory("facts").search(found[0][:5], k=5, options=SearchOptions(probe=2))
    return [*found, result.slots_QK, result.scores_QK]


def same(a: list[Array], b: list[Array]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def arrays(step: int) -> dict[str, Array]:
    return {"weight/hops": np.full((2, 2), step + 0.5, np.float32), "done": np.array(step)}


def saved(tmp_path: Path, holder: Holder, steps: int = 1, **settings: Any) -> Checkpoints:
    made = Checkpoints(tmp_path / "checkpoints", RECIPE, **settings)
    for step in range(steps):
        made.save(holder, step, arrays(step), {"seed": 3, "searches": step})
        learn(holder, step)
    return made


def test_a_run_goes_on_from_a_checkpoint_to_the_bit(tmp_path: Path, holder: Holder) -> None:
    saved(tmp_path, holder)
    learn(holder, 8)
    first = seen(holder)
    # As another process would.
    found = Checkpoints(tmp_path / "checkpoints", RECIPE).restore(holder)
    assert (found.step, found.position) == (0, {"seed": 3, "searches": 0})
    assert same(list(found.arrays().values()), list(arrays(0).values()))
    assert not same(seen(holder), first)
    learn(holder, 0)
    learn(holder, 8)
    assert same(seen(holder), first)


def test_memories_that_are_as_they_were_are_not_made_again(tmp_path: Path, holder: Holder) -> None:
    made = saved(tmp_path, holder, 2)
    made.restore(holder)
    store = holder if isinstance(holder, memstore.Store) else None
    before = store.memory("facts") if store else None
    made.restore(holder)
    if store:
        assert store.memory("facts") is before
    learn(holder, 5)
    made.restore(holder)
    if store:
        assert store.memory("facts") is not before


def test_the_newest_few_stay_and_nothing_that_only_others_had(
    tmp_path: Path, holder: Holder
) -> None:
    made = saved(tmp_path, holder, 5, keep=2)
    assert made.steps() == [3, 4]
    assert len(list((tmp_path / "checkpoints/memories").glob("snapshot-*"))) == 2
    few = sum(path.stat().st_size for path in (tmp_path / "checkpoints").rglob("*.*"))
    once = Checkpoints(tmp_path / "once", RECIPE)
    once.save(holder, 9, arrays(9), {})
    one = sum(path.stat().st_size for path in (tmp_path / "once").rglob("*.*"))
    # Records did not change, so they are there once.
    assert few < 2 * one
    assert holder.marks() == []
    for step in made.steps():
        assert made.restore(holder, step).step == step


def test_what_a_process_left_that_died_is_no_checkpoint(tmp_path: Path, holder: Holder) -> None:
    made = saved(tmp_path, holder)
    draft = tmp_path / "checkpoints/step-00000007.new"
    draft.mkdir()
    (draft / DENSE).write_bytes(b"half of i")
    store = holder if isinstance(holder, memstore.Store) else None
    left = f"{made._mark}00000007"
    holder.mark(left)
    assert made.steps() == [0]
    made.save(holder, 7, arrays(7), {})
    assert made.steps() == [0, 7]
    assert holder.marks() == []
    assert not draft.exists()
    assert store is None or store.marks() == []


def test_a_checkpoint_that_does_not_fit_is_refused_by_name(tmp_path: Path, holder: Holder) -> None:
    made = saved(tmp_path, holder)
    learn(holder, 1)
    before = seen(holder)
    other = Checkpoints(tmp_path / "checkpoints", RECIPE | {"batch": 8})
    with pytest.raises(InvalidArgument, match=r"another recipe.*'batch': 4.*'batch': 8"):
        other.restore(holder)
    with pytest.raises(InvalidArgument, match=r"no such checkpoint.*step 5.*\[0\]"):
        made.restore(holder, 5)
    with pytest.raises(InvalidArgument, match="any at all"):
        Checkpoints(tmp_path / "nowhere", RECIPE).restore(holder)
    with pytest.raises(InvalidArgument, match="there already"):
        made.save(holder, 0, arrays(0), {})
    assert same(seen(holder), before)

    for name in ("facts", "subjects", "relations"):
        holder.drop(name)
    fill(holder, shards=3)
    with pytest.raises(InvalidArgument, match=r"another topology.*'facts': 2.*'facts': 3"):
        made.restore(holder)
    assert holder.memory("facts").config.shards == 3


def test_a_checkpoint_of_other_servers_is_refused(tmp_path: Path) -> None:
    with memstore.open(tmp_path / "store") as store:
        fill(store)
        made = saved(tmp_path, store)
        made.restore(store)
    with ExitStack() as stack:
        servers = stack.enter_context(closing(Servers(tmp_path / "servers", 2)))
        address = servers.servers[1].address
        client = stack.enter_context(memstore.connect(address, deadline_s=120))
        fill(client)
        before = seen(client)
        with pytest.raises(InvalidArgument, match=r"another topology.*'servers': 1.*'servers': 2"):
            made.restore(client)
        assert same(seen(client), before)


def test_training_goes_on_while_a_checkpoint_is_copied(
    tmp_path: Path, holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    then, dense, copied = seen(holder), arrays(0), threading.Event()
    snapshot: Any = type(holder).snapshot

    def late(self: Any, *given: Any, **named: Any) -> Any:
        assert copied.wait(60)
        return snapshot(self, *given, **named)

    monkeypatch.setattr(type(holder), "snapshot", late)
    made = Checkpoints(tmp_path / "checkpoints", RECIPE)
    made.begin(holder, 0, dense, {"seed": 3, "searches": 0})
    assert (made.is_copying, made.steps()) == (True, [])
    learn(holder, 1)
    dense["weight/hops"][:] = 9.0
    assert not same(seen(holder), then)
    copied.set()
    made.wait()
    assert (made.is_copying, made.steps()) == (False, [0])
    assert same(list(made.restore(holder).arrays().values()), list(arrays(0).values()))
    assert same(seen(holder), then)


def test_a_copy_that_failed_is_told_by_who_waits_for_it(
    tmp_path: Path, holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Checkpoints(tmp_path / "checkpoints", RECIPE)

    def fail(*given: Any, **named: Any) -> Any:
        raise SnapshotFailed("the place is gone")

    with monkeypatch.context() as patch:
        patch.setattr(type(holder), "snapshot", fail)
        made.begin(holder, 0, arrays(0), {})
        with pytest.raises(SnapshotFailed):
            made.wait()
    assert made.save(holder, 0, arrays(0), {}).step == 0
    assert holder.marks() == []


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path, holder: Holder) -> None:
    made = saved(tmp_path, holder)
    about = tmp_path / "checkpoints/step-00000000" / ABOUT
    body = files.read_json(about)
    files.replace_json(about, body | {"format": 99})
    with pytest.raises(UnsupportedVersion, match="99"):
        made.restore(holder)


def test_a_damaged_checkpoint_is_refused_before_anything_is_changed(
    tmp_path: Path, holder: Holder
) -> None:
    made = saved(tmp_path, holder)
    learn(holder, 4)
    before = seen(holder)
    folder = tmp_path / "checkpoints/step-00000000"
    whole = (folder / DENSE).read_bytes()
    (folder / DENSE).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CorruptFile, match=r"altered.*there is none before it: train anew"):
        made.restore(holder)
    (folder / DENSE).write_bytes(whole)
    made.save(holder, 7, arrays(7), {"seed": 3, "searches": 7})
    (folder.parent / "step-00000007" / DENSE).unlink()
    with pytest.raises(CorruptFile, match="the run goes on from step-00000000"):
        made.read().arrays()
    shutil.rmtree(folder.parent / "step-00000007")
    (folder / DENSE).write_bytes(whole)
    outer = json.loads((folder / ABOUT).read_text())
    outer["body"] = outer["body"].replace('"searches": 0', '"searches": 1')
    (folder / ABOUT).write_text(json.dumps(outer))
    with pytest.raises(CorruptFile, match="altered"):
        made.restore(holder)
    assert same(seen(holder), before)

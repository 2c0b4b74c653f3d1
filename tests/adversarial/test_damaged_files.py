"""Whatever a disk does wrong is a typed error or is made good, and nothing is lost by it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import SearchOptions, files
from memstore.durable.manifest import FORMAT
from memstore.errors import CorruptFile, NotAStore, StorageFull, UnsupportedVersion
from memstore.shard import blocks
from tests.adversarial.damage import DAMAGES, DATA, INDEX, apply, contents, found, plain
from tests.adversarial.stores import EXACT, MANIFEST, fill, fingerprints, keys, records, values
from tests.congruence.oracle import fingerprint, live_slots


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A closed store with every kind of file, and what it held."""
    path = tmp_path_factory.mktemp("saved") / "store"
    with memstore.open(path) as store:
        fill(store)
        store.memory("m").append(keys(3), values(3), records(3))
        before = fingerprints(store)
    return path, before


@pytest.fixture
def copy(saved: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved[0], tmp_path / "store"))


def test_the_tables_below_name_every_file(saved: tuple[Path, dict[str, Any]]) -> None:
    names = {plain(Path(name).name) for name in contents(saved[0]) if not name.startswith("logs")}
    assert names == {*DATA, *INDEX}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", DATA)
def test_damaged_data_is_refused(
    saved: tuple[Path, dict[str, Any]], copy: Path, name: str, damage: str
) -> None:
    for path in found(copy, name):
        whole = path.read_bytes()
        apply(DAMAGES[damage], path)
        before = contents(copy)
        expected = NotAStore if (name, damage) == (MANIFEST, "missing") else CorruptFile
        with pytest.raises(expected, match=str(copy)):
            memstore.open(copy)
        assert contents(copy) == before  # nothing was mended, nothing swept
        path.write_bytes(whole)
    with memstore.open(copy) as store:
        assert fingerprints(store) == saved[1]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", INDEX)
def test_a_damaged_index_is_built_again(
    saved: tuple[Path, dict[str, Any]],
    copy: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    damage: str,
) -> None:
    [path] = found(copy, name)
    apply(DAMAGES[damage], path)
    with memstore.open(copy) as store:
        memory = store.memory("m")
        slots = saved[1]["m"]["slots"]
        assert live_slots(memory).tolist() == slots
        assert fingerprint(memory)["keys"] == saved[1]["m"]["keys"]
        queries = np.eye(3, dtype=np.float32)
        every = memory.search(queries, len(slots), SearchOptions(probe=1_000))
        exact = memory.search(queries, len(slots), EXACT)
        assert every.slots_QK.tolist() == exact.slots_QK.tolist()
        assert every.scores_QK.tolist() == exact.scores_QK.tolist()
    assert ["built again" in record.message for record in caplog.records] == [True]


def test_an_index_built_again_is_saved(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    found(copy, "tiers.npz")[0].unlink()
    for _ in range(3):
        memstore.open(copy).close()
    assert len(caplog.records) == 1


def test_every_flipped_bit_of_a_manifest_is_noticed(copy: Path) -> None:
    path = copy / "small.json"
    files.replace_json(path, {"format": 1, "m": [2]})
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
            with pytest.raises(CorruptFile):
                files.read_json(path)


@pytest.mark.parametrize("body", ["", "7", "null", "[]", "{}", '{"crc32": 0}', '{"body": 7}'])
def test_a_foreign_manifest_is_refused(copy: Path, body: str) -> None:
    (copy / MANIFEST).write_text(body)
    with pytest.raises(CorruptFile):
        memstore.open(copy)


@pytest.mark.parametrize(
    "change",
    [{"format": wrong} for wrong in (FORMAT + 1, FORMAT - 2, 0, str(FORMAT), None)],
)
def test_another_format_is_refused(copy: Path, change: dict[str, Any]) -> None:
    manifest = files.read_json(copy / MANIFEST)
    files.replace_json(copy / MANIFEST, manifest | change)
    before = contents(copy)
    with pytest.raises(UnsupportedVersion):
        memstore.open(copy)
    assert contents(copy) == before


def test_a_torn_draft_beside_the_manifest_harms_nothing(
    saved: tuple[Path, dict[str, Any]], copy: Path
) -> None:
    (copy / f"{MANIFEST}.new").write_text('{"crc32": 1')
    shutil.copytree(next((copy / "memories/m").iterdir()), copy / "memories/m/99999999")
    for _ in range(2):
        with memstore.open(copy) as store:
            assert fingerprints(store) == saved[1]
            store.checkpoint()


@pytest.mark.parametrize("place", ["memories/notes.txt", "memories/m/notes.txt"])
def test_a_stray_file_stops_no_checkpoint(
    saved: tuple[Path, dict[str, Any]], copy: Path, place: str
) -> None:
    (copy / place).write_text("mine")
    with memstore.open(copy) as store:
        try:
            store.checkpoint()
        finally:
            (copy / place).unlink(missing_ok=True)
        assert fingerprints(store) == saved[1]


def test_a_checkpoint_that_fails_loses_nothing(
    saved: tuple[Path, dict[str, Any]], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memstore.open(copy) as store:
        store.memory("m").erase([0])
        with monkeypatch.context() as patch:
            patch.setattr(blocks, "write", _disk_full)
            with pytest.raises(StorageFull, match="full"):
                store.checkpoint()
        crashed = shutil.copytree(copy, copy.with_name("crashed"))
        after = fingerprints(store)
    with memstore.open(crashed) as store:
        assert fingerprints(store) == after
    with memstore.open(copy) as store:
        assert fingerprints(store) == after


def _disk_full(*_: Any) -> Any:
    raise OSError(28, "the disk is full")

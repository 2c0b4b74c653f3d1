"""A shard in files: written whole into a folder, and read back.

Rows are `.npy` arrays, those of float16 as the uint16 and those of bfloat16 as the int16 with the
same bits, records an Arrow IPC file, the sealed index faiss files; nothing is
pickled. The index is a cache: if its files are bad, it is built again and a warning says so.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from memstore import files
from memstore.config import MemoryConfig
from memstore.dtypes import storage
from memstore.errors import CorruptFile
from memstore.kernels.half import packed
from memstore.memory import Array
from memstore.shard.shard import Shard

RECORDS = "records.arrow"

logger = logging.getLogger(__name__)


def save(shard: Shard, folder: Path) -> dict[str, Any]:
    """Writes the shard into a new folder; returns its entry for the manifest."""
    folder.mkdir(parents=True)
    with shard.frozen():
        arrays = shard.rows.arrays()
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", packed(array), allow_pickle=False)
        data = [f"{name}.npy" for name in arrays]
        if shard.config.records:
            table = shard.records.save(shard.rows.live_rows())
            path = str(folder / RECORDS)
            with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            data.append(RECORDS)
        index = shard.index.save(folder)
        versions = {"rows": shard.rows.version, "index": shard.index.version.number}
    entry = {
        "versions": versions,
        "data": {name: files.settle(folder / name) for name in data},
        "index": {name: files.settle(folder / name) for name in index},
    }
    files.sync_folder(folder)
    return entry


def load(
    config: MemoryConfig, number: int, folder: Path, entry: dict[str, Any], home: Path
) -> Shard:
    """Reads a shard; raises `CorruptFile` where a file is not what the manifest says.

    home: where the rows lie that `storage="mapped"` keeps out of memory.
    """
    for name, expected in entry["data"].items():
        files.check(folder / name, expected)
    shard = Shard(config, number, home)
    arrays = {
        name.removesuffix(".npy"): _array(config, folder / name)
        for name in entry["data"]
        if name != RECORDS
    }
    shard.rows.restore(arrays, entry["versions"]["rows"])
    live_R = shard.rows.live_rows()
    if RECORDS in entry["data"]:
        with pa.OSFile(str(folder / RECORDS), "rb") as source:
            shard.records.put(live_R, pa.ipc.open_file(source).read_all())
    _load_index(shard, folder, entry, live_R)
    return shard


def _array(config: MemoryConfig, path: Path) -> Array:
    """Reads an array; keys and values of float16 and bfloat16 stand in the file as their bits."""
    array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    if path.stem not in ("keys", "values"):
        return array
    dtype = storage(config.dtype)
    expected = packed(np.empty(0, dtype)).dtype
    if array.dtype != expected:
        raise CorruptFile(
            f"{path} has another dtype",
            got=array.dtype,
            expected=f"{expected}, for rows of {config.dtype}",
        )
    return array.view(dtype)


def _load_index(shard: Shard, folder: Path, entry: dict[str, Any], live_R: Any) -> None:
    number = entry["versions"]["index"]
    try:
        for name, expected in entry["index"].items():
            files.check(folder / name, expected)
        shard.index.load(folder, list(entry["index"]), number, live_R)
    except CorruptFile as error:
        logger.warning("the index of %s is built again: %s", folder, error)
        shard.index.load(folder, [], number, live_R)
        shard.reindex()

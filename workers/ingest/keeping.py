"""Files of the work folder: whole or not there, and of arrays that are read where they lie."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from memstore import files, trim
from memstore.disk import DISK


def put(path: Path, write: Callable[[files.NewFile], object]) -> None:
    """Makes a file that is there, durable, once all of it is."""
    # Two processes may do the same work where a scheduler lost sight of one: each has its draft.
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.unlink(missing_ok=True)
    files.make(draft, write)
    draft.replace(path)
    DISK.sync_folder(path.parent)


def put_array(path: Path, array: np.ndarray) -> None:
    put(path, lambda file: np.save(file, array, allow_pickle=False))


def array(path: Path) -> np.ndarray:
    """An array that is read as far as it is looked at."""
    return files.array_at(path)


def put_table(path: Path, table: pa.Table) -> None:
    """Keeps a table as one batch."""

    def write(file: files.NewFile) -> None:
        with pa.ipc.new_file(file, table.schema) as writer:
            for batch in table.combine_chunks().to_batches():
                writer.write_batch(batch)

    put(path, write)


def table(path: Path) -> pa.Table:
    """A table that is read as far as it is looked at."""
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def column(path: Path) -> pa.Array:
    """The one column of a table."""
    chunked = table(path).column(0)
    return chunked.chunk(0) if chunked.num_chunks else pa.array([], chunked.type)


def copied(texts: pa.Array) -> pa.Array:
    """A copy, behind which the file is let go: what is read of it, and around, is resident."""
    return pa.concat_arrays([texts, texts[:0]])


def sweep(folder: Path) -> None:
    """Takes away what was drafted by processes that died."""
    for draft in folder.glob("*.new"):
        draft.unlink(missing_ok=True)


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def give_back() -> None:
    """Gives the memory of what is done back to the system."""
    pa.default_memory_pool().release_unused()
    trim.give_back()

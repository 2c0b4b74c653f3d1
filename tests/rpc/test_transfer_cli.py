"""`memstore load` and `memstore export`: rows between files and a memory that is served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from memstore import MemoryConfig, Store
from memstore.cli import main
from memstore.rpc.security import Tokens, add_token
from memstore.rpc.server import Server
from tests.rpc.conftest import WIDTH


@pytest.mark.parametrize("suffix", [".arrow", ".parquet"])
def test_there_and_back(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    store.create("r", MemoryConfig(dim=WIDTH, value_dim=2, records={"name": "string"}))
    rng = np.random.default_rng(0)
    keys, values = rng.normal(size=(500, WIDTH)), rng.normal(size=(500, 2))
    memory = store.memory("r")
    memory.append(keys, values, {"name": [f"{i}" for i in range(500)]})
    tokens, secret = tmp_path / "tokens.json", tmp_path / "token"
    secret.write_text(add_token(tokens, "me", "admin") + "\n")
    file, few = tmp_path / f"rows{suffix}", tmp_path / f"few{suffix}"
    with Server(store, tokens=Tokens(tokens)) as server:
        to = [server.address, "r"]
        assert main(["export", *to, str(file)]) == 1  # nobody knows who asks
        assert "Unauthenticated" in capsys.readouterr().out
        told = ["--token-file", str(secret)]
        assert main(["export", *to, str(file), *told]) == 0
        assert "500 rows are in" in capsys.readouterr().out
        assert main(["export", *to, str(file), *told]) == 1  # it is there
        assert main(["export", *to, str(few), "--no-vectors", "--columns", *told]) == 0
        assert main(["load", *to, str(file), str(file), *told]) == 0
        assert "1,000 rows were loaded in slots 500 to 1499" in capsys.readouterr().out
        # One of them is wrong: none is loaded.
        assert main(["load", *to, str(file), str(few), *told]) == 1
        assert "wrong columns" in capsys.readouterr().out
        assert main(["load", *to, str(tmp_path / f"none{suffix}"), *told]) == 1
        assert main(["load", *to, str(tokens), *told]) == 1
    assert memory.describe().rows == 1_500
    for name in ("keys_BD", "values_BV"):
        found = getattr(memory.gather(np.arange(1_500)), name)
        np.testing.assert_array_equal(found[500:1_000], found[:500])
        np.testing.assert_array_equal(found[1_000:], found[:500])
    read = pyarrow.parquet.read_table if suffix == ".parquet" else pa.ipc.open_file
    table = read(few) if suffix == ".parquet" else read(few).read_all()
    assert table.schema.names == ["slot", "generation"]
    assert not list(tmp_path.glob("*.part"))

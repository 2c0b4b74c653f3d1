"""The service from Node.js: the example in `tests/node`, against a server of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import ClientTls
from memstore.errors import UnknownSlot
from memstore.rpc.client import Client
from memstore.rpc.security import add_token
from tests.rpc import certificates

ROOT = Path(__file__).parents[2]

NO_REGISTRY = re.compile(
    r"code (ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ENETUNREACH|EHOSTUNREACH|ETIMEDOUT"
    r"|ERR_SOCKET_TIMEOUT|E403|E407|E50[0-9])\b"
)
"""What npm says where it is the network that fails, not what is asked for."""


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a copy of the example with its packages, or skips with the reason."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("Node.js and npm are not installed")
    root = tmp_path_factory.mktemp("node")
    # The example finds the .proto where the repository has it.
    shutil.copytree(ROOT / "protos", root / "protos")
    folder = root / "tests" / "node"
    shutil.copytree(ROOT / "tests" / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("the npm registry did not answer in time")
    if done.returncode and (why := NO_REGISTRY.search(done.stderr)):
        pytest.skip(f"the npm registry was not reached: {why[1]}")
    assert done.returncode == 0, done.stderr
    return folder / "memory.mjs"


@contextmanager
def serving(path: Path, *options: str | Path) -> Iterator[str]:
    """Gives the address of a server of a store, in a process that ends with the block."""
    command = [sys.executable, "-m", "memstore.cli", "serve", str(path)]
    log = path.with_name("serve.log")
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [*command, "--listen", "127.0.0.1:0", *options],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as server,
    ):
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            assert address, log.read_text()
            yield address
            server.terminate()
            assert server.wait(30) == 0, log.read_text()
        finally:
            server.kill()


def run(example: Path, address: str, **environment: str) -> subprocess.CompletedProcess[str]:
    bare = {name: os.environ[name] for name in os.environ if not name.startswith("MEMSTORE_")}
    return subprocess.run(
        ["node", example, address],
        env=bare | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def told_by(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What the example printed, which it did without a word of complaint."""
    assert (done.returncode, done.stderr) == (0, "")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def check(told: dict[str, Any], client: Client) -> None:
    """What Node.js saw of the memory is what Python sees of it."""
    memory = client.memory("from-node")
    rows = memory.gather(told["slots"])
    assert rows.keys_BD is not None
    assert list(rows.keys_BD.shape) == told["shape"]
    assert rows.keys_BD.ravel().tolist() == told["keys"]
    # One step of 0.5 off the first row, and no second one.
    assert rows.keys_BD.tolist() == [[0.5, 0, 0, 0], [0, 2, 0, 0], [0, 0, 3, 4]]
    assert told["applied"] == [1, 1]
    assert memory.describe().next_slot == len(told["slots"])

    # The step between the two searches changes no score of the two best.
    found = memory.search(np.array([[0, 1, 2, 0]], np.float32), 2)
    assert found.slots_QK.tolist() == [told["found"]] == [[2, 1]]
    assert found.scores_QK.tolist() == [told["scores"]] == [[6, 2]]

    with pytest.raises(UnknownSlot) as refused:
        memory.gather([1_000])
    error = refused.value
    assert told["code"] == "NOT_FOUND"
    assert told["error"] == {
        "name": "UnknownSlot",
        "problem": error.problem,
        "got": error.got,
        "expected": error.expected or "",
        "hint": error.hint,
        "retryable": error.retryable,
        "retry_after_s": 0,
    }


def test_node_and_python_see_the_same_memory(tmp_path: Path, example: Path) -> None:
    with serving(tmp_path / "store") as address:
        told = told_by(run(example, address))
        with memstore.connect(address) as client:
            check(told, client)
    with memstore.open(tmp_path / "store") as store:
        keys_BD = store.memory("from-node").gather(told["slots"]).keys_BD
    assert keys_BD is not None
    assert keys_BD.ravel().tolist() == told["keys"]


def test_node_speaks_tls_and_says_who_calls(tmp_path: Path, example: Path) -> None:
    made = certificates.make(tmp_path)
    token = add_token(tmp_path / "tokens.json", "node", "admin")
    reader = add_token(tmp_path / "tokens.json", "reader", "read")
    files = ("--tls-certificate", made.certificate, "--tls-key", made.key)
    with serving(tmp_path / "store", *files, "--tokens", tmp_path / "tokens.json") as address:
        # Node.js warns of a server with TLS that is named by a number.
        name = address.replace("127.0.0.1", "localhost")
        authority = {"MEMSTORE_CA": str(made.authority)}
        for given, code in (("", "UNAUTHENTICATED"), (reader, "PERMISSION_DENIED")):
            refused = run(example, name, **authority, MEMSTORE_TOKEN=given)
            assert refused.returncode == 1
            assert code in refused.stderr
        told = told_by(run(example, name, **authority, MEMSTORE_TOKEN=token))
        tls = ClientTls(authority=made.authority)
        with memstore.connect(address, token=token, tls=tls) as client:
            check(told, client)

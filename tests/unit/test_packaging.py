"""What the package is called where it is installed from, and what it tells users to install."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import memstore
from memstore.extras import DISTRIBUTION, install

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def sources() -> list[Path]:
    """The code and the docs that users meet."""
    code = [path for name in ("memstore", "models", "workers") for path in (ROOT / name).rglob("*")]
    docs = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "pyproject.toml"]
    return [path for path in (*code, *docs) if path.suffix in (".py", ".md", ".toml")]


def test_it_has_one_name_and_one_version() -> None:
    assert PROJECT["name"] == DISTRIBUTION
    assert PROJECT["version"] == memstore.__version__
    assert install("cpu,rpc") == f"pip install '{DISTRIBUTION}[cpu,rpc]'"


def test_nobody_is_told_to_install_what_another_project_is_called() -> None:
    for path in sources():
        found = re.findall(r"(?<![\w-])memstore\[[a-z]", path.read_text())
        assert not found, path


def test_every_extra_that_is_named_is_one() -> None:
    told = set[str]()
    for path in sources():
        for words in re.findall(r"\binstall\([\"']([\w,]+)[\"']\)", path.read_text()):
            told |= set(words.split(","))
    assert {"cpu", "gpu", "rpc", "metrics", "cluster", "train", "cloud"} <= told
    assert told <= set(PROJECT["optional-dependencies"])


def test_without_its_extras_memtrain_names_them() -> None:
    code = "import sys; sys.modules['rich'] = None; from workers.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"memtrain needs rich: pip install '{DISTRIBUTION}[cpu,train,demo]'" in done.stderr

"""Workers of Ray make what one process makes, also where one of them is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.ingest.made import SMALL, contents, facts, write_tsv
from workers.ingest import ingest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_two_workers_make_the_same_as_one_process(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: the extra cluster")
    source = write_tsv(tmp_path / "facts.tsv", facts(1_500))
    ingest([source], tmp_path / "plain", layout=SMALL)
    into, flag = tmp_path / "store", tmp_path / "killed"
    command = [sys.executable, "-m", "tests.ingest.on_ray", str(source), str(into), str(flag)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=560)
    assert ended.returncode == 0, ended.stderr
    assert flag.exists()
    lines = [line for line in ended.stdout.splitlines() if "raylet" not in line]
    assert lines == ["1500", f"{tmp_path / 'torn.tsv.gz'} 1"], ended.stdout
    assert contents(into) == contents(tmp_path / "plain")

"""An ingest that is killed goes on where it was, and ends as if it had not been."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.ingest.made import contents, facts, write_tsv

ROOT = Path(__file__).parents[2]


def run(source: Path, into: Path, after: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.ingest.killed", str(source), str(into), str(after)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)


def test_killed_again_and_again_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    source = write_tsv(tmp_path / "facts.tsv", facts(1_500))
    whole = run(source, tmp_path / "whole", 0)
    assert whole.returncode == 0, whole.stderr
    acts, runs = int(whole.stdout), 0
    assert acts > 50
    # A number that divides nothing, so that it is killed in every stage, loading among them.
    after = acts // 4 + 1
    while True:
        ended = run(source, tmp_path / "killed", after)
        runs += 1
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert runs < 8, "it does again what was done"
    assert runs > 2
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    left = {path.name for path in (tmp_path / "killed.ingest").iterdir()}
    assert left == {"plan.json", "report.json", "rejects.jsonl", "LOCK"}

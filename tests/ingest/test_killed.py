"""An ingest that is killed goes on where it was, and ends as if it had not been."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ingest.made import SMALL, contents, facts, write_tsv
from workers.ingest import ingest, pipeline, rows

ROOT = Path(__file__).parents[2]


def run(source: Path, into: Path, after: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.ingest.killed", str(source), str(into), str(after)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)


def test_killed_again_and_again_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    source = write_tsv(tmp_path / "facts.tsv", facts(1_500))
    whole = run(source, tmp_path / "whole", 0)
    assert whole.returncode == 0, whole.stderr
    acts, stages = int(whole.stdout), list[str]()
    assert acts > 50
    after = acts // 5
    while (ended := run(source, tmp_path / "killed", after)).returncode:
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        stages.append(ended.stdout.strip())
        assert len(stages) < 10, f"it does again what was done: {stages}"
    assert "Reading" in stages
    assert "Loading facts" in stages
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    left = {path.name for path in (tmp_path / "killed.ingest").iterdir()}
    assert left == {"plan.json", "report.json", "rejects.jsonl", "LOCK"}


@pytest.mark.parametrize("batch", [2, 9])
def test_interrupted_while_it_loads_it_leaves_no_holes(
    batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_tsv(tmp_path / "facts.tsv", facts(1_500))
    ingest([source], tmp_path / "whole", layout=SMALL)
    monkeypatch.setattr(pipeline, "DRAWN", 16)
    between, batches = rows.Rows.between, 0

    def interrupted(self: rows.Rows, name: str, first: int, last: int) -> Iterator[rows.Batch]:
        nonlocal batches
        for each in between(self, name, first, last):
            yield each
            batches += 1
            if batches == batch:
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(rows.Rows, "between", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ingest([source], tmp_path / "store", layout=SMALL)
    ingest([source], tmp_path / "store", layout=SMALL)
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_an_interrupt_waits_for_the_window_that_is_being_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_tsv(tmp_path / "facts.tsv", facts(1_500))
    ingest([source], tmp_path / "whole", layout=SMALL)
    monkeypatch.setattr(pipeline, "DRAWN", 16)
    between, handed, left = rows.Rows.between, Counter[str](), [signal.SIGINT]

    def interrupted(self: rows.Rows, name: str, first: int, last: int) -> Iterator[rows.Batch]:
        for each in between(self, name, first, last):
            if handed["entities"] and left:
                signal.raise_signal(left.pop())
            handed[name] += len(each[1])
            yield each

    monkeypatch.setattr(rows.Rows, "between", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ingest([source], tmp_path / "store", layout=SMALL)
    assert handed["entities"] == SMALL.window
    ingest([source], tmp_path / "store", layout=SMALL)
    found = contents(tmp_path / "store")
    assert found == contents(tmp_path / "whole")
    # Each row once: no memory was filled anew.
    assert handed == {name: len(records) for name, (_, records) in found.items()}

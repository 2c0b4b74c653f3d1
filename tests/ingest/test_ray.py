"""Workers of Ray make what one process makes, also where one of them is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ingest.made import SMALL, contents, facts, write_tsv
from workers.ingest import Reading, ingest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_two_workers_make_the_same_as_one_process(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: the extra cluster")
    source, named = write_tsv(tmp_path / "facts.tsv", facts(1_000)), tmp_path / "named"
    named.write_text("".join(f"/m/{number:03x}\n" for number in range(1, 400, 3)))
    reading = Reading(mediators=str(named))
    wanted = ingest([source], tmp_path / "plain", reading=reading, layout=SMALL)
    into, flags = tmp_path / "store", tmp_path / "killed"
    flags.mkdir()
    arguments = map(str, (source, named, into, flags))
    command = [sys.executable, "-m", "tests.ingest.on_ray", *arguments]
    # Else its workers wait for whatever other tests do. Another Ray is none of its matter.
    environment = os.environ | {"RAY_worker_niceness": "0", "RAY_ADDRESS": "127.0.0.1:1"}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=560
    )
    assert ended.returncode == 0, ended.stderr
    assert {flag.name for flag in flags.iterdir()} == {"read", "joined"}
    lines = [line for line in ended.stdout.splitlines() if "raylet" not in line]
    assert lines == [f"1000 {wanted.made}", f"{tmp_path / 'torn.tsv.gz'} 1"], ended.stdout
    assert wanted.made > 100
    assert contents(into) == contents(tmp_path / "plain")

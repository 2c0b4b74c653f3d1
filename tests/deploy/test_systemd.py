"""The systemd unit: systemd reads it, and a server starts by what it says."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from memstore.rpc.cli import GRACE_S
from memstore.rpc.limits import Limits
from tests.deploy import DEPLOY
from tests.deploy.serving import secrets, served

UNIT = re.sub(r"\\\n\s*", "", (DEPLOY / "memstore.service").read_text())


def setting(name: str) -> str:
    """The only value of a setting."""
    (value,) = re.findall(rf"^{name}=(.*)$", UNIT, flags=re.MULTILINE)
    return str(value)


def analyzed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What `systemd-analyze` says of the unit, with programs that are there."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed: apt install systemd")
    here = folder / "memstore.service"
    here.write_text(UNIT.replace("/opt/memstore/bin", str(Path(sys.executable).parent)))
    return subprocess.run([analyze, *words, here], capture_output=True, text=True, check=False)


def test_systemd_understands_it(tmp_path: Path) -> None:
    # It reads the units of this machine too, which are none of ours.
    done = analyzed(tmp_path, "verify", "--man=no", "--recursive-errors=no")
    assert (done.returncode, "memstore.service" in done.stderr) == (0, False), done.stderr


def test_little_is_left_to_it(tmp_path: Path) -> None:
    # Of 100, which would be a service without any of this.
    done = analyzed(tmp_path, "security", "--offline=true", "--no-pager", "--threshold=20")
    assert done.returncode == 0, done.stdout


def test_it_is_given_the_time_and_the_files_that_a_server_takes() -> None:
    minutes = re.fullmatch(r"(\d+)min", setting("TimeoutStopSec"))
    assert minutes is not None
    assert 60 * int(minutes[1]) > 2 * GRACE_S + 60
    assert int(setting("LimitNOFILE")) > 2 * Limits().connections


def test_a_server_starts_by_its_command(tmp_path: Path) -> None:
    program, *words = shlex.split(setting("ExecStart"))
    assert program == "/opt/memstore/bin/memstore"
    given = secrets(tmp_path / "secrets")
    copies = dict(part.split(":") for part in re.findall(r"^LoadCredential=(.*)$", UNIT, re.M))
    assert copies == {name: f"/etc/memstore/{name}" for name in ("tls.crt", "tls.key")}
    assert all(f"%d/{name}" in words for name in copies)
    places = {
        f"%S/{setting('StateDirectory')}": tmp_path / "store",
        "%d": given,
        "/etc/memstore": given,
    }
    with served(words, places) as port:
        assert int(port)

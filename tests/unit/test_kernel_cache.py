"""Compiled kernels: kept where only this user can write, and done without where that is nowhere.

Each case is a process of its own over a copy of the package. Superusers may write anywhere, so
for them the places that cannot be written to are paths through a file.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memstore.kernels import compiling

NOWHERE = "/dev/null/nowhere"
STRANGER = 54_321

# Where the interpreter is the superuser's own, another user has to be let read it.
AS_STRANGER = [
    "setpriv",
    *(f"--re{kind}={STRANGER}" for kind in ("uid", "gid")),
    "--clear-groups",
    *(f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")),
]
STRANGE = shutil.which("setpriv") and not os.geteuid()
needs_stranger = pytest.mark.skipif(not STRANGE, reason="only the superuser can act as another")

SCORE = """
import sys
import numpy as np
from memstore.kernels.score import score_rows
for dtype in sys.argv[1:] or ["float32"]:
    keys, scores = np.arange(6, dtype=dtype).reshape(2, 3), np.empty((1, 2), dtype)
    score_rows(np.ones((1, 3), dtype), keys, np.zeros(1, np.uint32), np.array([[0, 1]]), scores)
    print(*scores[0], end=" ")
print(len(score_rows.stats.cache_hits), len(score_rows.stats.cache_misses))
"""

RIGHT = ["3.0", "12.0"]
ONCE, FOUND = [*RIGHT, "0", "1"], [*RIGHT, "1", "0"]


@pytest.fixture
def site() -> Iterator[Path]:
    """A folder with a copy of the package, which any user can read, and room for caches."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    package = Path(compiling.__file__).parents[1]
    shutil.copytree(package, folder / "site/memstore")  # compiled files too: none is written
    yield folder
    shutil.rmtree(folder)


def start(
    site: Path,
    *arguments: str,
    code: str = SCORE,
    stranger: bool = False,
    **environment: str,
) -> subprocess.Popen[str]:
    places = {"PATH": os.environ["PATH"], "PYTHONPATH": str(site / "site")}
    places |= {"PYTHONDONTWRITEBYTECODE": "1", "HOME": NOWHERE, "TMPDIR": NOWHERE}
    return subprocess.Popen(
        [*(AS_STRANGER if stranger else []), sys.executable, "-W", "error", "-c", code, *arguments],
        env={name: value for name, value in (places | environment).items() if value},
        cwd=site,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(site: Path, *arguments: str, **settings: Any) -> tuple[list[str], str]:
    """What a process said, word by word, and what it logged."""
    process = start(site, *arguments, **settings)
    said, logged = process.communicate()
    assert not process.returncode, logged
    return said.split(), logged


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.kernel"))


def test_the_next_process_loads_what_one_compiled(site: Path) -> None:
    for expected in (ONCE, FOUND):
        assert run(site, XDG_CACHE_HOME=str(site / "xdg")) == (expected, "")
    assert kept(site / "xdg/memstore")
    assert (site / "xdg/memstore").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("home", [NOWHERE, "", "relative"])
def test_without_any_place_kernels_are_compiled_and_nothing_is_written(
    site: Path, home: str
) -> None:
    before = sorted(site.rglob("*"))
    # The superuser has a home whatever HOME says: here a user without a name has to stand in.
    places = {"HOME": home, "XDG_CACHE_HOME": "relative"}
    said, logged = run(site, stranger=bool(STRANGE), **places)
    if STRANGE or home:
        assert said == ONCE
        assert logged.count("MEMSTORE_CACHE names a folder") == 1
    assert sorted(site.rglob("*")) == before


@needs_stranger
def test_a_read_only_package_serves_a_user_that_has_no_name_and_no_home(site: Path) -> None:
    (site / "tmp").mkdir()
    (site / "tmp").chmod(0o1777)
    for expected in (ONCE, FOUND):
        assert run(site, HOME="/", TMPDIR=str(site / "tmp"), stranger=True) == (expected, "")
    found = (site / f"tmp/memstore-{STRANGER}").stat()
    assert (found.st_uid, found.st_mode & 0o777) == (STRANGER, 0o700)


@needs_stranger
def test_an_image_brings_kernels_to_users_who_cannot_write(site: Path) -> None:
    place = str(site / "built")
    run(site, MEMSTORE_CACHE=place)
    assert run(site, MEMSTORE_CACHE=place, stranger=True)[0] == FOUND
    # What the image has not is compiled, and not kept.
    before = kept(site / "built")
    assert run(site, "float64", MEMSTORE_CACHE=place, stranger=True)[0] == ONCE
    assert kept(site / "built") == before


POISON = """
import pathlib, os, sys
from memstore.kernels import compiling
from numba.core import serialize
class Attack:
    def __reduce__(self):
        return os.mkdir, (sys.argv[1],)
payload = serialize.dumps(Attack())
for path in map(pathlib.Path, sys.argv[2:]):
    path.write_bytes(compiling._digest(payload) + payload)
"""


def test_code_is_run_only_from_where_no_other_user_can_write(site: Path) -> None:
    place, attacked = site / "caches/memstore", site / "attacked"
    run(site, MEMSTORE_CACHE=str(place))
    run(site, str(attacked), *map(str, kept(place)), code=POISON)
    poisoned = {path: path.read_bytes() for path in kept(place)}
    # The attack is a true one: from a folder of one's own it is run.
    with pytest.raises(AssertionError):
        run(site, MEMSTORE_CACHE=str(place))
    attacked.rmdir()

    cases = {"folder": [place], "parent": [place.parent], "file": [*poisoned]}
    ways: list[tuple[str, Callable[[Path], None], Callable[[Path], None]]] = [
        (what, lambda path: path.chmod(0o777), lambda path: path.chmod(0o700)) for what in cases
    ]
    if STRANGE:
        ways += [
            (what, lambda path: os.chown(path, *[STRANGER] * 2), lambda path: os.chown(path, 0, 0))
            for what in ("folder", "file")
        ]
    for what, opens, closes in ways:
        for path, data in poisoned.items():
            path.write_bytes(data)  # what was compiled anew took its place
        for path in cases[what]:
            opens(path)
        said, logged = run(site, MEMSTORE_CACHE=str(place))
        assert said == ONCE, what
        assert not attacked.exists(), what
        assert ("others than this user can write" in logged) == (what != "file")
        for path in cases[what]:
            closes(path)


def test_a_damaged_file_is_compiled_anew(site: Path) -> None:
    place = site / "cache"
    run(site, MEMSTORE_CACHE=str(place))
    whole = {path: path.read_bytes() for path in kept(place)}
    for damage in ("torn", "empty", "bit"):
        for path, data in whole.items():
            middle = len(data) // 2
            flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
            path.write_bytes({"torn": data[:middle], "empty": b"", "bit": flipped}[damage])
        assert run(site, MEMSTORE_CACHE=str(place))[0] == ONCE
    assert run(site, MEMSTORE_CACHE=str(place))[0] == FOUND


def test_a_full_disk_costs_a_kernel_its_file_and_nothing_else(site: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    assert run(site, code=limit + SCORE, MEMSTORE_CACHE=str(site / "cache"))[0] == ONCE
    assert not list((site / "cache").iterdir())


def test_processes_that_compile_at_once_leave_the_right_code(site: Path) -> None:
    """numba's own cache may store the code of float64 under the name of float32 here."""
    place = str(site / "cache")
    orders = [("float32", "float64"), ("float64", "float32")]
    workers = [start(site, *order, MEMSTORE_CACHE=place) for order in orders]
    for worker in workers:
        assert worker.communicate()[0].split()[:4] == RIGHT * 2
    assert run(site, "float64", "float32", MEMSTORE_CACHE=place)[0] == [*RIGHT, *RIGHT, "2", "0"]


NEAR = """
import numpy as np
from memstore.kernels.near import _score
keys, scores = np.arange(6, dtype=np.float32).reshape(2, 3), np.empty((2, 1), np.float32)
_score(np.ones(3, np.float32), keys, scores)
print(*scores[:, 0])
"""


def test_a_kernel_is_compiled_anew_when_one_that_it_calls_has_changed(site: Path) -> None:
    place = site / "cache"
    assert run(site, code=NEAR, MEMSTORE_CACHE=str(place))[0] == ["3.0", "12.0"]
    before = kept(place)
    source = site / "site/memstore/kernels/score.py"
    text = source.read_text()
    last = "builder.extract_element(folded, ir.IntType(32)(0))"
    assert last in text
    source.write_text(text.replace(last, f"builder.fadd({last}, {last})"))
    assert run(site, code=NEAR, MEMSTORE_CACHE=str(place))[0] == ["6.0", "24.0"]
    assert kept(place) == before


def test_every_module_that_a_kernel_takes_from_is_watched_for_changes() -> None:
    watched = {path.resolve() for path in compiling.SOURCES}
    package = Path(compiling.__file__).parents[1]
    for source in Path(compiling.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("memstore."):
                parts = str(node.module).split(".")[1:]
                assert package.joinpath(*parts).with_suffix(".py") in watched, source


VERBS = """
import sys
import numpy as np
from memstore.config import MemoryConfig
from memstore.kernels import blend, codes, fetch, group, lists, magnitude
from memstore.kernels import score, select, step, whole
from memstore.memory import SearchOptions
from memstore.embedded import EmbeddedMemory
from memstore.warm import warm

KERNELS = (blend, codes, fetch, group, lists, magnitude, score, select, step, whole)

def signatures():
    modules = [vars(module) for module in KERNELS]
    return sum(len(f.signatures) for m in modules for f in m.values() if hasattr(f, "stats"))

config = MemoryConfig(dim=5, value_dim=3, optimizer=sys.argv[1], index="clustered")
warm([config])
print(signatures())
memory = EmbeddedMemory("m", config)
keys, values = np.eye(5, dtype=np.float32), np.ones((5, 3), np.float32)
for writeable in (True, False):  # as a caller has them, and as they come over the wire
    keys.flags.writeable = values.flags.writeable = writeable
    slots = memory.append(keys, values)
    slots.flags.writeable = writeable
    memory.write(slots, keys)
    memory.update(slots[::-1], keys, values)
    memory.blend(slots, np.ones(5), keys, keys)
    for again in range(2):
        memory.search(keys, 2)
        memory.search(keys, 2, SearchOptions(exact=True))
        memory.reindex()
print(signatures())
"""


def test_warming_up_leaves_no_verb_a_kernel_to_compile() -> None:
    # Of the package itself, whose kernels are kept: which there are is asked, not how they came.
    command = [sys.executable, "-W", "error", "-c", VERBS, "sgd"]
    package = Path(compiling.__file__).parents[1]
    done = subprocess.run(command, cwd=package.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = done.stdout.split()
    assert int(before) > 5
    assert before == after


def test_no_kernel_goes_past_the_decorator() -> None:
    for source in Path(compiling.__file__).parent.glob("*.py"):
        assert "njit" not in source.read_text() or source.name == "compiling.py"

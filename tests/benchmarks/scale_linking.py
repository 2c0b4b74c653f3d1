"""Names of as many entities as Freebase FB5M has, mapped from disk, beside a dict of Python.

Names and aliases are those of `models.tasks.synthetic_texts`, two fifths of them shared. Both are
asked who bears a name, names that there are and names that there are not, one by one; then the
names in questions are found, which a dict cannot do. Each is a process of its own: what it holds is
what the system says is resident, less what was before, pages of the mapped files that were looked
at among it.

    python -m tests.benchmarks.scale_linking 1000000       # another number of entities
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.tasks.linking import AliasIndex, normalise
from models.tasks.synthetic_freebase import FB5M
from models.tasks.synthetic_texts import WORDINGS, Texts
from tests.benchmarks.peers.client import ROOT
from tests.benchmarks.runner import Figure, at_least, at_most
from tests.ingest.measured import resident
from workers.ingest import keeping

ASKED = 200_000
QUESTIONS = 5_000

MOST_BYTES, LEAST_RATE = 0.2, 20_000
"""Of the dict's bytes; names a second."""


def run(quick: bool) -> Iterator[Figure]:
    """Measures FB5M's number of entities, or a hundredth of it."""
    yield from measure(FB5M.entities // (100 if quick else 1), targets=not quick)


def measure(entities: int, *, targets: bool) -> Iterator[Figure]:
    """Measures so many entities."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".linking-") as folder:
        built, mapped, dict_ = (_alone(mode, entities, folder) for mode in MODES)
    names = built["names"]
    case = f"{names:,.0f} distinct names of {entities:,} entities"
    yield Figure("build_s", case, built["seconds"], "s", dict_["seconds"])
    yield Figure("build_peak", case, built["peak"], "bytes", dict_["held"])
    by_dict = dict_["held"] / names
    for name, of, when in (("kept", built["bytes"], "on disk"), ("held", mapped["held"], "asked")):
        words = f"{case}, {when}; peer: a dict of lists"
        figure = Figure(name, words, of / names, "bytes/name", by_dict)
        yield at_most(MOST_BYTES, figure) if targets else figure
    rate = Figure("lookups", f"{case}, one by one", mapped["lookups"], "names/s")
    yield at_least(LEAST_RATE, rate) if targets else rate
    yield Figure("lookups_of_a_dict", f"{case}, one by one", dict_["lookups"], "names/s")
    yield Figure("linking", f"{case}, names found in questions", mapped["linking"], "questions/s")
    yield Figure("opening_s", f"{case}, sums of all bytes checked", mapped["opening_s"], "s")


def build(entities: int, folder: Path) -> dict[str, float]:
    """Builds and keeps the index."""
    aliases = _aliases(entities)
    weights = np.zeros(entities, np.int64)
    before, start = resident("VmRSS"), time.perf_counter()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    index = AliasIndex.build(aliases, weights)
    index.save(folder)
    return {
        "seconds": time.perf_counter() - start,
        "peak": resident("VmHWM") - before,
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "names": len(index),
    }


def mapped(entities: int, folder: Path) -> dict[str, float]:
    """Opens the index, and asks."""
    asked = _asked(entities)
    before, start = _held(), time.perf_counter()
    index = AliasIndex.load(folder)
    opening_s = time.perf_counter() - start
    found: dict[str, float] = {"opening_s": opening_s, "lookups": _rate(index.candidates, asked)}
    found["held"] = _held() - before
    texts = [WORDINGS[i % len(WORDINGS)].format("work", n) for i, n in enumerate(asked[:QUESTIONS])]
    found["linking"] = _rate(index.link, texts)
    return found


def of_dict(entities: int, folder: Path) -> dict[str, float]:
    """Fills a dict, and asks."""
    aliases = _aliases(entities)
    asked = _asked(entities)
    before, start = _held(), time.perf_counter()
    bearers: dict[str, list[int]] = {}
    for batch in aliases.to_batches():
        rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
        for alias, entity in rows:
            bearers.setdefault(normalise(alias), []).append(entity)
    seconds = time.perf_counter() - start
    rate = _rate(lambda name: bearers.get(normalise(name), ()), asked)
    return {"seconds": seconds, "held": _held() - before, "lookups": rate}


MODES: dict[str, Callable[[int, Path], dict[str, float]]] = {
    "build": build,
    "mapped": mapped,
    "dict": of_dict,
}


def _held() -> int:
    """Bytes resident, less what nobody uses any more."""
    gc.collect()
    keeping.give_back()
    return resident("VmRSS")


def _rate(ask: Callable[[str], Any], texts: list[str]) -> float:
    start = time.perf_counter()
    for text in texts:
        ask(text)
    return len(texts) / (time.perf_counter() - start)


def _aliases(entities: int) -> pa.Table:
    """The names and aliases of all entities, in batches."""
    texts, parts = Texts(entities, 1), list[pa.Table]()
    for first in range(0, entities, 1 << 16):
        entity_B = np.arange(first, min(first + (1 << 16), entities))
        for names in (texts.names(entity_B), texts.aliases(entity_B)):
            table = pa.table({"alias": names.cast(pa.string()), "entity": entity_B})
            parts.append(table.filter(pc.is_valid(names)))
    return pa.concat_tables(parts)


def _asked(entities: int) -> list[str]:
    """Names of entities drawn by chance, and as many that hardly anybody bears."""
    texts, rng = Texts(entities, 1), np.random.default_rng(0)
    names = texts.names(rng.integers(0, entities, ASKED // 2)).to_pylist()
    return [each for name in names for each in (name, f"{name}x")]


def _alone(mode: str, entities: int, folder: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.scale_linking", mode, str(entities), folder]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    if sys.argv[1] in MODES:
        print(json.dumps(MODES[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))))
    else:
        for figure in measure(int(sys.argv[1]), targets=False):
            print(figure)

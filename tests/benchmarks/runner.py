"""Runs one benchmark and prints its figures, one JSON object a line.

Standard output holds figures and nothing else; progress goes to standard error.

| exit | meaning |
|---|---|
| 0 | every figure that has a target meets it |
| 1 | a target was missed, or there was no figure at all |
| 2 | bad usage, such as an unknown name |
| 3 | the benchmark cannot run here, or not all of it: a dependency, peer or its data is missing |
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import importlib
import importlib.metadata
import json
import math
import os
import pkgutil
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from models.tasks.data import DataMissing

PACKAGE = "tests.benchmarks"
HELPERS = (
    *("__main__", "alone", "bare", "data", "echo", "link", "mediated", "on_ray", "parted"),
    *("plots", "runner", "scaling_model", "seeded", "stepping"),
    *("served", "started", "sweeps", "synthetic"),
)
"""Modules of the package that are no benchmark."""
OURS = ("memstore", "models", "workers", "tests")
REPORTED = ("memstore", "numpy", "numba", "pyarrow", "torch", "faiss-cpu", "faiss-gpu", "ray")


class Unavailable(Exception):
    """The benchmark cannot run here: a dependency, device or data set is missing."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """States one measured number and, where there are, its peer and its target.

    name    what was measured, such as `search_rate`
    case    under which conditions, such as `1M x 128, batch 64, 2 threads`
    value   finite, in `unit`
    peer    the same measured on what it is compared with, in `unit`; not zero
    ratio   value / peer where nothing better is given, such as a median of paired ratios
    target  the bound in words, such as `at least 2 x peer`
    met     whether the target is met; None exactly where `target` is None
    """

    name: str
    case: str
    value: float
    unit: str
    peer: float | None = None
    ratio: float | None = None
    target: str | None = None
    met: bool | None = None

    def __post_init__(self) -> None:
        if self.peer == 0:
            raise ValueError(f"figure {self.name!r}: peer must not be 0, there is no ratio to it")
        if self.ratio is None and self.peer is not None:
            object.__setattr__(self, "ratio", self.value / self.peer)
        for field in ("value", "peer", "ratio"):
            number = getattr(self, field)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"figure {self.name!r}: {field} must be finite, got {number}")
        if (self.target is None) != (self.met is None):
            raise ValueError(
                f"figure {self.name!r}: target and met go together, "
                f"got target={self.target!r} and met={self.met!r}"
            )


def at_least(bound: float, figure: Figure) -> Figure:
    """Adds the target: ratio to the peer, or without a peer the value, >= bound."""
    met = bool(_judged(figure) >= bound)
    return dataclasses.replace(figure, target=f"at least {_words(bound, figure)}", met=met)


def at_most(bound: float, figure: Figure) -> Figure:
    """Adds the target: ratio to the peer, or without a peer the value, <= bound."""
    met = bool(_judged(figure) <= bound)
    return dataclasses.replace(figure, target=f"at most {_words(bound, figure)}", met=met)


@dataclasses.dataclass(frozen=True)
class Missing:
    """Stands for figures that could not be measured here, and says why: they are not met."""

    name: str
    why: str


@dataclasses.dataclass(frozen=True)
class Curve:
    """Holds one line of a plot; curves of the same `plot` share its axes, named by `x` and `y`.

    points  (x, y), finite; `log_x`, `log_y` draw them on a logarithmic scale
    """

    plot: str
    label: str
    x: str
    y: str
    points: Sequence[tuple[float, float]]
    log_y: bool = False
    log_x: bool = False


Measured = Figure | Missing | Curve


@dataclasses.dataclass(frozen=True)
class Paired:
    """Holds the medians of two callables timed in turn, and the median of a's time over b's."""

    a_s: float
    b_s: float
    ratio: float


def paired_medians(a: Callable[[], object], b: Callable[[], object], rounds: int) -> Paired:
    """Times two callables in turn, A B A B ..., so that both see the same noise of the machine.

    Each is called once before, untimed, to compile and to warm caches. rounds >= 1.
    """
    return paired_seconds(lambda: _seconds(a), lambda: _seconds(b), rounds)


def paired_seconds(a: Callable[[], float], b: Callable[[], float], rounds: int) -> Paired:
    """As `paired_medians`, of callables that time themselves and return seconds."""
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    a()
    b()
    times = [(a(), b()) for _ in range(rounds)]
    return Paired(
        a_s=statistics.median(a_s for a_s, _ in times),
        b_s=statistics.median(b_s for _, b_s in times),
        ratio=statistics.median(a_s / b_s for a_s, b_s in times),
    )


def environment() -> dict[str, object]:
    """Describes the machine and the versions that the figures hold for."""
    return {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: version for name in REPORTED if (version := _version(name))},
    }


def benchmarks(package: str = PACKAGE) -> dict[str, str]:
    """Returns each benchmark's name and the first line of its docstring, without importing it."""
    folder = importlib.import_module(package).__path__
    found = {}
    for module in pkgutil.iter_modules(folder):
        if not module.ispkg and module.name not in HELPERS:
            source = Path(folder[0], f"{module.name}.py").read_text(encoding="utf-8")
            about = ast.get_docstring(ast.parse(source)) or ""
            found[module.name] = about.partition("\n")[0]
    return found


def run(name: str, quick: bool, package: str = PACKAGE) -> Iterator[Measured]:
    """Yields what is measured by one benchmark; raises Unavailable where it cannot run."""
    try:
        yield from importlib.import_module(f"{package}.{name}").run(quick)
    except DataMissing as missing:
        raise Unavailable(str(missing)) from missing
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] in OURS:
            raise
        raise Unavailable(f"package {missing.name!r} is not installed") from missing


def main(argv: Sequence[str] | None = None, package: str = PACKAGE) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(prog=f"python -m {PACKAGE}", description="Run one benchmark.")
    parser.add_argument("name", nargs="?", help="which one; --list tells")
    parser.add_argument("--list", action="store_true", help="list the benchmarks")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw its curves into DIR")
    options = parser.parse_args(argv)

    known = benchmarks(package)
    if options.list:
        for name, about in known.items():
            print(f"{name:24} {about}")
        return 0
    if options.name not in known:
        wrong = f"unknown benchmark {options.name!r}" if options.name else "no benchmark named"
        parser.error(f"{wrong}; known: {', '.join(known) or 'none'}")

    print(json.dumps(environment()), file=sys.stderr)
    figures: list[Figure] = []
    missing: list[Missing] = []
    curves: list[Curve] = []
    stdout = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):
            for measured in run(options.name, options.quick, package):
                if isinstance(measured, Figure):
                    figures.append(measured)
                    line = json.dumps(dataclasses.asdict(measured), default=float)
                    print(line, file=stdout, flush=True)
                elif isinstance(measured, Missing):
                    missing.append(measured)
                    print(f"not measured: {measured.name}: {measured.why}", file=sys.stderr)
                else:
                    curves.append(measured)
            if options.plot and curves:
                draw(curves, options.plot, options.name)
    except Unavailable as reason:
        print(f"{options.name} cannot run here: {reason}", file=sys.stderr)
        return 3
    if not figures:
        print(f"{options.name} measured nothing", file=sys.stderr)
    if missing:
        names = ", ".join(dict.fromkeys(lacking.name for lacking in missing))
        print(f"{options.name} lacks {names}: its targets are not met", file=sys.stderr)
    if not all(figure.met is not False for figure in figures):
        return 1
    return 3 if missing else 0 if figures else 1


def draw(curves: Sequence[Curve], folder: Path, name: str) -> None:
    """Draws the curves, a file a plot; see `plots`, which needs matplotlib."""
    plots = importlib.import_module(f"{PACKAGE}.plots")
    for path in plots.draw(curves, folder, name):
        print(f"drew {path}", file=sys.stderr)


def _judged(figure: Figure) -> float:
    return figure.value if figure.ratio is None else figure.ratio


def _words(bound: float, figure: Figure) -> str:
    return f"{bound:g} {figure.unit}" if figure.ratio is None else f"{bound:g} x peer"


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def processor() -> str:
    """The model of this machine's processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None

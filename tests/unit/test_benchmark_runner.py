"""The benchmark runner: figures, their targets, exit statuses and what goes to which stream."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.benchmarks import runner
from tests.benchmarks.runner import Figure, at_least, at_most, paired_medians, paired_seconds

MET = 'yield at_least(2, Figure("rate", "64 rows", 30.0, "rows/s", peer=10.0))'
LACKING = 'yield Missing("hnswlib", "no peers; make peers")'
CURVE = 'yield Curve("Search", "memstore", "recall", "rate", [(0.9, 5.0), (0.5, 9.0)], log_y=True)'
MISSED = 'yield at_most(1, Figure("size", "64 rows", 3.0, "bytes"))'
Run = Callable[..., int]


@pytest.fixture
def run_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Returns a function that runs the command line on one benchmark with the given body."""
    package = f"benchmarks_of_{tmp_path.name}"
    folder = tmp_path / package
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    def run(body: str, *argv: str) -> int:
        head = '"""Measure nothing real."""\nfrom tests.benchmarks.runner import *\n'
        function = "def run(quick):\n    " + body.replace("\n", "\n    ")
        (folder / "one.py").write_text(f"{head}{function}\n", encoding="utf-8")
        try:
            return runner.main(argv or ("one",), package=package)
        finally:
            sys.modules.pop(f"{package}.one", None)

    return run


def test_a_met_target_is_one_json_line_and_exit_0(
    run_with: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(f"print('working')\n{MET}") == 0
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == [
        {
            "name": "rate",
            "case": "64 rows",
            "value": 30.0,
            "unit": "rows/s",
            "peer": 10.0,
            "ratio": 3.0,
            "target": "at least 2 x peer",
            "met": True,
        }
    ]
    assert "working" in err
    assert json.loads(err.splitlines()[0])["cores"] >= 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('yield Figure("rate", "no target", 1.0, "rows/s")', 0),
        (f"{MET}\n{MISSED}\n{MET}", 1),
        ("yield from ()", 1),
        (f"{MET}\n{LACKING}", 3),
        (f"{MISSED}\n{LACKING}", 1),
        (CURVE, 1),
        ("raise Unavailable('no GPU')\nyield", 3),
        ("import no_such_package\nyield", 3),
        (f"{MISSED}\nimport no_such_package", 3),
        ("from models.tasks.data import require\nyield require('no/such/data')", 3),
    ],
)
def test_exit_status(run_with: Run, body: str, status: int) -> None:
    assert run_with(body) == status


def test_unavailable_says_what_is_missing(
    run_with: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run_with("import no_such_package\nyield")
    assert "one cannot run here: package 'no_such_package'" in capsys.readouterr().err


def test_what_is_missing_is_named_and_no_figure(
    run_with: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run_with(f"{MET}\n{LACKING}")
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert "not measured: hnswlib: no peers; make peers" in err
    assert "one lacks hnswlib: its targets are not met" in err


def test_plot_draws_a_file_for_each_plot(
    run_with: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    other = CURVE.replace("Search", "Learning, 2 M")
    body = f"{MET}\n{CURVE}\n{CURVE.replace('memstore', 'peer')}\n{other}"
    assert run_with(body, "one", "--plot", str(tmp_path / "drawn")) == 0
    drawn = sorted((tmp_path / "drawn").iterdir())
    assert [path.name for path in drawn] == ["one-learning-2-m.png", "one-search.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_broken_import_of_ours_is_a_bug_and_not_unavailable(run_with: Run) -> None:
    with pytest.raises(ModuleNotFoundError):
        run_with("import memstore.no_such_module\nyield")


def test_quick_reaches_the_benchmark(run_with: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run_with('yield Figure("quick", "", float(quick), "")', "one", "--quick")
    assert json.loads(capsys.readouterr().out)["value"] == 1.0


@pytest.mark.parametrize("argv", [("two",), ("--quick",), ("one", "--fast")])
def test_bad_usage_exits_2(
    run_with: Run, argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run_with(MET, *argv)
    assert stop.value.code == 2
    assert capsys.readouterr().out == ""


def test_an_unknown_name_lists_the_known(run_with: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_with(MET, "two")
    assert "unknown benchmark 'two'; known: one" in capsys.readouterr().err


def test_list_shows_names_and_docstrings(run_with: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(MET, "--list") == 0
    assert capsys.readouterr().out.split(maxsplit=1) == ["one", "Measure nothing real.\n"]


def test_every_benchmark_says_in_a_line_what_it_measures() -> None:
    assert all(runner.benchmarks().values())


@pytest.mark.parametrize(
    ("target", "bound", "peer", "words", "met"),
    [
        (at_least, 2, 3.0, "at least 2 x peer", True),
        (at_least, 2.5, 3.0, "at least 2.5 x peer", False),
        (at_most, 2, 3.0, "at most 2 x peer", True),
        (at_most, 1.5, 3.0, "at most 1.5 x peer", False),
        (at_least, 6, None, "at least 6 s", True),
        (at_most, 5.5, None, "at most 5.5 s", False),
    ],
)
def test_targets_judge_the_ratio_or_without_a_peer_the_value(
    target: Callable[[float, Figure], Figure],
    bound: float,
    peer: float | None,
    words: str,
    met: bool,
) -> None:
    figure = target(bound, Figure("time", "", 6.0, "s", peer=peer))
    assert (figure.target, figure.met) == (words, met)
    assert figure.ratio == (None if peer is None else 2.0)


def test_a_ratio_that_is_given_is_kept() -> None:
    assert at_most(1, Figure("time", "", 6.0, "s", peer=3.0, ratio=0.9)).met


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": math.nan},
        {"value": 1.0, "peer": math.inf},
        {"value": 1.0, "peer": 0.0},
        {"value": 1.0, "target": "at least 1 s"},
        {"value": 1.0, "met": True},
    ],
)
def test_a_figure_that_says_nothing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="figure 'time'"):
        Figure(name="time", case="", unit="s", **wrong)  # type: ignore[arg-type]


def test_paired_medians_takes_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    clock = 0.0

    def spend(name: str, seconds: float) -> None:
        nonlocal clock
        calls.append(name)
        clock += seconds

    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    paired = paired_medians(lambda: spend("a", 1), lambda: spend("b", 4), rounds=3)
    assert calls == ["a", "b"] * 4
    assert (paired.a_s, paired.b_s, paired.ratio) == (1.0, 4.0, 0.25)


def test_paired_seconds_takes_the_times_that_callables_tell() -> None:
    told_a, told_b = iter([9.0, 1.0, 2.0, 6.0]), iter([9.0, 2.0, 2.0, 3.0])
    paired = paired_seconds(lambda: next(told_a), lambda: next(told_b), rounds=3)
    assert (paired.a_s, paired.b_s, paired.ratio) == (2.0, 2.0, 1.0)


def test_paired_medians_refuses_no_rounds() -> None:
    with pytest.raises(ValueError, match="got 0"):
        paired_medians(lambda: None, lambda: None, rounds=0)

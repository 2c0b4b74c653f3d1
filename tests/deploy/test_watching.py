"""What watches a server: a dashboard that asks for metrics that there are, and who scrapes them."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import EncodingConfig, IndexConfig, MemoryConfig
from memstore.errors import UnknownSlot
from memstore.metrics import registry
from memstore.recall import measure_recall
from tests.deploy import DEPLOY
from tests.deploy.serving import PORTS

yaml = pytest.importorskip("yaml")

DASHBOARD = json.loads((DEPLOY / "grafana.json").read_text())
PANELS = DASHBOARD["panels"]
SCRAPING = DEPLOY / "prometheus.yml"


def expressions() -> list[str]:
    """What the dashboard asks for, with its variables filled in."""
    return [
        target["expr"].replace("$__rate_interval", "5m").replace("$memory", ".*")
        for panel in PANELS
        for target in panel["targets"]
    ]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The labels of each metric of a store with an index, an error, a recall and parts."""
    keys = np.random.default_rng(0).standard_normal((500, 4), np.float32)
    with memstore.open(tmp_path_factory.mktemp("store")) as store:
        words = store.create("words", MemoryConfig(dim=4, index=IndexConfig(clusters=4)))
        words.append(keys)
        words.reindex()
        measure_recall(words, keys[:5])
        with pytest.raises(UnknownSlot):
            words.gather([1_000])
        facts = MemoryConfig(
            dim=4, records={"of": "int64"}, encoding=EncodingConfig(key={"of": "words"})
        )
        store.create("facts", facts).append(records={"of": np.arange(5)})
        found: dict[str, set[str]] = {}
        for family in registry(store, {("someone", "calls"): 1}).collect():
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
        return found


def test_the_dashboard_asks_for_what_a_store_exports(exported: dict[str, set[str]]) -> None:
    parser = pytest.importorskip("promql_parser")
    asked: set[str] = set()

    def walk(part: Any) -> None:
        """Notes each metric below a part of an expression, and checks the labels asked of it."""
        if isinstance(part, parser.VectorSelector):
            asked.add(part.name)
            assert {matcher.name for matcher in part.matchers.matchers} <= exported[part.name]
        for name in ("expr", "vector_selector", "lhs", "rhs"):
            if hasattr(part, name):
                walk(getattr(part, name))
        for argument in getattr(part, "args", ()):
            walk(argument)

    for expression in expressions():
        walk(parser.parse(expression))
    assert len(asked) >= 15
    assert asked <= set(exported)
    (memories,) = (v["query"] for v in DASHBOARD["templating"]["list"] if v["name"] == "memory")
    name, _, label = memories.removeprefix("label_values(").removesuffix(")").partition(", ")
    assert label in exported[name]


def test_each_panel_says_what_it_shows_and_has_a_place_of_its_own() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert all(panel["title"] and panel["description"] and panel["targets"] for panel in PANELS)
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"${source}"}
    for one, other in itertools.combinations((panel["gridPos"] for panel in PANELS), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in PANELS)


def test_prometheus_scrapes_where_a_server_is_told_to_export() -> None:
    (job,) = yaml.safe_load(SCRAPING.read_text())["scrape_configs"]
    (static,) = job["static_configs"]
    (target,) = static["targets"]
    assert target == f"127.0.0.1:{PORTS[1]}"
    for name in ("Dockerfile", "memstore.service"):
        assert target in (DEPLOY / name).read_text()


def test_prometheus_reads_the_file_and_every_expression(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt install prometheus")
    rules = tmp_path / "rules.yml"
    recorded = [{"record": f"r:{i}", "expr": expr} for i, expr in enumerate(expressions())]
    rules.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": recorded}]}))
    for what, path in (("config", SCRAPING), ("rules", rules)):
        done = subprocess.run(
            [promtool, "check", what, path], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

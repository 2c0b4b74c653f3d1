"""Every verb answers as the oracle does where all that can be is on a device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, run_state_machine_as_test

from memstore import IndexConfig, MemoryConfig
from memstore.index import devices
from tests.congruence.drawn import EVERY_LIST, configs, dtypes, indexes
from tests.congruence.encoded_verbs import EncodedVerbs
from tests.congruence.test_verbs import RUNS
from tests.congruence.verbs import Verbs
from tests.gpu import stand_in
from tests.gpu.stand_in import PLACES


def there(index: IndexConfig) -> IndexConfig:
    if index.kind not in ("exact", "clustered"):
        return index
    # A GPU searches no codes of pq4.
    return replace(index, device="cuda:0", codec="sq8" if index.codec == "pq4" else index.codec)


def all_there(config: MemoryConfig) -> MemoryConfig:
    return replace(config, index=there(config.index_config))


class DeviceVerbs(Verbs):
    @initialize(config=configs.map(all_there))
    def make(self, config: MemoryConfig) -> None:
        super().make(config)


class EncodedDeviceVerbs(EncodedVerbs):
    @initialize(
        shards=st.sampled_from([1, 3]),
        dtype=dtypes,
        index=indexes.map(there),
        kind=st.sampled_from(["int64", "list<int64>"]),
    )
    def make(self, shards: int, dtype: Any, index: IndexConfig, kind: str) -> None:
        super().make(shards, dtype, index, kind)


@pytest.mark.parametrize("verbs", [DeviceVerbs, EncodedDeviceVerbs])
@pytest.mark.parametrize("place", PLACES)
def test_every_verb_answers_as_the_oracle_does(
    monkeypatch: pytest.MonkeyPatch, place: str, verbs: Any
) -> None:
    stand_in.choose(monkeypatch, place)
    run_state_machine_as_test(verbs, settings=RUNS)
    assert EVERY_LIST > devices.MOST

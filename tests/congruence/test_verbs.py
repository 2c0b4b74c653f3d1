"""Any run of verbs leaves a memory and the oracle with the same rows, records and answers."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, run_state_machine_as_test

from memstore import MemoryConfig
from tests.conftest import LONG
from tests.congruence.drawn import configs
from tests.congruence.encoded_verbs import EncodedVerbs
from tests.congruence.served import (
    AsyncPiecesStore,
    AsyncServedStore,
    AsyncSessionStore,
    PiecesStore,
    ServedStore,
    SessionStore,
)
from tests.congruence.spread import (
    AsyncSpreadStore,
    ForwardedStore,
    SpreadSessionStore,
    SpreadStore,
)
from tests.congruence.verbs import Verbs

RUNS = settings(
    max_examples=100 if LONG else 20,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.generate],
)
FEWER, FEWEST = (
    settings(RUNS, max_examples=many if LONG else few) for few, many in ((6, 40), (4, 30))
)
"""For what is served, and by several servers: a step takes several times as long."""


def test_a_memory_is_the_oracle() -> None:
    run_state_machine_as_test(Verbs, settings=RUNS)


def test_an_encoded_memory_is_the_oracle() -> None:
    run_state_machine_as_test(EncodedVerbs, settings=RUNS)


class SummedVerbs(EncodedVerbs):
    """Facts that keep no keys."""

    stored = False


def test_an_encoded_memory_that_keeps_no_keys_is_the_oracle() -> None:
    run_state_machine_as_test(SummedVerbs, settings=RUNS)


SERVED = [ServedStore, SessionStore, PiecesStore]
AWAITED = [AsyncServedStore, AsyncSessionStore, AsyncPiecesStore]


@pytest.mark.parametrize("store", [*SERVED, *AWAITED])
@pytest.mark.parametrize("verbs", [Verbs, EncodedVerbs, SummedVerbs])
def test_a_served_memory_is_the_oracle(store: type, verbs: type[RuleBasedStateMachine]) -> None:
    served = type(f"{store.__name__}{verbs.__name__}", (verbs,), {"opened": store})
    run_state_machine_as_test(served, settings=FEWER)


SPREAD = [SpreadStore, ForwardedStore, SpreadSessionStore, AsyncSpreadStore]


class SpreadVerbs(Verbs):
    """The same over four servers, with more shards than these, and fewer."""

    @initialize(config=configs, shards=st.sampled_from([1, 3, 4, 9]))
    def make(self, config: MemoryConfig, shards: int) -> None:
        super().make(MemoryConfig.from_dict(config.to_dict() | {"shards": shards}))


@pytest.mark.parametrize("store", SPREAD)
def test_a_memory_on_four_servers_is_the_oracle(store: type) -> None:
    spread = type(f"{store.__name__}Verbs", (SpreadVerbs,), {"opened": store})
    run_state_machine_as_test(spread, settings=FEWEST)


class SpreadEncodedVerbs(EncodedVerbs):
    """Facts on as many of four servers as their parts, or on more."""

    @staticmethod
    def fact_shards(shards: int) -> int:
        return shards + 2


@pytest.mark.parametrize("store", SPREAD)
def test_an_encoded_memory_on_four_servers_is_the_oracle(store: type) -> None:
    spread = type(f"{store.__name__}EncodedVerbs", (SpreadEncodedVerbs,), {"opened": store})
    run_state_machine_as_test(spread, settings=FEWEST)

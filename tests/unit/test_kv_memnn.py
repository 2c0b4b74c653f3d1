"""The key-value memory network: its equations against a dense reference, and what it can learn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import memstore
from memstore import NO_SLOT, EncodingConfig, Memory, MemoryConfig, SearchOptions
from memstore.torch import RowOptimizer, RowTable, SparseReader
from models.asked import Asked
from models.hop_loss import hops_loss
from models.kv_memnn import LEAST, KVMemNN, answer_loss
from tests.unit.few_facts import FACTS, Few, dense_facts, few, waiting

D, ENTITIES, RELATIONS, WORDS = 8, 6, 3, 5


@pytest.fixture
def network(tmp_path: Path) -> Iterator[KVMemNN]:
    """A network in float64 over six facts."""
    rng = np.random.default_rng(0)
    store = memstore.open(tmp_path / "store")

    def table(name: str, rows: int) -> RowTable:
        config = MemoryConfig(dim=D, dtype="float64", index="none", optimizer="sgd")
        memory = store.create(name, config)
        memory.append(rng.standard_normal((rows, D)))
        return RowTable(memory)

    words, entities, relations = (
        table("words", WORDS),
        table("entities", ENTITIES),
        table("relations", RELATIONS),
    )
    facts = store.create(
        "facts",
        MemoryConfig(
            dim=D,
            dtype="float64",
            records={"subject": "int64", "relation": "int64", "objects": "list<int64>"},
            encoding=EncodingConfig(
                key={"subject": "entities", "relation": "relations"}, value={"objects": "entities"}
            ),
        ),
    )
    facts.append(
        records={
            "subject": [0, 0, 1, 1, 2, 3],
            "relation": [0, 1, 0, 2, 1, 2],
            "objects": [[3], [4, 5], [3, 1], [5], [0], [2, 1, 4]],
        }
    )
    reader = SparseReader(facts, k=6, parts=[entities, relations])
    yield KVMemNN(words, entities, reader, hops=2).double()
    store.close()


def rows_of(memory: Memory, rows: int) -> np.ndarray:
    keys_BD = memory.gather(np.arange(rows)).keys_BD
    assert keys_BD is not None
    return keys_BD


def dense_query(network: KVMemNN, words: list[list[int]], entities: list[int]) -> np.ndarray:
    """Equations 91-93 over all facts, in plain numpy."""
    assert isinstance(network.reader, SparseReader)
    tables = network.reader.parts
    table = {
        "words": rows_of(network.words.memory, WORDS),
        "entities": rows_of(tables["entities"].memory, ENTITIES),
        "relations": rows_of(tables["relations"].memory, RELATIONS),
    }
    columns = ["subject", "relation", "objects"]
    records = network.reader.memory.gather(np.arange(6), columns=columns).records
    assert records is not None
    facts = records.to_pylist()
    keys = np.stack(
        [table["entities"][f["subject"]] + table["relations"][f["relation"]] for f in facts]
    )
    values = np.stack([table["entities"][f["objects"]].mean(axis=0) for f in facts])
    queries = []
    for bag, entity in zip(words, entities, strict=True):
        q = table["words"][bag].sum(axis=0) + table["entities"][entity]
        for hop in network.hops:
            scores = keys @ q
            p = np.exp(scores - scores.max())
            p /= p.sum()
            q = hop.detach().numpy() @ (q + p @ values)
        queries.append(q)
    return np.stack(queries)


def test_equals_the_dense_equations_where_all_facts_are_read(network: KVMemNN) -> None:
    with torch.no_grad():
        for hop in network.hops:
            hop.add_(0.1 * torch.randn_like(hop))
        asked = Asked(np.array([[0, 1], [4, NO_SLOT]]), np.array([0, 2]))
        query = network(asked).query_QD.numpy()
    np.testing.assert_allclose(query, dense_query(network, [[0, 1], [4]], [0, 2]), rtol=1e-10)


def test_hashed_facts_are_the_only_ones_read(network: KVMemNN) -> None:
    asked = Asked(np.array([[0]]), np.array([1]), np.array([[2, 3, NO_SLOT]]))
    with torch.no_grad():
        hop = network(asked).hops[0]
    assert hop.weights_QK[0, 2] == 0
    assert float(hop.weights_QK.sum()) == pytest.approx(1.0)


def test_gradients_of_the_own_weights(network: KVMemNN) -> None:
    asked = Asked(np.array([[0, 3], [2, 1]]), np.array([0, 1]))
    answers = np.array([[3, 5, NO_SLOT], [5, 3, 0]])

    def loss(*hops: torch.Tensor) -> torch.Tensor:
        for own, given in zip(network.hops, hops, strict=True):
            own.data = given.data
        named = {f"hops.{i}": hop for i, hop in enumerate(hops)}
        answered = torch.func.functional_call(network, named, (asked,))
        return answer_loss(network, answered, answers)[0]

    weights = tuple(hop.detach().clone().requires_grad_() for hop in network.hops)
    assert torch.autograd.gradcheck(loss, weights)


def test_answers_are_ranked_by_what_was_read_as_well(network: KVMemNN) -> None:
    slots = np.array([[0, 1], [2, NO_SLOT]])
    asked = Asked(np.array([[0, 3], [2, 1]]), np.array([0, 1]), slots)
    answers = np.array([[3, 5, 0, NO_SLOT], [1, 2, 3, 3]])
    objects = {0: [3], 1: [4, 5], 2: [3, 1]}
    with torch.no_grad():
        answered = network(asked)
        plain = network.score(answered, answers).numpy()
        network.trust = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        found = network.score(answered, answers).numpy()
    weights = answered.hops[-1].weights_QK.numpy()
    for q, c in np.ndindex(answers.shape):
        read = sum(
            weights[q, k]
            for k, slot in enumerate(slots[q])
            if answers[q, c] in objects.get(int(slot), [])
        )
        expected = plain[q, c] + 2.0 * np.log(1e-4 + read)
        assert found[q, c] == pytest.approx(expected, rel=1e-12)

    answers = answers[:, [2, 0, 1]]  # Those that were read are not right: the loss is large.
    loss, _ = answer_loss(network, network(asked), answers)
    loss.backward()
    trust, step = network.trust, 1e-6
    assert trust.grad is not None
    sides = []
    with torch.no_grad():
        for own in (2.0 + step, 2.0 - step):
            trust.fill_(own)
            sides.append(float(answer_loss(network, network(asked), answers)[0]))
    assert float(trust.grad) == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-5)


def test_rows_get_the_gradients_of_the_dense_network(network: KVMemNN) -> None:
    """A step moves an entity row as finite differences of the loss say it must."""
    asked = Asked(np.array([[0, 3], [2, 1]]), np.array([0, 1]))
    answers = np.array([[3, 5, 1], [5, 3, 0]])
    entities = network.entities.memory

    def loss() -> torch.Tensor:
        return answer_loss(network, network(asked), answers)[0]

    row = entities.gather(np.array([3])).keys_BD
    assert row is not None
    numeric = np.zeros(D)
    for d in range(D):
        for sign in (1.0, -1.0):
            shifted = row.copy()
            shifted[0, d] += sign * 1e-5
            entities.write(np.array([3]), shifted)
            with torch.no_grad():
                numeric[d] += sign * float(loss()) / 2e-5
    entities.write(np.array([3]), row)
    network.reader.memory.refresh()
    loss().backward()
    RowOptimizer([network.entities], lr=1.0).step()
    after = entities.gather(np.array([3])).keys_BD
    assert after is not None
    np.testing.assert_allclose((row - after)[0], numeric, atol=1e-8)


def test_overfits_fifty_questions(tmp_path: Path) -> None:
    """Fifty questions, each with a fact of its own to find among 400: all answered rightly."""
    rng = np.random.default_rng(1)
    entities_count, relations_count = 100, 8
    with memstore.open(tmp_path / "store") as store:

        def table(name: str, rows: int) -> RowTable:
            memory = store.create(name, MemoryConfig(dim=32, index="none", optimizer="adagrad"))
            memory.append(rng.standard_normal((rows, 32)) / 4)
            return RowTable(memory)

        words, entities = table("words", relations_count * 2), table("entities", entities_count)
        relations = table("relations", relations_count)
        facts = store.create(
            "facts",
            MemoryConfig(
                dim=32,
                records={"subject": "int64", "relation": "int64", "object": "int64"},
                lookup=("subject",),
                encoding=EncodingConfig(
                    key={"subject": "entities", "relation": "relations"},
                    value={"object": "entities"},
                ),
            ),
        )
        pairs = np.stack(np.meshgrid(np.arange(50), np.arange(relations_count)), -1).reshape(-1, 2)
        objects = rng.integers(50, entities_count, len(pairs))
        facts.append(records={"subject": pairs[:, 0], "relation": pairs[:, 1], "object": objects})
        asked_facts = rng.choice(len(pairs), 50, replace=False)
        subject, relation = pairs[asked_facts].T
        bags = np.stack([relation * 2, relation * 2 + 1], axis=1)
        hashed = facts.lookup("subject", subject, 16).padded()
        asked = Asked(bags, subject, hashed)
        others = np.arange(50, entities_count)
        answers = np.stack([[o, *others[others != o]] for o in objects[asked_facts]])

        reader = SparseReader(
            facts, k=16, parts=[entities, relations], options=SearchOptions(exact=True)
        )
        network = KVMemNN(words, entities, reader, hops=2)
        dense = torch.optim.Adam(network.parameters(), lr=1e-2)
        rows = RowOptimizer([words, entities, relations], lr=0.1)
        hits = 0.0
        for _ in range(200):
            loss, hits = answer_loss(network, network(asked), answers)
            if hits == 1.0:
                break
            dense.zero_grad()
            loss.backward()
            dense.step()
            rows.step()
        assert hits == 1.0


def test_answers_may_have_rows_of_their_own(tmp_path: Path) -> None:
    """B apart from A: scores, and the gradients of all rows, are those of the dense equations."""
    asked = Asked(np.array([[0, 3], [2, NO_SLOT]]), np.array([0, 3]))
    answers = np.array([[3, 5, NO_SLOT], [2, 6, 0]])
    with memstore.open(tmp_path / "store") as store:
        facts = few(store)
        config = MemoryConfig(dim=D, dtype="float64", index="none", optimizer="sgd")
        rows = np.random.default_rng(3).standard_normal((7, D))
        store.create("answers", config).append(rows)
        own = RowTable(store.memory("answers"))
        reader = SparseReader(facts.facts, k=8, parts=[facts.entities, facts.relations])
        network = KVMemNN(facts.words, facts.entities, reader, hops=2, answers=own).double()
        loss, _ = answer_loss(network, network(asked), answers)
        loss.backward()

        dense = {**facts.dense(), "answers": torch.from_numpy(rows).requires_grad_()}
        keys_ND, values_ND = dense_facts(dense)
        total = torch.zeros(()).double()
        for bag, entity, choices in zip(asked.words_QW, asked.entity_Q, answers, strict=True):
            query = dense["words"][bag[bag != NO_SLOT]].sum(0) + dense["entities"][entity]
            for hop in network.hops:
                query = hop.detach() @ (query + torch.softmax(keys_ND @ query, 0) @ values_ND)
            scores = dense["answers"][choices[choices != NO_SLOT]] @ query
            total = total + torch.logsumexp(scores, 0) - scores[0]
        (total / 2).backward()
        torch.testing.assert_close(loss, total / 2)
        for table in [*facts.tables, own]:
            grad = dense[table.memory.name].grad
            assert grad is not None
            np.testing.assert_allclose(waiting(table), grad.numpy(), atol=1e-12)


SLOTS = np.array([[0, 1, 4, 5, 6], [4, 7, 2, NO_SLOT, NO_SLOT]])
AWAY = np.array([[1, 1, 2, 2, 2], [1, 2, 2, NO_SLOT, NO_SLOT]])
FAR = Asked(np.array([[0, 3], [2, NO_SLOT]]), np.array([0, 3]), SLOTS, AWAY)


class Dense:
    """The equations over the facts of each distance, question by question: last queries, and what
    each hop gave its facts."""

    def __init__(self, facts: Few, network: KVMemNN, *, follow: bool) -> None:
        self.rows = facts.dense()
        keys_ND, values_ND = dense_facts(self.rows)
        self.queries, self.weights = list[Tensor](), list[list[dict[int, Tensor]]]()
        for q, (bag, entity) in enumerate(zip(FAR.words_QW, FAR.entity_Q, strict=True)):
            query = self.rows["words"][bag[bag != NO_SLOT]].sum(0) + self.rows["entities"][entity]
            given = list[dict[int, Tensor]]()
            for distance, hop in enumerate(network.hops, 1):
                at = SLOTS[q][AWAY[q] == distance].tolist()
                scores = keys_ND[at] @ query
                if follow and given:
                    led = [
                        sum(p for i, p in given[-1].items() if FACTS[k][0] in FACTS[i][2])
                        for k in at
                    ]
                    scores = scores + torch.stack([torch.as_tensor(x + LEAST) for x in led]).log()
                p = torch.softmax(scores, 0)
                given.append(dict(zip(at, p, strict=True)))
                query = hop.detach() @ (query + p @ values_ND[at])
            self.queries.append(query)
            self.weights.append(given)

    def check(self, facts: Few) -> None:
        """The gradients that wait are those of the rows here."""
        for table in facts.tables:
            grad = self.rows[table.memory.name].grad
            assert grad is not None
            np.testing.assert_allclose(waiting(table), grad.numpy(), atol=1e-12)


def reading(facts: Few, *, follow: bool) -> KVMemNN:
    reader = SparseReader(facts.facts, k=8, parts=[facts.entities, facts.relations])
    return KVMemNN(facts.words, facts.entities, reader, hops=2, follow=follow).double()


@pytest.mark.parametrize("follow", [False, True])
def test_a_hop_reads_the_facts_that_are_so_far_away(tmp_path: Path, follow: bool) -> None:
    """Forward and gradients; `follow`: by what led to them as well."""
    answers = np.array([[6, 5, NO_SLOT], [2, 6, 0]])
    with memstore.open(tmp_path / "store") as store:
        facts = few(store, index="none")
        network = reading(facts, follow=follow)
        loss, _ = answer_loss(network, answered := network(FAR), answers)
        loss.backward()
        assert answered.read_QK.tolist() == np.where(AWAY == 2, SLOTS, NO_SLOT).tolist()

        dense = Dense(facts, network, follow=follow)
        total = torch.zeros(()).double()
        for query, choices in zip(dense.queries, answers, strict=True):
            scores = dense.rows["entities"][choices[choices != NO_SLOT]] @ query
            total = total + torch.logsumexp(scores, 0) - scores[0]
        (total / 2).backward()
        torch.testing.assert_close(loss, total / 2)
        dense.check(facts)


def test_each_hop_is_told_what_leads_on(tmp_path: Path) -> None:
    right = [{6, 1}, {4}]
    right_QA = np.array([[6, 1], [4, NO_SLOT]])
    with memstore.open(tmp_path / "store") as store:
        facts = few(store, index="none")
        network = reading(facts, follow=True)
        loss = hops_loss(facts.facts, network(FAR), AWAY, right_QA, 8)
        loss.backward()

        def near(q: int, fact: int, distance: int) -> float:
            objects = FACTS[fact][2]
            best = float(np.mean([o in right[q] for o in objects]))
            behind = SLOTS[q][AWAY[q] == distance + 1].tolist()
            for relation in range(3):
                led = [k for o in objects for k in behind if FACTS[k][:2] == (o, relation)]
                if led:
                    best = max(best, float(np.mean([near(q, k, distance + 1) for k in led])))
            return best

        dense = Dense(facts, network, follow=True)
        total = torch.zeros(()).double()
        met = 0
        for q, hops in enumerate(dense.weights):
            for distance, given in enumerate(hops, 1):
                led = {k: near(q, k, distance) for k in given}
                met += len({round(x, 6) for x in led.values()})
                if any(led.values()):
                    total = total - torch.stack([p * led[k] for k, p in given.items()]).sum().log()
        (total / 2).backward()
        assert met > 4  # Facts of a hop are not all as near.
        torch.testing.assert_close(loss, total / 2)
        dense.check(facts)

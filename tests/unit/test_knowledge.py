"""Facts are grouped, ordered and reversed as told, and parts that do not fit are refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from models.tasks.knowledge import (
    ALIAS_SCHEMA,
    ENTITY_SCHEMA,
    FACT_SCHEMA,
    Int64s,
    KnowledgeBase,
    TaskDataError,
    Triples,
    group_facts,
    with_reversed,
)

WEIGHTS = np.array([10, 5, 5, 7])


def triples(*rows: tuple[int, int, int]) -> Triples:
    return Triples(*np.array(rows, np.int64).reshape(-1, 3).T)


def rows(facts: pa.Table) -> list[tuple[int, int, list[int]]]:
    return list(zip(*(column.to_pylist() for column in facts.columns), strict=True))


def facts_of(*told: tuple[int, int, list[int]]) -> pa.Table:
    return pa.table([list(column) for column in zip(*told, strict=True)], schema=FACT_SCHEMA)


def base(
    *,
    facts: pa.Table | None = None,
    weights: Int64s = WEIGHTS,
    relations: tuple[str, ...] = ("in", "holds"),
    aliases: tuple[list[str], list[int]] = (["a", "b"], [0, 1]),
) -> KnowledgeBase:
    entities = pa.table([list("abcd"), ["letter"] * 4, weights], schema=ENTITY_SCHEMA)
    facts = facts_of((0, 0, [3, 1, 2]), (0, 1, [0]), (2, 0, [1])) if facts is None else facts
    return KnowledgeBase(entities, relations, facts, pa.table(list(aliases), schema=ALIAS_SCHEMA))


def test_facts_of_equal_subject_and_relation_are_one_row() -> None:
    told = triples((2, 1, 0), (0, 0, 2), (0, 0, 1), (0, 1, 0), (0, 0, 3), (0, 0, 2), (0, 0, 1))
    assert rows(group_facts(told, WEIGHTS)) == [(0, 0, [3, 1, 2]), (0, 1, [0]), (2, 1, [0])]


def test_grouping_agrees_with_a_dictionary() -> None:
    random = np.random.default_rng(0)
    told = Triples(*(random.integers(0, end, 2_000) for end in (20, 5, 50)))
    weights = random.integers(0, 9, 50)
    expected: dict[tuple[int, int], set[int]] = {}
    for subject, relation, entity in zip(*(column.tolist() for column in told), strict=True):
        expected.setdefault((subject, relation), set()).add(entity)
    assert rows(group_facts(told, weights)) == [
        (*key, sorted(expected[key], key=lambda entity: (-weights[entity], entity)))
        for key in sorted(expected)
    ]


def test_no_facts_group_into_no_rows() -> None:
    assert rows(group_facts(triples(), WEIGHTS)) == []


def test_every_fact_is_reversed_under_its_reverse_name() -> None:
    told = triples((0, 0, 3), (1, 1, 2))
    both, relations = with_reversed(told, ("in", "beside"), {"in": "holds", "beside": "beside"})
    assert relations == ("in", "beside", "holds")
    facts = rows(group_facts(both, WEIGHTS))
    assert facts == [(0, 0, [3]), (1, 1, [2]), (2, 1, [1]), (3, 2, [0])]


def test_a_relation_without_a_reverse_name_is_refused() -> None:
    with pytest.raises(TaskDataError, match="no reverse name of 'in'"):
        with_reversed(triples((0, 0, 3)), ("in", "beside"), {"beside": "beside"})


def test_a_base_answers() -> None:
    kb = base()
    assert kb.relation("holds") == 1
    assert kb.objects(0, 0).tolist() == [3, 1, 2]
    assert kb.objects(0, 0).dtype == np.int64
    assert kb.objects(2, 0).tolist() == [1]
    assert kb.objects(2, 1).tolist() == kb.objects(3, 0).tolist() == []
    assert kb.weights.tolist() == WEIGHTS.tolist()
    subjects, relations, counts, objects = kb.columns()
    assert subjects.tolist() == [0, 0, 2]
    assert relations.tolist() == [0, 1, 0]
    assert counts.tolist() == [3, 1, 1]
    assert objects.tolist() == [3, 1, 2, 0, 1]
    with pytest.raises(TaskDataError, match="relation 'near'"):
        kb.relation("near")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ([(0, 0, [1]), (0, 0, [2])], "out of order"),
        ([(1, 0, [1]), (0, 1, [2])], "out of order"),
        ([(0, 0, [1, 3])], "falling weight"),
        ([(0, 0, [2, 1])], "falling weight"),
        ([(0, 0, [3, 3])], "double"),
        ([(0, 0, [])], "without objects"),
        ([(0, 0, [4])], "fact object 4"),
        ([(-1, 0, [1])], "fact subject -1"),
        ([(0, 2, [1])], "fact relation 2"),
    ],
)
def test_unsound_facts_are_refused(facts: list[tuple[int, int, list[int]]], message: str) -> None:
    with pytest.raises(TaskDataError, match=message):
        base(facts=facts_of(*facts))


def test_unsound_tables_are_refused() -> None:
    with pytest.raises(TaskDataError, match="distinct names"):
        base(relations=("in", "in"))
    with pytest.raises(TaskDataError, match="weight -1"):
        base(weights=np.array([1, -1, 1, 1]))
    with pytest.raises(TaskDataError, match="alias entity 4"):
        base(aliases=(["e"], [4]))
    with pytest.raises(TaskDataError, match="aliases out of order"):
        base(aliases=(["b", "a"], [1, 0]))
    with pytest.raises(TaskDataError, match=r"subject: int64, relation: int64, objects"):
        base(facts=facts_of((0, 0, [1])).drop_columns(["objects"]))
    with pytest.raises(TaskDataError, match="1 null values in facts"):
        base(facts=pa.table([[0], [None], [[1]]], schema=FACT_SCHEMA))


def test_chunked_tables_are_taken() -> None:
    facts = pa.concat_tables([facts_of((0, 0, [3, 1, 2])), facts_of((2, 0, [1]))])
    assert base(facts=facts).objects(2, 0).tolist() == [1]

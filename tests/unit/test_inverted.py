"""Rows by the values that their records hold, beside a scan of all, in whatever order is asked."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memstore.shard.inverted import InvertedColumn
from memstore.shard.values import Texts


@pytest.mark.parametrize("kind", [pa.string(), pa.int64()])
@pytest.mark.parametrize("batches", [1, 5])
def test_what_is_asked_in_any_order_is_found(kind: pa.DataType, batches: int) -> None:
    rng = np.random.default_rng(batches)
    numbers = rng.integers(0, 60, 100)
    # Longer than numpy keeps within an element.
    texts = [f"www.example.com/m/0{number:x}" for number in numbers.tolist()]
    values = pa.array(texts if kind == pa.string() else numbers, kind)
    column, rows = InvertedColumn(kind), rng.permutation(100)
    for part in np.array_split(np.arange(100), batches):
        column.add(values.take(pa.array(part)), rows[part], int(part[0]))
    where_N = np.empty(100, np.int64)
    where_N[rows] = np.arange(100)
    alive_N = rng.random(100) < 0.8
    others = ["", "www", "www.example.com/m/0zz"] if kind == pa.string() else [-1, 400, 2**62]
    asked = values.to_pylist() + others
    asked = [asked[i] for i in rng.permutation(len(asked))]
    given = np.array(values.to_pylist(), object)
    for limit in (1, 3, 100):
        found, more_Q = column.find(pa.array(asked, kind), limit, where_N, alive_N)
        for value, some, more in zip(asked, found, more_Q, strict=True):
            held = rows[given == value]
            held = np.sort(held[alive_N[held]])
            assert some.tolist() == held[:limit].tolist()
            assert more == (len(held) > limit)


texts = st.lists(st.one_of(st.text(max_size=6), st.text("ab", max_size=3)), max_size=40)


@given(texts, texts, st.integers(0, 5))
def test_texts_are_where_their_bytes_are(held: list[str], asked: list[str], cut: int) -> None:
    column = pa.array(held, pa.string())[cut:]
    order = Texts(column).order()
    rising = sorted((text.encode(), i) for i, text in enumerate(column.to_pylist()))
    assert order.tolist() == [i for _, i in rising]
    sides = Texts(column).take(order).ranges(Texts(pa.array([*asked, *held], pa.string())[cut:]))
    bytes_N = [text for text, _ in rising]
    for text, low, high in zip([*asked, *held][cut:], *sides, strict=True):
        assert low == bisect_left(bytes_N, text.encode())
        assert high == bisect_right(bytes_N, text.encode())


@given(st.lists(st.lists(st.text(max_size=4), max_size=5), min_size=1, max_size=4))
def test_texts_are_joined(parts: list[list[str]]) -> None:
    joined = Texts.joined([Texts(pa.array(part, pa.string())) for part in parts])
    whole = Texts(pa.array([text for part in parts for text in part], pa.string()))
    assert len(joined) == len(whole)
    assert joined.order().tolist() == whole.order().tolist()


def test_nothing_is_found_in_nothing() -> None:
    column = InvertedColumn(pa.string())
    none = np.empty(0, np.int64)
    found, more_Q = column.find(pa.array(["a", "b"]), 1, none, none.astype(bool))
    assert [each.tolist() for each in found] == [[], []]
    assert not more_Q.any()

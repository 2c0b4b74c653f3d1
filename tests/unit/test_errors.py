"""Errors come out of other processes as what they were there."""

from __future__ import annotations

import copy

import pytest

from memstore.errors import InvalidArgument, Overloaded
from models.tasks.knowledge import TaskDataError
from workers.ingest.errors import SourceError


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument("k is wrong", got=0, expected="≥ 1", hint="ask for more"),
        Overloaded("behind", retry_after_s=2.5),
        TaskDataError("one", "another", "look"),
        SourceError("facts.txt", 7, "one", "another", "look"),
    ],
)
def test_an_error_is_what_it_was(error: Exception) -> None:
    other = copy.copy(error)  # by `__reduce__`, as Ray carries it
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert vars(other) == vars(error)

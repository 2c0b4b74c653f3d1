"""One optimizer step on the rows that a call names (rule: equal rows are summed, then stepped).

The state of a row is zeros until its first update, and is kept beside the table under names:

| kind | state of a row of width D |
|---|---|
| sgd | none |
| adagrad | sum `[D]`: of g² |
| rowwise_adagrad | sum: of mean(g²) |
| adam, adamw | mean `[D]` of g, square `[D]` of g², steps |
| rowwise_adam | mean `[D]` of g, square of mean(g²), steps |

All in the dtype that the table is counted with, but for steps: int64, how often this row was
updated. A table of float16 or bfloat16 has one more, which its keeper needs:

| master | |
|---|---|
| False | drawn: uint32, how often this row was rounded by chance |
| True | master `[D]`: float32, what its steps add up in |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from memstore.config import OptimizerConfig
from memstore.dtypes import counting
from memstore.kernels import rules
from memstore.kernels.group import group_equal
from memstore.kernels.half import packed
from memstore.kernels.keep import Keeper
from memstore.kernels.sequence import Marks, quiet
from memstore.kernels.step import Lengths, Limits, step_rows
from memstore.memory import Array, Slots

LAYOUT: Mapping[str, Mapping[str, str]] = {
    "sgd": {},
    "adagrad": {"sum": "element"},
    "rowwise_adagrad": {"sum": "row"},
    "adam": {"mean": "element", "square": "element", "steps": "count"},
    "adamw": {"mean": "element", "square": "element", "steps": "count"},
    "rowwise_adam": {"mean": "element", "square": "row", "steps": "count"},
}
"""kind → name of a state → what there is one of: a number an element, a number a row, a count."""


def new_state(config: OptimizerConfig, table_ND: Array) -> dict[str, Array]:
    """The state of every row before its first update."""
    # Zeros cost no memory before they are touched: the system maps a page on first use.
    return {
        name: np.zeros(
            table_ND.shape if each == "element" else len(table_ND),
            np.int64 if each == "count" else counting(table_ND.dtype),
        )
        for name, each in LAYOUT[config.kind].items()
    }


def new_keeping(config: OptimizerConfig, table_ND: Array) -> Array:
    """What the keeper of a narrow table needs, before any of its rows was changed in place."""
    if config.master:
        return np.zeros(table_ND.shape, np.float32)
    return np.zeros(len(table_ND), np.uint32)


def step(
    config: OptimizerConfig,
    table_ND: Array,
    state: Mapping[str, Array],
    rows_B: Slots,
    grads_BD: Array,
    lr: float,
    keeper: Keeper = None,
    marks: Marks | None = None,
) -> tuple[Slots, Lengths]:
    """Steps rows in place; returns the distinct rows, rising, and the length of each step.

    marks: the sequence numbers of the rows; None where nobody reads them meanwhile.
    """
    marks = quiet(len(table_ND)) if marks is None else marks
    groups = group_equal(rows_B)
    # Typed numbers keep float32 maths in float32, as torch.optim has it.
    number = grads_BD.dtype.type
    limits = Limits(
        clip=number(config.clip_norm or 0),
        decay=number(0 if config.kind == "adamw" else config.weight_decay),
        bound=number(config.max_norm or 0),
    )
    rule = _rule(config, float(lr), number)
    arrays = (state.get("mean"), state.get("square", state.get("sum")), state.get("steps"))
    lengths_U = step_rows(packed(table_ND), marks, keeper, groups, grads_BD, limits, rule, *arrays)
    return groups.rows_U, lengths_U


def _rule(config: OptimizerConfig, lr: float, number: type[np.floating[Any]]) -> rules.Rule:
    rate, eps = number(lr), number(config.eps)
    if config.kind == "sgd":
        return rules.Sgd(rate)
    if config.kind == "adagrad":
        return rules.Adagrad(rate, eps)
    if config.kind == "rowwise_adagrad":
        return rules.RowwiseAdagrad(rate, eps)
    if config.kind == "rowwise_adam":
        return rules.RowwiseAdam(lr, eps, config.betas)
    rest = number(1 - lr * config.weight_decay if config.kind == "adamw" else 1)
    return rules.Adam(lr, eps, config.betas, rest)

"""One optimizer step on the rows that a call names (rule: equal rows are summed, then stepped).

The state of a row is zeros until its first update, and is kept beside the table under names:

| kind | state of a row of width D |
|---|---|
| sgd | none |
| adagrad | sum `[D]`: of g² |
| rowwise_adagrad | sum: of mean(g²) |
| adam, adamw | mean `[D]` of g, square `[D]` of g², steps |
| rowwise_adam | mean `[D]` of g, square of mean(g²), steps |

All in the dtype of the table, but for steps: int64, how often this row was updated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from memstore.config import OptimizerConfig
from memstore.kernels import step as kernels
from memstore.kernels.group import group_equal
from memstore.kernels.sequence import Marks, quiet
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

KERNELS: Mapping[str, Callable[..., kernels.Lengths]] = {
    "sgd": kernels.sgd,
    "adagrad": kernels.adagrad,
    "rowwise_adagrad": kernels.rowwise_adagrad,
    "adam": kernels.adam,
    "adamw": kernels.adam,
    "rowwise_adam": kernels.rowwise_adam,
}


def new_state(config: OptimizerConfig, table_ND: Array) -> dict[str, Array]:
    """The state of every row before its first update."""
    # Zeros cost no memory before they are touched: the system maps a page on first use.
    return {
        name: np.zeros(
            table_ND.shape if each == "element" else len(table_ND),
            np.int64 if each == "count" else table_ND.dtype,
        )
        for name, each in LAYOUT[config.kind].items()
    }


def step(
    config: OptimizerConfig,
    table_ND: Array,
    state: Mapping[str, Array],
    rows_B: Slots,
    grads_BD: Array,
    lr: float,
    marks: Marks | None = None,
) -> tuple[Slots, kernels.Lengths]:
    """Steps rows in place; returns the distinct rows, rising, and the length of each step.

    marks: the sequence numbers of the rows; None where nobody reads them meanwhile.
    """
    marks = quiet(len(table_ND)) if marks is None else marks
    groups = group_equal(rows_B)
    # Typed numbers keep float32 maths in float32, as torch.optim has it.
    number = table_ND.dtype.type
    decoupled = config.kind == "adamw"
    limits = kernels.Limits(
        clip=number(config.clip_norm or 0),
        decay=number(0 if decoupled else config.weight_decay),
        bound=number(config.max_norm or 0),
    )
    arrays = [state[name] for name in LAYOUT[config.kind]]
    lr, rate, eps = float(lr), number(lr), number(config.eps)
    rest: tuple[Any, ...] = (rate, eps)
    if config.kind == "sgd":
        rest = (rate,)
    elif config.kind == "rowwise_adam":
        rest = (lr, eps, config.betas)
    elif config.kind in ("adam", "adamw"):
        rest = (lr, eps, config.betas, number(1 - lr * config.weight_decay if decoupled else 1))
    kernel = KERNELS[config.kind]
    return groups.rows_U, kernel(table_ND, marks, *arrays, groups, grads_BD, limits, *rest)

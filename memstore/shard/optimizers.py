"""One optimizer step on the rows that a call names (rule: equal rows are summed, then stepped)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memstore.config import OptimizerConfig
from memstore.kernels import step as kernels
from memstore.memory import Array, Slots


def state_width(config: OptimizerConfig, width: int) -> int:
    """Numbers of state a row of `width` needs."""
    return {"sgd": 0, "adagrad": width, "rowwise_adagrad": 1}[config.kind]


def step(
    config: OptimizerConfig,
    table_ND: Array,
    state_NW: Array,
    rows_B: Slots,
    grads_BD: Array,
    lr: float,
) -> tuple[Slots, npt.NDArray[np.float64]]:
    """Steps rows in place; returns the distinct rows, rising, and the length of each step."""
    rows_U, sums_UD = kernels.sum_equal(rows_B, grads_BD)
    # Typed numbers keep float32 maths in float32, as torch.optim has it.
    rate, eps = table_ND.dtype.type(lr), table_ND.dtype.type(config.eps)
    if config.kind == "sgd":
        return rows_U, kernels.sgd(table_ND, rows_U, sums_UD, rate)
    compiled = kernels.adagrad if config.kind == "adagrad" else kernels.rowwise_adagrad
    return rows_U, compiled(table_ND, state_NW, rows_U, sums_UD, rate, eps)

"""The dtypes of rows: what is kept of a number, and what it is counted with."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from memstore.config import MemoryConfig

FLOAT16 = np.dtype(np.float16)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
LOW = (FLOAT16, BFLOAT16)


def storage(name: str) -> np.dtype[Any]:
    """The numpy dtype of rows of a configured dtype."""
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


def kept(config: MemoryConfig) -> tuple[int, np.dtype[Any]]:
    """The width and dtype of what rows have for keys: these, or the part rows to be summed."""
    if config.keeps_keys:
        return config.dim, storage(config.dtype)
    return len(config.encoding_config.key), np.dtype(np.int64)


def counting(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """The dtype of scores, gradients and optimizer state: float32 where rows are narrower."""
    dtype = np.dtype(dtype)
    return np.dtype(np.float32) if dtype in LOW else dtype

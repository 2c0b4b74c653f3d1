"""What tests of kernels draw, and scores by the kernel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from memstore.kernels.score import score_rows
from memstore.kernels.sequence import quiet
from memstore.memory import Array

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
seeds = st.integers(0, 2**32 - 1)


def score(queries_QD: Array, keys_ND: Array, rows_QC: Array) -> Array:
    scores_QC = np.full(rows_QC.shape, np.nan, queries_QD.dtype)
    score_rows(queries_QD, keys_ND, quiet(len(keys_ND)), rows_QC, scores_QC)
    return scores_QC

"""Threads of BLAS: kept to one while somebody has threads of its own, and given back."""

from __future__ import annotations

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from memstore.kernels.threads import blas_alone


def counts() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_the_last_one_out_gives_the_threads_back() -> None:
    with threadpool_limits(2, user_api="blas"):
        assert counts() == {2}
        one, other = blas_alone(), blas_alone()
        one.__enter__()
        other.__enter__()
        one.__exit__(None, None, None)
        assert counts() == {1}
        other.__exit__(None, None, None)
        assert counts() == {2}
        with pytest.raises(ValueError, match="why"), blas_alone():
            raise ValueError("why")
        assert counts() == {2}

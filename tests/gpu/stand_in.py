"""A stand-in for a GPU, with its manners: faiss-cpu and torch on the CPU behind the same seam.

It has no selectors, selects no more than 2,048 of anything, lets nobody search while another
does, and has so much memory and no more.
"""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import faiss
import pytest
import torch

from memstore.index import devices

ON_GPU = (
    hasattr(faiss, "StandardGpuResources")
    and faiss.get_num_gpus() > 0
    and torch.cuda.is_available()
)

PLACES = ["stand-in", pytest.param("GPU", marks=pytest.mark.skipif(not ON_GPU, reason="no GPU"))]
"""Where tests of a device run."""


class Lists:
    """A faiss-cpu copy of lists: it fails on what a GPU refuses."""

    def __init__(self, lists: Any, busy: threading.Lock) -> None:
        self._index = faiss.clone_index(lists)
        self.ntotal = self._index.ntotal
        self.searches: list[int] = []
        self.fails = False
        self._busy = busy

    def search_preassigned_c(self, *arguments: Any) -> None:
        assert self._busy.acquire(blocking=False), "two searches at a time"
        try:
            if self.fails:
                raise RuntimeError("CUDA error 2 out of memory")
            *_, pairs, parameters = arguments
            assert not pairs
            assert parameters.sel is None
            assert 1 <= arguments[2] <= 2_048
            assert 1 <= parameters.nprobe <= 2_048
            self.searches.append(arguments[2])
            self._index.search_preassigned_c(*arguments)
        finally:
            self._busy.release()


class StandIn(devices.Device):
    """`cuda:0` on the CPU. most: bytes that it has.  made: the copies of lists, in order."""

    def __init__(self, name: str = "cuda:0", most: float = float("inf")) -> None:
        super().__init__(name, self._transfer, "cpu")
        self.most = most
        self.bytes = 0
        self.made: list[Lists] = []
        self.fails = False
        self.widths: list[int] = []
        """How many of the best were asked of tensors, a block each."""
        self._busy = threading.Lock()
        self._making = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> torch.Tensor:
        tensor = super().empty(shape, dtype)
        self._take(tensor, tensor.nbytes, "CUDA out of memory. Tried to allocate")
        return tensor

    def _transfer(self, lists: Any) -> Lists:
        copy = Lists(lists, self._busy)
        self._take(copy, lists.ntotal * (lists.code_size + 8), "cudaMalloc error out of memory")
        self.made.append(copy)
        return copy

    def _take(self, thing: Any, size: int, problem: str) -> None:
        assert self._making.acquire(blocking=False), "two copies at a time"
        try:
            if self.bytes + size > self.most:
                gc.collect()
            if self.bytes + size > self.most:
                raise RuntimeError(f"{problem} {size} bytes")
            self.bytes += size
            weakref.finalize(thing, self._give, size)
        finally:
            self._making.release()

    def _give(self, size: int) -> None:
        self.bytes -= size

    def topk(self, near_SB: torch.Tensor, width: int, **options: Any) -> Any:
        """`torch.topk` as the mirror asks it."""
        assert self._busy.acquire(blocking=False), "two searches at a time"
        try:
            if self.fails:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            assert 1 <= width <= 2_048
            self.widths.append(width)
            return TOPK(near_SB, width, **options)
        finally:
            self._busy.release()


TOPK = torch.topk


def choose(patch: pytest.MonkeyPatch, place: str) -> str:
    """Makes `cuda:0` a stand-in, or leaves it the GPU, by one of `PLACES`; returns its name."""
    if place == "stand-in":
        put(patch)
    return "cuda:0"


def put(patch: pytest.MonkeyPatch, name: str = "cuda:0", most: float = float("inf")) -> StandIn:
    """Makes the device a stand-in."""
    device = StandIn(name, most)
    patch.setitem(devices._devices, name, device)
    patch.setattr(torch, "topk", device.topk)
    return device

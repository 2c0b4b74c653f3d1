"""Devices: where copies of sealed segments are searched, beside the host's own.

A device proposes rows from a copy of a segment's lists, or from one of the keys themselves
(`memstore.index.mirror`). The host keeps both: lists are saved and joined there, and they answer
whatever a device does not. On a GPU faiss has no selectors, no
removal, at most 2,048 results and lists a query, and no two searches at a time. So here stale rows
are looked for behind what was found, wider and wider; what lies beyond those bounds, and every
filtered search, goes to the host.

Two locks a device: whoever searches takes one, whoever makes room takes the other. Every copy has
resources of its own, so that no search waits while another copy is made.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import faiss
import numpy as np
import numpy.typing as npt

from memstore.config import IndexConfig, IndexKind
from memstore.errors import DeviceError, DeviceUnavailable, OutOfDeviceMemory
from memstore.extras import install
from memstore.memory import Array, Slots

MOST = 2_048
"""Results, and lists, of one query on a GPU: faiss selects no more there."""

BLOCK_QUERIES = 4_096
"""Queries searched at a time, which bounds what their lists take on the device."""

TEMPORARY_BYTES = 64 << 20
"""Scratch memory of a copy; faiss would take up to 1.5 GB."""

WIDER = 4
"""How many times as many results are asked for when too many of those before were stale."""

GROUP_ROWS = 32
"""A GPU stores the codes of a list in groups of so many."""

logger = logging.getLogger(__name__)


T = TypeVar("T")


class Device:
    """One accelerator.

    transfer: copies lists to it, as a faiss index of its own.  place: what torch calls it.
    """

    def __init__(
        self, name: str, transfer: Callable[[faiss.IndexIVF], faiss.Index], place: str
    ) -> None:
        self.name = name
        self.transfer = transfer
        self.place = place
        self.searching = threading.Lock()
        self.building = threading.Lock()

    def check(self, kind: IndexKind) -> None:
        """Raises `DeviceUnavailable` where it can hold no index of this kind."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A tensor there, of a dtype of torch."""
        import torch

        return torch.empty(shape, dtype=dtype, device=self.place)


class Yielding(Protocol):
    """What takes room only while nothing else needs it."""

    def give_up(self) -> bool:
        """Gives its room back; returns whether it had any."""


class Room:
    """What one shard may fill of a device: copies of segments, the old ones while they serve.

    most: bytes, or None for what the device has.  guest: gives way to copies of segments.
    """

    def __init__(self, device: Device, most: int | None = None) -> None:
        self.device = device
        self.guest: Yielding | None = None
        self._most = most
        self._filled: list[int] = []

    @property
    def bytes(self) -> int:
        """About what is in use there takes."""
        return sum(self._filled)

    def copy(self, lists: faiss.IndexIVF) -> Copy:
        """Copies lists to the device; raises `DeviceError` and leaves all as it was."""

        def make() -> Copy:
            return Copy(self.device, self.device.transfer(lists))

        try:
            return self.fill(_bytes(lists), make)
        except OutOfDeviceMemory:
            if self.guest is None or not self.guest.give_up():
                raise
        return self.fill(_bytes(lists), make)

    def fill(self, needed: int, make: Callable[[], T]) -> T:
        """Makes something of about so many bytes; raises `DeviceError` and leaves all as it was."""
        with self.device.building:
            filled = self.bytes + needed
            if self._most is not None and filled > self._most:
                raise OutOfDeviceMemory(
                    f"the index of a shard does not fit on {self.device.name}",
                    got=f"{filled} bytes",
                    expected=f"device_bytes ≤ {self._most}",
                    hint="what serves now stays there until the new one does",
                )
            try:
                made = make()
            except RuntimeError as error:
                full = any(said in str(error) for said in ("out of memory", "alloc fail"))
                raise (OutOfDeviceMemory if full else DeviceError)(
                    f"{self.device.name} does not take the index of a shard",
                    got=f"{needed} bytes: {error}",
                    hint="what serves now goes on serving",
                ) from error
            self._filled.append(needed)
            weakref.finalize(made, self._filled.remove, needed)
        return made


class Copy:
    """A segment's lists on a device."""

    def __init__(self, device: Device, index: faiss.Index) -> None:
        self._device = device
        self._index = index

    def propose(
        self,
        queries_QD: Array,
        count: int,
        lists_QP: Array,
        scores_QP: Array,
        holds: Callable[[Slots], npt.NDArray[np.bool_]] | None,
    ) -> tuple[Slots, Array, Slots]:
        """Up to `count` rows a query, int64 `[Q, count]`, −1 padded, what their codes score,
        float32, and which queries are owed.

        holds: which of some rows may be proposed; None means all of them. More is asked for
        until enough of it may be. Where the device can give no more, the host owes the answer.
        """
        rows_QC = np.full((len(queries_QD), count), -1, np.int64)
        scores_QC = np.zeros(rows_QC.shape, np.float32)
        owed_Q = np.arange(len(queries_QD))
        if count > MOST or lists_QP.shape[1] > MOST:
            return rows_QC, scores_QC, owed_Q
        held = int(self._index.ntotal)
        width = min(count if holds is None else count + max(8, count // 4), MOST, held)
        while len(owed_Q):
            try:
                found_QW, near_QW = self._search(queries_QD, width, lists_QP, scores_QP, owed_Q)
            except RuntimeError as error:
                logger.warning("%s could not search, the host does: %s", self._device.name, error)
                return rows_QC, scores_QC, owed_Q
            full_Q = found_QW[:, -1] >= 0
            if holds is not None:
                found_QW[~holds(found_QW)] = -1
                order_QW = np.argsort(found_QW < 0, axis=1, kind="stable")
                found_QW = np.take_along_axis(found_QW, order_QW, 1)
                near_QW = np.take_along_axis(near_QW, order_QW, 1)
            rows_QC[owed_Q, :width] = found_QW[:, :count]
            scores_QC[owed_Q, :width] = near_QW[:, :count]
            if width == held:
                return rows_QC, scores_QC, owed_Q[:0]
            owed_Q = owed_Q[full_Q & (rows_QC[owed_Q, -1] < 0)]
            if width == MOST:
                break
            width = min(WIDER * width, MOST, held)
        return rows_QC, scores_QC, owed_Q

    def _search(
        self, queries_QD: Array, width: int, lists_QP: Array, scores_QP: Array, asked_Q: Slots
    ) -> tuple[Slots, Array]:
        """The `width` nearest rows of some queries, stale ones among them, and their scores."""
        rows_QW = np.empty((len(asked_Q), width), np.int64)
        near_QW = np.empty(rows_QW.shape, np.float32)
        parameters = faiss.IVFSearchParameters(nprobe=lists_QP.shape[1])
        pointer = faiss.swig_ptr
        for start in range(0, len(asked_Q), BLOCK_QUERIES):
            block_B = asked_Q[start : start + BLOCK_QUERIES]
            queries_BD, lists_BP, scores_BP = (
                np.ascontiguousarray(array[block_B]) for array in (queries_QD, lists_QP, scores_QP)
            )
            with self._device.searching:
                self._index.search_preassigned_c(
                    len(block_B),
                    pointer(queries_BD),
                    width,
                    pointer(lists_BP),
                    pointer(scores_BP),
                    pointer(near_QW[start : start + BLOCK_QUERIES]),
                    pointer(rows_QW[start : start + BLOCK_QUERIES]),
                    False,
                    parameters,
                )
        return rows_QW, near_QW


def room(config: IndexConfig) -> Room | None:
    """Room on the device of an index, or None for the host.

    Where the device is not there, the host serves, and a warning says so: a store that was made
    beside a GPU can be opened without.
    """
    try:
        device = find(config)
    except DeviceUnavailable as error:
        logger.warning("%s; the host searches instead", error)
        return None
    return None if device is None else Room(device, config.device_bytes)


def find(config: IndexConfig) -> Device | None:
    """The device of an index, None for the host; raises `DeviceUnavailable`."""
    name = config.device
    if name == "cpu":
        return None
    with _opening:
        device = _devices.setdefault(name, _Cuda(name))
        device.check(config.kind)
        return device


_devices: dict[str, Device] = {}
_opening = threading.Lock()


class _Cuda(Device):
    def __init__(self, name: str) -> None:
        super().__init__(name, self._transfer, name)
        self._number = int(name.removeprefix("cuda:"))

    def check(self, kind: IndexKind) -> None:
        (self._check_torch if kind == "exact" else self._check_faiss)()

    def _check_torch(self) -> None:
        if importlib.util.find_spec("torch") is None:
            raise DeviceUnavailable(
                f"no rows can be on {self.name}",
                got="no torch",
                hint=install("train"),
            )
        import torch

        if self._number >= torch.cuda.device_count():
            raise DeviceUnavailable(
                f"there is no {self.name}",
                got=f"torch {torch.__version__} with {torch.cuda.device_count()} GPUs",
            )

    def _check_faiss(self) -> None:
        if not hasattr(faiss, "StandardGpuResources"):
            raise DeviceUnavailable(
                f"no index can be on {self.name}",
                got="a faiss for CPUs",
                hint=f"pip uninstall faiss-cpu, then {install('gpu')}",
            )
        if self._number >= faiss.get_num_gpus():
            raise DeviceUnavailable(f"there is no {self.name}", got=f"{faiss.get_num_gpus()} GPUs")

    def _transfer(self, lists: faiss.IndexIVF) -> faiss.Index:
        resources = faiss.StandardGpuResources()
        resources.setTempMemory(TEMPORARY_BYTES)
        resources.setPinnedMemory(0)  # 256 MiB of the host's, for calls that are not used here
        options = faiss.GpuClonerOptions()
        if hasattr(options, "use_cuvs"):
            options.use_cuvs = False  # it has no search of lists that are given
        return faiss.index_cpu_to_gpu(resources, self._number, lists, options)


def _bytes(lists: faiss.IndexIVF) -> int:
    """About what a copy takes: codes and numbers of rows, centroids, scratch memory."""
    places = int(lists.ntotal) + int(lists.nlist) * GROUP_ROWS // 2
    centroids = int(lists.nlist) * int(lists.d) * 4
    return places * (int(lists.code_size) + 8) + centroids + TEMPORARY_BYTES

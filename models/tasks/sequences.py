"""Made-up sequences from which a network with a memory learns an algorithm: copy, associative
recall and priority sort.

    copy     items of bits, an end, then silence: the items are answered in their order
    recall   pairs of a key and a value, then keys alone, each answered by its value at once
    sort     items of bits, each with a priority from −1 to 1, an end, then silence: four fifths of
             the items are answered, highest priority first

After Graves et al. 2014, arXiv 1410.5401, sections 4.1, 4.3 and 4.5, and Rae et al. 2016, arXiv
1610.09027, section 4.2: copy of 1 to 20 items, recall among 3 to 6 pairs, sort of 20 keys of which
16 are answered. Neither says what suffices for a hundred thousand pairs: here a pair is one step,
keys have 24 bits, no two of an episode are equal, and up to eight are asked for, where the papers
ask for one. Bits are given as −1 and 1, so that 0 is nothing.

Letters: T steps, B episodes, X inputs, Y outputs, L items, A answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from memstore.errors import InvalidArgument
from memstore.memory import Array

TIMES_LONGER = (1, 2, 5, 20)
"""How much longer than in training the episodes of tests are."""

TESTED = 2**32
"""What a test draws is none of what a step draws, whose number is lower."""


@dataclass(frozen=True)
class Episodes:
    """Of B episodes as many steps.

    inputs_TBX: float32.  targets_TB…: the right answers, as the task's loss takes them.
    asked_TB: where there is one.
    """

    inputs_TBX: Tensor
    targets_TB: Tensor
    asked_TB: Tensor

    def share(self, own: slice) -> Episodes:
        """Some of the episodes."""
        return Episodes(self.inputs_TBX[:, own], self.targets_TB[:, own], self.asked_TB[:, own])


@dataclass(frozen=True)
class Case:
    """One test: what it is called, and its episodes."""

    name: str
    batches: Iterator[Episodes]


class SequenceTask:
    """What a network learns from sequences.

    source: where they are from, for people.  credit: whom to name, with the licence.  inputs,
    outputs: X and Y.  failed: the share of wrong answers above which a test counts as failed; where
    there is one, all tests are told together.
    """

    source = ""
    credit = ""
    failed: float | None = None
    inputs: int
    outputs: int

    def draw(self, rng: np.random.Generator, batch: int, length: int) -> Episodes:
        """Episodes of `length` items each; the same `rng` gives the same ones."""
        raise NotImplementedError

    def loss(self, said_AY: Tensor, targets_A: Tensor) -> Tensor:
        """The mean cost of answers."""
        raise NotImplementedError

    def right(self, said_AY: Tensor, targets_A: Tensor) -> Tensor:
        """Which answers are right, bool `[A]`."""
        raise NotImplementedError

    def judged(self, asked_TB: Tensor, right_A: Tensor) -> Tensor:
        """Which of what is counted in a test is right, bool: by default, each answer."""
        return right_A

    def tests(self, seed: int, batch: int, episodes: int, level: int) -> Iterator[Case]:
        """What it is tested on, after training by episodes of `level` items at most."""
        raise NotImplementedError


class Bits(SequenceTask):
    """Answers are bits: their cost is in bits an answer; one is right where all its bits are."""

    def loss(self, said_AY: Tensor, targets_A: Tensor) -> Tensor:
        cost = functional.binary_cross_entropy_with_logits(said_AY, targets_A, reduction="sum")
        return cost / (len(said_AY) * math.log(2))

    def right(self, said_AY: Tensor, targets_A: Tensor) -> Tensor:
        return ((said_AY > 0) == (targets_A > 0.5)).all(1)

    def tests(self, seed: int, batch: int, episodes: int, level: int) -> Iterator[Case]:
        """Episodes as long as the longest of training, and longer ones."""
        for times in TIMES_LONGER:
            rng = np.random.default_rng((seed, TESTED, times))
            drawn = self._drawn(rng, batch, episodes, times * level)
            yield Case(f"{times * level:,} items", drawn)

    def _drawn(
        self, rng: np.random.Generator, batch: int, episodes: int, length: int
    ) -> Iterator[Episodes]:
        for _ in range(0, episodes, batch):
            yield self.draw(rng, batch, length)


class Copy(Bits):
    """bits: of an item."""

    source = "made-up items to copy"

    def __init__(self, bits: int = 8) -> None:
        self.bits = bits
        self.inputs, self.outputs = bits + 1, bits

    def draw(self, rng: np.random.Generator, batch: int, length: int) -> Episodes:
        items_LBX = rng.integers(0, 2, (length, batch, self.bits))
        inputs_TBX = np.zeros((2 * length + 1, batch, self.inputs))
        inputs_TBX[:length, :, :-1] = 2 * items_LBX - 1
        inputs_TBX[length, :, -1] = 1
        return asked_last(inputs_TBX, items_LBX)


class Recall(Bits):
    """key_bits, value_bits: of a pair.  cues: keys asked for in an episode, or all where it has
    fewer pairs."""

    source = "made-up pairs to recall"

    def __init__(self, key_bits: int = 24, value_bits: int = 8, cues: int = 8) -> None:
        self.key_bits, self.value_bits, self.cues = key_bits, value_bits, cues
        self.inputs, self.outputs = key_bits + value_bits + 1, value_bits

    def draw(self, rng: np.random.Generator, batch: int, length: int) -> Episodes:
        keys_LBX = distinct(rng, length, batch, self.key_bits)
        values_LBX = rng.integers(0, 2, (length, batch, self.value_bits))
        inputs_TBX, cued_AB = cued(rng, keys_LBX, values_LBX, self.cues)
        return asked_last(inputs_TBX, np.take_along_axis(values_LBX, cued_AB[..., None], axis=0))


class Sort(Bits):
    """bits: of an item."""

    source = "made-up items to sort"

    def __init__(self, bits: int = 8) -> None:
        self.bits = bits
        self.inputs, self.outputs = bits + 2, bits

    def draw(self, rng: np.random.Generator, batch: int, length: int) -> Episodes:
        items_LBX = rng.integers(0, 2, (length, batch, self.bits))
        priority_LB = rng.uniform(-1, 1, (length, batch))
        answers = -(-4 * length // 5)
        first_AB = np.argsort(-priority_LB, axis=0, kind="stable")[:answers]
        inputs_TBX = np.zeros((length + 1 + answers, batch, self.inputs))
        inputs_TBX[:length, :, : self.bits] = 2 * items_LBX - 1
        inputs_TBX[:length, :, self.bits] = priority_LB
        inputs_TBX[length, :, -1] = 1
        return asked_last(inputs_TBX, np.take_along_axis(items_LBX, first_AB[..., None], axis=0))


def distinct(rng: np.random.Generator, length: int, batch: int, bits: int) -> Array:
    """Bits `[L, B, bits]`, of which no two items of an episode are equal."""
    if length > 2**bits:
        raise InvalidArgument("so many keys are not", got=length, expected=f"≤ {2**bits:,} pairs")
    codes_LB = np.stack([rng.choice(2**bits, length, replace=False) for _ in range(batch)], axis=1)
    return codes_LB[..., None] >> np.arange(bits) & 1


def cued(
    rng: np.random.Generator, keys_LBX: Array, values_LBX: Array, cues: int
) -> tuple[Array, Array]:
    """Inputs `[T, B, X]`: pairs of bits, then keys alone; and which pairs those are, `[A, B]`."""
    length, batch, key_bits = keys_LBX.shape
    value_bits = values_LBX.shape[2]
    order_LB = rng.permuted(np.tile(np.arange(length)[:, None], batch), axis=0)
    cued_AB = order_LB[:cues]
    inputs_TBX = np.zeros((length + len(cued_AB), batch, key_bits + value_bits + 1))
    inputs_TBX[:length, :, :-1] = 2 * np.concatenate([keys_LBX, values_LBX], axis=2) - 1
    asked_ABX = np.take_along_axis(keys_LBX, cued_AB[..., None], axis=0)
    inputs_TBX[length:, :, :key_bits] = 2 * asked_ABX - 1
    inputs_TBX[length:, :, -1] = 1
    return inputs_TBX, cued_AB


def asked_last(inputs_TBX: Array, answers_ABY: Array) -> Episodes:
    """Episodes whose last A steps are answered."""
    before = len(inputs_TBX) - len(answers_ABY)
    targets_TBY = np.pad(answers_ABY, ((before, 0), (0, 0), (0, 0))).astype(np.float32)
    asked_TB = np.zeros(inputs_TBX.shape[:2], bool)
    asked_TB[before:] = True
    return Episodes(*map(torch.from_numpy, (inputs_TBX.astype(np.float32), targets_TBY, asked_TB)))

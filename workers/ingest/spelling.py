"""What the names of relations say of them: their words, and how much each counts."""

from __future__ import annotations

import re

import numpy as np

from models.tasks.linking import words

PARTS = re.compile(r"[^\w\s'-]+")
"""Between the parts of a name, as in `/people/person/place_of_birth` or `film.film.directed_by`."""

BEFORE = 0.5
"""What a part counts of that behind it: the last one says what it is, those before it of what."""


def spelt(names: list[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The words of names, one behind the other, of which name each is, int64, and how much it
    counts, float32: 1 in the last part of its name, half as much in each part before."""
    found, owners, counts = list[str](), list[int](), list[float]()
    for number, name in enumerate(names):
        parts = [of_part for part in PARTS.split(name) if (of_part := words(part))]
        for place, of_part in enumerate(reversed(parts)):
            found += of_part
            owners += [number] * len(of_part)
            counts += [BEFORE**place] * len(of_part)
    return found, np.array(owners, np.int64), np.array(counts, np.float32)

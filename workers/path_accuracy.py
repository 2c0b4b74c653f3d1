"""Path accuracy of simple questions: subject and relation of the fact chosen are right.

What needs no training stands beside it: the relation asked for most often in training, of those
that the likeliest candidate has; and the same where the subject is told, which says how much of
the task is the choice of a relation.

Letters: Q questions, E candidate entities, K facts, R relations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from memstore import NO_SLOT
from memstore.memory import Slots
from models.simple_qa import Bag, Facts, SimpleQA
from models.tasks import answers
from models.tasks.simple_questions import SimpleQuestions
from models.tasks.simple_reading import SimpleReader
from workers.figures import Evaluation

BATCH = 256

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Asked:
    """A batch: bags and candidates, and what is right: subject_Q with any of right_QR."""

    bag: Bag
    entities_QE: Slots
    subject_Q: Slots
    right_QR: Slots

    def right(self, subject_QK: Slots, relation_QK: Slots) -> Flags:
        """Which paths are right, bool `[Q, K]`."""
        found = answers.is_right(relation_QK, self.right_QR)
        return found & (subject_QK == self.subject_Q[:, None])


Way = Callable[[SimpleReader, Asked, Slots], dict[str, np.ndarray]]
"""Answers a batch, and gives figures `[Q]` by name: `hit`; `found`, that a right path is among
those read; `scored`, how many were compared; `relations`, how many the subject has; and those to be
told. It is given how often training asks for each relation."""


def evaluate(
    ways: Mapping[str, Way], reader: SimpleReader, base: SimpleQuestions, held_bytes: int
) -> list[Evaluation]:
    """Tests each way.  The candidate recall is the share of questions that were `found`."""
    counts_R = np.bincount(
        np.concatenate([np.array(q.relations) for q in base.train]),
        minlength=len(base.base.relations),
    )
    found = []
    for case, way in ways.items():
        start = time.perf_counter()
        told: dict[str, list[np.ndarray]] = {}
        for asked in _batches(reader, base):
            with torch.no_grad():
                for name, values in way(reader, asked, counts_R).items():
                    told.setdefault(name, []).append(values)
        columns = {name: np.concatenate(values) for name, values in told.items()}
        hit_Q, found_Q = columns.pop("hit"), columns.pop("found")
        relations_Q = columns.pop("relations")
        kinds = {
            name: (int(on_Q.sum()), float(hit_Q[on_Q].mean()), float(found_Q[on_Q].mean()))
            for name, on_Q in (
                ("subject has one relation", relations_Q == 1),
                ("subject has several relations", relations_Q > 1),
            )
            if on_Q.any()
        }
        found.append(
            Evaluation(
                case=case,
                questions=len(base.test),
                hits_1=float(hit_Q.mean()),
                candidate_recall=float(found_Q.mean()),
                scored=float(columns.pop("scored").mean()),
                seconds=time.perf_counter() - start,
                bytes=held_bytes,
                more={name: float(values.mean()) for name, values in columns.items()},
                kinds=kinds,
            )
        )
    return found


def _batches(reader: SimpleReader, base: SimpleQuestions) -> Iterator[Asked]:
    for first in range(0, len(base.test), BATCH):
        questions = base.test[first : first + BATCH]
        bag, entities_QE = reader.read([q.text for q in questions])
        right_QR = answers.lists([np.array(q.relations) for q in questions])
        yield Asked(bag, entities_QE, np.array([q.subject for q in questions]), right_QR)


def over_facts(
    network: SimpleQA, reader: SimpleReader, asked: Asked, counts_R: Slots
) -> dict[str, np.ndarray]:
    """On the facts of the candidates."""
    facts = reader.facts(reader.proposed(asked.entities_QE))
    best_Q = network(asked.bag, facts).argmax(dim=1).numpy()
    return chosen(reader, asked, counts_R, facts, best_Q)


def chosen(
    reader: SimpleReader, asked: Asked, counts_R: Slots, facts: Facts, best_Q: Slots
) -> dict[str, np.ndarray]:
    """The figures of a way that scored facts, of which those at best_Q came first."""
    best_Q1 = best_Q[:, None]
    right_QK = asked.right(facts.subject_QK, facts.relation_QK)
    chosen_Q = np.take_along_axis(facts.subject_QK, best_Q1, 1)[:, 0]
    own = reader.facts(reader.proposed(asked.subject_Q[:, None], len(counts_R)))
    likeliest_Q, subject_Q1 = asked.entities_QE[:, 0], asked.subject_Q[:, None]
    likely = reader.facts(reader.proposed(likeliest_Q[:, None]))
    trivial_Q1 = most_frequent(likely, likeliest_Q, counts_R)[:, None]
    told_Q1 = most_frequent(own, asked.subject_Q, counts_R)[:, None]
    return {
        "hit": np.take_along_axis(right_QK, best_Q1, 1)[:, 0],
        "found": right_QK.any(axis=1),
        "scored": (facts.subject_QK != NO_SLOT).sum(axis=1),
        "relations": (own.relation_QK != NO_SLOT).sum(axis=1),
        "subject right": chosen_Q == asked.subject_Q,
        "subject among the candidates": (asked.entities_QE == subject_Q1).any(axis=1),
        "most frequent relation of the longest name": asked.right(likeliest_Q[:, None], trivial_Q1)[
            :, 0
        ],
        "most frequent relation, subject told": asked.right(subject_Q1, told_Q1)[:, 0],
    }


def over_relations(
    network: SimpleQA, reader: SimpleReader, asked: Asked, counts_R: Slots
) -> dict[str, np.ndarray]:
    """On each candidate with every relation that is asked for in training, whether the base has
    that fact or not."""
    relation_R = np.flatnonzero(counts_R)
    scores_QER = network.score_pairs(asked.bag, asked.entities_QE, relation_R)
    best_Q = scores_QER.flatten(1).argmax(dim=1).numpy()
    entity_Q, relation_Q = best_Q // len(relation_R), relation_R[best_Q % len(relation_R)]
    chosen_Q1 = np.take_along_axis(asked.entities_QE, entity_Q[:, None], 1)
    likeliest_Q1, subject_Q1 = asked.entities_QE[:, :1], asked.subject_Q[:, None]
    own = reader.proposed(subject_Q1, len(counts_R))
    frequent_Q1 = np.full_like(chosen_Q1, counts_R.argmax())
    among_Q = (asked.entities_QE == subject_Q1).any(axis=1)
    known_Q = np.isin(asked.right_QR, relation_R).any(axis=1)
    return {
        "hit": asked.right(chosen_Q1, relation_Q[:, None])[:, 0],
        "found": among_Q & known_Q,
        "scored": (asked.entities_QE != NO_SLOT).sum(axis=1) * len(relation_R),
        "relations": (own != NO_SLOT).sum(axis=1),
        "subject right": chosen_Q1[:, 0] == asked.subject_Q,
        "subject among the candidates": among_Q,
        "most frequent relation of the longest name": asked.right(likeliest_Q1, frequent_Q1)[:, 0],
        "most frequent relation, subject told": asked.right(subject_Q1, frequent_Q1)[:, 0],
    }


def most_frequent(facts: Facts, entity_Q: Slots, counts_R: Slots) -> Slots:
    """Of an entity's facts the relation that training asks for most often, the first of equals;
    `NO_SLOT` where it has no fact."""
    own_QK = (facts.subject_QK == entity_Q[:, None]) & (entity_Q[:, None] != NO_SLOT)
    frequency_QK = np.where(own_QK, counts_R[facts.relation_QK], -1)
    best_Q1 = frequency_QK.argmax(axis=1)[:, None]
    relation_Q = np.take_along_axis(facts.relation_QK, best_Q1, 1)[:, 0]
    return np.where(own_QK.any(axis=1), relation_Q, NO_SLOT)

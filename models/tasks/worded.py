"""Asks questions about a knowledge base in wordings of its relations, in English, with wordings and
entities held out.

Shapes: Q questions, N entities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.tasks.knowledge import Int64s, KnowledgeBase, TaskDataError
from models.tasks.linking import words
from models.tasks.questions import Question, Split, held_out

# (is the wording held out, is the subject held out) of the questions in each split.
SPLITS: dict[str, tuple[bool, bool]] = {
    "train": (False, False),
    "test": (True, True),
    "seen_wording": (False, True),
    "seen_entity": (True, False),
}


class Worded:
    """The questions that can be asked in some wordings.

    wordings: those of each relation; {} is the subject. The LAST of each is held out for testing.
    """

    def __init__(self, wordings: Mapping[str, tuple[str, ...]]) -> None:
        self.wordings = wordings

    def questions(
        self,
        kb: KnowledgeBase,
        *,
        split: Split,
        count: int,
        seed: int,
        alias_share: float = 0.2,
        popular_share: float = 0.0,
        relations: Sequence[str] | None = None,
        split_seed: int = 0,
    ) -> list[Question]:
        """Draws questions: a relation, one of its subjects, and a wording, each uniformly.

        split:       "train" takes training wordings and subjects, "test" held-out ones of both;
                     "seen_wording" only the subject, "seen_entity" only the wording is held out.
        alias_share: 0 to 1, how many subjects are named by another of their names, drawn uniformly,
                     if they have one that is no code (under four ASCII characters).
        relations:   some of those with wordings, None for all; one without a subject in the split
                     is passed over.
        popular_share: 0 to 1, how many subjects are drawn in proportion to their weight instead,
                     as people ask: of capitals and large places more than of villages.
        split_seed:  chooses the held-out entities, see `held_out`; keep it through all of a study.

        The same arguments give the same questions. Raises `TaskDataError` for an unknown split or
        relation, a share or count out of range, or where no relation has a subject.
        """
        relations = tuple(self.wordings) if relations is None else relations
        if split not in SPLITS:
            raise TaskDataError(f"split {split!r}", f"one of {tuple(SPLITS)}", "choose one")
        if count < 0 or not 0 <= alias_share <= 1 or not 0 <= popular_share <= 1:
            raise TaskDataError(
                f"{count=}, {alias_share=}, {popular_share=}",
                "count ≥ 0, 0 ≤ shares ≤ 1",
                "correct it",
            )
        unknown = [name for name in relations if name not in self.wordings]
        if unknown or not relations:
            raise TaskDataError(
                f"relations {unknown}", f"some of {tuple(self.wordings)}", "choose some"
            )
        held_wording, held_entity = SPLITS[split]
        wordings = [self._of(name, held_wording) for name in relations]
        subject_G, relation_G, count_G, objects = kb.columns()

        topic_of = np.full(len(kb.relations), len(relations), np.int16)
        topic_of[[kb.relation(name) for name in relations]] = np.arange(len(relations))
        in_split = held_out(kb.entities.num_rows, seed=split_seed)[subject_G] == held_entity
        rows = np.flatnonzero(in_split & (topic_of[relation_G] < len(relations)))
        rows = rows[np.argsort(topic_of[relation_G[rows]], kind="stable")]
        sizes = np.bincount(topic_of[relation_G[rows]], minlength=len(relations))
        asked = np.flatnonzero(sizes)
        if not len(asked):
            raise TaskDataError(
                f"no subject of {tuple(relations)} in the {split!r} split of {len(in_split)} facts",
                "one or more",
                "take a larger base or another split_seed",
            )

        random = np.random.default_rng(seed)
        topic_Q = random.choice(asked, count)
        first_Q = np.cumsum(sizes)[topic_Q] - sizes[topic_Q]
        within_Q = random.integers(0, sizes[topic_Q])
        row_Q = rows[first_Q + within_Q]
        popular_Q = np.flatnonzero(random.random(count) < popular_share)
        if len(popular_Q):
            # Rows are sorted by topic, so the rows of one are a span of the cumulative weight.
            heaped = np.concatenate([[0], np.cumsum(kb.weights[subject_G[rows]] + 1)])
            low, high = heaped[first_Q], heaped[first_Q + sizes[topic_Q]]
            drawn_at = random.integers(low[popular_Q], high[popular_Q])
            row_Q[popular_Q] = rows[np.searchsorted(heaped, drawn_at, side="right") - 1]
        wording_Q = random.integers(0, np.array([len(each) for each in wordings])[topic_Q])
        surface_Q = _surfaces(kb, subject_G[row_Q], random.random(count) < alias_share, random)
        end_G = np.cumsum(count_G)
        drawn = zip(
            *(
                column.tolist()
                for column in (topic_Q, wording_Q, subject_G[row_Q], relation_G[row_Q])
            ),
            *((end_G - count_G)[row_Q].tolist(), end_G[row_Q].tolist(), surface_Q),
            strict=True,
        )
        return [
            Question(
                wordings[topic][wording].format(surface),
                subject,
                (relation,),
                objects[start:end],
                surface,
            )
            for topic, wording, subject, relation, start, end, surface in drawn
        ]

    def vocabulary(self, split: Literal["train", "test"] = "train") -> frozenset[str]:
        """Returns the ordinary words of the training wordings, or ("test") of the held-out ones."""
        used = (wording for name in self.wordings for wording in self._of(name, split == "test"))
        return frozenset(word for wording in used for word in words(wording.format("")))

    def _of(self, relation: str, held_wording: bool) -> tuple[str, ...]:
        all_of_it = self.wordings[relation]
        return all_of_it[-1:] if held_wording else all_of_it[:-1]


def _surfaces(
    kb: KnowledgeBase, subject_Q: Int64s, by_alias_Q: NDArray[np.bool_], random: np.random.Generator
) -> list[str]:
    """Names the subjects by their names, or where marked by a random other name that is no code."""
    alias, entity = kb.aliases["alias"], kb.aliases["entity"]
    letters = pc.utf8_length(alias)
    is_code = pc.and_(pc.less(letters, 4), pc.equal(letters, pc.binary_length(alias)))
    is_other = pc.not_equal(alias, kb.entities["name"].take(entity))
    others = kb.aliases.filter(pc.and_not(is_other, is_code))
    owner = others["entity"].to_numpy()
    first_Q = np.searchsorted(owner, subject_Q)
    has_Q = np.searchsorted(owner, subject_Q, side="right") - first_Q
    picked_Q = first_Q + random.integers(0, np.maximum(has_Q, 1))
    chosen_Q = np.flatnonzero(by_alias_Q & (has_Q > 0))
    surfaces: list[str] = kb.entities["name"].take(subject_Q).to_pylist()
    for place, other in zip(
        chosen_Q.tolist(), others["alias"].take(picked_Q[chosen_Q]).to_pylist(), strict=True
    ):
        surfaces[place] = other
    return surfaces

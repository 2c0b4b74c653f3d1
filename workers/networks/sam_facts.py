"""Sparse access memory beside a memory of facts, `models.sam_facts`: the memories of episodes are
each trainer's own, the facts lie in the run's store, or on a cluster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from memstore import IndexConfig, MemoryConfig
from memstore.torch import RowTable, SparseReader
from models.hmn import cell_loss
from models.sam_facts import FactSAM
from models.tasks.bound import Bound, Naming
from models.tasks.sequences import Episodes
from workers.checkpoints import Holder
from workers.group import Group
from workers.networks.sequences import SequenceLearner, SequenceRecipe

FACTS = "facts"


def build(recipe: SequenceRecipe, base: Bound, holder: Holder) -> None:
    """Fills the memory of facts."""
    keys_FD, values_FV = base.rows
    config = MemoryConfig(
        dim=keys_FD.shape[1],
        value_dim=values_FV.shape[1],
        # A seed gives the same run only where the index is kept by the calls themselves.
        index=IndexConfig(maintenance="inline"),
        shards=recipe.shards,
        updates=recipe.updates,  # type: ignore[arg-type]
    )
    holder.create(FACTS, config).append(keys_FD, values_FV)


class FactsLearner(SequenceLearner):
    """A `Learner` of episodes that name what facts are about."""

    def __init__(self, recipe: SequenceRecipe, holder: Holder, group: Group) -> None:
        self.facts = SparseReader(holder.memory(FACTS), k=recipe.k)
        super().__init__(recipe, group)

    @property
    def tables(self) -> Sequence[tuple[Sequence[RowTable], float]]:  # type: ignore[override]
        assert self.facts.rows is not None
        return [([self.facts.rows], self.recipe.row_lr)]

    def describe(self) -> str:
        about = self.facts.memory.describe()
        return f"{super().describe()}, {about.rows:,} facts, width {about.config.dim}"

    def position(self) -> dict[str, Any]:
        return super().position() | {"searches": self.facts.searches}

    def go_on(self, position: Mapping[str, Any]) -> None:
        super().go_on(position)
        self.facts.searches = position["searches"]

    def _made(self) -> nn.Module:
        recipe = self.recipe
        return FactSAM(
            self.task.inputs,
            self.task.outputs,
            self.facts,
            hidden=recipe.hidden,
            heads=recipe.heads,
            reads=recipe.reads,
            width=recipe.width,
        )

    def _said(self, network: nn.Module, episodes: Episodes, state: Any) -> tuple[Tensor, Tensor]:
        assert isinstance(episodes, Naming)
        given = episodes.inputs_TBX, state, episodes.asked_TB
        if not network.training:
            said_AY, _ = network(*given)
            return said_AY, said_AY.new_zeros(())
        right_A = episodes.facts_TB[episodes.asked_TB].numpy()
        said_AY, reading = network(*given, right_A)
        missed, _ = cell_loss(reading, right_A[:, None])
        return said_AY, missed / math.log(2)

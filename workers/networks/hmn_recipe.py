"""HMNRecipe: what a run of the hierarchical memory network may be told, whatever its task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from memstore import SearchOptions
from memstore.errors import InvalidArgument
from workers.networks.knowledge_recipe import KnowledgeRecipe

READS = ("clusters", "exact", "all")


@dataclass(frozen=True, kw_only=True)
class HMNRecipe(KnowledgeRecipe):
    """Every step reads what is proposed from the whole memory.

    read: who proposes: `clusters`, those of the index, `exact` search, or `all`, the full softmax.
    union: all questions of a step read what was found for any.  sample_clusters: drawn a question.
    sample_random: cells drawn a step.
    """

    network: str = "hmn"
    task: str = "geography"
    steps: int = 400
    hashed_steps: int = 0
    refresh_steps: int = 100
    k: int = 10
    probe: int = 32
    read: str = "clusters"
    spare: int = 30
    union: bool = True
    sample_clusters: int = 0
    sample_random: int = 0

    LEAST: ClassVar = {
        **KnowledgeRecipe.LEAST,
        "sample_clusters": 0,
        "sample_random": 0,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.read not in READS:
            raise InvalidArgument(
                "read is unknown", got=repr(self.read), expected=f"one of {READS}"
            )

    def searched(self, step: int) -> bool:
        return True

    @property
    def tested(self) -> SearchOptions:
        """How cells are proposed in a test."""
        exact = self.read == "exact"
        return SearchOptions(exact=exact, probe=None if exact else self.probe)

    @property
    def taught(self) -> SearchOptions:
        """How cells are proposed in a step: more is read there."""
        return replace(
            self.tested,
            union=self.union,
            sample_clusters=self.sample_clusters,
            sample_random=self.sample_random,
            seed=self.seed,
        )

"""The network `sam`: its recipes on sequences, where there are facts beside them or none."""

from __future__ import annotations

from pathlib import Path

from models.tasks.bound import Bound
from models.tasks.memories import Progress
from models.tasks.sequences import SequenceTask
from workers.checkpoints import Holder
from workers.figures import Published
from workers.group import Group
from workers.learner import Network
from workers.networks import sam_facts
from workers.networks.sequences import SequenceLearner, SequenceRecipe
from workers.tasks import task_of

STEPS = {"sam": 5_000, "sdnc": 2_500}
"""Of bAbI: what an hour on a core is good for."""


def babi(model: str) -> SequenceRecipe:
    """All tasks of bAbI by one network, of the sizes that the paper has elsewhere."""
    return SequenceRecipe(
        task="babi",
        model=model,
        steps=STEPS[model],
        batch=32,
        dense_lr=3e-3,
        clip=1.0,
        cooldown=0.25,
        hidden=128,
        heads=4,
        words=4_096,
        level=1,
        longest=1,
        test_episodes=200,
    )


def build(
    recipe: SequenceRecipe, base: SequenceTask, holder: Holder, folder: Path, told: Progress
) -> None:
    """Fills the memory of facts, where the task has some; else there is nothing to build: each
    episode begins with an empty memory."""
    if isinstance(base, Bound):
        sam_facts.build(recipe, base, holder)


def open_(recipe: SequenceRecipe, holder: Holder, folder: Path, group: Group) -> SequenceLearner:
    if isinstance(task_of(recipe.task, SequenceTask), Bound):
        return sam_facts.FactsLearner(recipe, holder, group)
    return SequenceLearner(recipe, group)


def copying(*, quick: bool = False) -> SequenceRecipe:
    """Items to give back; quick: a few, in less than a minute."""
    if quick:
        return SequenceRecipe(steps=2_000, longest=4, words=64, test_episodes=16)
    return SequenceRecipe(steps=6_000, longest=32, clip=1.0, cooldown=0.3)


def sorting() -> SequenceRecipe:
    """Items to give back by priority."""
    return SequenceRecipe(task="sort", steps=20_000, longest=32, clip=1.0, bound=1.0, cooldown=0.3)


def recall(*, quick: bool = False) -> SequenceRecipe:
    """Pairs of a key and a value; quick: a few, in less than a minute."""
    if quick:
        return SequenceRecipe(task="recall", steps=3_000, longest=32, words=64, test_episodes=16)
    return SequenceRecipe(task="recall", steps=30_000, dense_lr=0.003, bound=0.15, cooldown=0.3)


def naming() -> SequenceRecipe:
    """Names for the subjects of 10,000 facts. A word is to hold a name and a subject, 40 bits; the
    loss has the choice of the fact beside the bits of the answer."""
    return SequenceRecipe(
        task="naming", steps=8_000, batch=32, dense_lr=3e-3, width=64, level=2, bound=0.7
    )


NETWORK = Network(
    recipe=SequenceRecipe,
    recipes={
        "copy": copying,
        "copy-quick": lambda: copying(quick=True),
        "recall": recall,
        "recall-quick": lambda: recall(quick=True),
        "sort": sorting,
        "naming": naming,
        "babi-sam": lambda: babi("sam"),
        "babi-sdnc": lambda: babi("sdnc"),
    },
    read=lambda recipe: task_of(recipe.task, SequenceTask),
    build=build,
    open=open_,
    published={
        "babi": Published(
            figure=0.971,
            source="the sparse DNC, Rae et al. 2016, arXiv 1610.09027; SAM has 0.959",
            note="The best of 15 runs by a validation set; the mean of all is 0.936 and 0.885. "
            "They learn from the published files of 20 tasks, of 10,000 questions each; here are "
            "19, made by the same generator: task 3 is missing, 2, 6 and 19 are short.",
        )
    },
)

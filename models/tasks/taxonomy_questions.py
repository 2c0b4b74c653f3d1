"""Questions about the taxonomy in English, with wordings and taxa held out."""

from __future__ import annotations

from models.tasks.taxonomy import LINEAGE
from models.tasks.worded import Worded

# Of a rank of the lineage, which stands for [].
_OF_RANK = (
    "Which [] is {} in?",
    "To which [] does {} belong?",
    "What is the [] of {}?",
    "Name the [] that {} is part of.",
    "{} is found in which []?",
    "In what [] is {} placed?",
    "Which [] has {} as a part?",
    "In which [] is {} to be found?",
)

# The wordings of each relation; {} is the subject. The LAST of each is held out for testing.
WORDINGS: dict[str, tuple[str, ...]] = {
    "parent": (
        "What is the parent taxon of {}?",
        "Which taxon is directly above {}?",
        "What stands directly above {} in the tree of life?",
        "Name the parent of {} in the taxonomy.",
        "Which node of the taxonomy is the parent of {}?",
        "What comes directly above {}?",
        "Which parent stands directly above {} in the taxonomy?",
    ),
    "rank": (
        "What rank does {} have?",
        "Which taxonomic rank is {}?",
        "At which rank does {} stand?",
        "Name the rank of {}.",
        "What is {}, by its rank?",
        "What level of the hierarchy is {}?",
        "Which rank does {} have in the hierarchy?",
    ),
    "division": (
        "Which GenBank division is {} in?",
        "In which division of GenBank are sequences of {} kept?",
        "Name the GenBank division of {}.",
        "Under which division does GenBank file {}?",
        "What division holds the sequences of {}?",
        "Where does GenBank keep the sequences of {}?",
        "Which division of GenBank holds sequences of {}?",
    ),
    "children": (
        "Which taxa are directly below {}?",
        "Name the members of {}.",
        "List all members that {} has directly below it.",
        "Which groups does {} contain?",
        "What are the children of {} in the taxonomy?",
        "Which taxa does {} contain?",
        "Which members and groups are directly below {}?",
    ),
    **{rank: tuple(wording.replace("[]", rank) for wording in _OF_RANK) for rank in LINEAGE},
}

_asked = Worded(WORDINGS)
questions, vocabulary = _asked.questions, _asked.vocabulary

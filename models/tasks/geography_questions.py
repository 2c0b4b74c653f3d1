"""Asks questions about the geography base, in English, with wordings and entities held out.

Shapes: Q questions, N entities.
"""

from __future__ import annotations

from collections.abc import Sequence
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

# The wordings of each relation; {} is the subject. The LAST of each is held out for testing.
WORDINGS: dict[str, tuple[str, ...]] = {
    "country": (
        "In which country is {}?",
        "Which country does {} belong to?",
        "What country is {} located in?",
        "{} is a place in which country?",
        "Name the country where {} lies.",
        "To what nation does {} belong?",
        "Which nation is home to {}?",
        "In what nation or country is {} located?",
    ),
    "timezone": (
        "What time zone is {} in?",
        "Which timezone does {} use?",
        "Which time zone applies to {}?",
        "By which zone are the clocks set in {}?",
        "What local time do people in {} follow?",
        "Name the time zone of {}.",
        "To what timezone should a clock in {} be set?",
        "Which zone sets the local time on the clocks of {}?",
    ),
    "region": (
        "In which state is {}?",
        "Which region does {} belong to?",
        "What state is {} in?",
        "{} is found in which state?",
        "Name the state or region of {}.",
        "Which American state contains {}?",
        "What region is {} part of?",
        "Which state or region is {} located in?",
    ),
    "population class": (
        "How large is {}?",
        "What size of settlement is {}?",
        "Is {} a village, a town or a city?",
        "How big is {} by population?",
        "What kind of settlement is {}, by its number of people?",
        "Which population class does {} fall into?",
        "By its inhabitants, what class of settlement is {}?",
        "How big a settlement is {}, a village or a large city?",
    ),
    "hemisphere": (
        "In which hemisphere is {}?",
        "Is {} in the northern or the southern hemisphere?",
        "Which half of the globe is {} in?",
        "Does {} lie north or south of the equator?",
        "On which side of the equator is {}?",
        "Which hemisphere does {} belong to?",
        "Is {} north of the equator or south of it?",
        "Which half of the globe, northern or southern, does {} lie in?",
    ),
    "continent": (
        "On which continent is {}?",
        "What continent does {} belong to?",
        "Which continent is {} part of?",
        "{} lies on what continent?",
        "Name the continent where {} is found.",
        "Which of the continents contains {}?",
        "On what continent would a traveller find {}?",
        "Which continent would one travel to in order to find {}?",
    ),
    "currency": (
        "What currency is used in {}?",
        "Which money do people pay with in {}?",
        "What is the currency of {}?",
        "With what money does one shop in {}?",
        "What do people in {} pay with?",
        "Name the currency that {} uses.",
        "Which currency would a visitor need in {}?",
        "Which currency do they use in {}?",
        "In which currency or money does a visitor pay in {}?",
    ),
    "language": (
        "What language is spoken in {}?",
        "Which languages do people speak in {}?",
        "What do people in {} speak?",
        "Name the languages of {}.",
        "In which tongue do people talk in {}?",
        "Which tongues are spoken by people in {}?",
        "What languages would a visitor hear in {}?",
        "What tongue or language do the people of {} speak?",
    ),
    "calling code": (
        "What is the calling code of {}?",
        "Which dialling code does {} have?",
        "What prefix must one dial to phone {}?",
        "What telephone code is used for {}?",
        "Which international code does one dial to call {}?",
        "What is the phone code for {}?",
        "With which prefix do telephone numbers in {} begin?",
        "Which telephone prefix must one dial to call {}?",
    ),
    "internet domain": (
        "What is the internet domain of {}?",
        "Which domain do websites in {} use?",
        "What top-level domain belongs to {}?",
        "With what ending do web addresses in {} close?",
        "Which internet ending is used in {}?",
        "Name the web domain of {}.",
        "What do the addresses of websites from {} end in?",
        "Which ending do internet addresses in {} have?",
    ),
    "capital": (
        "What is the capital of {}?",
        "Which city is the capital of {}?",
        "Name the capital city of {}.",
        "Where is the government of {} seated?",
        "Which city is the seat of government of {}?",
        "What city does {} have as its capital?",
        "From which city is {} governed?",
        "In which capital city does the government of {} have its seat?",
    ),
    "neighbour": (
        "Which countries border {}?",
        "What are the neighbours of {}?",
        "Which countries lie next to {}?",
        "With which countries does {} share a border?",
        "Name the neighbouring countries of {}.",
        "Which nations are neighbours of {}?",
        "What countries touch {} along a border?",
        "Which neighbouring nations share a border with {}?",
    ),
    "capital of": (
        "What is {} the capital of?",
        "{} is the capital of which country?",
        "Which country has {} as its capital?",
        "Of which country is {} the capital city?",
        "Which country is governed from {}?",
        "Whose government has its seat in {}?",
        "For which nation is {} the capital?",
        "Which nation has its capital in {}?",
    ),
    "countries in continent": (
        "Which countries are in {}?",
        "What countries does {} contain?",
        "Name the countries of {}.",
        "Which nations lie on the continent of {}?",
        "List all countries on the continent {}.",
        "What nations make up the continent of {}?",
        "Which countries belong to the continent {}?",
        "Which nations and countries make up {}?",
    ),
    "countries using currency": (
        "Which countries use the {}?",
        "Where is the {} the currency?",
        "In which countries do people pay with the {}?",
        "Which nations have the {} as their money?",
        "Name the countries whose currency is the {}.",
        "List all countries that pay in {}.",
        "What countries share the {} as a currency?",
        "Which nations use the {} as their currency?",
    ),
    "countries speaking language": (
        "Which countries speak {}?",
        "Where is {} spoken?",
        "In which countries do people speak {}?",
        "Name the countries whose language is {}.",
        "Which nations have {} as a language?",
        "List all countries where {} is heard.",
        "In what countries is the {} language spoken?",
        "In which nations is {} a spoken language?",
    ),
    "countries with calling code": (
        "Which countries have the calling code {}?",
        "Which country does one reach by dialling {}?",
        "Whose phone numbers begin with {}?",
        "What country has the telephone prefix {}?",
        "Numbers with the prefix {} belong to which countries?",
        "Name the countries behind the dialling code {}.",
        "A phone call from {} comes from which country?",
        "Which country do phone numbers with the dialling code {} come from?",
    ),
    "countries with internet domain": (
        "Which country uses the internet domain {}?",
        "Which country do addresses ending in {} belong to?",
        "Whose web domain is {}?",
        "The domain {} belongs to what country?",
        "Name the country behind the web ending {}.",
        "Websites under {} come from which country?",
        "What country has {} as its top-level domain?",
        "To which country does the web domain {} belong?",
    ),
    "places in region": (
        "Which towns are in {}?",
        "What places are in the state of {}?",
        "Name the towns and cities of {}.",
        "List the places of {}.",
        "Which cities does the state of {} have?",
        "What towns and villages lie in {}?",
        "Which settlements belong to the region {}?",
        "List the towns, cities and villages in the state of {}.",
    ),
}


def questions(
    kb: KnowledgeBase,
    *,
    split: Split,
    count: int,
    seed: int,
    alias_share: float = 0.2,
    popular_share: float = 0.0,
    relations: Sequence[str] = tuple(WORDINGS),
    split_seed: int = 0,
) -> list[Question]:
    """Draws questions: a relation uniformly, one of its subjects uniformly, a wording uniformly.

    split:       "train" takes training wordings and subjects, "test" held-out ones of both;
                 "seen_wording" only the subject, "seen_entity" only the wording is held out.
    alias_share: 0 to 1, how many subjects are named by another of their names, drawn uniformly,
                 if they have one that is no code (under four ASCII characters).
    relations:   names out of `WORDINGS`; one without a subject in the split is passed over.
    popular_share: 0 to 1, how many subjects are drawn in proportion to their weight instead, as
                 people ask: of capitals and large places more than of villages.
    split_seed:  chooses the held-out entities, see `held_out`; keep it through all of a study.

    The same arguments give the same questions. Raises `TaskDataError` for an unknown split or
    relation, a share or count out of range, or where no relation has a subject.
    """
    if split not in SPLITS:
        raise TaskDataError(f"split {split!r}", f"one of {tuple(SPLITS)}", "choose one")
    if count < 0 or not 0 <= alias_share <= 1 or not 0 <= popular_share <= 1:
        raise TaskDataError(
            f"{count=}, {alias_share=}, {popular_share=}", "count ≥ 0, 0 ≤ shares ≤ 1", "correct it"
        )
    unknown = [name for name in relations if name not in WORDINGS]
    if unknown or not relations:
        raise TaskDataError(f"relations {unknown}", f"some of {tuple(WORDINGS)}", "choose some")
    held_wording, held_entity = SPLITS[split]
    wordings = [_wordings(name, held_wording) for name in relations]
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
        *(column.tolist() for column in (topic_Q, wording_Q, subject_G[row_Q], relation_G[row_Q])),
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


def vocabulary(split: Literal["train", "test"] = "train") -> frozenset[str]:
    """Returns the ordinary words of the training wordings, or ("test") of the held-out ones."""
    used = (wording for name in WORDINGS for wording in _wordings(name, split == "test"))
    return frozenset(word for wording in used for word in words(wording.format("")))


def _wordings(relation: str, held_wording: bool) -> tuple[str, ...]:
    return WORDINGS[relation][-1:] if held_wording else WORDINGS[relation][:-1]


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

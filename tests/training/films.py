"""A few made-up films, as MetaQA writes them: for the tests, learnt in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from workers.networks.kv import KVRecipe

FILMS, PEOPLE = 60, 24

WORDINGS = {
    ("directed_by",): ("who directed [{}]", "[{}] was directed by who"),
    ("starred_actors",): ("who acted in [{}]", "which actors are in [{}]"),
    ("release_year",): ("when was [{}] released",),
}


def write(folder: Path) -> None:
    """Writes metaqa/kb.txt and 1hop.txt, 2hop.txt into a data folder."""
    rng = np.random.default_rng(3)
    made = folder / "metaqa"
    made.mkdir(parents=True)
    of: dict[tuple[str, str], list[str]] = {}
    lines = []
    for film in range(FILMS):
        for relation, count, of_what in (
            ("directed_by", 1, [f"Person {i}" for i in range(PEOPLE)]),
            ("starred_actors", 2, [f"Person {i}" for i in range(PEOPLE)]),
            ("release_year", 1, [str(1990 + i) for i in range(6)]),
        ):
            chosen = [str(name) for name in rng.choice(of_what, count, replace=False)]
            of[f"Film {film}", relation] = chosen
            lines += [f"Film {film}|{relation}|{name}" for name in chosen]
    lines += ["Film 0|has_genre|Horror", "Film 1|has_tags|horror"]
    (made / "kb.txt").write_text("\n".join(lines) + "\n")
    one = [
        (texts[film % len(texts)].format(f"Film {film}"), of[f"Film {film}", relation])
        for (relation,), texts in WORDINGS.items()
        for film in range(FILMS)
    ]
    one += [("a film about [horror]", ["Film 1"]), ("a film of type [Horror]", ["Film 0"])]
    two = []
    for film in range(FILMS):
        name = f"Film {film}"
        [director] = of[name, "directed_by"]
        others = [f for (f, r), d in of.items() if r == "directed_by" and d == [director]]
        others.remove(name)
        if others:
            two.append((f"films by the director of [{name}]", others))
    for file, asked in (("1hop.txt", one), ("2hop.txt", two)):
        (made / file).write_text("".join(f"{text}\t{'|'.join(a)}\n" for text, a in asked))


def recipe() -> KVRecipe:
    return KVRecipe(
        task="metaqa-1hop",
        dim=16,
        k=16,
        probe=2,
        batch=16,
        negatives=8,
        hops=1,
        steps=60,
        hashed_steps=60,
        questions=300,
        row_lr=0.3,
    )

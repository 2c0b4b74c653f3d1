"""Draws the curves that a benchmark yields; no benchmark itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.runner import Curve

OURS = "memstore"


def draw(curves: Sequence[Curve], folder: Path, name: str) -> list[Path]:
    """Writes a PNG for each plot into the folder, and returns their paths.

    Curves whose label begins with `memstore` are drawn black and heavier.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for plot in dict.fromkeys(curve.plot for curve in curves):
        figure, axes = plt.subplots(figsize=(7.0, 4.4), layout="constrained")
        for curve in (c for c in curves if c.plot == plot):
            ours = curve.label.startswith(OURS)
            axes.plot(
                *zip(*sorted(curve.points), strict=True),
                label=curve.label,
                marker="o",
                markersize=3.5,
                linewidth=2.4 if ours else 1.2,
                color="black" if ours else None,
                zorder=3 if ours else 2,
            )
            axes.set(xlabel=curve.x, ylabel=curve.y, title=plot)
            if curve.log_x:
                axes.set_xscale("log")
            if curve.log_y:
                axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        words = re.sub(r"\W+", "-", f"{name} {plot}".lower()).strip("-")
        paths.append(folder / f"{words}.png")
        figure.savefig(paths[-1], dpi=150)
        plt.close(figure)
    return paths

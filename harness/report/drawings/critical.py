"""Mean ranks, and which of them cannot be told apart (Demšar 2006, figure 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.drawings.canvas import INK, SOFT, Drawing, Paper, cell, known, say, shorter, style

_ROW = 0.24  # inches


@dataclass(frozen=True)
class Rank:
    """One strategy's mean rank over tasks; 1 is best."""

    label: str
    style: int
    mean: float


def critical(name: str, title: str, ranks: Sequence[Rank], cliques: Sequence[Sequence[str]]) -> Drawing:
    """A scale of mean ranks with the names hung from it, and a bar over each clique: strategies no two of
    which were told apart. The better half hangs left, the other right; cliques of one have no bar."""
    order = sorted((rank for rank in ranks if known(rank.mean)), key=lambda rank: (rank.mean, rank.label))
    places = {rank.label: rank.mean for rank in order}
    joined = [
        sorted(places[label] for label in clique if label in places)
        for clique in cliques
        if len({label for label in clique if label in places}) > 1
    ]
    half = math.ceil(len(order) / 2)
    top = 0.6 + 0.4 * len(joined)  # rows between the scale and the first name
    depth = top + half

    def paint(paper: Paper) -> None:
        axes = paper.axes(title)
        low = math.floor(min(places.values(), default=1))
        high = max(low + 1, math.ceil(max(places.values(), default=1)))
        for i, rank in enumerate(order):
            colour, marker, dashes = style(rank.style)
            names = (rank.label,)
            left = i < half
            level = top + (i if left else len(order) - 1 - i) + 0.5
            end = low - 0.03 * (high - low) if left else high + 0.03 * (high - low)
            beyond = end + (end - (low if left else high)) / 2
            line = axes.plot([rank.mean, rank.mean, end], [0, level, level], color=colour, lw=1, ls=dashes)
            paper.tag(line[0], names)
            (mark,) = axes.plot([rank.mean], [0], ls="", marker=marker, ms=6, color=colour, clip_on=False)
            paper.tag(mark, names, [f"{rank.label}: mean rank {say(rank.mean)}"])
            words = [shorter(rank.label, 24), f"{rank.mean:.2f}"]
            text = " · ".join(words if left else words[::-1])
            paper.write(axes, beyond, level, text, names, ha="right" if left else "left", va="center")
        for i, means in enumerate(joined):
            level = 0.55 + 0.4 * i
            axes.plot([means[0], means[-1]], [level] * 2, color=INK, lw=3, solid_capstyle="round")
        axes.set_xlim(low, high)
        axes.set_ylim(depth + 0.2, 0)
        axes.xaxis.tick_top()
        axes.set_xticks(range(low, high + 1))
        axes.set_yticks([])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.spines["top"].set_visible(True)
        axes.spines["top"].set_color(SOFT)
        for line in axes.lines:
            line.set_clip_on(False)

    data = [("strategy", "mean_rank", "cliques")]
    for rank in order:
        mine = [str(i + 1) for i, clique in enumerate(cliques) if rank.label in clique]
        data.append((rank.label, cell(rank.mean), " ".join(mine)))
    return Drawing(name, paint, tuple(data), height=_ROW * depth + 0.2, width=3.0)

"""A square of numbers: every strategy against every other."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.patches import Rectangle

from harness.report.drawings.canvas import COLOURS, SOFT, Drawing, Paper, cell, known, shorter

_CELL = 0.44  # inches


def heat(
    name: str,
    title: str,
    labels: Sequence[str],
    values: Sequence[Sequence[float | None]],
    what: str,
    low: float = 0.0,
    high: float = 1.0,
) -> Drawing:
    """A square matrix with its numbers, `values[i][j]` of row i against column j; None is left empty.

    What lies above the middle of `low` to `high` is tinted in one colour, what lies below in another, more so
    the further off. Columns bear the numbers of the rows.
    """
    middle, reach = (low + high) / 2, (high - low) / 2
    size = len(labels)

    def paint(paper: Paper) -> None:
        axes = paper.axes()
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                if value is None or not known(value):
                    continue
                off = max(-1.0, min(1.0, (value - middle) / reach))
                colour = COLOURS[0] if off > 0 else COLOURS[1]
                names = (labels[i], labels[j])
                patch = axes.add_patch(
                    Rectangle((j + 0.02, i + 0.02), 0.96, 0.96, fc=colour, alpha=0.06 + 0.5 * abs(off), lw=0)
                )
                paper.tag(patch, names, [f"{labels[i]} > {labels[j]}: {value:.3g}"])
                paper.write(axes, j + 0.5, i + 0.5, f"{value:.2f}", names, ha="center", va="center")
        for i, label in enumerate(labels):
            paper.write(
                axes, -0.15, i + 0.5, f"{shorter(label, 30)}  {i + 1}", (label,), ha="right", va="center"
            )
            paper.write(axes, i + 0.5, -0.12, str(i + 1), (label,), ha="center", va="bottom", color=SOFT)
        axes.set_xlim(0, size)
        axes.set_ylim(size, 0)
        axes.set_axis_off()
        axes.set_title(shorter(title, 60), pad=18)
        paper.write(axes, 0, size + 0.3, what, va="top", color=SOFT)

    data = [("row", "column", "value")]
    data += [
        (labels[i], labels[j], cell(value))
        for i, row in enumerate(values)
        for j, value in enumerate(row)
        if known(value)
    ]
    return Drawing(name, paint, tuple(data), height=_CELL * size, width=_CELL * size)

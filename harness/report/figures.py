"""The drawings: plain values in, one drawing out (SVG, PDF, numbers), the same bytes for the same values."""

from harness.report.drawings.bars import Bar, bars
from harness.report.drawings.canvas import Drawing, shown
from harness.report.drawings.critical import Rank, critical
from harness.report.drawings.curves import Line, best_so_far, curves
from harness.report.drawings.forest import ForestRow, forest
from harness.report.drawings.heat import heat
from harness.report.drawings.pareto import Point, pareto
from harness.report.drawings.response import Panel, Setting, response
from harness.report.drawings.strips import StripRow, strips

__all__ = [
    "Bar",
    "Drawing",
    "ForestRow",
    "Line",
    "Panel",
    "Point",
    "Rank",
    "Setting",
    "StripRow",
    "bars",
    "best_so_far",
    "critical",
    "curves",
    "forest",
    "heat",
    "pareto",
    "response",
    "shown",
    "strips",
]

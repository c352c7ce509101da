"""What the words and numbers of the report mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis import wording
from harness.analysis.study import Study
from harness.report.blocks import Block, Paragraph
from harness.report.section import Section


class Reading(Section):
    name = "reading"
    title = "How to read this"
    order = 22

    def build(self, study: Study, verdicts: Mapping[str, Any]) -> Sequence[Block]:
        return [Paragraph(_reading(study, verdicts))]


def _reading(study: Study, verdicts: Mapping[str, Any]) -> str:
    runs = "confirm runs on the test split" if study.confirm_seeds else "tune runs on the validation split"
    scores = [entry for task in verdicts["tasks"].values() for entry in task["scores"].values()]
    return (
        f"Scores are means over the finished {runs}, one per seed; ± is half of a "
        f"{wording.intervals(scores)}. Strategies are compared in pairs on the seeds that both have, with "
        "Holm's adjustment over all pairs of all tasks. Fewer than 3 shared seeds allow no interval and "
        "no claim; 3 to 5 are exploratory. “Leader” has the best mean; the tie set holds every strategy "
        "that the leader does not beat; “recommended” is the cheapest of those in it whose interval to "
        "the leader does not leave out 0, or the leader where too few seeds were compared for cost to "
        "decide. Runs that diverged count as the constant predictor, where one is known. Seeds added "
        "after a look at the verdict make its error rate somewhat larger than 5 %."
    )

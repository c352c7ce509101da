"""The in-process executor: one trial after the other, without Ray, for debugging."""

from __future__ import annotations

from harness.training.run import run_trial
from harness.training.workspace import Workspace
from harness.tuning.campaign import Campaign
from harness.tuning.halving import Halving


def execute(campaign: Campaign, workspace: Workspace, halving: Halving) -> None:
    """Run what the campaign owes. KeyboardInterrupt leaves a resumable state."""
    while (trial := campaign.next()) is not None:
        run = run_trial(trial.as_dict(), workspace)
        while True:
            try:
                draft = next(run)
            except StopIteration as ended:
                campaign.finish(trial, ended.value)
                break
            campaign.point(trial, draft)
            point = draft["curve"][-1]
            if halving.stops(trial, point["epoch"], campaign.score(trial, point["validation"])):
                run.close()
                campaign.stop(trial, draft)
                break

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
            if campaign.may_stop(trial) and halving.judge(trial, campaign.curve(trial, draft)):
                run.close()
                campaign.stop(trial, draft)
                break

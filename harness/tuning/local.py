"""The in-process executor: one trial after the other, without Ray, for debugging."""

from __future__ import annotations

from harness import pulse
from harness.training.run import run_bundle
from harness.training.workspace import Workspace
from harness.tuning.campaign import Campaign
from harness.tuning.halving import Halving


def execute(campaign: Campaign, workspace: Workspace, halving: Halving) -> None:
    """Run what the campaign owes. Returns early where `pulse.halt` asks for it."""
    while bundle := campaign.next_bundle():
        trials = {trial.trial_id: trial for trial in bundle}
        run = run_bundle([trial.as_dict() for trial in bundle], workspace)
        while True:
            try:
                drafts = next(run)
            except StopIteration as ended:
                for record in ended.value:
                    campaign.finish(trials[record["trial_id"]], record)
                break
            except pulse.Halted:
                return
            for draft in drafts:
                campaign.point(trials[draft["trial_id"]], draft)
            if len(bundle) == 1 and campaign.stops(bundle[0], drafts[0], halving.judge):
                run.close()
                campaign.stop(bundle[0], drafts[0])
                break

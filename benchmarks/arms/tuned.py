"""The *tuned* arm: the plain one with everything that can be set without changing how it trains.

`python tuned.py JOB.json`. Against `plain.py`:

* workers stay (`reuse_actors`), so that imports are paid once per core;
* the driver tokenises once, workers map the file; batches are padded to their longest text;
* frozen layers are put into eval mode: less noise, and no time for dropout there;
* Tune's loggers, snapshots, table of trials and progress bars are off, as are Ray's dashboard and the
  forwarding of logs; no more trials wait for a worker than there are workers;
* one thread, by torch's own setting too.

Not done, since it is no setting: sharing the frozen layers' output, or heads, between trials.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

# Ray reads these once, when it is imported.
os.environ |= {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_MAX_PENDING_TRIALS_PG": str(os.cpu_count() or 1),
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_task_events_report_interval_ms": "0",  # else the driver waits five seconds when it ends
    "TOKENIZERS_PARALLELISM": "false",
}

import ray
import torch
from datasets import load_from_disk
from ray import tune
from trainer import (
    PenalisedTrainer,
    Report,
    accuracy,
    arguments,
    cores,
    freeze,
    read_job,
    write_results,
)  # fmt: skip
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed


def train(config: dict[str, Any]) -> None:
    started = time.time()
    job, trial = config["job"], config["trial"]
    torch.set_num_threads(1)
    data = load_from_disk(job["tokens"])
    set_seed(trial["seed"])
    model = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=job["labels"])
    trainer = PenalisedTrainer(
        model=model,
        args=arguments(job, trial, disable_tqdm=True, dataloader_pin_memory=False),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=AutoTokenizer.from_pretrained(job["model"]),  # pads each batch to its longest text
        compute_metrics=accuracy,
        callbacks=[Report(trial["trial_id"], started)],
        trial=trial,
        asleep=freeze(model, trial["frozen"]),
    )
    trainer.train()


def tokenised(job: dict[str, Any]) -> str:
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    data = load_from_disk(job["data"]).map(
        lambda batch: tokenizer(batch["text"], truncation=True, max_length=job["max_length"]),
        batched=True,
        remove_columns="text",
    )
    folder = str(Path(job["scratch"]) / "tokens")
    data.save_to_disk(folder)
    return folder


def main() -> None:
    job = read_job(sys.argv[1])
    shared = {name: value for name, value in job.items() if name != "trials"} | {"tokens": tokenised(job)}
    ray.init(num_cpus=cores(), include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={"job": shared, "trial": tune.grid_search(job["trials"])},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(name="tuned", storage_path=str(Path(job["scratch"]) / "tune"), verbose=0),
    )
    write_results(job, tuner.fit())


if __name__ == "__main__":
    main()

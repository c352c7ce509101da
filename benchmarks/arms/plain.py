"""The *plain* arm: a sweep with Ray Tune and the Trainer as their documentation puts them together.

`python plain.py JOB.json`. After "Get Started with Hugging Face Transformers" (docs.ray.io, Ray Train), whose
training function loads and tokenises the data, loads the model and runs a Trainer, and after Tune's function
API, where a trial reports its metrics from within. What that means for time:

* every trial has a worker of its own, which imports torch and transformers anew: Tune's default;
* every trial tokenises, padding to the longest length that the sweep allows. `datasets` keeps what `map`
  makes beside the data, so that later trials read it; and nearly all of these texts fill that length;
* dropout stays on in frozen layers, since the Trainer puts the whole model into training mode at every step;
* Ray gives a worker of one CPU one thread, which is the best number for one trial per core;
* Tune's loggers, its snapshots and its table of trials, the Trainer's progress bars: all as they come.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import ray
from datasets import load_from_disk
from ray import tune
from trainer import PenalisedTrainer, Report, accuracy, arguments, cores, freeze, read_job, write_results
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed


def train(config: dict[str, Any]) -> None:
    started = time.time()
    job, trial = config["job"], config["trial"]
    tokenizer = AutoTokenizer.from_pretrained(job["model"])

    def tokenise(batch: dict[str, Any]) -> Any:
        return tokenizer(batch["text"], padding="max_length", truncation=True, max_length=job["max_length"])

    data = load_from_disk(job["data"]).map(tokenise, batched=True)
    set_seed(trial["seed"])  # of the head
    model = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=job["labels"])
    freeze(model, trial["frozen"])
    trainer = PenalisedTrainer(
        model=model,
        args=arguments(job, trial),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        compute_metrics=accuracy,
        callbacks=[Report(trial["trial_id"], started)],
        trial=trial,
    )
    trainer.train()


def main() -> None:
    job = read_job(sys.argv[1])
    ray.init(num_cpus=cores())
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={
            "job": {name: value for name, value in job.items() if name != "trials"},
            "trial": tune.grid_search(job["trials"]),
        },
        run_config=tune.RunConfig(name="plain", storage_path=str(Path(job["scratch"]) / "tune")),
    )
    write_results(job, tuner.fit())


if __name__ == "__main__":
    main()

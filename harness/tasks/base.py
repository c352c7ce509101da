"""What a task is: data with three splits, a kind, metrics.

A *kind* (`text-classification`) is a class that knows how examples become model inputs and outputs
become predictions. A *shipped task* (`bbc-topics`) is a kind that also brings its data. A user's own
task is a kind with a `dataset:` section. The loop, the plan, the records and the report see only the
methods below, so nothing outside this package knows what an example is.
"""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, field_validator

from harness.errors import Mistakes, bad, nearest
from harness.registry import Plugin
from harness.tasks import files, sources
from harness.tasks.content import content_hash
from harness.tasks.splits import SPLITS, Sizes, carve

if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset

    from harness.backbones.base import Backbone

Batch: TypeAlias = dict[str, Any]
Example: TypeAlias = dict[str, Any]
Rngs: TypeAlias = "Sequence[np.random.Generator] | None"
Collate: TypeAlias = Callable[[list[Example], Any], Batch]  # examples, Rngs

# Columns of encoded splits that no model sees: the cost of an example, and what is true of it.
LENGTH = "length"
REFERENCE = "reference"
# Where an example stands in the data set, kept until its faults have been told: the split's own name, since a
# row that is carved from it serves as another, and the row's number there.
_SPLIT, _ROW = _SOURCE = ("__split__", "__row__")
# Faulty rows that an error names one by one.
_SHOWN_FAULTS = 5


@dataclass(frozen=True)
class Facts:
    """What the data says about a task, as plain values that travel with every trial.

    Attributes:
        sizes: examples per split.
        classes: the class names in order of their ids; empty where the kind has none.
        fingerprint: hash of the content of all splits, independent of where the files lie.
        constant: by split (validation, test) every metric of the best answer that looks at no input.
        skipped: by split the examples left out as faulty.
    """

    sizes: dict[str, int]
    classes: list[str]
    fingerprint: str
    constant: dict[str, dict[str, float]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)


class Splits(dict[str, "Dataset"]):
    """The three splits by role, and by role how many examples were left out as faulty."""

    skipped: dict[str, int]


class Task(Plugin):
    """Settings shared by every kind.

    Attributes:
        dataset: what `datasets.load_dataset` takes (`path`, `name`, `revision`, `data_files`, …), or the
            path of a folder that `save_to_disk` wrote.
        splits: which split of the data set serves as train, validation and test; `null` carves it.
        train_size, validation_size, test_size: caps; for a split that is carved from train, its size.
        split_seed: decides what is carved; part of the task, never of a trial.
        metrics: names of metrics; `primary` is the one that decides.
        delta: difference in the primary metric below which two strategies count as equal.
        margin: how much the best strategy has to beat the constant predictor by; a run says when it does not.
        on_bad_example: `error` names the faulty examples and stops, `skip` leaves them out and counts them.
    """

    kind: ClassVar[str]
    auto_class: ClassVar[str]
    processor_class: ClassVar[str]
    processor_options: ClassVar[Mapping[str, Any]] = {}
    # Modules that the kind needs beyond what every install has, and the extra that brings them.
    extra: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    # Where the data comes from and how it is cut: settings whose effect is in the data's content itself.
    in_content: ClassVar[tuple[str, ...]] = (
        "dataset", "splits", "train_size", "validation_size", "test_size", "split_seed", "on_bad_example",
    )  # fmt: skip

    dataset: dict[str, Any] | None = None
    splits: dict[str, str | None] = Field(default_factory=dict)
    target: str = "label"
    train_size: int | None = Field(default=None, gt=0)
    validation_size: int | None = Field(default=None, gt=0)
    test_size: int | None = Field(default=None, gt=0)
    split_seed: int = 0
    metrics: tuple[str, ...] = ()
    primary: str | None = None
    delta: float = Field(default=0.01, ge=0)
    margin: float | None = Field(default=None, ge=0)
    on_bad_example: Literal["error", "skip"] = "error"

    @field_validator("splits")
    @classmethod
    def _known_splits(cls, value: dict[str, str | None]) -> dict[str, str | None]:
        for key in value:
            if key not in SPLITS:
                raise ValueError(f"there is no split '{key}' ({nearest(key, SPLITS)})")
        return value

    # -- what the kind answers -------------------------------------------------------------------

    @property
    @abstractmethod
    def default_metrics(self) -> tuple[str, ...]:
        """Metrics when the file names none; the first is primary."""

    @abstractmethod
    def columns(self) -> list[str]:
        """The columns of the data set that the task reads, target included."""

    @abstractmethod
    def describe(self, splits: Mapping[str, Dataset], place: str) -> list[str]:
        """The class names, checked against the data; empty for kinds without classes.

        Raises: InputError, e.g. for a class that train lacks.
        """

    @abstractmethod
    def head(self, facts: Facts) -> dict[str, Any]:
        """Configuration of the output layer (`num_labels`, …), as keyword arguments of the model's config."""

    @abstractmethod
    def encode(self, split: Dataset, processor: Any, facts: Facts, max_length: int | None) -> Dataset:
        """Model inputs of a split, row by row: the columns that `collate` and `predict` take, and LENGTH,
        the cost of an example in the units that padding wastes."""

    @abstractmethod
    def collate(self, processor: Any) -> Collate:
        """Turns encoded examples into a padded batch of tensors, `labels` among them, as the model's forward
        takes it. Generators, one per example, ask for varied examples; None for them as they are."""

    @abstractmethod
    def predict(self, outputs: Any, examples: list[Example], facts: Facts) -> list[dict[str, Any]]:
        """Per encoded example what the model said: `prediction` (as the metrics take it) and extras."""

    @abstractmethod
    def references(self, split: Dataset, facts: Facts) -> list[Any]:
        """Per example of a split (as loaded) what is true, as the metrics take it."""

    def constant(self, train: Sequence[Any], references: Sequence[Any]) -> list[Any]:
        """The predictions of the constant predictor, which knows the references of train and looks at no
        input: by default what is most often true."""
        common = Counter(train).most_common(1)[0][0]
        return [common] * len(references)

    def perfect(self, references: Sequence[Any]) -> list[Any]:
        """The predictions that are right."""
        return list(references)

    def faults(self, split: Dataset) -> Iterator[tuple[int, str]]:
        """Examples that cannot be used: position in the split, and a sentence about it without subject that
        names the file where there is one (`has no text in 'review'`)."""
        return iter(())

    def stored(self, split: Dataset) -> Dataset:
        """The split with the content of files in place of their paths."""
        return split

    def altered(self, train: Dataset, rng: np.random.Generator) -> Dataset:
        """The train split as this task wants to make it harder."""
        return train

    def remarks(self, sample: Dataset, processor: Any) -> list[str]:
        """What a user should know of how a model's processor treats this data."""
        return []

    @property
    def augments(self) -> bool:
        """Whether `collate` varies training examples."""
        return False

    def strata(self, split: Dataset) -> np.ndarray[Any, Any] | None:
        """Class of each example, for stratified carving; None to carve at random."""
        return None

    def context(self, facts: Facts) -> dict[str, Any]:
        """What metrics may want to know about the data."""
        return {"classes": len(facts.classes)} if facts.classes else {}

    # -- what all kinds share --------------------------------------------------------------------

    @property
    def metric_names(self) -> tuple[str, ...]:
        names = self.metrics or self.default_metrics
        return names if self.primary is None or self.primary in names else (*names, self.primary)

    @property
    def primary_metric(self) -> str:
        return self.primary or self.metric_names[0]

    @property
    def higher_is_better(self) -> bool:
        from harness.metrics import scorer  # imports evaluate, and with it all of transformers

        return scorer.higher_is_better(self.primary_metric)

    def raw(self) -> Mapping[str, Dataset]:
        """The data set's own splits, unchanged. Shipped tasks override this.

        Raises: InputError if it cannot be read.
        """
        if self.dataset is None:
            raise bad("dataset", "is missing", f"a task of kind {self.kind} names its data set")
        return sources.load(self.dataset)

    def processor(self, backbone: Backbone, place: str = "backbone") -> Any:
        """What turns this kind's examples into the backbone's inputs.

        Raises: InputError if it cannot be read.
        """
        return backbone.processor(self.processor_class, place, **self.processor_options)

    def check(self, place: str) -> None:
        """Raises: InputError for libraries that are not installed, and for settings that only one can judge,
        which is not imported before."""
        from harness.metrics import scorer

        mistakes = Mistakes()
        lacking = [module for module in self.needs if importlib.util.find_spec(module) is None]
        if lacking:
            reason = f"a task of kind {self.kind} needs {', '.join(lacking)}"
            mistakes.add(place, reason, f"pip install 'finetune-harness[{self.extra}]'")
        for index, name in enumerate(self.metric_names):
            with mistakes.collecting():
                scorer.load(name, f"{place}.metrics.{index}" if name in self.metrics else f"{place}.primary")
        mistakes.raise_any()

    def load(self, place: str = "task") -> Splits:
        """The three splits, carved and capped, without faulty examples:
        `{"train": …, "validation": …, "test": …}`.

        Raises: InputError for data that cannot be read, missing columns, empty splits, faulty examples.
        """
        import numpy as np

        self.check(place)
        mistakes = Mistakes()
        own = {
            name: split.add_column(_SPLIT, [name] * len(split)).add_column(_ROW, list(range(len(split))))
            for name, split in self.raw().items()
        }
        raw = sources.assign(own, self.splits, place)
        wanted = self.columns()
        for column in wanted:
            lacking = [name for name, split in raw.items() if column not in split.column_names]
            if lacking:
                reason = f"the data has no column '{column}' in {', '.join(lacking)}"
                there = set(raw[lacking[0]].column_names) - set(_SOURCE)
                mistakes.add(place, reason, nearest(column, there))
        mistakes.raise_any()
        kept = list(dict.fromkeys([*wanted, *_SOURCE]))
        raw = {name: split.select_columns(kept) for name, split in raw.items()}
        sizes = Sizes(self.train_size, self.validation_size, self.test_size)
        splits = self._sound(carve(raw, sizes, self.split_seed, self.strata, place), place)
        splits["train"] = self.altered(splits["train"], np.random.default_rng([self.split_seed, 4]))
        for name, split in splits.items():
            splits[name] = self.stored(split)
        return splits

    def _sound(self, splits: Mapping[str, Dataset], place: str) -> Splits:
        """The splits without their faulty examples.

        Raises: InputError if there are any and the task does not skip them, or if nothing is left.
        """
        mistakes = Mistakes()
        sound = Splits()
        sound.skipped = {}
        for name, split in splits.items():
            faults = dict(self.faults(split))
            stood = split.select_columns(list(_SOURCE))
            split = split.remove_columns(list(_SOURCE))
            if faults and self.on_bad_example == "error":
                for index, reason in list(faults.items())[:_SHOWN_FAULTS]:
                    mistakes.add(place, f"{self._place_of(stood[index])} {reason}")
                if len(faults) > _SHOWN_FAULTS:
                    hint = "on_bad_example: skip leaves them out"
                    more = f"{len(faults) - _SHOWN_FAULTS} more rows that serve as {name} cannot be used"
                    mistakes.add(place, more, hint)
            elif faults:
                sound.skipped[name] = len(faults)
                split = split.select([index for index in range(len(split)) if index not in faults])
                if len(split) == 0:
                    mistakes.add(place, f"nothing is left of the {name} split: every example is faulty")
            sound[name] = split
        mistakes.raise_any()
        return sound

    def _place_of(self, row: Mapping[str, Any]) -> str:
        """`row 3 of the train split`, and of which file where it is a single table."""
        table = files.table_of(self.dataset or {}, row[_SPLIT])
        return f"row {row[_ROW]} of the {row[_SPLIT]} split" + (f" ({table})" if table else "")

    def facts(self, splits: Mapping[str, Dataset], place: str = "task") -> Facts:
        """Raises: InputError if the labels and the data contradict each other."""
        facts = Facts(
            sizes={name: len(split) for name, split in splits.items()},
            classes=self.describe(splits, place),
            fingerprint=content_hash(splits),
            skipped=splits.skipped if isinstance(splits, Splits) else {},
        )
        true = {name: self.references(split, facts) for name, split in splits.items()}
        constant = {}
        for name in SPLITS[1:]:
            said = [{"prediction": value} for value in self.constant(true["train"], true[name])]
            constant[name] = self.score(said, true[name], facts)
        return replace(facts, constant=constant)

    def score(
        self, predictions: Sequence[dict[str, Any]], references: Sequence[Any], facts: Facts
    ) -> dict[str, float]:
        """Every metric of the task over one split."""
        from harness.metrics import scorer

        said = [row["prediction"] for row in predictions]
        return scorer.score(self.metric_names, said, references, self.context(facts))

    def parts(
        self, predictions: Sequence[dict[str, Any]], references: Sequence[Any], facts: Facts
    ) -> dict[str, Any]:
        """What each example adds to the metrics that say how, `{metric: (examples, k)}`."""
        from harness.metrics import scorer

        said = [row["prediction"] for row in predictions]
        return scorer.parts(self.metric_names, said, references, self.context(facts))

    def forms(self, facts: Facts) -> dict[str, str]:
        """How those metrics come from it, by name (`harness.metrics.forms`)."""
        from harness.metrics import scorer

        found = {name: scorer.form(name, self.context(facts)) for name in self.metric_names}
        return {name: form for name, form in found.items() if form is not None}

    def identity(self) -> dict[str, Any]:
        """The settings that decide a trial's result, beyond the data's content itself."""
        mine = self.model_dump(mode="json", exclude=set(self.in_content) | {"delta", "margin"})
        return {"kind": self.kind, **mine, "metrics": self.metric_names, "primary": self.primary_metric}


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move the tensors of a batch, nested lists and dicts included. To an accelerator they go through pinned
    memory, so that the copy need not be waited for."""

    def move(value: Any) -> Any:
        if hasattr(value, "pin_memory"):
            pinned = value.pin_memory() if device.type == "cuda" else value
            return pinned.to(device, non_blocking=True)
        if isinstance(value, Mapping):
            return {key: move(child) for key, child in value.items()}
        if isinstance(value, list):
            return [move(child) for child in value]
        return value

    return {key: move(value) for key, value in batch.items()}

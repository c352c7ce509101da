from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from harness.backbones.base import Backbone, set_up_transformers
from harness.backbones.family import Family, Small
from harness.cache import cache_folder, digest, seal, whole
from harness.errors import InputError, Mistakes, bad, nearest
from harness.registry import find, plugins


class Untrained(Backbone):
    """A small model of a family with random weights, always the same ones: for trying things out, and to be
    pretrained on a `source` task.

    Attributes:
        family: `model_type` of a family that has a small configuration.
        changes: settings of its configuration that differ.
        preprocessing: the same for its image processor or feature extractor.
    """

    name: ClassVar[str] = "untrained"
    source: ClassVar[str] = "each family names its own"

    family: str
    changes: dict[str, Any] = Field(default_factory=dict)
    preprocessing: dict[str, Any] = Field(default_factory=dict)

    def location(self) -> str:
        """The folder of the model on this machine, made at first use.

        Raises: InputError for a family without a small configuration, or settings that it cannot have.
        """
        small = find("backbones", Family, self.family, "family").small
        if small is None:
            names = [name for name, family in plugins("backbones", Family).items() if family.small]
            raise bad("family", f"no small model of '{self.family}' is shipped", nearest(self.family, names))
        content = {
            "family": self.family,
            "config": {**small.config, **self.changes},
            "processor": {**small.processor, **self.preprocessing},
            "versions": [metadata.version(package) for package in ("torch", "transformers")],
        }
        folder = cache_folder() / "untrained" / digest(content)

        def write(path: Path) -> None:
            self._write(path, small, content)
            seal(path)

        # made anew, it is the same model, of which nobody need be told
        return str(whole(folder, write, lambda path, why: None))

    def _write(self, folder: Path, small: Small, content: dict[str, Any]) -> None:
        import torch
        import transformers

        set_up_transformers()
        _known(self.changes, transformers.AutoConfig.for_model(self.family, **small.config), "changes")
        try:
            config = transformers.AutoConfig.for_model(self.family, **content["config"])
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                getattr(transformers, small.auto_class).from_config(config).save_pretrained(folder)
            processor = dict(content["processor"])
            if "tokenizer" in processor:
                shipped = find("backbones", Backbone, processor["tokenizer"], "processor.tokenizer")
                shipped().processor("AutoTokenizer").save_pretrained(folder)
            elif processor:
                made = getattr(transformers, processor.pop("class"))(**processor)
                _known(self.preprocessing, made, "preprocessing")
                made.save_pretrained(folder)
        except InputError:
            raise
        except Exception as error:
            raise bad("changes", f"no {self.family} model can be made of it: {error}") from error


def _known(settings: dict[str, Any], made: Any, place: str) -> None:
    """Raises: InputError for settings that transformers would take and never read."""
    mistakes = Mistakes()
    for name in settings:
        if not hasattr(made, name):
            known = [known for known in made.to_dict() if not known.startswith("_")]
            mistakes.add(f"{place}.{name}", f"there is no setting '{name}'", nearest(name, known))
    mistakes.raise_any()

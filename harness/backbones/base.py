"""What a backbone is: where its weights lie and how the Auto classes load it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from harness.backbones.family import Family
from harness.errors import InputError, bad
from harness.registry import Plugin, plugins


class Backbone(Plugin):
    """A pretrained model: a Hugging Face id with a revision, or a local folder.

    Attributes:
        path: hub id or folder.
        revision: commit, tag or branch on the hub; resolved to a commit when the sweep is planned.
    """

    name: ClassVar[str] = "pretrained"

    path: str = ""
    revision: str | None = None

    def location(self) -> str:
        """Hub id or folder. Shipped backbones override this.

        Raises: InputError if it is not there.
        """
        return self.path

    def _options(self) -> dict[str, Any]:
        local = Path(self.location()).is_dir()
        return {"trust_remote_code": False, **({} if local else {"revision": self.revision or "main"})}

    def config(self, place: str, **head: Any) -> Any:
        """The model's configuration, with the head of a task.

        Raises: InputError if it cannot be read.
        """
        from transformers import AutoConfig

        where = self.location()
        set_up_transformers()
        try:
            config = AutoConfig.from_pretrained(where, **self._options(), **head)
        except Exception as error:
            raise unreadable(place, where, error) from error
        if "checkpoint_path" in (getattr(config, "model_args", None) or {}):  # timm may unpickle it
            raise bad(place, f"the configuration of '{where}' names weights that are not safetensors")
        return config

    def processor(self, processor_class: str, place: str = "backbone", **options: Any) -> Any:
        """The tokenizer, image processor or feature extractor; `options` go to its constructor.

        Raises: InputError if it cannot be read.
        """
        import transformers

        where = self.location()
        try:
            processor = getattr(transformers, processor_class).from_pretrained(
                where, **self._options(), **options
            )
        except Exception as error:
            raise unreadable(place, where, error) from error
        words = processor.get_vocab() if hasattr(processor, "get_vocab") else None
        if words is not None and set(words) <= set(processor.all_special_tokens):
            # what transformers makes of a folder without a tokenizer: every word would be unknown
            raise bad(place, f"'{where}' holds no tokenizer")
        if getattr(processor, "pad_token", "") is None:
            processor.pad_token = processor.eos_token  # decoders are trained without padding
        return processor

    def model(self, auto_class: str, processor: Any, head: dict[str, Any], place: str = "backbone") -> Any:
        """The pretrained model in float32 on the CPU, with a fresh head for the task.

        The few weights that a checkpoint may lack (a pooler) are drawn from a fixed seed, so that every
        worker starts from the same ones.

        Raises: InputError if the weights cannot be read or are not those of the model's blocks.
        """
        import torch
        import transformers

        where = self.location()
        config = self.config(place, **head)
        share_padding(config, processor)
        try:
            with torch.random.fork_rng(devices=[]), _unwritten_is_nan():
                torch.manual_seed(0)
                model, report = getattr(transformers, auto_class).from_pretrained(
                    where,
                    config=config,
                    dtype=torch.float32,
                    use_safetensors=True,
                    ignore_mismatched_sizes=True,  # the output layer of another task is replaced
                    output_loading_info=True,
                    **self._options(),
                )
        except Exception as error:
            raise unreadable(place, where, error) from error
        if lost := _lost(model, report):
            raise bad(
                place, f"the weights in '{where}' do not fit its configuration: {lost} is not among them"
            )
        _fill(model, report["missing_keys"], lambda: getattr(transformers, auto_class).from_config(config))
        return model

    def skeleton(self, auto_class: str, head: dict[str, Any], place: str = "backbone") -> Any:
        """The model's structure without weights (on the meta device): fast at any size.

        Raises: InputError if the model cannot do this kind of task.
        """
        import torch
        import transformers

        config = self.config(place, **head)
        try:
            with torch.device("meta"):
                return getattr(transformers, auto_class).from_config(config)
        except ValueError as error:
            kind = auto_class.removeprefix("AutoModelFor")
            raise bad(place, f"a {config.model_type} model does not do {kind}") from error

    def bare(self, place: str = "backbone") -> Any:
        """The structure without a task's head, or of the model as it was saved where there is none without.

        Raises: InputError if it cannot be read.
        """
        import torch
        import transformers

        config = self.config(place)
        try:
            with torch.device("meta"):
                return transformers.AutoModel.from_config(config)
        except ValueError:  # a family that has no model without a head
            names = config.architectures or []
            known = next((getattr(transformers, name) for name in names if hasattr(transformers, name)), None)
            if known is None:
                raise bad(place, f"transformers has no model for {config.model_type}") from None
            with torch.device("meta"):
                return known(config)

    def pinned(self, place: str = "backbone") -> Backbone:
        """The same backbone, its revision resolved to a commit: every worker loads what was planned.

        Raises: InputError if there is none.
        """
        if Path(self.location()).is_dir():
            return self
        commit = self.config(place)._commit_hash
        if commit is None:
            raise bad(place, f"'{self.location()}' has no commit on the hub to pin")
        return self.model_copy(update={"revision": commit})

    def fingerprint(self, place: str = "backbone") -> str:
        """Names the weights: hash of a local folder's files, or the hub's commit.

        Raises: InputError if they cannot be read.
        """
        where = Path(self.location())
        if where.is_dir():
            files = sorted(
                p for p in where.iterdir() if p.suffix in (".safetensors", ".json", ".txt", ".model")
            )
            weights = [path for path in files if path.suffix == ".safetensors"]
            if not weights:
                raise bad(place, f"the folder {where} holds no safetensors weights")
            _check_safetensors(weights, place)
            _check_shards(where, place)
            return _folder_hash(tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files))
        return f"{self.location()}@{self.pinned(place).revision}"


@cache
def set_up_transformers() -> None:
    """Models that transformers lacks join its Auto classes before anything is read; and it says nothing of
    heads that are missing from a checkpoint, which are meant to be, nor of its progress."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for family in plugins("backbones", Family).values():
        family.register()


def share_padding(config: Any, processor: Any) -> None:
    """Tell a model that has no padding token of its own which one its processor uses."""
    if getattr(config, "pad_token_id", None) is None and hasattr(processor, "pad_token_id"):
        config.pad_token_id = processor.pad_token_id


def unreadable(place: str, where: str, error: Exception) -> InputError:
    if isinstance(error, InputError):
        return error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return bad(place, f"'{where}' cannot be read as a model: {lines[0] if lines else type(error).__name__}")


@contextmanager
def _unwritten_is_nan() -> Iterator[None]:
    """Memory that is taken and not written to holds NaN."""
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)


def _fill(model: Any, missing: Iterable[str], made: Callable[[], Any]) -> None:
    """Give parameters that the checkpoint lacks, and that the family's initialisation leaves alone (the
    weighted sum of layers of wav2vec 2.0), what the constructor gives them. `from_pretrained` leaves them as
    they lie in memory, another value in every process."""
    import torch

    own = dict(model.named_parameters())
    unset = [name for name in missing if name in own and bool(own[name].isnan().any())]
    if not unset:
        return
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        fresh = dict(made().named_parameters())
        for name in unset:
            own[name].copy_(fresh[name])


def _lost(model: Any, report: dict[str, Any]) -> str:
    """A weight below the head that was not loaded and would be random: of another shape, or of a block and
    not there at all; empty if there is none."""
    from harness.backbones.ladder import build_ladder

    rungs = build_ladder(model).rungs
    inside = {id(p) for rung in rungs for block in rung.blocks for p in block.parameters()}
    blocks = {name for rung in rungs for name, parameter in rung.parameters if id(parameter) in inside}
    below = {name for rung in rungs for name, _ in rung.parameters}
    reshaped = {entry if isinstance(entry, str) else entry[0] for entry in report["mismatched_keys"]}
    return min((blocks & set(report["missing_keys"])) | (below & reshaped), default="")


def _check_safetensors(paths: list[Path], place: str) -> None:
    from safetensors import safe_open

    for path in paths:
        try:
            with safe_open(path, framework="np") as file:  # reads and checks the header
                file.keys()
        except Exception as error:
            raise bad(place, f"{path} is damaged: {error}") from error


def _check_shards(folder: Path, place: str) -> None:
    """A model in several files comes with an index that names them."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return
    try:
        named = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise bad(place, f"{index} is damaged: {error}") from error
    for name in named:
        if not (folder / name).exists():
            raise bad(place, f"{index} names '{name}', which is not in {folder}")


@cache
def _folder_hash(files: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, _, _ in files:
        digest.update(Path(path).name.encode())
        with Path(path).open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()

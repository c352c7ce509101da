"""What a backbone is: where its weights lie and how the Auto classes load it."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from harness.errors import InputError, bad
from harness.registry import Plugin


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
        try:
            return AutoConfig.from_pretrained(where, **self._options(), **head)
        except Exception as error:
            raise unreadable(place, where, error) from error

    def processor(self, processor_class: str, place: str = "backbone") -> Any:
        """The tokenizer, image processor or feature extractor.

        Raises: InputError if it cannot be read.
        """
        import transformers

        where = self.location()
        try:
            processor = getattr(transformers, processor_class).from_pretrained(where, **self._options())
        except Exception as error:
            raise unreadable(place, where, error) from error
        if getattr(processor, "pad_token", "") is None:
            processor.pad_token = processor.eos_token  # decoders are trained without padding
        return processor

    def model(self, auto_class: str, processor: Any, head: dict[str, Any], place: str = "backbone") -> Any:
        """The pretrained model in float32 on the CPU, with a fresh head for the task.

        Raises: InputError if the weights cannot be read.
        """
        import torch
        import transformers

        where = self.location()
        config = self.config(place, **head)
        if getattr(config, "pad_token_id", None) is None and hasattr(processor, "pad_token_id"):
            config.pad_token_id = processor.pad_token_id
        try:
            return getattr(transformers, auto_class).from_pretrained(
                where,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # the output layer of another task is replaced
                **self._options(),
            )
        except Exception as error:
            raise unreadable(place, where, error) from error

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

    def fingerprint(self, place: str = "backbone") -> str:
        """Names the weights: hash of a local folder's files, or the hub's commit.

        Raises: InputError if they cannot be read.
        """
        where = Path(self.location())
        if where.is_dir():
            files = sorted(
                p for p in where.iterdir() if p.suffix in (".safetensors", ".json", ".txt", ".model")
            )
            if not any(path.suffix == ".safetensors" for path in files):
                raise bad(place, f"the folder {where} holds no safetensors weights")
            _check_safetensors([path for path in files if path.suffix == ".safetensors"], place)
            return _folder_hash(tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files))
        return f"{self.location()}@{self.config(place)._commit_hash}"


def unreadable(place: str, where: str, error: Exception) -> InputError:
    if isinstance(error, InputError):
        return error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return bad(place, f"'{where}' cannot be read as a model: {lines[0] if lines else type(error).__name__}")


def _check_safetensors(paths: list[Path], place: str) -> None:
    from safetensors import safe_open

    for path in paths:
        try:
            with safe_open(path, framework="np") as file:  # reads and checks the header
                file.keys()
        except Exception as error:
            raise bad(place, f"{path} is damaged: {error}") from error


@cache
def _folder_hash(files: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, _, _ in files:
        digest.update(Path(path).name.encode())
        with Path(path).open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()

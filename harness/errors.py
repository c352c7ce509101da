"""User errors: what is wrong, where, and what to do about it.

Every check that looks at user input collects `Mistake`s and raises them together as one
`InputError`, so that a file with five mistakes is mended in one go.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_LONGEST = 500  # characters of a reason: it may quote what the file holds, which may be anything


@dataclass(frozen=True)
class Mistake:
    """One thing wrong with the input.

    Attributes:
        place: where, as a dotted path into the sweep file (`tasks.0.dataset.path`) or a file name.
        reason: what is wrong, in one sentence.
        hint: what to do, often the nearest valid name; may be empty.
    """

    place: str
    reason: str
    hint: str = ""

    def __str__(self) -> str:
        reason = self.reason if len(self.reason) <= _LONGEST else f"{self.reason[:_LONGEST]} …"
        return f"{self.place}: {reason}" + (f" ({self.hint})" if self.hint else "")


class HarnessError(Exception):
    """Base of every error that is reported without a traceback."""

    exit_code = 1


class InputError(HarnessError):
    """The input cannot be run; carries every mistake that was found."""

    exit_code = 2

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(dict.fromkeys(mistakes))
        super().__init__("\n".join(map(str, self.mistakes)))


class ResultsLockedError(HarnessError):
    """Another run holds the results folder."""

    exit_code = 4


class RunEndsError(HarnessError):
    """The run cannot go on, through no fault of a trial: none is to be recorded as failed for it."""


class StorageError(RunEndsError):
    """The storage of results cannot be reached, or refuses. What it holds is kept: the run can be resumed."""


class NoSpaceError(RunEndsError):
    """A disk is full. What was written before is whole; the run can be carried on once there is room."""


_FULL = ("No space left on device", "Disk quota exceeded", "disk is full", "os error 28")


def no_space(error: BaseException) -> NoSpaceError | None:
    """What an error comes to if a full disk is behind it, however libraries have wrapped it; else None."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, NoSpaceError):
            return found
        number = found.errno if isinstance(found, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT) or any(words in str(found) for words in _FULL):
            place = found.filename if isinstance(found, OSError) else None
            return NoSpaceError(f"no space left in {Path(place).parent}" if place else "no space left")
        found = found.__cause__ or found.__context__
    return None


class Mistakes(list[Mistake]):
    """A collector: `add` while checking, `raise_any` at the end."""

    def add(self, place: str, reason: str, hint: str = "") -> None:
        self.append(Mistake(place, reason, hint))

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Keep the mistakes of an `InputError` raised inside, and go on."""
        try:
            yield
        except InputError as error:
            self.extend(error.mistakes)

    def raise_any(self) -> None:
        """Raises: InputError if anything was collected."""
        if self:
            raise InputError(self)


def bad(place: str, reason: str, hint: str = "") -> InputError:
    """An `InputError` of a single mistake, to be raised by the caller."""
    return InputError([Mistake(place, reason, hint)])


def nearest(name: object, valid: Iterable[str]) -> str:
    """A hint that names the nearest valid name, or all of them when none is near."""
    names = sorted(set(valid))
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    if not names:
        return "there are none"
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"valid: {shown}"

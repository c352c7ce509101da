"""Keeps secrets out of what is written down: an error's message may quote what a library was given.

A secret is the value of an environment variable whose name says so, a password in an address, and a
signature in one. Short values are left alone: they would be found in ordinary words.
"""

from __future__ import annotations

import os
import re

REDACTED = "[redacted]"
SHORTEST = 8
_NAMES = re.compile(r"TOKEN(?!IZER)|SECRET|PASSW|KEY|CREDENTIAL", re.IGNORECASE)
_ADDRESSES = (
    re.compile(r"(?<=://)[^/\s@]+(?=@)"),  # user:password@, token@
    re.compile(
        r"(?<=[?&])((?:[\w-]*(?:token|signature|credential|secret|password|key)|sig)=)[^&\s'\"]+", re.I
    ),
)


def redact(text: str) -> str:
    """`text` without the secrets of this process's environment and of the addresses in it."""
    secrets = {value for name, value in os.environ.items() if len(value) >= SHORTEST and _NAMES.search(name)}
    for secret in sorted(secrets, key=len, reverse=True):  # one may begin with another
        text = text.replace(secret, REDACTED)
    user, query = _ADDRESSES
    return query.sub(rf"\1{REDACTED}", user.sub(REDACTED, text))

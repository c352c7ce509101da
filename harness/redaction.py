"""Keeps secrets out of what is written down: an error's message may quote what a library was given.

A secret is the value of an environment variable whose name says so, a password in an address, and a
signature in one. Short values are left alone: they would be found in ordinary words.
"""

from __future__ import annotations

import json
import os
import re

REDACTED = "[redacted]"
SHORTEST = 8
_NAMES = re.compile(r"TOKEN(?!IZER)|SECRET|PASSW|KEY|CREDENTIAL", re.IGNORECASE)
_ADDRESS = re.compile(r"(?<=://)(?:(?!://)\S)+")  # up to the next one: read once, however long the text is
_PASSWORD = re.compile(r"[^/:]*:(?!:|\d+[/?#])")  # neither a port, nor the `::` of addresses in a chain
_QUERY = re.compile(
    r"(?<=[?&])((?:[\w-]*(?:token|signature|credential|secret|password|key)|sig)=)[^&\s'\"]+", re.I
)


def redact(text: str) -> str:
    """`text` without the secrets of this process's environment and of the addresses in it."""
    secrets = {value for name, value in os.environ.items() if len(value) >= SHORTEST and _NAMES.search(name)}
    # Also as messages quote them: a key of several lines has `\n` there.
    secrets |= {quoted(secret)[1:-1] for secret in secrets for quoted in (repr, json.dumps)}
    for secret in sorted(secrets, key=len, reverse=True):  # one may begin with another
        text = text.replace(secret, REDACTED)
    return redact_addresses(text)


def redact_addresses(text: str) -> str:
    """`text` without the users, passwords and signatures of the addresses in it."""
    return _QUERY.sub(rf"\1{REDACTED}", _ADDRESS.sub(lambda found: _without_user(found[0]), text))


def _without_user(address: str) -> str:
    """An address, from behind `://`, without what stands before the host. A password may hold `/` and `@`
    that should have been escaped; where there is none, `@` may be part of a path."""
    user, _, host = address.rpartition("@")
    if _PASSWORD.match(user):
        return f"{REDACTED}@{host}"
    authority, slash, path = address.partition("/")
    user, _, host = authority.rpartition("@")
    return f"{REDACTED}@{host}{slash}{path}" if user else address

"""Keeps passwords out of what people are shown of a job, which they may show to others.

Only a job's description (`job.yaml`) and the journal, from which it goes on, have them. Texts are
masked where they leave these or come into being: a line of a log as it is written and as it is read
(what is printed is not written by us), an event as it is read from the journal, what a master tells
a terminal, how a job ended, and all that a page or a command makes of a job's state.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
# The user of `scheme://user:password@host`; also of one whose password holds a bare slash.
_USER_INFO = re.compile(r"""(?<=://)(?:[^/\s'"]*|[^/\s'":@,]*:(?!\d*(?:[/?,]|$))[^\s'",]*)@""")
_NAMES = (
    r"password|passwd|secret|api_?key|(?:access|account|private|secret)_?key"
    r"|(?:access|auth|sas|security|session)[_-]?token|x-(?:amz|goog)-signature"
)
_NAMED = re.compile(
    rf"""((?:{_NAMES})["']?\s*[=:]\s*)(?:"[^"]*"|'[^']*'|[^\s'",;&)\]}}]+)""", re.IGNORECASE
)
_NAME = re.compile(_NAMES, re.IGNORECASE)
# What each of the names has one of: most texts have none, and there are many texts.
_PARTS = ("passw", "secret", "key", "token", "signature")


def masked(value: Any) -> Any:
    """Plain values in whose texts `***` stands for the users of addresses and for passwords.

    Those are what stands before the ``@`` of a URI, and what is given as ``password=…`` or so, or
    by such a name.
    """
    if isinstance(value, str):
        return _masked_text(value)
    if isinstance(value, Mapping):
        return {
            name: MASK if isinstance(one, str) and _is_secret(name) and one else masked(one)
            for name, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [masked(one) for one in value]
    return value


def _masked_text(text: str) -> str:
    if "://" in text:
        text = _USER_INFO.sub(f"{MASK}@", text)
    lower = text.lower()
    if any(part in lower for part in _PARTS):
        text = _NAMED.sub(rf"\g<1>{MASK}", text)
    return text


def _is_secret(name: object) -> bool:
    return isinstance(name, str) and _NAME.search(name) is not None

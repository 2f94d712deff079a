"""Keeps passwords out of what people are shown of a job, which they may show to others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
# The user of `scheme://user:password@host`; also of one whose password holds a bare slash.
_USER_INFO = re.compile(r"""(?<=://)(?:[^/\s'"]*|[^/\s'":@,]*:(?!\d*(?:[/?,]|$))[^\s'",]*)@""")
_NAMED = re.compile(
    r"""((?:password|passwd|secret|api_key|access_key|access_token|auth_token)["']?\s*[=:]\s*)"""
    r"""(?:"[^"]*"|'[^']*'|[^\s'",;&)\]}]+)""",
    re.IGNORECASE,
)


def masked(value: Any) -> Any:
    """Plain values in whose texts `***` stands for the users of addresses and for passwords.

    Those are what stands before the ``@`` of a URI, and what is given as ``password=…`` or so.
    """
    if isinstance(value, str):
        return _NAMED.sub(rf"\g<1>{MASK}", _USER_INFO.sub(f"{MASK}@", value))
    if isinstance(value, Mapping):
        return {name: masked(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [masked(one) for one in value]
    return value

"""Options that describe a place and not a job: in the environment, or in this person's own file.

``ELASTICDL_CLUSTER=kubernetes``, or ``cluster: kubernetes`` in ``~/.config/elasticdl/config.yaml``
(below ``$XDG_CONFIG_HOME`` where that is set). What is given to a command holds over both, and the
environment over the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from elasticdl.errors import UsageError
from elasticdl.options import Option, nearest_option

Given = dict[str, tuple[Any, str]]
"""By option: what was given for it, and what stands before its name where it was given."""


def config_file() -> str:
    """Where this person's configuration is, if there is one."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return os.path.join(os.path.expanduser(home), "elasticdl", "config.yaml")


def variable(name: str) -> str:
    """The environment variable of an option."""
    return f"ELASTICDL_{name.upper()}"


def machine_options(
    options: Mapping[str, Option], read_yaml: Callable[[str], dict[str, Any]]
) -> Given:
    """What the environment and this person's file give.

    Args:
      options: all options there are, by name.
      read_yaml: reads a YAML file of options; raises `UsageError` where it is none.

    Raises:
      UsageError: the file cannot be read, or has what is no option of a machine.
    """
    known = {name: one for name, one in options.items() if one.of_machine}
    given: Given = {}
    file = config_file()
    if os.path.isfile(file):  # Also where nobody knows whose home this is.
        for name, value in read_yaml(file).items():
            if name not in known:
                raise UsageError(_unknown(f"{file}: {name}", name, options, known))
            if value is not None:
                given[name] = (value, f"{file}: ")
    for name in known:
        if value := os.environ.get(variable(name)):
            given[name] = (value, f"${variable(name)}: ")
    return given


def _unknown(
    shown: str, name: str, options: Mapping[str, Option], known: Mapping[str, Option]
) -> str:
    if name in options:
        return (
            f"{shown}: an option of a job; this file has those of the machine "
            f"({', '.join(known)}); give it to the command, or in its --config"
        )
    meant = nearest_option(name, known)
    hint = f"did you mean {meant}?" if meant else f"it may have {', '.join(known)}"
    return f"{shown}: no such option; {hint}"

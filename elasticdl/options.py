"""How one option of a job is declared, and what is said when its value is wrong.

The options themselves are in `elasticdl.job_options`, a module for each heading.
"""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import Field
from pydantic.fields import FieldInfo

from elasticdl.errors import UsageError
from elasticdl.image_names import wrong_with_image, wrong_with_repository

GROUPS = (
    "Model",
    "Data",
    "Training",
    "Evaluation",
    "Cluster",
    "Kubernetes",
    "Image",
    "Reliability",
    "Output",
    "Job",
    "Display",
)

ONLY_PODS = ("Kubernetes", "Image")
"""The groups of options that say nothing to a job whose instances are processes."""

# What people try that has no counterpart, and why.
_NOT_NEEDED = {
    "distribution_strategy": "leave it out: there are parameter servers, and no other strategy",
}

# What is wrong with a value, by the form of an option.
_NAMES_OF_IMAGES = {"image": wrong_with_image, "repository": wrong_with_repository}


def option(
    default: Any,
    description: str,
    *,
    group: str,
    commands: tuple[str, ...],
    metavar: str,
    example: str,
    required_by: tuple[str, ...] = (),
    form: Literal["value", "path", "patterns", "items", "image", "repository"] = "value",
    also: tuple[str, ...] = (),
    example_of: Mapping[str, str] | None = None,
    of_machine: bool = False,
    **constraints: Any,
) -> Any:
    """Declare one option of a job.

    Args:
      default: the value when nobody gives one.
      description: one line for the help.
      group: the heading it stands under in the help, one of `GROUPS`.
      commands: the commands that take it.
      metavar: what stands for the value in the help.
      example: a right value, as typed.
      required_by: the commands that cannot do without it.
      form: ``path`` and ``patterns`` (file patterns, comma separated) are made absolute; what is
        ``items`` may be given several times; ``image`` and ``repository`` name images.
      also: names people try for it; an unknown option of such a name is pointed here.
      example_of: by command, a right value where `example` is not one.
      of_machine: it describes a place and not a job, and may also stand in the environment and in
        this person's configuration.
      constraints: bounds for pydantic (``ge``, ``gt``, ``le``, ``pattern``, ``min_length``, …).
    """
    return Field(
        default,
        description=description,
        json_schema_extra={
            "group": group,
            "commands": list(commands),
            "metavar": metavar,
            "example": example,
            "required_by": list(required_by),
            "form": form,
            "also": list(also),
            "example_of": dict(example_of or {}),
            "of_machine": of_machine,
        },
        **constraints,
    )


@dataclass(frozen=True)
class Option:
    """How one option of `JobSpec` is declared; what flags, help and errors are made from."""

    name: str
    field: str
    info: FieldInfo
    group: str
    commands: tuple[str, ...]
    metavar: str
    example: str
    required_by: tuple[str, ...]
    form: str
    also: tuple[str, ...]
    example_of: Mapping[str, str]
    of_machine: bool

    @property
    def description(self) -> str:
        return self.info.description or ""

    @property
    def default(self) -> Any:
        return self.info.default

    @property
    def value_type(self) -> Any:
        """The type of a value, None left out (``int | None`` gives ``int``)."""
        members = get_args(self.info.annotation)
        if type(None) in members:
            (member,) = (m for m in members if m is not type(None))
            return member
        return self.info.annotation

    @property
    def is_flag(self) -> bool:
        """Is it a yes-or-no option?"""
        return self.value_type is bool

    @property
    def choices(self) -> tuple[str, ...]:
        """The only values it takes, where there is such a list."""
        members = get_args(self.value_type)
        return members if members and all(isinstance(m, str) for m in members) else ()

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """Least and greatest value, both included."""
        low = high = None
        for rule in self.info.metadata:
            low = getattr(rule, "ge", low)
            high = getattr(rule, "le", high)
            if getattr(rule, "lt", None) is not None:
                high = rule.lt - 1
        return low, high

    def as_typed(self, prefix: str, command: str = "") -> str:
        """The example for a command, as it is written where option names have this prefix."""
        example = self.example_of.get(command, self.example)
        if prefix == "--":
            quote = "'" if any(c in example for c in " *[") else ""
            return f"--{self.name}={quote}{example}{quote}"
        if prefix:
            return f"{self.name}: {example}"
        if self.value_type is bool:
            return f"{self.name}={example.capitalize()}"
        return f"{self.name}={example if self.value_type in (int, float) else repr(example)}"


def unknown_option(
    name: str, command: str, options: Mapping[str, Option], prefix: str, typed: str = ""
) -> str:
    """Say in one line that a command does not take an option, and which one may be meant.

    Args:
      name: what was given.
      command: the command it was given to.
      options: all options there are, by name.
      prefix: what stands before its name (``--``, nothing, or a file).
      typed: how it was given, where that is not the prefix and the name.
    """
    typed = typed or f"{prefix}{name}"
    taken = {n: one for n, one in options.items() if command in one.commands}
    if name in options:
        others = one_of([f"`{c}`" for c in options[name].commands])
        what = f"{typed}: `{command}` does not take it ({others} does)"
    else:
        what = f"{typed}: no such option of `{command}`"
    spelled = name.replace("-", "_")
    if spelled in _NOT_NEEDED and name not in options:
        return f"{what}; {_NOT_NEEDED[spelled]}"
    negated = spelled.removeprefix("no_")
    if negated != name and negated in taken and taken[negated].is_flag:
        return f"{what}; did you mean {prefix}{negated}=false?"
    meant = nearest_option(name, taken)
    if meant is None:
        return f"{what}; see elasticdl {command} --help"
    return f"{what}; did you mean {prefix}{meant}, e.g. {taken[meant].as_typed(prefix, command)}?"


def nearest_option(name: str, taken: Mapping[str, Option]) -> str | None:
    """The option, of those taken, that someone who typed `name` most likely meant."""
    spelled = name.replace("-", "_").lower()
    for one in taken.values():
        if spelled == one.name or spelled in one.also:
            return one.name
    names = [n for n in taken if n != name]
    begun = [n for n in names if len(spelled) > 2 and n.startswith(spelled)]
    close = begun or difflib.get_close_matches(spelled, names, n=1, cutoff=0.6)
    return close[0] if close else None


def wrong_value(one: Option, value: Any, prefix: str, error_type: str) -> str:
    """Say in one line what is wrong with an option's value and what would be right.

    Args:
      one: the option.
      value: what was given.
      prefix: what stands before its name (``--``, nothing, or a file).
      error_type: pydantic's name of the error.
    """
    low, high = one.bounds
    kind = one.value_type
    if one.choices:
        problem, right = "no such choice", f"give {one_of(one.choices)}"
    elif kind is bool:
        problem, right = "neither true nor false", "give true or false"
    elif kind in (int, float):
        noun = "whole number" if kind is int else "number"
        if error_type in ("greater_than_equal", "greater_than"):
            problem = "too small"
        elif error_type in ("less_than_equal", "less_than"):
            problem = "too large"
        else:
            problem = f"not a {noun}"
        limit = f"≤ {high}" if problem == "too large" else f"≥ {low}"
        right = f"give one {limit}"
    elif error_type == "string_pattern_mismatch" and one.metavar == "MODULE.NAME":
        problem, right = "not names with dots between", "give MODULE.NAME"
    elif error_type == "string_pattern_mismatch" and one.metavar == "FUNCTION":
        problem, right = "neither a name nor a call of one", "give MODULE.NAME or NAME(argument=1)"
    elif error_type == "string_pattern_mismatch" and one.metavar == "URL":
        problem, right = "not the address of a server", "give http://HOST:PORT or https://HOST"
    elif error_type == "string_pattern_mismatch" and one.group in ONLY_PODS:
        problem, right = "not an object's name", "give small letters, digits and '-', at most 63"
    elif error_type == "string_pattern_mismatch":
        problem = "not a name"
        right = (
            "give letters, digits, '.', '_' and '-', at most 128, starting with a letter or digit"
        )
    else:
        items = value if isinstance(value, list | tuple) else [value]
        is_text = all(isinstance(item, str) for item in items)
        problem = "empty" if is_text and not all(item.strip() for item in items) else "not text"
        right = f"give {one.metavar}"
    name = f"{prefix}{one.name}"
    return f"{name}={_shown(value)}: {problem}; {right}, e.g. {one.as_typed(prefix)}"


def missing_options(
    missing: Sequence[str], command: str, taken: Mapping[str, Option], prefix: str
) -> str:
    """Say in one line which required options of a command were not given."""
    names = ", ".join(prefix + name for name in missing)
    examples = " ".join(taken[name].as_typed(prefix, command) for name in missing)
    return f"`{command}` needs {names}; e.g. {examples}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def one_of(words: Sequence[str]) -> str:
    """Join words as a sentence does: ``a, b or c``."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def params_text(params: Mapping[str, Any], prefix: str = "") -> str:
    """Write a dict of model parameters as the text form of ``--params``.

    Raises:
      UsageError: a name is no identifier, or a value is no Python literal.
    """
    pairs = []
    for name, value in params.items():
        try:
            is_literal = ast.literal_eval(repr(value)) == value
        except (ValueError, SyntaxError, TypeError, RecursionError):
            is_literal = False
        if not (isinstance(name, str) and name.isidentifier()):
            raise UsageError(f"{prefix}params: {name!r} is not a name; give names of parameters")
        if not is_literal:
            is_number = isinstance(value, float) and type(value).__module__ == "builtins"
            problem = "is not finite" if is_number else f"is of type {type(value).__name__}"
            raise UsageError(
                f"{prefix}params: {name}={_shown(value)} {problem}; give finite numbers, strings, "
                "booleans, None, lists, tuples, sets or dicts of them"
            )
        pairs.append(f"{name}={value!r}")
    return ", ".join(pairs)


def plain_value(one: Option, value: Any, prefix: str) -> Any:
    """Bring a given value to the form that the field's type understands."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    kind = one.value_type
    if one.name == "params" and isinstance(value, Mapping):
        return params_text(value, prefix)
    if one.name == "class_weight" and isinstance(value, Mapping):
        return repr(dict(value))
    if one.form == "items":
        return _items(one, value, prefix)
    if kind == tuple[str, ...]:
        return _column_names(one, value, prefix)
    if one.form == "patterns" and isinstance(value, list | tuple):
        parts = [os.fspath(p) if isinstance(p, os.PathLike) else p for p in value]
        if not all(isinstance(part, str) for part in parts):
            raise UsageError(wrong_value(one, value, prefix, "string_type"))
        value = ",".join(parts)
    if one.form in ("path", "patterns") and isinstance(value, str) and "\0" in value:
        raise UsageError(
            f"{prefix}{one.name}={_shown(value)}: has a NUL byte; give {one.metavar}, "
            f"e.g. {one.as_typed(prefix)}"
        )
    if one.form in _NAMES_OF_IMAGES and isinstance(value, str) and value.strip():
        value = value.strip()
        if problem := _NAMES_OF_IMAGES[one.form](value):
            raise UsageError(
                f"{prefix}{one.name}={_shown(value)}: {problem}; e.g. {one.as_typed(prefix)}"
            )
    if one.choices and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # YAML and Python have numbers where flags have words.
    if isinstance(value, bool) and kind in (int, float):
        raise UsageError(wrong_value(one, value, prefix, "bool"))
    return value.strip() if isinstance(value, str) else value


def _items(one: Option, value: Any, prefix: str) -> Any:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        return value  # Refused as of a wrong type.
    if not all(item.strip() for item in items):
        raise UsageError(wrong_value(one, value, prefix, "empty"))
    return tuple(item.strip() for item in items)


def _column_names(one: Option, value: Any, prefix: str) -> Any:
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return value  # Refused as of a wrong type.
    repeated = sorted({name for name in names if names.count(name) > 1})
    if "" in names:
        problem = "has an empty name"
    elif repeated:
        problem = f"names '{repeated[0]}' twice"
    else:
        return tuple(names)
    raise UsageError(
        f"{prefix}{one.name}={_shown(value)}: {problem}; give each name once, "
        f"e.g. {one.as_typed(prefix)}"
    )

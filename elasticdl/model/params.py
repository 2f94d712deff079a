"""``--params``: name=value pairs, parsed literally and given to whom they are meant for."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from elasticdl.errors import UsageError

LEARNING_RATE_NAMES = ("learning_rate", "lr")
_BARE_WORD = re.compile(r"[A-Za-z_./~][\w./:@+\-*~]*")
_OPENING, _CLOSING = "([{", ")]}"


def parse_params(text: str) -> dict[str, Any]:
    """Parse ``name=value`` pairs separated by commas or semicolons.

    Values are Python literals; a bare word is a string. Nothing is evaluated.

    Raises:
      UsageError: names the pair that does not parse.
    """
    params: dict[str, Any] = {}
    for pair in _split_pairs(text):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not name.isidentifier():
            raise UsageError(
                f"params '{_shown(pair)}': not of the form name=value; "
                "for example: hidden_units=[10, 100], learning_rate=0.01"
            )
        if name in params:
            raise UsageError(f"params '{name}': given twice; give it once")
        params[name] = _parse_value(name, value)
    return params


def split_params(
    params: Mapping[str, Any],
    model_def: str,
    constructor: Callable[..., Any],
    create_optimizer: Callable[..., Any] | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Share parameters out between a model's constructor and its optimizer.

    What the constructor takes by name goes there. ``learning_rate`` (or ``lr``) otherwise goes to
    the optimizer, under the name it has there. A constructor's ``**params`` takes the rest.

    Returns:
      Arguments of the constructor, and of create_optimizer.

    Raises:
      UsageError: names a parameter nobody takes, with what is accepted; or one that is missing.
    """
    accepted, takes_any, required = _parameters(constructor)
    rate_name = _learning_rate_name(create_optimizer)
    for_constructor: dict[str, Any] = {}
    for_optimizer: dict[str, Any] = {}
    for name, value in params.items():
        if name in accepted:
            for_constructor[name] = value
        elif name in LEARNING_RATE_NAMES and rate_name is not None:
            if rate_name in for_optimizer:
                raise UsageError("params 'lr': given beside 'learning_rate'; give one of them")
            for_optimizer[rate_name] = value
        elif takes_any:
            for_constructor[name] = value
        else:
            names = [*accepted, *(["learning_rate"] if rate_name is not None else [])]
            raise UsageError(
                f"params '{name}': model_def '{model_def}' does not take it; "
                + (f"it takes {', '.join(map(repr, names))}" if names else "it takes none")
            )
    missing = [name for name in required if name not in for_constructor]
    if missing:
        raise UsageError(
            f"params: model_def '{model_def}' needs {', '.join(map(repr, missing))}; "
            f'give --params="{missing[0]}=…"'
        )
    return for_constructor, for_optimizer


def _parameters(function: Callable[..., Any]) -> tuple[list[str], bool, list[str]]:
    """Return the names a constructor takes, whether it takes any, and those it requires."""
    accepted, required, takes_any = [], [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            if parameter.name == "context":
                continue
            accepted.append(parameter.name)
            if parameter.default is parameter.empty:
                required.append(parameter.name)
    return accepted, takes_any, required


def _learning_rate_name(create_optimizer: Callable[..., Any] | None) -> str | None:
    if create_optimizer is None:
        return None
    accepted, takes_any, _ = _parameters(create_optimizer)
    for name in LEARNING_RATE_NAMES:
        if name in accepted:
            return name
    return "learning_rate" if takes_any else None


def _split_pairs(text: str) -> list[str]:
    """Split at the commas and semicolons that are outside quotes and brackets."""
    pairs, depth, quote, start, escaped = [], 0, "", 0, False
    for position, character in enumerate(text):
        if quote:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == quote:
                quote = ""
        elif character in "'\"":
            quote = character
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        elif character in ",;" and depth == 0:
            pairs.append(text[start:position])
            start = position + 1
    if quote or depth != 0:
        raise UsageError(
            f"params '{_shown(text)}': a quote or bracket is not closed; "
            "for example: hidden_units=[10, 100], learning_rate=0.01"
        )
    pairs.append(text[start:])
    return [pair.strip() for pair in pairs if pair.strip()]


def _parse_value(name: str, text: str) -> Any:
    try:
        return literal(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    if text in ("true", "false", "null"):
        right = {"true": "True", "false": "False", "null": "None"}[text]
        raise UsageError(f"params '{name}={text}': write {name}={right}")
    if _BARE_WORD.fullmatch(text):
        return text
    raise UsageError(
        f"params '{name}={_shown(text)}': not a Python literal; write a number, True, False, None, "
        "a 'string', a [list], a (tuple) or a {dict}"
    )


def literal(node: ast.expr) -> Any:
    """Return the value of a literal in which bare words are strings."""
    match node:
        case ast.Name(id="true" | "false" | "null"):
            raise ValueError
        case ast.Name(id=word):
            return word
        case ast.Attribute():
            return f"{literal(node.value)}.{node.attr}"
        case ast.List(elts=elements):
            return [literal(element) for element in elements]
        case ast.Tuple(elts=elements):
            return tuple(literal(element) for element in elements)
        case ast.Dict(keys=keys, values=values):
            if any(key is None for key in keys):
                raise ValueError
            return {
                literal(key): literal(value)
                for key, value in zip(keys, values, strict=True)
                if key is not None
            }
        case _:
            return ast.literal_eval(node)


def _shown(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"

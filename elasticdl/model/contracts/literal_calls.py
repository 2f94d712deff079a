"""Calls in an option's text, such as ``Adam(learning_rate=0.001)``: parsed, never evaluated."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from elasticdl.errors import UsageError
from elasticdl.model.params import literal


@dataclass(frozen=True)
class LiteralCall:
    """A name, and the literal arguments it is to be called with.

    Attributes:
      name: dotted.
      arguments: by position; an argument may be a call itself.
      keywords: by name, likewise.
      has_parentheses: whether it is a call at all, or the name alone.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] | None = None
    has_parentheses: bool = False

    def of(self, function: Callable[..., Any], make: Callable[[LiteralCall], Any]) -> Any:
        """Call a function with the arguments; `make` turns those that are calls into objects."""

        def value(argument: Any) -> Any:
            return make(argument) if isinstance(argument, LiteralCall) else argument

        keywords = {name: value(each) for name, each in (self.keywords or {}).items()}
        return function(*map(value, self.arguments), **keywords)


def parse_call(text: str, option: str) -> LiteralCall:
    """Parse a dotted name, or a call of one with literal arguments.

    Raises:
      UsageError: it is neither.
    """
    try:
        return _call(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UsageError(
            f"{option} '{text}': neither a name nor a call with literal arguments; for example "
            + ("Adam(learning_rate=0.001)" if option == "optimizer" else f"module.{option}")
        ) from None


def _call(node: ast.expr) -> LiteralCall:
    if not isinstance(node, ast.Call):
        return LiteralCall(_dotted(node))
    if any(keyword.arg is None for keyword in node.keywords):
        raise ValueError("**arguments")
    return LiteralCall(
        _dotted(node.func),
        tuple(_argument(each) for each in node.args),
        {str(each.arg): _argument(each.value) for each in node.keywords},
        has_parentheses=True,
    )


def _argument(node: ast.expr) -> Any:
    return _call(node) if isinstance(node, ast.Call) else literal(node)


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    raise ValueError("not a name")

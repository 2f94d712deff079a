"""Calls in an option's text, such as ``Adam(learning_rate=0.001)``: parsed, never evaluated."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from elasticdl.errors import UsageError
from elasticdl.model.params import literal

_KERAS = ("keras", "tf_keras")


@dataclass(frozen=True)
class LiteralCall:
    """A name, and the literal arguments it is to be called with.

    Attributes:
      name: dotted.
      arguments: by position; an argument may be a call itself.
      keywords: by name, likewise.
      has_parentheses: whether it is a call at all, or the name alone.
      option: what it was given to, for messages.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] | None = None
    has_parentheses: bool = False
    option: str = ""

    def of(self, function: Callable[..., Any], make: Callable[[LiteralCall], Any]) -> Any:
        """Call a function with the arguments; `make` turns those that are calls into objects.

        Raises:
          UsageError: it does not take them; Keras refuses their values.
        """

        def value(argument: Any) -> Any:
            return make(argument) if isinstance(argument, LiteralCall) else argument

        keywords = {name: value(each) for name, each in (self.keywords or {}).items()}
        arguments = [value(each) for each in self.arguments]
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # of C
            return function(*arguments, **keywords)
        taken = [
            each.name
            for each in signature.parameters.values()
            if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        ]
        try:
            signature.bind(*arguments, **keywords)
        except TypeError as error:
            raise self._error(f"{error}; it takes {', '.join(taken) or 'none'}") from None
        try:
            return function(*arguments, **keywords)
        except (TypeError, ValueError) as error:
            if (getattr(function, "__module__", None) or "").partition(".")[0] not in _KERAS:
                raise
            unknown = [name for name in keywords if name not in taken]
            what = str(error).strip().partition("\n")[0]
            more = f"; it takes {', '.join(taken)}" if unknown else ""
            raise self._error(f"{what}{more}") from None

    def _error(self, what: str) -> UsageError:
        return UsageError(f"{self.option} '{self.name}(…)': {what}")


def parse_call(text: str, option: str) -> LiteralCall:
    """Parse a dotted name, or a call of one with literal arguments.

    Raises:
      UsageError: it is neither.
    """
    try:
        return _call(ast.parse(text.strip(), mode="eval").body, option)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UsageError(
            f"{option} '{text}': neither a name nor a call with literal arguments; for example "
            + ("Adam(learning_rate=0.001)" if option == "optimizer" else f"module.{option}")
        ) from None


def _call(node: ast.expr, option: str) -> LiteralCall:
    if not isinstance(node, ast.Call):
        return LiteralCall(_dotted(node), option=option)
    if any(keyword.arg is None for keyword in node.keywords):
        raise ValueError("**arguments")
    return LiteralCall(
        _dotted(node.func),
        tuple(_argument(each, option) for each in node.args),
        {str(each.arg): _argument(each.value, option) for each in node.keywords},
        has_parentheses=True,
        option=option,
    )


def _argument(node: ast.expr, option: str) -> Any:
    return _call(node, option) if isinstance(node, ast.Call) else literal(node)


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    raise ValueError("not a name")

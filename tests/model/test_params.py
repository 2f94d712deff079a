"""--params: literals only, each given to whom it is meant for."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elasticdl.errors import UsageError
from elasticdl.model.params import parse_params, split_params

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), VALUES, max_size=4))
def test_every_literal_comes_back_as_it_is(params: dict[str, Any]) -> None:
    text = ", ".join(f"{name}={value!r}" for name, value in params.items())
    assert parse_params(text) == params


@given(st.text(max_size=40))
def test_any_text_parses_or_is_a_usage_error_of_one_line(text: str) -> None:
    with contextlib.suppress(UsageError):
        parse_params("a=" + text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        (
            "hidden_units=[10, 100], learning_rate=0.01",
            {"hidden_units": [10, 100], "learning_rate": 0.01},
        ),
        ("activation=relu; path=/data/x-1.txt", {"activation": "relu", "path": "/data/x-1.txt"}),
        ("layers=[relu, tanh], at=a.b", {"layers": ["relu", "tanh"], "at": "a.b"}),
        ("a=-1, b=(1, 'x,y'), c={'k': None}", {"a": -1, "b": (1, "x,y"), "c": {"k": None}}),
    ],
)
def test_pairs_are_literals_and_bare_words_strings(text: str, expected: dict[str, Any]) -> None:
    assert parse_params(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hidden", "params 'hidden': not of the form name=value"),
        ("1a=2", "not of the form name=value"),
        ("a=1, a=2", "params 'a': given twice"),
        ("a=[1", "a quote or bracket is not closed"),
        ("a='x", "a quote or bracket is not closed"),
        ("a=__import__('os').system('true')", "not a Python literal"),
        ("a=1+1", "not a Python literal"),
        ("a=false", "write a=False"),
        ("a=[1, true]", "not a Python literal"),
        ("a=" + "[" * 500 + "]" * 500, "not a Python literal"),
    ],
)
def test_what_does_not_parse_is_named(text: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_params(text)
    assert message in str(raised.value)


class Spec:
    def __init__(self, context=None, hidden=1) -> None: ...

    def create_optimizer(self, lr=0.1) -> None: ...

    def fixed_optimizer(self) -> None: ...


class Rated:
    def __init__(self, learning_rate, **others) -> None: ...


def test_the_learning_rate_goes_to_the_optimizer_under_its_own_name_there() -> None:
    params = {"hidden": 2, "learning_rate": 0.5}
    assert split_params(params, "m.Spec", Spec, Spec.create_optimizer) == (
        {"hidden": 2},
        {"lr": 0.5},
    )


def test_a_constructor_that_names_the_learning_rate_gets_it() -> None:
    params = {"learning_rate": 0.5, "other": 1}
    assert split_params(params, "m.Rated", Rated, Spec.create_optimizer) == (params, {})


@pytest.mark.parametrize(
    ("params", "optimizer", "message"),
    [
        (
            {"hiden": 2},
            Spec.create_optimizer,
            "params 'hiden': model_def 'm.Spec' does not take it; "
            "it takes 'hidden', 'learning_rate'",
        ),
        ({"lr": 2}, Spec.fixed_optimizer, "params 'lr': model_def 'm.Spec' does not take it"),
        ({"lr": 2, "learning_rate": 1}, Spec.create_optimizer, "give one of them"),
        ({"context": 2}, Spec.create_optimizer, "params 'context'"),
    ],
)
def test_what_nobody_takes_is_an_error_naming_what_is_accepted(
    params: dict[str, Any], optimizer: Any, message: str
) -> None:
    with pytest.raises(UsageError) as raised:
        split_params(params, "m.Spec", Spec, optimizer)
    assert message in str(raised.value)


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(UsageError, match="needs 'learning_rate'"):
        split_params({}, "m.Rated", Rated, None)

"""How messages count things."""

from __future__ import annotations


def count_of(number: int, noun: str) -> str:
    """Return e.g. `1 worker`, `2 workers`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def there_are_now(number: int, noun: str) -> str:
    """Return e.g. `there is 1 worker now`: why instances come and go."""
    return f"there {'is' if number == 1 else 'are'} {count_of(number, noun)} now"

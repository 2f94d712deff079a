"""Metrics as Prometheus reads them: its text format, version 0.0.4."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "elasticdl_"


class Exposition:
    """Metrics of one moment.

    Args:
      labels: that every sample has.
    """

    def __init__(self, **labels: object) -> None:
        self._labels = labels
        self._families: dict[str, list[str]] = {}

    def gauge(self, name: str, told: str, value: float | None, **labels: object) -> None:
        """Add what is so now; nothing where it is not known."""
        self._add(name, "gauge", told, value, labels)

    def counter(self, name: str, told: str, value: float | None, **labels: object) -> None:
        """Add what only grows; its name ends in `_total`."""
        assert name.endswith("_total"), name
        self._add(name, "counter", told, value, labels)

    def histogram(self, name: str, told: str, counts: Sequence[int], **labels: object) -> None:
        """Add how many were 0, 1, 2, …; the last are that many, or more."""
        lines = self._family(name, "histogram", told)
        total = 0
        bounds = [str(value) for value in range(len(counts) - 1)]
        for bound, count in zip([*bounds, "+Inf"], counts or [0], strict=True):
            total += count
            lines.append(self._sample(f"{name}_bucket", {**labels, "le": bound}, total))
        products = sum(value * count for value, count in enumerate(counts))
        lines.append(self._sample(f"{name}_sum", labels, products))
        lines.append(self._sample(f"{name}_count", labels, total))

    def _add(
        self,
        name: str,
        kind: Literal["gauge", "counter"],
        told: str,
        value: float | None,
        labels: Mapping[str, object],
    ) -> None:
        if value is not None:
            self._family(name, kind, told).append(self._sample(name, labels, value))

    def _family(self, name: str, kind: str, told: str) -> list[str]:
        head = [f"# HELP {PREFIX}{name} {told}", f"# TYPE {PREFIX}{name} {kind}"]
        return self._families.setdefault(name, head)

    def _sample(self, name: str, labels: Mapping[str, object], value: float) -> str:
        all_labels = {**self._labels, **labels}
        inside = ",".join(f'{key}="{_escaped(one)}"' for key, one in all_labels.items())
        return f"{PREFIX}{name}{{{inside}}} {_shown(value)}"

    def text(self) -> str:
        """All of them."""
        return "".join(f"{line}\n" for lines in self._families.values() for line in lines)


def _escaped(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _shown(value: float) -> str:
    if isinstance(value, int):
        return str(int(value))
    if math.isnan(value):
        return "NaN"
    return repr(float(value)) if math.isfinite(value) else f"{'+' if value > 0 else '-'}Inf"

"""What the options about pods mean, each parsed once: resources, volumes, tolerations, priorities.

Every function raises `ValueError` with what is wrong and what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from fractions import Fraction

_QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d{1,2})?")
_BINARY = {f"{letter}i": Decimal(1024**power) for power, letter in enumerate("KMGTPE", 1)}
_DECIMAL = {
    letter: Decimal(10) ** power
    for letter, power in zip("numkMGTPE", (-9, -6, -3, 3, 6, 9, 12, 15, 18), strict=True)
}
_OBJECT = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_LABEL_NAME = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_LABEL_KEY = re.compile(rf"([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{_LABEL_NAME}")
_LABEL_VALUE = re.compile(rf"({_LABEL_NAME})?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Volume:
    """A volume and where every pod has it; of claim, path and secret it is one."""

    mount_path: str
    claim_name: str = ""
    host_path: str = ""
    secret_name: str = ""
    sub_path: str = ""
    read_only: bool = False


@dataclass(frozen=True)
class Toleration:
    """A taint that pods tolerate; an empty value is any, an empty effect every one."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True)
class Priority:
    """Which priority class an instance's pod has.

    first: the class of a share of them; rest: that of the others. Empty: the cluster's default.
    """

    first: str
    share: Fraction
    rest: str

    def of_index(self, index: int) -> str:
        """The class of the instance of this index: `share` of any number of them get `first`."""
        gets_first = int((index + 1) * self.share) > int(index * self.share)
        return self.first if gets_first else self.rest


def parse_quantity(text: str) -> Decimal:
    """The number that a quantity stands for: ``500m`` is 0.5, ``1Gi`` is 1024³."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is no quantity; give numbers such as 2, 500m, 512Mi or 4Gi")
    number, suffix = Decimal(match[1]), match[2] or ""
    if suffix[:1] in ("e", "E") and len(suffix) > 1 and suffix != "Ei":
        return number * Decimal(10) ** int(suffix[1:])
    return number * (_BINARY.get(suffix) or _DECIMAL.get(suffix) or Decimal(1))


def mebibytes(num_bytes: Decimal) -> str:
    """A quantity of memory, rounded up."""
    return f"{int((num_bytes / _MEBIBYTE).to_integral_value(ROUND_CEILING))}Mi"


def parse_resources(text: str) -> dict[str, str]:
    """The quantities by name of ``cpu=1,memory=1Gi``."""
    found = parse_pairs(text, "cpu=1,memory=1Gi")
    for name, quantity in found.items():
        if _LABEL_KEY.fullmatch(name) is None:
            raise ValueError(f"'{name}' is no resource; give such as cpu=1,memory=1Gi")
        if parse_quantity(quantity) <= 0 and name in ("cpu", "memory"):
            raise ValueError(f"{name}={quantity} is nothing; give more than 0")
    return found


def parse_pairs(text: str, example: str) -> dict[str, str]:
    """The values by name of ``a=1,b=2``, each name once."""
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (each.strip() for each in part.partition("="))
        if not (name and equals and value):
            raise ValueError(f"'{part.strip()}' is not NAME=VALUE; give such as {example}")
        if name in found:
            raise ValueError(f"'{name}' is given twice; give it once")
        found[name] = value
    return found


def parse_volumes(items: Iterable[str]) -> list[Volume]:
    """The volumes of ``claim_name=data,mount_path=/data``; several may stand with ; between."""
    found = [_volume(part) for item in items for part in item.split(";") if part.strip()]
    mounted = [volume.mount_path for volume in found]
    for path in mounted:
        if mounted.count(path) > 1:
            raise ValueError(f"mount_path={path} is given twice; mount one volume there")
    return found


def _volume(text: str) -> Volume:
    example = "claim_name=data,mount_path=/data"
    given = parse_pairs(text, example)
    sources = ("claim_name", "host_path", "secret_name")
    known = (*sources, "mount_path", "sub_path", "read_only")
    for name in given:
        if name not in known:
            raise ValueError(f"'{name}' is none of {', '.join(known)}; give such as {example}")
    if len(given.keys() & set(sources)) != 1:
        raise ValueError(f"give one of {', '.join(sources)}, such as {example}")
    mount_path = given.get("mount_path", "").rstrip("/")
    if not mount_path.startswith("/") or ":" in mount_path or ".." in mount_path.split("/"):
        raise ValueError(f"give an absolute mount_path, not '/', such as {example}")
    if not given.get("host_path", "/").startswith("/"):
        raise ValueError("give an absolute host_path")
    for name in ("claim_name", "secret_name"):
        if name in given:
            parse_object_name(given[name])
    sub_path = given.get("sub_path", "")
    if sub_path.startswith("/") or ".." in sub_path.split("/"):
        raise ValueError(f"sub_path={sub_path}: give a path inside the volume")
    if given.get("read_only", "true") not in ("true", "false"):
        raise ValueError(f"read_only={given['read_only']}: give true or false")
    return Volume(
        mount_path,
        given.get("claim_name", ""),
        given.get("host_path", ""),
        given.get("secret_name", ""),
        sub_path,
        given.get("read_only") == "true",
    )


def parse_toleration(text: str) -> Toleration:
    """The toleration of ``key=value:Effect``, of which only the key has to be there."""
    taint, colon, effect = text.partition(":")
    key, equals, value = taint.partition("=")
    if colon and effect not in _EFFECTS:
        raise ValueError(f"'{effect}' is no effect; give one of {', '.join(_EFFECTS)}")
    if _LABEL_KEY.fullmatch(key) is None or (equals and _LABEL_VALUE.fullmatch(value) is None):
        raise ValueError(f"'{taint}' is no taint; give such as dedicated=training:NoSchedule")
    return Toleration(key, value, effect)


def parse_node_selector(text: str) -> dict[str, str]:
    """The labels of ``disktype=ssd,zone=a``."""
    found = parse_pairs(text, "disktype=ssd")
    for key, value in found.items():
        if _LABEL_KEY.fullmatch(key) is None or _LABEL_VALUE.fullmatch(value) is None:
            raise ValueError(f"'{key}={value}' is no label; give such as disktype=ssd")
    return found


def parse_priority(text: str) -> Priority:
    """The classes of ``high``, ``high=0.5`` or ``high=0.5,low``."""
    parts = [part.strip() for part in text.split(",")] if text else []
    if not parts:
        return Priority("", Fraction(0), "")
    first, equals, share = parts[0].partition("=")
    is_share = re.fullmatch(r"1(\.0{1,6})?|0?\.\d{1,6}|0", share) if equals else True
    part = Fraction(share) if equals and is_share else Fraction(1)
    rest = parts[1] if len(parts) > 1 else ""
    is_right = is_share and len(parts) <= 2 and bool(equals) >= (len(parts) == 2)
    names = [first, *parts[1:]]
    if not is_right or not all(_OBJECT.fullmatch(name) for name in names):
        raise ValueError("give a class, or a share from 0 to 1 of one and another: high=0.5,low")
    return Priority(first, part, rest)


def parse_variable(text: str) -> tuple[str, str]:
    """The name and the value of ``NAME=VALUE``."""
    name, equals, value = text.partition("=")
    if not equals or _VARIABLE.fullmatch(name) is None:
        raise ValueError(f"'{name}' is no NAME=VALUE; give such as AWS_REGION=eu-west-1")
    return name, value


def parse_object_name(text: str) -> str:
    """The name of an object, as it is."""
    if _OBJECT.fullmatch(text) is None:
        raise ValueError(f"'{text}' is no object's name; give small letters, digits, '-' and '.'")
    return text


def parse_user(text: str) -> tuple[int, int]:
    """The user and the group of ``10001:10001``."""
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text)
    if match is None or match[1].strip("0") == "":
        raise ValueError("give two numbers, the user's other than 0, such as 10001:10001")
    return int(match[1]), int(match[2])

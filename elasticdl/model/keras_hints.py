"""Which ``--keras`` an error of the user's code asks for: what it missed is in the other Keras."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys

_ATTRIBUTE = re.compile(r"module '([\w.]*keras[\w.]*)' has no attribute '(\w+)'")
_IMPORT = re.compile(r"cannot import name '(\w+)' from '([\w.]*keras[\w.]*)'")
_MODULE = re.compile(r"No module named '([\w.]*keras[\w.]*)'")
# Before a name's part that is the same in both: tf.keras is one of these modules.
_ROOTS = re.compile(
    r"^(tensorflow\.|keras\._tf_keras\.|keras\.api\.|tf_keras\.api\._v[12]\.)?(tf_)?keras\b\.?"
)
_REFUSED = "is not supported in Keras 3"  # what keras.optimizers.legacy says of itself


def keras_hint(error: BaseException) -> str:
    """Return "; NAME is in … only: add --keras=…" where that is what an error lacks, else nothing.

    Args:
      error: raised by the user's code.
    """
    api = sys.modules.get("elasticdl.model.keras_api")
    if api is None:
        return ""
    message = str(error)
    if _REFUSED in message and not api.IS_LEGACY:
        return "; keras.optimizers.legacy is in tf_keras only: add --keras=legacy"
    name = _missing(error, message)
    if name is None:
        return ""
    other, flag = ("keras", "3") if api.IS_LEGACY else ("tf_keras", "legacy")
    if not _has(other, name):
        return ""
    shown = "Keras 3" if other == "keras" else other
    return f"; keras.{name} is in {shown} only: add --keras={flag}"


def _missing(error: BaseException, message: str) -> str | None:
    """Return the name below ``keras`` that an error says is not there."""
    if isinstance(error, AttributeError) and (found := _ATTRIBUTE.search(message)):
        module, name = found.groups()
        dotted = f"{module}.{name}"
    elif isinstance(error, ImportError) and (found := _IMPORT.search(message)):
        name, module = found.groups()
        dotted = f"{module}.{name}"
    elif isinstance(error, ImportError) and (found := _MODULE.search(message)):
        dotted = found.group(1)
    else:
        return None
    below = _ROOTS.sub("", dotted, count=1)
    return below if below and below != dotted else None


def _has(package: str, name: str) -> bool:
    """Whether a Keras has a dotted name."""
    if importlib.util.find_spec(package) is None:
        return False
    found: object = importlib.import_module(package)
    for part in name.split("."):
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


def of_other_keras(value: object) -> str:
    """Return "; it is of …: …" where an object is one of the Keras not in use, else nothing."""
    api = sys.modules.get("elasticdl.model.keras_api")
    other = None if api is None else "keras" if api.IS_LEGACY else "tf_keras"
    if other not in {each.__module__.partition(".")[0] for each in type(value).__mro__}:
        return ""
    if other == "tf_keras":
        return "; it is of tf_keras: add --keras=legacy"
    return "; it is of Keras 3: add --keras=3, or use `from tensorflow import keras` in your code"

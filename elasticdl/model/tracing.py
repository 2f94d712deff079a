"""Tracing a model so that every lookup is seen: nested `tf.function`s become part of the trace.

A `tf.function` inside a model has traces of its own, made once and used again. Under one lookup
context it must never be answered by the trace of another, so while a model is traced they are
called as the Python functions they were made of.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tensorflow.python.autograph.core import ag_ctx
from tensorflow.python.eager.polymorphic_function import autograph_util, polymorphic_function

from elasticdl.layers.lookup_context import LookupContext

_lock = threading.RLock()
_inlining = threading.local()
_Function = polymorphic_function.Function


@contextmanager
def tracing(context: LookupContext) -> Iterator[None]:
    """Answer lookups by a context and inline nested functions inside the block.

    What a lookup of ours raised is raised as it was, whatever Keras and AutoGraph made of it. One
    thread traces at a time; others may run traced functions meanwhile.
    """
    with _lock, _inlined(), context.active():
        try:
            yield
        except Exception:
            if context.error is not None:
                raise context.error from None
            raise


@contextmanager
def _inlined() -> Iterator[None]:
    call = _Function.__call__

    def call_inlined(function: Any, *args: Any, **kwargs: Any) -> Any:
        if not getattr(_inlining, "active", False):
            return call(function, *args, **kwargs)
        python_function = function.python_function
        if function._autograph:
            python_function = autograph_util.py_func_from_autograph(
                python_function, function._experimental_autograph_options
            )
        with ag_ctx.ControlStatusCtx(status=ag_ctx.Status.UNSPECIFIED):
            return python_function(*args, **kwargs)

    outer = getattr(_inlining, "active", False)
    _Function.__call__ = call_inlined
    _inlining.active = True
    try:
        yield
    finally:
        _inlining.active = outer
        _Function.__call__ = call

"""Running the user's functions so that their errors read as theirs."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elasticdl.errors import ElasticDLError, UsageError, UserCodeError
from elasticdl.model.keras_hints import keras_hint

_OUR_FILES = str(Path(__file__).resolve().parents[1]) + "/"
_LIBRARIES = re.compile(
    r"/(tensorflow|keras|tf_keras|optree)/|/contextlib\.py$|/importlib/|<frozen "
    r"|/tmp/__autograph_generated"
)
_FRAME = re.compile(r'^  File "([^"]*)", line .*\n(?:    .*\n|\n)*', re.MULTILINE)
_COLORS = re.compile(r"\x1b\[[0-9;]*m")
# Inside a message, indented: AutoGraph's account of the user's code.
_INNER_FRAME = re.compile(r'^\s+File "([^"]*)", line ', re.MULTILINE)
_ROOT_ERROR = re.compile(r"^\(\d+\) [A-Z_]+:\s*")
_LAST_FRAMES = 3


class ModelCodeError(UserCodeError, UsageError):
    """The user's model code raised before anything was launched."""

    exit_code = 2


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Turn whatever the user's code raises inside the block into `UserCodeError`.

    A `SystemExit` is an error too where the user's code asked for it (``sys.exit()`` in a module),
    but not where a signal handler of ours did while that code ran.

    Args:
      what: the function that runs, for the message: "create_model of 'mnist.Mnist'".
    """
    try:
        yield
    except ElasticDLError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and _is_ours(error):
            raise
        hint = keras_hint(error)
        raise UserCodeError(f"{what}: {one_line(error)}{hint}", user_traceback(error)) from error


@contextmanager
def before_launch() -> Iterator[None]:
    """Turn `UserCodeError` inside the block into the kind that ends a command with 2."""
    try:
        yield
    except ModelCodeError:
        raise
    except UserCodeError as error:
        raise ModelCodeError(str(error), error.traceback_text) from error


def one_line(error: BaseException) -> str:
    """Return an exception's type and the line of its message that says what happened."""
    lines = [line.strip() for line in _message(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("Graph execution error"):
        lines = [_reason(lines)]
    if lines and lines[0].startswith("in user code"):
        lines = lines[-1:]
        name = type(error).__name__
        return lines[0] if lines[0].startswith(name) else f"{name}: {lines[0]}"
    if len(lines) > 1 and lines[0].startswith("Exception encountered when calling"):
        lines = lines[1:]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def user_traceback(error: BaseException) -> str:
    """Format a traceback without the frames of this package, TensorFlow and Keras."""
    summary = traceback.TracebackException.from_exception(error, compact=True)
    frames = [frame for frame in summary.stack if _is_users(frame.filename)]
    # A syntax error is at no frame; it names its file and line itself.
    if frames or isinstance(error, SyntaxError):
        summary.stack = traceback.StackSummary.from_list(frames)
    # What an exception was made from is the libraries' story, told in frames of theirs.
    summary.__cause__ = None
    summary.__context__ = None
    text = "".join(summary.format())
    if isinstance(error, KeyError):
        text = text.replace(str(error), _message(error))
    return _COLORS.sub("", text)


def without_library_frames(text: str) -> str:
    """Return a formatted traceback without the frames of TensorFlow and Keras.

    For tracebacks that come as text, from Python functions that TensorFlow runs in its pipelines.
    """
    kept = _FRAME.sub(lambda frame: "" if _LIBRARIES.search(frame[1]) else frame[0], text)
    inner = (match[1] for match in _INNER_FRAME.finditer(kept))
    frames = list(_FRAME.finditer(text))
    if not frames or any(not _LIBRARIES.search(filename) for filename in inner):
        return kept
    last = frames[-_LAST_FRAMES:]
    return text[: frames[0].start()] + "".join(each[0] for each in last) + text[last[-1].end() :]


def _message(error: BaseException) -> str:
    """Return an exception's message without colors; of a KeyError with lines, not its repr."""
    (only,) = error.args if len(error.args) == 1 else (None,)
    is_text = isinstance(error, KeyError) and isinstance(only, str) and "\n" in only
    return _COLORS.sub("", only if is_text and isinstance(only, str) else str(error))


def _reason(lines: list[str]) -> str:
    """Return why a graph failed: what stands before the node it names, after the places."""
    nodes = (index for index, line in enumerate(lines) if line.startswith("[["))
    index = next(nodes, len(lines)) - 1
    return _ROOT_ERROR.sub("", lines[max(index, 0)])


def _is_ours(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(_OUR_FILES)


def _is_users(filename: str) -> bool:
    return not filename.startswith(_OUR_FILES) and not _LIBRARIES.search(filename)

"""The command line: finds the command, runs it, and turns errors into one line and an exit code.

Exit codes: 0 done; 1 a job failed; 2 what was asked cannot be done, nothing was launched;
124 a job that was waited for goes on;
130 interrupted by Ctrl-C; 143 ended by SIGTERM; 141 nobody reads the output any more.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import elasticdl
from elasticdl.api.stopping import EXIT_CODES, stopping_at_once

with stopping_at_once(" ".join(["elasticdl", *sys.argv[1:2]])):
    import difflib
    import traceback

    from elasticdl.api.commands import (
        Command,
        checkpoints,
        completion,
        data,
        doctor,
        init,
        job,
        job_pages,
        jobs,
        kubernetes,
        zoo,
    )
    from elasticdl.errors import Detached, ElasticDLError, UsageError, UserCodeError
    from elasticdl.masking import masked

COMMANDS: list[Command] = [
    *job.COMMANDS,
    *init.COMMANDS,
    *data.COMMANDS,
    *jobs.COMMANDS,
    *job_pages.COMMANDS,
    *checkpoints.COMMANDS,
    *zoo.COMMANDS,
    *kubernetes.COMMANDS,
    *doctor.COMMANDS,
    *completion.COMMANDS,
]

_NOBODY_READS = 141
_TERMINATED = EXIT_CODES[signal.SIGTERM]


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code.

    Args:
      words: what follows ``elasticdl``; by default the process's own arguments.
    """
    words = sys.argv[1:] if words is None else list(words)
    name = "elasticdl"
    signal.signal(signal.SIGTERM, _end)
    exit_code = 0
    try:
        command, rest = find_command(words)
        if command is None:
            print(overview(words))
        else:
            name = f"elasticdl {command.name}"
            try:
                command.run(rest)
            except SystemExit as end:  # --help, SIGTERM
                exit_code = end.code if isinstance(end.code, int) else 0
                if exit_code == _TERMINATED:
                    _show_stop(name, end)
        sys.stdout.flush()
    except ElasticDLError as error:
        _show(
            name, error, with_traceback=any(word in ("--debug", "--debug=true") for word in words)
        )
        return error.exit_code
    except KeyboardInterrupt as stop:
        _show_stop(name, stop)
        return EXIT_CODES[signal.SIGINT]
    except BrokenPipeError:
        # Python flushes stdout once more at exit: give it somewhere to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _NOBODY_READS
    return exit_code


def find_command(words: Sequence[str]) -> tuple[Command | None, list[str]]:
    """Find the command that words begin with, and the words after it.

    Returns:
      no command where the words ask for an overview (``elasticdl``, ``elasticdl data --help``).

    Raises:
      UsageError: there is no such command; names the nearest known one.
    """
    typed = tuple(words[:2])
    for command in COMMANDS:
        if typed[: len(command.words)] == command.words:
            return command, list(words[len(command.words) :])
    groups = {command.words[0] for command in COMMANDS if len(command.words) == 2}
    in_group = bool(words) and words[0] in groups
    last = words[in_group] if len(words) > in_group else ""
    if last in ("", "--help", "-h", "help", "--version"):
        return None, []
    wrong = " ".join(typed[: 1 + in_group])
    known = [c.name for c in COMMANDS if not in_group or c.words[0] == words[0]]
    close = difflib.get_close_matches(wrong, [*known, *groups], n=1, cutoff=0.5)
    hint = f"did you mean elasticdl {close[0]}?" if close else "elasticdl --help lists them"
    raise UsageError(f"'{wrong}': no such command; {hint}")


def overview(words: Sequence[str]) -> str:
    """The list of commands (of one group, where a group was named), or the version."""
    if "--version" in words:
        return f"elasticdl {elasticdl.__version__}"
    group = words[0] if words and not words[0].startswith("-") and words[0] != "help" else None
    shown = [command for command in COMMANDS if group in (None, command.words[0])]
    width = max(len(command.name) for command in shown)
    lines = [
        f"Usage: elasticdl {group or 'COMMAND'} ...",
        "",
        "Train Keras models on parameter servers, with workers that may come and go.",
        "",
        "Commands:",
        *(f"  {command.name.ljust(width)}  {command.summary}" for command in shown),
        "",
        "elasticdl COMMAND --help says more; elasticdl --version says which version this is.",
    ]
    return "\n".join(lines)


def _show(name: str, error: ElasticDLError, with_traceback: bool) -> None:
    if with_traceback:
        traceback.print_exception(error)
    elif isinstance(error, UserCodeError) and error.traceback_text:
        print(masked(error.traceback_text.rstrip()), file=sys.stderr)
    lines = [f"{name}: error: {masked(str(error))}", *getattr(error, "__notes__", [])]
    print("\n".join(lines), file=sys.stderr)


def _show_stop(name: str, stop: BaseException) -> None:
    notes = getattr(stop, "__notes__", [])
    how = str(stop) if isinstance(stop, Detached) else "stopped"
    print("; ".join([f"{name}: {how}", *notes]), file=sys.stderr)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(_TERMINATED)

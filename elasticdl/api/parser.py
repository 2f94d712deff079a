"""Command-line parsers: made from `JobSpec`, strict about names, with help people can read."""

from __future__ import annotations

import argparse
import difflib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from elasticdl.errors import UsageError
from elasticdl.job_spec import OPTIONS, options_of
from elasticdl.options import GROUPS, Option, unknown_option

_HELP_COLUMN = 30
MOST_SHOWN = 40
"""Of a value that is wrong, in characters."""
DESCRIBE = "--describe-parser"
"""The one word for which every command raises `Described` instead of doing anything."""


class Described(Exception):
    """The parser of a command, for whoever wants to know what it takes."""

    def __init__(self, parser: Parser) -> None:
        super().__init__(parser.command)
        self.parser = parser


class Parser(argparse.ArgumentParser):
    """An argument parser whose every complaint is a `UsageError` of one line.

    Options are written in full, once each; nothing is guessed from an abbreviation.

    Args:
      command: the command's words, e.g. ``data convert``.
      summary: what it does, in one line.
      usage: what follows the command's words.
      examples: lines at the end of the help.
    """

    def __init__(self, command: str, summary: str, usage: str, examples: Iterable[str]) -> None:
        epilog = "\n".join(["Examples:", *(f"  {line}" for line in examples)])
        super().__init__(
            prog=f"elasticdl {command}",
            usage=f"elasticdl {command} {usage}".rstrip(),
            description=summary,
            epilog=epilog,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
            exit_on_error=False,
            add_help=False,
        )
        self.command = command
        self.register("action", None, _StoreOnce)
        self.register("action", "items", _StoreAll)
        self._positionals.title = "Arguments"
        self._optionals.title = "Options"

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse the words after the command.

        Raises:
          UsageError: an unknown option, a missing or unexpected value, an option given twice.
          Described: the words are `DESCRIBE`.
        """
        if list(words) == [DESCRIBE]:
            raise Described(self)
        try:
            parsed, rest = self.parse_known_args(list(words))
        except argparse.ArgumentError as error:
            raise UsageError(self._complaint(error)) from None
        if rest:
            raise UsageError(self._unexpected(rest[0]))
        return parsed

    def error(self, message: str) -> NoReturn:
        """Called by argparse, e.g. for missing positional arguments."""
        missing = message.removeprefix("the following arguments are required: ")
        raise UsageError(f"`{self.command}` needs {missing}; see {self.prog} --help")

    def names(self) -> list[str]:
        """Every option's name as typed, with its dashes."""
        return [name for action in self._actions for name in action.option_strings]

    def _complaint(self, error: argparse.ArgumentError) -> str:
        if error.message and "expected" in error.message:
            action = next(a for a in self._actions if error.argument_name in a.option_strings)
            return f"{error.argument_name}: has no value; give {_spelled(action)}"
        return f"{error.argument_name}: {error.message}"

    def _unexpected(self, word: str) -> str:
        name = word.split("=", 1)[0]
        if not word.startswith("-"):
            return f"'{word}': unexpected; options start with --, and patterns stand in quotes"
        if self.command in {command for one in OPTIONS.values() for command in one.commands}:
            return unknown_option(name.lstrip("-"), self.command, OPTIONS, "--", name)
        close = difflib.get_close_matches(name.replace("-", "_"), self.names(), n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}?" if close else f"see {self.prog} --help"
        return f"{name}: no such option of `{self.command}`; {hint}"


class _StoreOnce(argparse.Action):
    """Store a value; refuse a second one, of which argparse would silently keep the last."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if option_string is not None and hasattr(namespace, self.dest):
            raise argparse.ArgumentError(self, "given twice; give it once")
        setattr(namespace, self.dest, self.const if self.nargs == 0 else values)


class _StoreAll(argparse.Action):
    """Collect the values of an option that may be given several times."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, [*getattr(namespace, self.dest, []), values])


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help with options as they are typed, ``--num_epochs=N``, in one column."""

    def __init__(self, prog: str) -> None:
        width = min(100, shutil.get_terminal_size().columns) - 2
        super().__init__(prog, max_help_position=_HELP_COLUMN, width=width)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if action.option_strings:
            return _spelled(action)
        return super()._format_action_invocation(action)

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[Any],
        prefix: str | None = None,
    ) -> None:
        super().add_usage(usage, actions, groups, "Usage: ")


def _spelled(action: argparse.Action) -> str:
    name = action.option_strings[-1]
    if action.nargs == 0 or action.nargs == "?":
        return name
    return f"{name}={action.metavar}"


def add_switch(parser: Parser, name: str, description: str) -> None:
    """Add an option that is there or not, to a command that is no job."""
    parser.add_argument(
        f"--{name}", nargs=0, const=True, default=argparse.SUPPRESS, help=description
    )


def job_parser(command: str, summary: str, examples: Iterable[str]) -> Parser:
    """Make the parser of a command that runs a job, from the options `JobSpec` declares for it.

    What it parses is a namespace of strings, for `JobSpec.resolve`; only what was given is there.
    """
    taken = options_of(command)
    required = [one for one in taken.values() if command in one.required_by]
    usage = " ".join([*(f"--{one.name}={one.metavar}" for one in required), "[OPTIONS]"])
    parser = Parser(command, summary, usage, examples)
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    for one in taken.values():
        groups[one.group].add_argument(
            f"--{one.name}",
            metavar=one.metavar,
            help=_help(one, command).replace("%", "%%"),
            default=argparse.SUPPRESS,
            **_arity(one),
        )
    groups["Job"].add_argument(
        "--config",
        metavar="FILE",
        help="YAML file of these options; those on the command line hold instead of its own",
        default=argparse.SUPPRESS,
    )
    groups["Display"].add_argument("-h", "--help", action="help", help="show this and exit")
    return parser


def _arity(one: Option) -> Mapping[str, Any]:
    if one.form == "items":
        return {"action": "items"}
    return {"nargs": "?", "const": "true"} if one.is_flag else {}


def _help(one: Option, command: str) -> str:
    if command in one.required_by:
        return f"{one.description} (required)"
    if one.is_flag or one.default in (None, "", ()):
        off = f" (default: true; --{one.name}=false turns it off)"
        return f"{one.description}{off}" if one.default is True else one.description
    return (
        f"{one.description} (default: {one.default:g})"
        if isinstance(one.default, float)
        else f"{one.description} (default: {one.default})"
    )


def whole_number(
    parsed: Mapping[str, Any], name: str, least: int = 0, most: int = 10**9, example: int = 10
) -> int | None:
    """What was given for an option that is a number; None if nothing was.

    Raises:
      UsageError: it is no number from `least` to `most`.
    """
    if name not in parsed:
        return None
    text = parsed[name]
    # Many digits are not even converted: Python limits how many there may be.
    is_number = text.isascii() and text.isdigit() and len(text.lstrip("0")) <= len(str(most))
    if not is_number or not least <= int(text.lstrip("0") or 0) <= most:
        shown = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
        raise UsageError(
            f"--{name}='{shown}': not a whole number from {least} to {most}; "
            f"e.g. --{name}={example}"
        )
    return int(text.lstrip("0") or 0)

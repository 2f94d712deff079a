"""``elasticdl completion``: what makes a shell complete commands, options, values and jobs."""

from __future__ import annotations

from collections.abc import Sequence

from elasticdl.api.commands import Command
from elasticdl.api.parser import Parser, add_switch
from elasticdl.errors import UsageError

SHELLS = ("bash", "zsh", "fish")
_SUMMARY = "print what makes bash, zsh or fish complete commands, options and jobs"


def _completion(words: Sequence[str]) -> None:
    examples = [
        'eval "$(elasticdl completion bash)"      # in ~/.bashrc',
        'eval "$(elasticdl completion zsh)"       # in ~/.zshrc, after compinit',
        "elasticdl completion fish > ~/.config/fish/completions/elasticdl.fish",
    ]
    title = f"{_SUMMARY[0].upper()}{_SUMMARY[1:]}."
    parser = Parser("completion", title, "|".join(SHELLS), examples)
    parser.add_argument("shell", metavar="SHELL", help=", ".join(SHELLS))
    parser.add_argument("-h", "--help", action="help", help="show this and exit")
    add_switch(parser, "debug", "show this package's own traceback when something fails")
    shell = parser.parse(words).shell
    if shell not in SHELLS:
        raise UsageError(f"SHELL '{shell}': none that is known; give {', '.join(SHELLS)}")

    from elasticdl.api.command_line import COMMANDS as ALL
    from elasticdl.api.completion import describe, script

    print(script(shell, [describe(one) for one in ALL]), end="")


COMMANDS = [Command(("completion",), _SUMMARY, _completion)]

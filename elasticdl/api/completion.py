"""Completion for shells: scripts that have everything but the names of jobs inside.

So a press of the tab key starts no Python. Options are those of the commands' own parsers, which
for jobs are made of `JobSpec`'s declarations.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from elasticdl.api.commands import Command
from elasticdl.api.parser import DESCRIBE, Described
from elasticdl.errors import UsageError
from elasticdl.job_spec import OPTIONS

JOB = "JOB"
# Of options and arguments that are not declared in `JobSpec`.
_VALUES = {
    "role": ("master", "ps", "worker", "supervisor", "spares"),
    "compressor": ("none", "snappy", "gzip"),
    "contract": ("spec", "functions"),
    "SHELL": ("bash", "zsh", "fish"),
}


@dataclass(frozen=True)
class Taken:
    """An option of a command.

    Attributes:
      names: as typed, with their dashes; the longest last.
      description: one line.
      has_value: whether it takes one; `needs_value`: or else is an error.
      values: the only ones there are, or none.
    """

    names: tuple[str, ...]
    description: str
    has_value: bool
    needs_value: bool
    values: tuple[str, ...]


@dataclass(frozen=True)
class Known:
    """A command as completion knows it.

    Attributes:
      words: that call it.
      summary: one line about it.
      options: what it takes.
      argument: what its first argument is: `JOB`, another name, or empty where it takes none.
    """

    words: tuple[str, ...]
    summary: str
    options: tuple[Taken, ...]
    argument: str


def describe(command: Command) -> Known:
    """Ask a command for its parser, and that for what it takes."""
    try:
        command.run([DESCRIBE])
    except Described as described:
        parser = described.parser
    else:
        raise AssertionError(f"{command.name} did not say what it takes")
    actions = [one for one in parser._actions if one.option_strings]
    arguments = [one for one in parser._actions if not one.option_strings]
    return Known(
        command.words,
        command.summary,
        tuple(_taken(one) for one in actions),
        str(arguments[0].metavar) if arguments else "",
    )


def _taken(action: argparse.Action) -> Taken:
    name = action.option_strings[-1].lstrip("-")
    declared = OPTIONS.get(name)
    values = _VALUES.get(name, ())
    if declared is not None and declared.choices:
        values = declared.choices
    elif declared is not None and declared.is_flag:
        values = ("true", "false")
    return Taken(
        tuple(action.option_strings),
        (action.help or "").replace("%%", "%"),
        action.nargs != 0,
        action.nargs not in (0, "?"),
        values,
    )


def script(shell: str, known: Sequence[Known]) -> str:
    """The script for a shell.

    Raises:
      UsageError: there is none for it.
    """
    make = {"bash": _bash, "zsh": _zsh, "fish": _fish}.get(shell)
    if make is None:
        raise UsageError(f"SHELL '{shell}': none that is known; give bash, zsh or fish")
    return make(known)


_JOBS = """\
__elasticdl_jobs() {
    local job
    for job in "${ELASTICDL_HOME:-$HOME/.elasticdl}"/jobs/*; do
        if [ -f "$job/job.yaml" ]; then printf '%s\\n' "${job##*/}"; fi
    done
}
"""


def _cases(known: Sequence[Known]) -> str:
    """What bash and zsh know: functions that print what fits a command, or an option of it."""
    first: dict[str, list[str]] = {}
    for one in known:
        first.setdefault(one.words[0], []).extend(one.words[1:])
    lines = ["__elasticdl_words() {", '    case "$1" in', f"    '') echo {' '.join(first)};;"]
    lines += [f"    {name}) echo {' '.join(more)};;" for name, more in first.items() if more]
    lines += ["    esac", "}", "__elasticdl_options() {", '    case "$1" in']
    for one in known:
        names = [
            f"{name}=" if option.needs_value and name.startswith("--") else name
            for option in one.options
            for name in option.names
        ]
        lines.append(f"    '{' '.join(one.words)}') echo {' '.join(names)};;")
    lines += ["    esac", "}", "__elasticdl_values() {", '    case "$1 $2" in']
    for one in known:
        for option in one.options:
            if option.values:
                pattern = f"'{' '.join(one.words)} {option.names[-1]}'"
                lines.append(f"    {pattern}) echo {' '.join(option.values)};;")
        if one.argument in _VALUES:
            lines.append(f"    '{' '.join(one.words)} ') echo {' '.join(_VALUES[one.argument])};;")
    lines += ["    esac", "}", "__elasticdl_takes_job() {", '    case "$1" in']
    takes = "|".join(f"'{' '.join(one.words)}'" for one in known if one.argument in (JOB, "DIR"))
    lines += [f"    {takes}) return 0;;", "    esac", "    return 1", "}"]
    return "\n".join(lines) + "\n"


_BASH = """\
_elasticdl() {
    local line word="" name="" command="" values="" typed=() jobs one
    line="${COMP_LINE:0:COMP_POINT}"
    read -ra typed <<< "$line"
    if [[ "$line" != *[[:space:]] ]]; then
        word="${typed[-1]}"
        unset 'typed[-1]'
    fi
    typed=("${typed[@]:1}")
    COMPREPLY=()
    if [[ -n "${typed[0]}" && -n "$(__elasticdl_words "${typed[0]}")" ]]; then
        command="${typed[0]} ${typed[1]}"
        if [[ -z "${typed[1]}" ]]; then
            COMPREPLY=($(compgen -W "$(__elasticdl_words "${typed[0]}")" -- "$word"))
            return
        fi
    else
        command="${typed[0]}"
    fi
    if [[ -z "$command" ]]; then
        COMPREPLY=($(compgen -W "$(__elasticdl_words '')" -- "$word"))
        return
    fi
    if [[ "$word" == --*=* ]]; then
        name="${word%%=*}"
        word="${word#*=}"
        # What was typed before = stays: bash takes it for a word of its own, mostly.
        line=""
        [[ "$COMP_WORDBREAKS" == *=* ]] || line="$name="
        values="$(__elasticdl_values "$command" "$name")"
        if [[ -n "$values" ]]; then
            COMPREPLY=($(compgen -P "$line" -W "$values" -- "$word"))
        else
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -P "$line" -f -- "$word")
        fi
    elif [[ "$word" == -* ]]; then
        COMPREPLY=($(compgen -W "$(__elasticdl_options "$command")" -- "$word"))
        [[ "${COMPREPLY[0]}" == *= ]] && compopt -o nospace 2>/dev/null
    else
        COMPREPLY=($(compgen -W "$(__elasticdl_values "$command" '')" -- "$word"))
        if __elasticdl_takes_job "$command"; then
            mapfile -t jobs < <(__elasticdl_jobs)
            for one in "${jobs[@]}"; do
                [[ "$one" == "$word"* ]] && COMPREPLY+=("$one")
            done
        fi
        if [[ ${#COMPREPLY[@]} -eq 0 ]]; then
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
        fi
    fi
}
complete -F _elasticdl elasticdl
"""


def _bash(known: Sequence[Known]) -> str:
    return f"{_JOBS}{_cases(known)}{_BASH}"


_ZSH = """\
_elasticdl() {
    local command="" name="" w1="${words[2]}" w2="${words[3]}"
    local -a found
    if (( CURRENT == 2 )); then
        found=(${=$(__elasticdl_words '')})
        compadd -a found
        return
    fi
    if [[ -n "$(__elasticdl_words "$w1")" ]]; then
        if (( CURRENT == 3 )); then
            found=(${=$(__elasticdl_words "$w1")})
            compadd -a found
            return
        fi
        command="$w1 $w2"
    else
        command="$w1"
    fi
    if [[ "$PREFIX" == --*=* ]]; then
        name="${PREFIX%%=*}"
        compset -P '*='
        found=(${=$(__elasticdl_values "$command" "$name")})
        if (( $#found )); then compadd -a found; else _files; fi
    elif [[ "$PREFIX" == -* ]]; then
        found=(${=$(__elasticdl_options "$command")})
        compadd -S '' -- ${(M)found:#*=}
        compadd -- ${found:#*=}
    else
        found=(${=$(__elasticdl_values "$command" '')})
        if __elasticdl_takes_job "$command"; then found+=(${(f)"$(__elasticdl_jobs)"}); fi
        compadd -a found || _files
    fi
}
compdef _elasticdl elasticdl
"""


def _zsh(known: Sequence[Known]) -> str:
    jobs = _JOBS.replace("    local job\n", "    setopt local_options null_glob\n    local job\n")
    return f"#compdef elasticdl\n{jobs}{_cases(known)}{_ZSH}"


_FISH_JOBS = """\
function __elasticdl_jobs
    set -l home $HOME/.elasticdl
    set -q ELASTICDL_HOME; and set home $ELASTICDL_HOME
    for job in $home/jobs/*/job.yaml
        basename (dirname $job)
    end
end
function __elasticdl_is
    set -l typed (commandline -opc)
    for number in (seq (count $argv))
        set -l place (math $number + 1)
        test "$typed[$place]" = "$argv[$number]"; or return 1
    end
end
function __elasticdl_has_words
    test (count (commandline -opc)) -eq $argv[1]
end
"""


def _fish(known: Sequence[Known]) -> str:
    lines = [_FISH_JOBS.rstrip()]
    seen = set()
    for one in known:
        head = one.words[0]
        if len(one.words) == 1:
            lines.append(_fish_word("__elasticdl_has_words 1", head, one.summary))
        else:
            if head not in seen:
                lines.append(_fish_word("__elasticdl_has_words 1", head, f"commands of {head}"))
            condition = f"__elasticdl_is {head}; and __elasticdl_has_words 2"
            lines.append(_fish_word(condition, one.words[1], one.summary))
        seen.add(head)
        condition = f"__elasticdl_is {' '.join(one.words)}"
        for option in one.options:
            parts = ["complete", "-c", "elasticdl", "-n", condition]
            for name in option.names:
                parts += ["-l", name[2:]] if name.startswith("--") else ["-s", name[1:]]
            if option.values:
                parts += ["-x", "-a", " ".join(option.values)]
            elif option.needs_value:
                parts += ["-r"]
            parts += ["-d", option.description]
            lines.append(_fish_line(parts))
        if one.argument in _VALUES:
            values = " ".join(_VALUES[one.argument])
            lines.append(
                _fish_line(["complete", "-c", "elasticdl", "-n", condition, "-f", "-a", values])
            )
        if one.argument in (JOB, "DIR"):
            parts = [
                "complete",
                "-c",
                "elasticdl",
                "-n",
                condition,
                "-f",
                "-a",
                "(__elasticdl_jobs)",
            ]
            lines.append(_fish_line(parts))
    return "\n".join(lines) + "\n"


def _fish_word(condition: str, word: str, description: str) -> str:
    return _fish_line(
        ["complete", "-c", "elasticdl", "-n", condition, "-f", "-a", word, "-d", description]
    )


def _fish_line(parts: Sequence[str]) -> str:
    return " ".join(
        part if part.replace("-", "").isalnum() else _fish_quoted(part) for part in parts
    )


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"

"""The one description of a job: the options of `job_options`, read from wherever they are given.

Flags of the command line, keyword arguments of ``elasticdl.train``, keys of a ``--config`` file and
what instances receive are all read from `JobSpec`. Values may arrive as strings (flags) or as
Python values (keywords, YAML); strings are parsed once, literally, and never evaluated.
"""

from __future__ import annotations

import difflib
import os
import posixpath
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from elasticdl.errors import UsageError
from elasticdl.job_options import AllOptions
from elasticdl.job_options.commands import COMMANDS
from elasticdl.machine_options import Given, machine_options
from elasticdl.option_rules import check_rules
from elasticdl.options import (
    ONLY_PODS,
    Option,
    missing_options,
    one_of,
    plain_value,
    unknown_option,
    wrong_value,
)
from elasticdl.pod_rules import JOB_DIR_OF_POD, check_pods, check_processes

JOB_FILE = "job.yaml"
CHECKED_FILE = "checked.yaml"
"""What a check resolved of a job, beside its description; it holds over that."""


class JobSpec(AllOptions):
    """One train, evaluate, predict or check run, described wholly; frozen."""

    @classmethod
    def resolve(cls, command: str, options: Mapping[str, Any], prefix: str = "") -> JobSpec:
        """Make the spec of a job from what a person gave.

        Options named in the file ``options["config"]`` hold unless `options` has them too; those
        that describe a place may also stand in the environment and in this person's configuration.
        None means "not given". Paths are made absolute; the job gets a name and a directory.

        Args:
          command: one of `COMMANDS`.
          options: values by option name, as strings or Python values.
          prefix: what stands before an option's name where the person gave it (``--`` or nothing).

        Raises:
          UsageError: an unknown option, a wrong value, or required options that are missing.
        """
        given: Given = {}
        if options.get("config") is not None:
            file = str(options["config"])
            given = {name: (v, f"{file}: ") for name, v in _read_config(file, command).items()}
        for name, value in options.items():
            if name != "config" and value is not None:
                given[name] = (value, prefix)
        known = {
            name: one
            for name, one in machine_options(OPTIONS, _read_yaml).items()
            if command in OPTIONS[name].commands
        }
        if not _of_pods({**known, **given}):  # What is known of a cluster is not about this job.
            known = {name: one for name, one in known.items() if name not in _ONLY_PODS}
        given = {**known, **given}
        spec = cls._of_given(command, given, prefix)
        values = spec.model_dump()
        if spec.cluster == "kubernetes":
            check_pods(values, _shown(given, prefix))
        else:
            check_processes(values, _shown(given, prefix), _ONLY_PODS)
        return spec

    @classmethod
    def of_options(cls, command: str, options: Mapping[str, Any], prefix: str = "") -> JobSpec:
        """Make the spec of a job that was described before, by nothing but its options.

        Where it may run was checked then, with the directory that no description has.

        Raises:
          UsageError: as `resolve`.
        """
        given = {name: (value, prefix) for name, value in options.items() if value is not None}
        return cls._of_given(command, given, prefix)

    @classmethod
    def _of_given(cls, command: str, given: Given, prefix: str) -> JobSpec:
        taken = options_of(command)
        for name, (_, origin) in given.items():
            if name not in taken:
                raise UsageError(unknown_option(name, command, OPTIONS, origin))
        missing = [n for n, one in taken.items() if command in one.required_by and n not in given]
        if missing:
            raise UsageError(missing_options(missing, command, taken, prefix))

        given, min_workers = _without_range(given)
        values = {name: option_value(name, *given[name]) for name in given}
        spec = cls.model_validate({"command": command, **values, "min_workers": min_workers})
        check_rules(spec.model_dump(), _shown(given, prefix))
        if min_workers and spec.consistency == "sync" and spec.grads_to_wait is None:
            # So that the result does not depend on how much room there was.
            spec = spec.model_copy(update={"grads_to_wait": min_workers})
        return spec._placed()

    def _placed(self) -> JobSpec:
        """This spec with absolute paths, a job name and a job directory."""
        changes: dict[str, Any] = {}
        for one in OPTIONS.values():
            value = getattr(self, one.field)
            if one.name == "model_zoo" and value and "://" not in value and self.image:
                changes[one.field] = posixpath.join("/", value)  # It is inside the image.
            elif value and one.form == "path":
                changes[one.field] = absolute_path(value)
            elif value and one.form == "patterns":
                parts = [value] if os.path.exists(value) else value.split(",")
                changes[one.field] = ",".join(absolute_path(p.strip()) for p in parts if p.strip())
        job_name = self.job_name or self._new_name()
        changes["job_name"] = job_name
        changes.setdefault("job_dir", self._default_directory(job_name, changes.get("output")))
        return self.model_copy(update=changes)

    def _default_directory(self, job_name: str, output: str | None) -> str:
        """Where the job's own files are: of pods, beside the output, which all of them reach."""
        if self.cluster == "local":
            return str(jobs_home() / job_name)
        if output is None:
            return JOB_DIR_OF_POD
        return posixpath.join(posixpath.dirname(output.rstrip("/")), ".elasticdl", job_name)

    @property
    def checkpoint_root(self) -> str:
        """The directory below which the job's checkpoints are."""
        return self.checkpoint_dir or os.path.join(self.job_dir, "checkpoints")

    @property
    def parts_root(self) -> str:
        """The directory, or URI, below which the parts of predictions are."""
        return os.path.join(self.job_dir, "parts")

    def _new_name(self) -> str:
        if self.model_def is not None:
            subject = self.model_def.split(".")[0]
        else:
            subject = f"{self.command}-{Path(self.trained_model or 'model').name}"
        kept = "".join(c if c.isalnum() and c.isascii() else "-" for c in subject.lower())
        subject = kept.strip("-")[:32].strip("-") or "job"
        return f"{subject}-{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(2)}"

    def to_options(self) -> dict[str, Any]:
        """The options that this spec's command takes, without those left at None."""
        taken = options_of(self.command)
        values = {name: getattr(self, one.field) for name, one in taken.items()}
        if self.cluster == "local":
            values = {name: value for name, value in values.items() if name not in _ONLY_PODS}
        if self.min_workers:
            values["num_workers"] = f"{self.min_workers}..{self.num_workers}"
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if name != "job_dir" and value is not None and (value != "" or name == "params")
        }

    def to_yaml(self) -> str:
        """The text of ``job.yaml``, which does not say where the job's directory is."""
        import yaml

        return yaml.safe_dump({"command": self.command, **self.to_options()}, sort_keys=False)

    def save(self, job_dir: str | Path | None = None) -> Path:
        """Write ``job.yaml`` into the job's directory (made if needed); return its path.

        The file does not say where the directory is, so that a job may be moved; only its owner
        can read it.
        """
        directory = Path(job_dir if job_dir is not None else self.job_dir)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / JOB_FILE
        temporary = path.with_name(f".{JOB_FILE}.{os.getpid()}")
        text = self.to_yaml()
        temporary.unlink(missing_ok=True)
        # Its options may hold the passwords of where the data is.
        described = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(described, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return path

    @property
    def known_as(self) -> str:
        """What `elasticdl jobs` finds the job by: its name, or a directory that is elsewhere."""
        is_home = Path(self.job_dir) == jobs_home() / self.job_name
        return self.job_name if is_home else self.job_dir

    @classmethod
    def load(cls, description: str | Path, job_dir: str | Path = "") -> JobSpec:
        """Read the spec saved in a directory (or a job file), and what a check resolved of it.

        Args:
          description: the directory, which is the job's, or the file in it.
          job_dir: the job's, where that is another.
        """
        path = Path(description)
        if path.is_dir():
            path /= JOB_FILE
        content = _read_yaml(str(path))
        if (path.parent / CHECKED_FILE).exists():
            content |= _read_yaml(str(path.parent / CHECKED_FILE))
        command = str(content.pop("command", None))
        if command not in COMMANDS:
            raise UsageError(f"{path}: command {command!r}; it should be one of {one_of(COMMANDS)}")
        spec = cls.of_options(command, content, f"{path}: ")
        return spec.model_copy(update={"job_dir": absolute_path(str(job_dir or path.parent))})


def _declared() -> dict[str, Option]:
    found = {}
    for field, info in JobSpec.model_fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, dict):
            declared = {k: tuple(v) if isinstance(v, list) else v for k, v in extra.items()}
            name = info.alias or field
            found[name] = Option(name=name, field=field, info=info, **declared)  # type: ignore[arg-type]
    return found


OPTIONS: Mapping[str, Option] = _declared()
_ONLY_PODS = {
    one.field: one.default
    for one in OPTIONS.values()
    if one.group in ONLY_PODS and one.name != "cluster"
}


def options_of(command: str) -> dict[str, Option]:
    """The options that a command takes, by name, in the order of declaration."""
    return {name: one for name, one in OPTIONS.items() if command in one.commands}


def _shown(given: Given, prefix: str) -> Callable[[str], str]:
    """How an option is written where it was given, or would have been."""
    return lambda name: f"{given.get(name, ('', prefix))[1]}{name}"


def _of_pods(given: Given) -> bool:
    return "cluster" in given and option_value("cluster", *given["cluster"]) == "kubernetes"


def _without_range(given: Given) -> tuple[Given, int]:
    """Take ``2..8`` workers apart: what is given with 8 of them, and 2; 0 where it is no range.

    Raises:
      UsageError: it is none that can be.
    """
    value, prefix = given.get("num_workers", (None, ""))
    if not isinstance(value, str) or ".." not in value:
        return given, 0
    least, _, most = value.partition("..")
    limits = [option_value("num_workers", part, prefix) for part in (least, most)]
    if not 1 <= limits[0] <= limits[1]:
        raise UsageError(
            f"{prefix}num_workers={value!r}: not from 1 worker or more to as many or more; "
            f"e.g. {OPTIONS['num_workers'].as_typed(prefix)[:-1]}2..8"
        )
    return {**given, "num_workers": (limits[1], prefix)}, limits[0]


def option_value(name: str, value: Any, prefix: str = "") -> Any:
    """Parse the value of one option, given as a string or as a Python value.

    Raises:
      UsageError: it is wrong; the line says what would be right.
    """
    one = OPTIONS[name]
    try:
        spec = JobSpec.model_validate({name: plain_value(one, value, prefix)})
    except ValidationError as error:
        raise UsageError(wrong_value(one, value, prefix, error.errors()[0]["type"])) from None
    return getattr(spec, one.field)


def machine_option(name: str) -> str:
    """What the environment or this person's configuration gives an option; else nothing.

    Raises:
      UsageError: the configuration cannot be read.
    """
    known = machine_options(OPTIONS, _read_yaml)
    return option_value(name, *known[name]) if name in known else ""


def absolute_path(path: str) -> str:
    """Make a path or pattern absolute, ``~`` expanded; URIs stay as they are."""
    if "://" in path:
        return path
    return os.path.abspath(os.path.expanduser(path))


def machine_value(name: str) -> Any:
    """An option that describes a place: of the environment, of this person's file, or its default.

    Raises:
      UsageError: as `machine_options`, or the value is wrong.
    """
    given = machine_options(OPTIONS, _read_yaml)
    return option_value(name, *given[name]) if name in given else OPTIONS[name].default


def _read_yaml(path: str) -> dict[str, Any]:
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UsageError(f"job file '{path}': {reason}; give a YAML file of options") from None
    try:
        content = _load_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise UsageError(
            f"job file '{path}': {where}{problem}; give lines such as num_epochs: 3"
        ) from None
    content = {} if content is None else content
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UsageError(
            f"job file '{path}': not a mapping of options; give lines such as num_epochs: 3"
        )
    return content


def _load_yaml(text: str) -> Any:
    """Parse YAML as `yaml.safe_load` does, but refuse keys given twice instead of keeping one."""
    import yaml

    class StrictLoader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if (key.tag, str(key.value)) in seen:
                    problem = f"'{key.value}' is given twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add((key.tag, str(key.value)))
            return super().construct_mapping(node, deep)

    return yaml.load(text, StrictLoader)


def _read_config(path: str, command: str) -> dict[str, Any]:
    content = _read_yaml(absolute_path(path))
    meant_for = content.pop("command", command)
    if meant_for not in COMMANDS:
        raise UsageError(
            f"config '{path}': command {meant_for!r}; it should be one of {one_of(COMMANDS)}"
        )
    if meant_for != command and {meant_for, command} != {"train", "check"}:
        raise UsageError(
            f"config '{path}': describes a job of `{meant_for}`, not of `{command}`; "
            f"use it with elasticdl {meant_for}"
        )
    if command == "check":
        taken = options_of("train")
        content = {k: v for k, v in content.items() if k in options_of("check") or k not in taken}
    return {name: value for name, value in content.items() if value is not None}


def elasticdl_home() -> Path:
    """What this person has of ElasticDL: $ELASTICDL_HOME, else ~/.elasticdl."""
    return Path(absolute_path(os.environ.get("ELASTICDL_HOME") or "~/.elasticdl"))


def jobs_home() -> Path:
    """The directory of this person's jobs."""
    return elasticdl_home() / "jobs"


def resolve_job_dir(job: str) -> Path:
    """Find a job's directory by the job's name or by the directory itself.

    Raises:
      UsageError: there is no such job; names the nearest known one.
    """
    for directory in (jobs_home() / job, Path(absolute_path(job))):
        if job and (directory / JOB_FILE).is_file():
            return directory
    home = jobs_home()
    known = sorted(path.parent.name for path in home.glob(f"*/{JOB_FILE}"))
    close = difflib.get_close_matches(job, known, n=1, cutoff=0.4)
    hint = f"did you mean '{close[0]}'?" if close else "elasticdl jobs list shows them"
    raise UsageError(f"job '{job}': no such job in {home} and no such directory; {hint}")

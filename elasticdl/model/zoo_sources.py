"""Where a model zoo comes from: a directory, or one commit of a git repository.

A repository is named by ``https://``, ``ssh://`` or ``file://``, and a branch, a tag or a commit
after ``@``. What is fetched lies in ``zoos/HASH/COMMIT`` of `elasticdl_home` and never changes; a
file in it says of which repository and commit it is, wherever it is copied to.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from elasticdl.data.filesystems import is_object
from elasticdl.data.local_copies import local_directory
from elasticdl.errors import UsageError
from elasticdl.job_spec import JobSpec, elasticdl_home
from elasticdl.masking import masked

ORIGIN_FILE = ".elasticdl-zoo.json"
_SCHEMES = ("https", "ssh", "file")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,39}")
# What git takes for a name, less what it would take for something else: an option, a refspec.
_REF = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)*")
_DEADLINE_S = 600.0
_STALLED_S = 30
# Of a git that runs this program, for example from a hook: they are about its own repository.
_OF_ANOTHER_GIT = {
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE"),
    *("GIT_CONFIG_PARAMETERS", "GIT_CONFIG_COUNT", "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE"),
}
# The user and password of an address go to git by its environment: others can read arguments.
_HELPER = (
    '!f() { echo "username=$ELASTICDL_GIT_USER"; echo "password=$ELASTICDL_GIT_PASSWORD"; }; f'
)


@dataclass(frozen=True)
class Zoo:
    """A directory of models, and where it is from.

    Attributes:
      origin: the repository's address, without user and password; empty for a plain directory.
      commit: which commit of it; empty for a plain directory.
    """

    directory: Path
    origin: str = ""
    commit: str = ""


def is_repository(given: str) -> bool:
    """Whether a zoo is named by the address of a repository, not by a directory."""
    return "://" in given and not is_object(given)


def resolve_zoo(given: str, home: Path) -> Zoo:
    """Find a zoo; fetch it where it is a repository whose commit is not here already.

    Args:
      given: a directory, here or of a store, or a repository's address with ``@`` and a branch, tag
        or commit after it; without that it is the repository's own default.
      home: below which fetched zoos are kept.

    Raises:
      UsageError: it is no such address, cannot be fetched, or holds links that lead out of it.
    """
    if not is_repository(given):
        return zoo_of(Path(local_directory(given)))
    source = _parsed(given)
    kept = home / "zoos" / hashlib.sha256(source.address.encode()).hexdigest()[:16]
    if _COMMIT.fullmatch(source.ref) and (kept / source.ref).is_dir():
        return zoo_of(kept / source.ref)
    if shutil.which("git") is None:
        raise UsageError(
            f"model_zoo '{masked(given)}': git is not installed; install it, or give a directory"
        )
    try:
        kept.mkdir(parents=True, exist_ok=True)
        return _Fetching(source, kept).fetched()
    except OSError as error:
        raise UsageError(
            f"model_zoo '{masked(given)}': cannot be kept in '{kept}': {error.strerror}; "
            "set ELASTICDL_HOME to a directory that can be written"
        ) from None


def with_zoo(job_spec: JobSpec) -> JobSpec:
    """Return a job whose model zoo is a directory of this machine.

    Raises:
      UsageError: it is a repository that cannot be fetched.
    """
    if job_spec.model_zoo is None or not is_repository(job_spec.model_zoo):
        return job_spec
    zoo = resolve_zoo(job_spec.model_zoo, elasticdl_home())
    return job_spec.model_copy(update={"model_zoo": str(zoo.directory)})


def zoo_of(directory: Path) -> Zoo:
    """A zoo that is a directory here, with what it says of where it was fetched from."""
    try:
        said = json.loads((directory / ORIGIN_FILE).read_text(encoding="utf-8"))
        return Zoo(directory, str(said["origin"]), str(said["commit"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Zoo(directory)


def links_leading_out(directory: Path) -> Iterator[Path]:
    """Yield the symbolic links below a directory whose targets are not below it."""
    top = os.path.realpath(directory)
    for folder, folders, files in os.walk(directory):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            target = os.path.realpath(path)
            if os.path.islink(path) and not (target == top or target.startswith(f"{top}{os.sep}")):
                yield Path(path)


@dataclass(frozen=True)
class _Source:
    """A repository as it was given, taken apart; `address` has neither password nor ref."""

    shown: str
    address: str
    ref: str
    user: str = ""
    password: str = ""


def _parsed(given: str) -> _Source:
    shown = f"model_zoo '{masked(given)}'"
    try:
        parts = urlsplit(given)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{shown}: not an address ({error}); give https://HOST/PATH") from None
    if parts.scheme not in _SCHEMES:
        instead = " (whoever is on the way could change its code)" if parts.scheme == "http" else ""
        raise UsageError(
            f"{shown}: {parts.scheme}:// is not fetched{instead}; give a directory, or the address "
            "of a git repository with https://, ssh:// or file://"
        )
    path, at, ref = parts.path.rpartition("@")
    if not at:
        path, ref = parts.path, ""
    if at and (not _REF.fullmatch(ref) or ".." in ref):
        raise UsageError(
            f"{shown}: {ref!r} is no branch, tag or commit; give one after @, e.g. @main"
        )
    if (
        parts.query
        or parts.fragment
        or not path.strip("/")
        or (parts.scheme != "file" and not host)
    ):
        raise UsageError(f"{shown}: not the address of a repository; give https://HOST/PATH[@REF]")
    place = parts.netloc.rpartition("@")[2]
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if parts.scheme == "ssh":
        place = f"{parts.username}@{place}" if parts.username else place
        user = password = ""
    return _Source(shown, f"{parts.scheme}://{place}{path}", ref, user, password)


class _Fetching:
    """Fetches one commit of a repository into a directory that is named by it.

    Args:
      source: the repository.
      kept: where commits of it are.
    """

    def __init__(self, source: _Source, kept: Path) -> None:
        self._source = source
        self._kept = kept

    def fetched(self) -> Zoo:
        """The zoo of the commit that is asked for.

        Raises:
          UsageError: it cannot be fetched, or must not be used.
        """
        commit = self._known_commit()
        if commit and (self._kept / commit).is_dir():
            return zoo_of(self._kept / commit)
        partial = Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=self._kept))
        try:
            self._git("init", "--quiet", "--template=", str(partial))
            commit = self._fetch(partial, commit)
            self._git("checkout", "--quiet", "--force", "--detach", commit, cwd=partial)
            shutil.rmtree(partial / ".git")
            self._check_links(partial)
            self._describe(partial, commit)
            return self._put(partial, commit)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _known_commit(self) -> str:
        """What the repository says which commit is meant; empty for an abbreviated one."""
        ref = self._source.ref
        if _COMMIT.fullmatch(ref):
            return ref
        names = [f"refs/heads/{ref}", f"refs/tags/{ref}"]
        if ref in ("", "HEAD") or ref.startswith("refs/"):
            names = [ref or "HEAD"]
        asked = [each for name in names for each in (name, f"{name}^{{}}")]
        said = self._git("ls-remote", "--", self._source.address, *asked)
        lines = (line.partition("\t") for line in said.splitlines())
        found = {name: commit for commit, _, name in lines}
        for name in names:
            # An annotated tag is an object of its own; ^{} is the commit that it names.
            for each in (f"{name}^{{}}", name):
                if _COMMIT.fullmatch(found.get(each, "")):
                    return found[each]
        if _SHORT_COMMIT.fullmatch(ref):
            return ""
        if not ref:
            raise UsageError(f"{self._source.shown}: has no commit; commit something to it")
        raise UsageError(
            f"{self._source.shown}: the repository has no branch or tag '{ref}'; "
            "git ls-remote lists those it has"
        )

    def _fetch(self, repository: Path, commit: str) -> str:
        """Fetch a commit, or find the abbreviated one that is asked for; return which it is."""
        fetch = ["fetch", "--quiet", "--no-tags", "--no-recurse-submodules"]
        if commit:
            with suppress(UsageError):  # Some servers give branches and tags only.
                self._git(*fetch, "--depth=1", "--", self._source.address, commit, cwd=repository)
                return commit
        every = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
        self._git(*fetch, "--", self._source.address, *every, cwd=repository)
        try:
            wanted = f"{commit or self._source.ref}^{{commit}}"
            return self._git("rev-parse", "--verify", "--quiet", wanted, cwd=repository).strip()
        except UsageError:
            raise UsageError(
                f"{self._source.shown}: no branch or tag of the repository has the commit "
                f"{commit or self._source.ref}; give one that is pushed"
            ) from None

    def _check_links(self, directory: Path) -> None:
        for link in links_leading_out(directory):
            raise UsageError(
                f"{self._source.shown}: '{link.relative_to(directory)}' is a symbolic link that "
                f"leads out of it, to '{os.readlink(link)}'; remove it from the repository"
            )

    def _describe(self, directory: Path, commit: str) -> None:
        """Write of which repository and commit it is, and keep the files from being edited."""
        file = directory / ORIGIN_FILE
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        else:
            file.unlink(missing_ok=True)
        said = {"origin": self._source.address, "commit": commit}
        file.write_text(json.dumps(said) + "\n", encoding="utf-8")
        for folder, _, files in os.walk(directory):
            for name in files:
                path = Path(folder, name)
                if not path.is_symlink():
                    path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)

    def _put(self, partial: Path, commit: str) -> Zoo:
        target = self._kept / commit
        partial.chmod(0o755)  # mkdtemp's is for its owner alone.
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():  # Another process was faster.
                raise
        return zoo_of(target)

    def _git(self, *arguments: str, cwd: Path | None = None) -> str:
        """Run git; return what it prints.

        Raises:
          UsageError: it failed.
        """
        settings = [
            *("-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false"),
            *("-c", "http.lowSpeedLimit=1000", "-c", f"http.lowSpeedTime={_STALLED_S}"),
        ]
        try:
            ended = subprocess.run(
                ["git", *settings, *arguments],
                cwd=cwd,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_DEADLINE_S,
                check=False,
                start_new_session=True,  # Without a terminal nothing can ask for a password.
            )
        except subprocess.TimeoutExpired:
            raise UsageError(
                f"{self._source.shown}: git {arguments[0]} did not end within {_DEADLINE_S:.0f} s"
            ) from None
        if ended.returncode != 0:
            lines = ended.stderr.decode(errors="replace").strip().splitlines()
            # The last line is advice; what went wrong stands before it.
            why = next((line for line in lines if line.startswith(("fatal:", "error:"))), "")
            why = why or (lines[-1] if lines else f"exit {ended.returncode}")
            raise UsageError(f"{self._source.shown}: git {arguments[0]}: {masked(why)}")
        return ended.stdout.decode(errors="replace")

    def _environment(self) -> Mapping[str, str]:
        variables = {name: v for name, v in os.environ.items() if name not in _OF_ANOTHER_GIT}
        variables |= {
            "LC_ALL": "C",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "",
            "SSH_ASKPASS": "",
            "SSH_ASKPASS_REQUIRE": "never",
            "GIT_ALLOW_PROTOCOL": ":".join(_SCHEMES),
            "GIT_LFS_SKIP_SMUDGE": "1",
        }
        if self._source.user or self._source.password:
            place = "/".join(self._source.address.split("/")[:3])
            settings = [(f"credential.{place}.helper", ""), (f"credential.{place}.helper", _HELPER)]
            variables["GIT_CONFIG_COUNT"] = str(len(settings))
            for number, (name, value) in enumerate(settings):
                variables[f"GIT_CONFIG_KEY_{number}"] = name
                variables[f"GIT_CONFIG_VALUE_{number}"] = value
            variables["ELASTICDL_GIT_USER"] = self._source.user
            variables["ELASTICDL_GIT_PASSWORD"] = self._source.password
        return variables

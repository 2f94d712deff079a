"""What of this machine works for jobs, and what to do about what does not."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import platform
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import psutil
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import elasticdl
from elasticdl.cores import allowed_cores, cpu_quota
from elasticdl.job_spec import jobs_home
from elasticdl.master.file_lock import is_owned, own_file

State = Literal["ok", "warning", "failed", "absent"]

IMPORT_S = 120.0
ASK_S = 5.0
LEAST_MEMORY_BYTES = 2 << 30
LEAST_DISK_BYTES = 1 << 30
LEAST_FILES = 4096
ENTRIES = 5
SLOW_ENTRY_S = 0.05
_NAME = "elasticdl"
_TENSORFLOW = ("tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tf-nightly")
_GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
_IMPORT = """
import json, time
began = time.time()
import tensorflow as tf
gpus = [one.name for one in tf.config.list_physical_devices("GPU")]
assert float(tf.reduce_sum(tf.ones([2, 2]))) == 4.0
print(json.dumps({"version": tf.__version__, "seconds": time.time() - began, "gpus": gpus}))
"""


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Attributes:
      name: of the thing.
      state: `ok`; `warning`: it works, with a limit; `failed`; `absent`: not there, nothing wrong.
      found: what there is, in words.
      do: what to do about it, if anything.
      is_needed: whether local jobs need it.
    """

    name: str
    state: State
    found: str
    do: str = ""
    is_needed: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def examine(with_tensorflow: bool = True) -> list[Finding]:
    """Look at everything, in the order in which it is told.

    Args:
      with_tensorflow: import TensorFlow, in a process of its own; it takes seconds.
    """
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(_found_by, one) for one in _CHECKS]
        if with_tensorflow:
            asked.insert(2, pool.submit(_found_by, tensorflow_works))
        return [finding for one in asked for finding in one.result()]


def works(findings: list[Finding]) -> bool:
    """Whether local jobs have what they need."""
    return not any(one.state == "failed" and one.is_needed for one in findings)


def _found_by(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What a check finds; that it cannot be made is a finding, too."""
    found: list[Finding] = []
    try:
        for one in check():
            found.append(one)
    except Exception as error:
        name = check.__name__.replace("_", " ")
        found.append(Finding(name, "warning", f"cannot be looked at: {error!r}", is_needed=False))
    return found


def requirements() -> tuple[str, list[Requirement], SpecifierSet]:
    """What this package needs: Python's versions, other packages, TensorFlow's versions."""
    here = Path(elasticdl.__file__).parents[1]
    python: str | None
    given: list[str]
    if (here / "setup.py").exists() and (here / "pyproject.toml").exists():
        project = tomllib.loads((here / "pyproject.toml").read_text())
        python = project["project"]["requires-python"]
        values = {
            node.targets[0].id: node.value
            for node in ast.parse((here / "setup.py").read_text()).body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        given = ast.literal_eval(values["DEPENDENCIES"])
        given += ast.literal_eval(values["TENSORFLOW"])["cpu"]
    else:
        own = metadata.metadata(_NAME)
        python = own["Requires-Python"]
        given = metadata.requires(_NAME) or []
    wanted = [Requirement(one) for one in given]
    wanted = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    tensorflow = [one.specifier for one in wanted if one.name in _TENSORFLOW]
    others = [one for one in wanted if one.name not in _TENSORFLOW]
    return python or "", others, tensorflow[0] if tensorflow else SpecifierSet()


def versions() -> Iterator[Finding]:
    """Python, and this package's dependencies, by what is installed."""
    python, others, wanted = requirements()
    is_right = SpecifierSet(python).contains(platform.python_version())
    found = f"{platform.python_version()} ({sys.executable})"
    do = "" if is_right else f"make an environment with Python {python}"
    yield Finding("Python", "ok" if is_right else "failed", found, do)
    distributions = {name: _version(name) for name in _TENSORFLOW}
    there = {name: version for name, version in distributions.items() if version}
    if not there:
        do = f"pip install 'tensorflow{wanted}'"
        yield Finding("TensorFlow", "failed", "not installed", do)
    for name, version in there.items():
        yield _in_range("TensorFlow", f"{name} {version}", version, name, wanted)
    if len(there) > 1:
        do = f"pip uninstall {' '.join(there)}, then install one of them"
        found = f"{len(there)} distributions in one environment: {', '.join(there)}"
        yield Finding("TensorFlow", "failed", found, do)
    for one in others:
        installed = _version(one.name)
        name = "Keras" if one.name == "keras" else one.name
        if installed is None:
            do = f"pip install '{one.name}{one.specifier}'"
            yield Finding(name, "failed", "not installed", do)
        elif name == "Keras" or not one.specifier.contains(installed, prereleases=True):
            yield _in_range(name, installed, installed, one.name, one.specifier)


def legacy_keras() -> Iterator[Finding]:
    """Keras 2, for models that need it."""
    version = _version("tf_keras")
    if version is None:
        found = "not installed; models with --keras=legacy or feature columns need it"
        yield Finding("tf_keras", "absent", found, "pip install tf_keras", is_needed=False)
    else:
        yield Finding("tf_keras", "ok", version, is_needed=False)


def tensorflow_works() -> Iterator[Finding]:
    """Whether it can be imported and computes, and the GPUs it sees."""
    name = "TensorFlow's import"
    if not any(map(_version, _TENSORFLOW)):
        return
    try:
        ended = subprocess.run(
            [sys.executable, "-c", _IMPORT],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=IMPORT_S,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        do = "look what loads the machine or its file system; jobs wait for each import"
        yield Finding(name, "warning", f"takes more than {IMPORT_S:.0f} s", do)
        return
    if ended.returncode:
        last = (ended.stderr.strip() or f"exit code {ended.returncode}").splitlines()[-1]
        yield Finding(name, "failed", last, f'run {sys.executable} -c "import tensorflow"')
        return
    found = json.loads(ended.stdout.splitlines()[-1])
    yield Finding(name, "ok", f"computes after {found['seconds']:.1f} s")
    files = [one for one in _GPU_FILES if Path(one).exists()]
    gpus = found["gpus"]
    if gpus:
        yield Finding("GPU", "ok", f"TensorFlow sees {len(gpus)}", is_needed=False)
    elif files:
        do = "install the distribution for GPUs: pip install 'tensorflow[and-cuda]', and its driver"
        text = f"there is one ({files[0]}), TensorFlow sees none"
        yield Finding("GPU", "warning", text, do, is_needed=False)
    else:
        yield Finding("GPU", "absent", "none; jobs compute on processors", is_needed=False)


def cores() -> Iterator[Finding]:
    """How many this process may use."""
    number, quota = allowed_cores(), cpu_quota()
    found = f"{number} usable"
    if quota is not None and quota < number:
        found += f", {quota:g} by the container's quota"
        do = f"raise the quota, or give --num_workers and --worker_threads for {quota:g} cores"
        yield Finding("cores", "warning", found, do)
    elif number < 2:
        do = "a worker and a parameter server share it: training is slower than with two"
        yield Finding("cores", "warning", found, do)
    else:
        yield Finding("cores", "ok", found)


def memory() -> Iterator[Finding]:
    """What is free, also by the container's limit."""
    system = psutil.virtual_memory()
    free, total = system.available, system.total
    limit = _cgroup_number("memory.max")
    if limit is not None and limit < total:
        used = _cgroup_number("memory.current") or 0
        free, total = min(free, limit - used), limit
    found = f"{_size(free)} of {_size(total)} free"
    if free < LEAST_MEMORY_BYTES:
        do = "each worker needs about 0.7 GiB, and the model: end other programs, or run fewer"
        yield Finding("memory", "warning", found, do)
    else:
        yield Finding("memory", "ok", found)


def open_files() -> Iterator[Finding]:
    """How many files and connections a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft:,}, can be raised to {hard:,}"
    if hard < LEAST_FILES:
        do = "raise it (ulimit -Hn, LimitNOFILE= of systemd); every worker connects to every server"
        yield Finding("open files", "warning", found, do)
    else:
        yield Finding("open files", "ok", found)


def loopback() -> Iterator[Finding]:
    """Whether processes of this machine reach each other."""
    name = "loopback"
    try:
        with socket.socket() as reserved, socket.socket() as listener:
            for one in (reserved, listener):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reserved.bind(("127.0.0.1", 0))
            address = reserved.getsockname()
            listener.bind(address)  # As each master does on the port that is kept for it.
            listener.listen()
            with socket.create_connection(address, ASK_S) as client:
                client.sendall(b"heard")
                taken, _ = listener.accept()
                with taken:
                    heard = taken.recv(5)
    except OSError as error:
        do = "allow connections to 127.0.0.1 (firewall, sandbox); all of a job's processes use them"
        yield Finding(name, "failed", f"127.0.0.1: {error}", do)
        return
    assert heard == b"heard"
    yield Finding(name, "ok", f"127.0.0.1 answers, port {address[1]} was free")


def shared_memory() -> Iterator[Finding]:
    """/dev/shm, which libraries of models may use; jobs themselves do not."""
    path = Path("/dev/shm")
    if not path.is_dir():
        yield Finding("/dev/shm", "absent", "jobs do not need it", is_needed=False)
        return
    free = shutil.disk_usage(path).free
    small = free < 64 << 20
    do = "docker run --shm-size=1g, if your model uses multiprocessing" if small else ""
    found = f"{_size(free)} free"
    yield Finding("/dev/shm", "warning" if small else "ok", found, do, is_needed=False)


def job_directory() -> Iterator[Finding]:
    """Whether ELASTICDL_HOME can hold jobs: room, a journal, locks."""
    home, name = jobs_home(), "ELASTICDL_HOME"
    do = "set ELASTICDL_HOME to a directory of a local disk that you can write"
    there = home
    while not there.exists():
        there = there.parent
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".elasticdl-doctor-") as place:
            seconds = _entry_seconds(Path(place))
            lock = own_file(Path(place) / "lock")
            with lock or contextlib.nullcontext():
                if lock is None or not is_owned(Path(place) / "lock"):
                    yield Finding(name, "failed", f"{home}: files cannot be locked there", do)
                    return
    except (OSError, sqlite3.Error) as error:
        yield Finding(name, "failed", f"{home}: {error}", do)
        return
    free = shutil.disk_usage(there).free
    found = f"{home}: {_size(free)} free, a journal entry takes {1000 * seconds:.1f} ms"
    if free < LEAST_DISK_BYTES:
        do = "make room: jobs that ended may go (elasticdl jobs list), or set ELASTICDL_HOME"
        yield Finding(name, "warning", found, do)
    elif seconds > SLOW_ENTRY_S:
        yield Finding(name, "warning", found, f"its disk is slow, or busy; {do}")
    else:
        yield Finding(name, "ok", found)


def docker() -> Iterator[Finding]:
    """Whether images can be made."""
    if shutil.which("docker") is None:
        found = "not installed; local jobs do not need it"
        yield Finding("Docker", "absent", found, is_needed=False)
        return
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=ASK_S, check=False)
        said = (ended.stderr or ended.stdout).strip().splitlines()
        error = said[0] if ended.returncode and said else f"exit code {ended.returncode}"
    except subprocess.TimeoutExpired:
        ended, error = None, f"does not answer in {ASK_S:.0f} s"
    if ended is not None and ended.returncode == 0:
        yield Finding("Docker", "ok", f"server {ended.stdout.strip()}", is_needed=False)
    else:
        do = "start its daemon, and be allowed to use it (group docker); local jobs do not need it"
        yield Finding("Docker", "warning", error, do, is_needed=False)


def kubernetes() -> Iterator[Finding]:
    """Whether the cluster of the kubeconfig can be reached."""
    name = "Kubernetes"
    path = Path(os.environ.get("KUBECONFIG", "").split(os.pathsep)[0] or "~/.kube/config")
    path = path.expanduser()
    if not path.exists():
        found = f"no kubeconfig ({path}); local jobs do not need it"
        yield Finding(name, "absent", found, is_needed=False)
        return
    do = "kubectl config get-contexts lists what there is; kubectl config use-context chooses"
    try:
        config = yaml.safe_load(path.read_text())
        context = config["current-context"]
        contexts = {one["name"]: one["context"] for one in config["contexts"]}
        clusters = {one["name"]: one["cluster"] for one in config["clusters"]}
        server = clusters[contexts[context]["cluster"]]["server"]
        parts = urlsplit(server)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        found = f"{path}: no usable current context ({error!r})"
        yield Finding(name, "warning", found, do, is_needed=False)
        return
    try:
        socket.create_connection((host, port), ASK_S).close()
    except OSError as error:
        found = f"context {context}: {server} does not answer ({error})"
        do = "start the cluster, or connect to its network"
        yield Finding(name, "warning", found, do, is_needed=False)
        return
    yield Finding(name, "ok", f"context {context}: {server} answers", is_needed=False)


def object_stores() -> Iterator[Finding]:
    """Credentials for gs:// and s3://."""
    home = Path.home()
    google = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS") or str(
        home / ".config/gcloud/application_default_credentials.json"
    )
    amazon = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or str(home / ".aws/credentials")
    has_keys = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= os.environ.keys()
    for name, there, what in (
        ("Google Cloud Storage", Path(google).is_file(), google),
        ("S3", has_keys or Path(amazon).is_file(), "the environment" if has_keys else amazon),
    ):
        if there:
            yield Finding(name, "ok", f"credentials in {what}", is_needed=False)
        else:
            found = f"no credentials ({what}); local jobs do not need them"
            yield Finding(name, "absent", found, is_needed=False)


_CHECKS = (
    versions,
    legacy_keras,
    cores,
    memory,
    open_files,
    loopback,
    shared_memory,
    job_directory,
    docker,
    kubernetes,
    object_stores,
)


def _in_range(
    name: str, found: str, version: str, distribution: str, wanted: SpecifierSet
) -> Finding:
    is_right = wanted.contains(version, prereleases=True)
    do = "" if is_right else f"pip install '{distribution}{wanted}'"
    text = found if is_right else f"{found}, which is not {wanted}"
    return Finding(name, "ok" if is_right else "failed", text, do)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cgroup_number(name: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(Path("/sys/fs/cgroup", name).read_text())
    return None


def _entry_seconds(place: Path) -> float:
    """Return what an entry takes until it is on the disk; the least of a few: others work, too."""
    db = sqlite3.connect(place / "journal.sqlite")
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("CREATE TABLE entries (number INTEGER PRIMARY KEY)")
        db.commit()
        took = []
        for number in range(ENTRIES):
            began = time.monotonic()
            db.execute("INSERT INTO entries VALUES (?)", (number,))
            db.commit()
            took.append(time.monotonic() - began)
        return min(took)
    finally:
        db.close()


def _size(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 30):,.1f} GiB"

"""Copies on this machine of objects that have to be read through, or read by others' code.

They are in one directory, below the home of this person's jobs (``$ELASTICDL_HOME/copies``), shared
by all processes of this machine and kept from job to job: of an object as it is now there is one.
What was not used for longest goes where there is little room on the disk; a file may go while it is
read, as what is mapped stays until it is closed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from elasticdl.data.filesystems import FileInfo, FileSystem, file_system, is_remote
from elasticdl.job_spec import elasticdl_home

logger = logging.getLogger(__name__)

KEPT_S = 3600.0
"""Directories, whose files are opened one after the other, stay that long after their last use."""
_SHARE_OF_ROOM = 0.5
_PIECE_BYTES = 16 << 20
_AT_A_TIME = 8
_STALE_S = 24 * 3600.0
_LOCK_S = 3600.0


def local_file(path: str) -> str:
    """Return a local file with what is at a path: of an object a copy.

    Raises:
      OSError: there is none, the store does not answer, or the disk is full.
    """
    if not is_remote(path):
        return path
    files, path = file_system(path)
    found = files.info(path)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, "no such object", path)
    return str(_copy(files, path, [found], is_directory=False))


def local_directory(path: str) -> str:
    """Return a local directory with what is below a path: of objects copies, all of now.

    Where there is nothing it is a directory that does not exist.

    Raises:
      OSError: as `local_file`.
    """
    if not is_remote(path):
        return path
    files, path = file_system(path)
    found = files.files(path)
    if not found:
        return str(_home() / "none" / path.rsplit("/", 1)[-1])
    return str(_copy(files, path, found, is_directory=True))


def _copy(files: FileSystem, path: str, found: Sequence[FileInfo], is_directory: bool) -> Path:
    told = repr((path, [(one.path, one.size, one.mtime_ns) for one in found]))
    name = hashlib.sha256(told.encode()).hexdigest()[:24]
    # Of a directory the name is what its code, and people, see of it.
    place = _home() / name / path.rsplit("/", 1)[-1]
    if _use(place):
        return place
    with _only_one(_home() / f"{name}.lock"):
        if _use(place):
            return place
        partial = _home() / f"{name}.{os.getpid()}.{secrets.token_hex(4)}.partial"
        try:
            _make_room(sum(one.size for one in found), name)
            into = partial / place.name
            (into if is_directory else partial).mkdir(parents=True)
            targets = [(one, into / _below(path, one) if is_directory else into) for one in found]
            with ThreadPoolExecutor(_AT_A_TIME, "copy") as pool:
                for done in [pool.submit(_fetch, files, *pair) for pair in targets]:
                    done.result()
            with contextlib.suppress(OSError):  # Somebody else was faster.
                partial.rename(place.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return place


def _below(directory: str, one: FileInfo) -> str:
    name = one.path[len(directory) + 1 :]
    if ".." in name.split("/"):
        raise OSError(errno.EINVAL, "its name leads out of the directory; rename it", one.path)
    return name


def _fetch(files: FileSystem, one: FileInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with files.open_input(one.path) as source, target.open("wb") as copy:
        for start in range(0, one.size, _PIECE_BYTES):
            wanted = min(_PIECE_BYTES, one.size - start)
            piece = source.read_at(wanted, start)
            if len(piece) != wanted:
                raise OSError(errno.EIO, "it became shorter while it was copied", one.path)
            copy.write(piece)


def _use(place: Path) -> bool:
    """Whether a copy is there; if so it is the one that was used last."""
    try:
        os.utime(place.parent)
        return place.exists()
    except OSError:
        return False


def _home() -> Path:
    """Where the copies are; where that home cannot be written, as in pods, the temporary one."""
    for place in (
        elasticdl_home() / "copies",
        Path(tempfile.gettempdir()) / f"elasticdl-{os.getuid()}" / "copies",
    ):
        with contextlib.suppress(OSError):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            is_own = all(one.stat().st_uid == os.getuid() for one in (place, place.parent))
            if is_own and os.access(place, os.W_OK | os.X_OK):
                return place
    return Path(tempfile.mkdtemp(prefix="elasticdl-copies-"))


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Have one process of this machine copy an object, and the others wait for it, for a time."""
    deadline = time.monotonic() + _LOCK_S
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.1)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def _make_room(num_bytes: int, name: str) -> None:
    """Remove what was not used for longest, until the copies have no more than their share."""
    home, now = _home(), time.time()
    entries = []
    for entry in home.iterdir():
        with contextlib.suppress(OSError):
            status = entry.stat()
            if entry.suffix == ".partial" and now - status.st_mtime > _STALE_S:
                shutil.rmtree(entry, ignore_errors=True)  # Of a process that was killed.
            elif entry.is_dir() and not entry.suffix and entry.name != name:
                sizes = [one.stat().st_size for one in entry.rglob("*") if one.is_file()]
                is_file = any(one.is_file() for one in entry.iterdir())
                entries.append((status.st_mtime, sum(sizes), is_file, entry))
    used = sum(size for _, size, _, _ in entries)
    most = (shutil.disk_usage(home).free + used) * _SHARE_OF_ROOM
    for used_at, size, is_file, entry in sorted(entries, key=lambda one: one[0]):
        if used + num_bytes <= most:
            break
        if is_file or now - used_at > KEPT_S:
            shutil.rmtree(entry, ignore_errors=True)
            used -= size
            logger.info("removed the copy %s of %d bytes: there is little room", entry, size)

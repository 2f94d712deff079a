"""Objects of S3 and of Google Cloud Storage as files: all that a job knows of `pyarrow.fs`.

What a store cannot do is an `OSError` of which `strerror` says what, in one line, and `filename`
the path: `FileNotFoundError` (no such object or bucket), `PermissionError` (no credentials, or not
those), `ConnectionError` (no answer: it may be there again later), else what the store said.
"""

from __future__ import annotations

import errno
import fnmatch
import glob
import io
import logging
import math
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa

from elasticdl.data.files import FileInfo, InputFile, tree

logger = logging.getLogger(__name__)

T = TypeVar("T")

REACH_S = 5.0
"""In which an endpoint that was named takes a connection."""
CALL_S = 20.0
"""For about how long the stores' libraries try one request again, and wait for each byte."""
_S3_ATTEMPTS = 4
_PIECE_BYTES = 64 << 20
_AT_A_TIME = 8
_LONGEST_PAUSE_S = 10.0
_lock = threading.Lock()
_connected: dict[tuple[Any, ...], Any] = {}
_regions: dict[str, str] = {}


class ObjectStore:
    """See `FileSystem`: objects of S3 or of Google Cloud Storage.

    Args:
      scheme: ``s3`` or ``gs``.
      endpoint: URL; empty for Amazon's and Google's own.
      patience_s: for how long a request is made again while there is no answer, beyond what the
        stores' libraries do by themselves.
      call_s: for about how long they do.
    """

    def __init__(
        self, scheme: str, endpoint: str, patience_s: float, call_s: float = CALL_S
    ) -> None:
        self._scheme = scheme
        self._endpoint = endpoint
        self._patience_s = patience_s
        self._call_s = call_s

    def info(self, path: str) -> FileInfo | None:
        (found,) = self._do(path, lambda fs, key: fs.get_file_info([key]))
        return self._described(found) if found.is_file else None

    def files(self, directory: str) -> list[FileInfo]:
        return self._listed(directory, recursive=True)

    def glob(self, pattern: str) -> list[str]:
        parts = pattern.split("/")
        plain = next((i for i, part in enumerate(parts) if i > 2 and glob.has_magic(part)), -1)
        wanted = parts[plain:]
        found = self._listed("/".join(parts[:plain]), recursive=len(wanted) > 1)
        paths = [one.path for one in found]
        return [path for path in paths if _matches(path.split("/")[plain:], wanted)]

    def open_input(self, path: str) -> InputFile:
        return ObjectFile(lambda call: self._do(path, call), self._scheme == "s3")

    def read(self, path: str) -> bytes:
        def read(fs: Any, key: str) -> bytes:
            with fs.open_input_file(key) as file:
                return file.read()

        return self._do(path, read)

    def put(self, path: str, data: bytes | memoryview) -> None:
        self._do(path, lambda fs, key: _write(fs, key, [data]))

    def put_file(self, path: str, file: str | os.PathLike[str]) -> None:
        self._do(path, lambda fs, key: _write(fs, key, _pieces(file)))

    @contextmanager
    def create(self, path: str) -> Iterator[ObjectSink]:
        """Make an object of what is written; it is there once the context ends, and never in part.

        Raises:
          OSError: it cannot be made, then or when something is written.
        """
        sink = ObjectSink(lambda call: self._do(path, call, patience_s=0.0))
        try:
            yield sink
        except BaseException:
            with suppress(OSError):
                sink.give_up()
            raise
        sink.close()

    def upload(self, directory: str | os.PathLike[str], path: str, last: str = "") -> None:
        *others, final = tree(directory, last)
        with ThreadPoolExecutor(_AT_A_TIME, "upload") as pool:
            for done in [pool.submit(self.put_file, f"{path}/{n}", f) for f, n in others]:
                done.result()
        self.put_file(f"{path}/{final[1]}", final[0])

    def delete(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._do(path, lambda fs, key: fs.delete_file(key))

    def delete_directory(self, directory: str) -> None:
        if self.files(directory):
            with suppress(FileNotFoundError):
                self._do(directory, lambda fs, key: fs.delete_dir(key))

    def _listed(self, directory: str, recursive: bool) -> list[FileInfo]:
        from pyarrow.fs import FileSelector

        found = self._do(
            directory,
            lambda fs, key: fs.get_file_info(
                FileSelector(key, allow_not_found=True, recursive=recursive)
            ),
        )
        described = [self._described(one) for one in found if one.is_file]
        if not described:
            self._check_bucket(directory)
        return sorted(described, key=lambda one: one.path)

    def _check_bucket(self, path: str) -> None:
        """Raise if the bucket is not there: of its objects stores say only that they are not."""
        bucket = path.split("/")[2]
        (found,) = self._do(path, lambda fs, key: fs.get_file_info([bucket]))
        if found.type.name == "NotFound":
            raise _missing_bucket(path, bucket, self._where())

    def _described(self, found: Any) -> FileInfo:
        return FileInfo(f"{self._scheme}://{found.path}", found.size, found.mtime_ns or 0)

    def _do(self, path: str, call: Callable[[Any, str], T], patience_s: float | None = None) -> T:
        """Call with the library's file system and the key; say what went wrong in our terms."""
        key = path.partition("://")[2]
        deadline = time.monotonic() + (self._patience_s if patience_s is None else patience_s)
        pause_s, told_at = 0.5, 0.0
        while True:
            try:
                return call(self._connection(key), key)
            except (OSError, pa.ArrowException, ValueError) as error:
                explained = self._explained(error, path)
                if isinstance(explained, FileNotFoundError):
                    self._check_bucket(path)
                now = time.monotonic()
                if not isinstance(explained, ConnectionError) or now + pause_s > deadline:
                    raise explained from error
                if now > told_at + 30:
                    told_at = now
                    logger.warning("'%s': %s; tried again", path, explained.strerror)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _connection(self, key: str) -> Any:
        """Return the library's file system: one for a store and process, as threads are its own."""
        bucket = key.partition("/")[0]
        region = _region()
        if self._scheme == "s3" and not self._endpoint and not region:
            region = _region_of(bucket)
        known = (os.getpid(), self._scheme, self._endpoint, region, self._call_s)
        with _lock:
            if known not in _connected:
                if self._endpoint:
                    _reach(self._endpoint)
                make = _s3 if self._scheme == "s3" else _gcs
                _connected[known] = make(self._endpoint, region, self._call_s)
            return _connected[known]

    def _where(self) -> str:
        return self._endpoint or ("Amazon S3" if self._scheme == "s3" else "Google Cloud Storage")

    def _explained(self, error: Exception, path: str) -> OSError:
        if isinstance(error, OSError) and error.filename == path:
            return error  # It was explained before.
        text = str(error)
        where = self._where()
        said = _shortest(getattr(error, "strerror", None) or text)
        if re.search(r"NO_SUCH_BUCKET|NoSuchBucket|bucket does not exist", text, re.IGNORECASE):
            return _missing_bucket(path, path.split("/")[2], where)
        if isinstance(error, FileNotFoundError) or re.search(r"NO_SUCH_KEY|NOT_FOUND", text):
            return FileNotFoundError(errno.ENOENT, f"no such object at {where}", path)
        if re.search(_REFUSED, text):
            return PermissionError(
                errno.EACCES,
                f"{where} refuses it ({said}): no credentials, or not of somebody who may; "
                f"{_KEYS[self._scheme]}",
                path,
            )
        # A file of Google's is closed, as the library says, once its connection has ended.
        if isinstance(error, ConnectionError | TimeoutError) or re.search(_SILENT, text):
            return ConnectionError(errno.ECONNABORTED, f"no answer from {where} ({said})", path)
        return OSError(errno.EIO, f"{where}: {said}", path)


class ObjectSink:
    """An object that is being written.

    Args:
      do: calls with the library's file system and the key; once, as no call can come again.

    Raises:
      OSError: it cannot be begun.
    """

    def __init__(self, do: Callable[[Callable[[Any, str], Any]], Any]) -> None:
        self._do = do
        self._unsent = 0
        self._stream = do(lambda fs, key: fs.open_output_stream(key, compression=None))

    def write(self, data: memoryview) -> int:
        """Take all of some bytes; return how many they are."""
        self._do(lambda fs, key: self._stream.write(data))
        self._unsent += len(data)
        if self._unsent >= _PIECE_BYTES:  # It is sent in the background: not all of it at once.
            self._do(lambda fs, key: self._stream.flush())
            self._unsent = 0
        return len(data)

    def close(self) -> None:
        """Have the object there."""
        self._do(lambda fs, key: self._stream.close())

    def give_up(self) -> None:
        """Have no object there: a stream that is closed may make one of what it was given."""
        self.close()
        self._do(lambda fs, key: fs.delete_file(key))


class ObjectFile(io.RawIOBase):
    """An object, read in parts.

    Args:
      do: calls with the library's file system and the key.
      stays_open: whether the library's file is kept: one of Google's holds a connection, by which
        all of the object is asked for, and is of no use any more once that has ended.

    Raises:
      OSError: it cannot be opened.
    """

    def __init__(self, do: Callable[[Callable[[Any, str], Any]], Any], stays_open: bool) -> None:
        super().__init__()
        self._do = do
        self._stays_open = stays_open
        self._position = 0
        self._file: Any = None
        self._size: int = do(lambda fs, key: self._of_file(fs, key, lambda file: file.size()))

    def _of_file(self, fs: Any, key: str, call: Callable[[Any], T]) -> T:
        if not self._stays_open:
            with fs.open_input_file(key) as file:
                return call(file)
        if self._file is None:
            self._file = fs.open_input_file(key)
        return call(self._file)

    def read_at(self, nbytes: int, offset: int) -> bytes:
        """Return bytes from an offset on; fewer where it ends."""
        wanted = max(0, min(nbytes, self._size - offset))

        def read(fs: Any, key: str) -> bytes:
            return self._of_file(fs, key, lambda file: file.read_at(wanted, offset))

        data: bytes = self._do(read) if wanted else b""
        if len(data) < wanted:
            raise OSError(errno.EIO, "the object became shorter while it was read")
        return data

    def size(self) -> int:
        """Return how many bytes it has."""
        return self._size

    def read(self, size: int | None = -1) -> bytes:
        left = self._size - self._position
        data = self.read_at(left if size is None or size < 0 else size, self._position)
        self._position += len(data)
        return data

    def readinto(self, target: Any) -> int:
        data = self.read(len(target))
        target[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {0: 0, 1: self._position, 2: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


_REFUSED = (
    r"ACCESS_DENIED|Access ?Denied|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN|SIGNATURE|EXPIRED"
    r"|InvalidToken|TokenRefresh|PERMISSION_DENIED|UNAUTHENTICATED|HTTP response code 40[13]"
    r"|HTTP status 40[13]|Forbidden|default credentials|OAuth2"
)
_SILENT = (
    r"NETWORK_CONNECTION|curlCode|[Cc]url error|CURL|UNAVAILABLE|DEADLINE_EXCEEDED|INTERNAL"
    r"|SLOW_DOWN|SERVICE_UNAVAILABLE|THROTTLING|REQUEST_TIMEOUT|HTTP response code 5|[Tt]imed? ?out"
    r"|closed file"
)
_KEYS = {
    "s3": "set AWS_SHARED_CREDENTIALS_FILE (or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS",
}


def _missing_bucket(path: str, bucket: str, where: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, f"there is no bucket '{bucket}' at {where}", path)


def _shortest(text: str) -> str:
    """Return of a library's message what says why, in one line."""
    line = " ".join(text.split())
    for pattern in (r"AWS Error (.*)", r"google::cloud::Status\((.*)\)", r"last message of (.*)"):
        if found := re.search(pattern, line):
            line = found[1]
    return line if len(line) <= 200 else f"{line[:199]}…"


def _region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""


def _region_of(bucket: str) -> str:
    from pyarrow.fs import resolve_s3_region

    if bucket not in _regions:
        _regions[bucket] = resolve_s3_region(bucket)
    return _regions[bucket]


def _reach(endpoint: str) -> None:
    """Connect to an endpoint once: the libraries would take long to say that they cannot."""
    url = urlsplit(endpoint)
    if any(os.environ.get(f"{url.scheme}{name}") for name in ("_proxy", "_PROXY")):
        return
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.hostname or "", port), REACH_S).close()
    except OSError as error:
        known = error.errno is not None and error.errno > 0
        why = os.strerror(error.errno or 0) if known else str(error)
        raise ConnectionError(errno.ECONNREFUSED, why) from error


def _s3(endpoint: str, region: str, call_s: float) -> Any:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    options: dict[str, Any] = {}
    if endpoint:
        url = urlsplit(endpoint)
        options = {"endpoint_override": url.netloc + url.path, "scheme": url.scheme}
    return S3FileSystem(
        region=region or "us-east-1",
        connect_timeout=REACH_S,
        request_timeout=call_s,
        # It pauses for up to 1, 2, 4 … s.
        retry_strategy=AwsStandardS3RetryStrategy(
            max_attempts=min(_S3_ATTEMPTS, 2 + int(math.log2(max(1, call_s))))
        ),
        allow_delayed_open=True,
        **options,
    )


def _gcs(endpoint: str, region: str, call_s: float) -> Any:
    from pyarrow.fs import GcsFileSystem

    options: dict[str, Any] = {}
    if endpoint:
        url = urlsplit(endpoint)
        options = {"endpoint_override": url.netloc + url.path, "scheme": url.scheme}
        # An emulator knows nobody; whoever names keys beside an endpoint means them.
        options["anonymous"] = not os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    return GcsFileSystem(retry_time_limit=timedelta(seconds=call_s), **options)


def _write(fs: Any, key: str, pieces: Iterable[Any]) -> None:
    """Write an object, which is there when its stream is closed, and only then."""
    stream = fs.open_output_stream(key, compression=None)
    try:
        for number, piece in enumerate(pieces):
            if number:
                stream.flush()  # What was given is sent in the background: not all of it at once.
            stream.write(piece)
    except BaseException:
        # A stream cannot be given up: closed, it may make the object of what it was given.
        try:
            stream.close()
        except (OSError, pa.ArrowException):
            pass
        else:
            fs.delete_file(key)
        raise
    stream.close()


def _pieces(file: str | os.PathLike[str]) -> Iterator[bytes]:
    with open(file, "rb") as opened:
        while piece := opened.read(_PIECE_BYTES):
            yield piece


def _matches(names: list[str], patterns: list[str]) -> bool:
    """Whether a path fits a pattern, both in parts; as `glob` does, `*` passes over dot files."""
    if not patterns:
        return not names
    if patterns[0] == "**":
        rest = patterns[1:] or ["*"]
        return any(
            _matches(names[i:], rest)
            for i in range(len(names))
            if not any(name.startswith(".") for name in names[:i])
        )
    if not names or (names[0].startswith(".") and not patterns[0].startswith(".")):
        return False
    return fnmatch.fnmatchcase(names[0], patterns[0]) and _matches(names[1:], patterns[1:])

"""Files of this machine, and objects of S3 and of Google Cloud Storage, by the same verbs.

Paths are whole everywhere: a local path, ``s3://BUCKET/KEY`` or ``gs://BUCKET/KEY``, taken
literally (no percent-encoding). Where a store is, and for how long it may be silent, a process is
told once by `use_stores`; keys come from where the stores' own libraries look for them. What cannot
be done is an `OSError`; of a store as `elasticdl.data.object_stores` says.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from elasticdl.data.files import FileInfo, FileSystem, InputFile, LocalFiles
from elasticdl.data.object_stores import CALL_S, ObjectStore
from elasticdl.errors import UsageError
from elasticdl.job_spec import JobSpec, machine_option

__all__ = [
    "FileInfo",
    "FileSystem",
    "InputFile",
    "Stores",
    "file_system",
    "is_object",
    "is_remote",
    "use_stores",
    "use_stores_of",
]

PATIENCE_S = 600.0
"""For how long an instance of a job waits for a store that does not answer."""
SCHEMES = ("s3", "gs")
_LOCAL = LocalFiles()


@dataclass(frozen=True)
class Stores:
    """Where a process finds the stores.

    Attributes:
      s3_endpoint: URL; empty: ``AWS_ENDPOINT_URL``, else Amazon.
      gcs_endpoint: URL; empty: ``STORAGE_EMULATOR_HOST``, else Google.
      patience_s: for how long a request is made again while there is no answer.
      call_s: for about how long the stores' libraries do so by themselves.
    """

    s3_endpoint: str = ""
    gcs_endpoint: str = ""
    patience_s: float = 0.0
    call_s: float = CALL_S


_stores: Stores | None = None


def use_stores(stores: Stores | None) -> None:
    """Tell this process where the stores are; None: as this person's configuration says."""
    global _stores
    _stores = stores


def use_stores_of(spec: JobSpec, patience_s: float = PATIENCE_S) -> None:
    """Tell a process of a job where its stores are; an instance is to be patient with them."""
    use_stores(Stores(spec.s3_endpoint, spec.gcs_endpoint, patience_s))


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URI, not one of this machine's."""
    return "://" in os.fspath(path)


def is_object(path: str) -> bool:
    """Whether a path is of a store there is."""
    return path.startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def file_system(path: str, patience_s: float | None = None) -> tuple[FileSystem, str]:
    """Return what reads and writes at a path, and the path as it is to be given to that.

    Args:
      path: local, or a URI; may be a pattern.
      patience_s: for how long a store may be silent; None: as `use_stores` said.

    Raises:
      UsageError: it is a URI of no kind there is, or names no bucket.
    """
    if not is_remote(path):
        return _LOCAL, os.path.abspath(path)
    scheme, _, rest = path.partition("://")
    bucket, *parts = rest.split("/")
    if "@" in bucket or ":" in bucket:
        raise UsageError(
            f"'{scheme}://…': has a key, or a host, before its path; give {scheme}://BUCKET/PATH, "
            "and keys in the file that AWS_SHARED_CREDENTIALS_FILE or "
            "GOOGLE_APPLICATION_CREDENTIALS names"
        )
    if scheme not in SCHEMES or not bucket:
        raise UsageError(
            f"'{path}': no such kind of place; give a local path, s3://BUCKET/PATH or "
            "gs://BUCKET/PATH"
        )
    stores = _stores or Stores(machine_option("s3_endpoint"), machine_option("gcs_endpoint"))
    patience_s = stores.patience_s if patience_s is None else patience_s
    whole = f"{scheme}://" + "/".join([bucket, *filter(None, parts)])
    return ObjectStore(scheme, _endpoint(scheme, stores), patience_s, stores.call_s), whole


def _endpoint(scheme: str, stores: Stores) -> str:
    if scheme == "s3":
        environment = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        given = stores.s3_endpoint or environment
    else:
        given = stores.gcs_endpoint or os.environ.get("STORAGE_EMULATOR_HOST")
    if given and "://" not in given:
        given = f"http://{given}"
    return (given or "").rstrip("/")

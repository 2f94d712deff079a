"""Whether data can be listed and read from here: files of this machine, or an object store.

A store that does not answer may keep whoever asks for minutes: it is asked by another process,
which is ended in time. That process is this module: it reads one place from its standard input.
"""

from __future__ import annotations

import fnmatch
import glob
import json
import subprocess
import sys

from elasticdl.api.doctor import Finding
from elasticdl.errors import ElasticDLError
from elasticdl.instance import child_environment, die_with_parent
from elasticdl.masking import masked

ANSWER_S = 10.0
NAME = "data"
_AWS_LOGIN = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials"
_GOOGLE_LOGIN = "gcloud auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS"
_STORES = {
    "s3": (_AWS_LOGIN, "aws s3 cp --recursive"),
    "gs": (_GOOGLE_LOGIN, "gcloud storage cp --recursive"),
    "gcs": (_GOOGLE_LOGIN, "gcloud storage cp --recursive"),
}
_UNKNOWN = "give s3://BUCKET/PATH, gs://BUCKET/PATH or a local path"
_NETWORK = "look at the network, the proxy and the endpoint (AWS_ENDPOINT_URL, endpoint_override=)"
# What stores say, in lower case.
_REFUSED = ("access_denied", "access denied", "forbidden", "unauthorized", "credential", "403")
_GONE = ("nosuchbucket", "no_such_bucket", "not found", "does not exist", "404")


def look_at_data(patterns: str) -> list[Finding]:
    """List each of some places and read the beginning of a file there, each for `ANSWER_S` at most.

    Args:
      patterns: paths, globs or URIs, separated by commas, as a job's `--data` has them.
    """
    return [_asked(one.strip()) for one in patterns.split(",") if one.strip()]


def _asked(place: str) -> Finding:
    """What another process finds at a place."""
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            input=place,
            capture_output=True,
            text=True,
            timeout=ANSWER_S,
            env=child_environment(None),
            check=False,
        )
    except subprocess.TimeoutExpired:
        found = f"'{masked(place)}': no answer in {ANSWER_S:.0f} s"
        do = _NETWORK if "://" in place else "look at the disk, or the server that it is on"
        return Finding(NAME, "failed", found, do)
    if ended.returncode:
        last = (ended.stderr.strip() or f"exit code {ended.returncode}").splitlines()[-1]
        return Finding(NAME, "failed", masked(f"'{place}': {last}"), "give another place")
    return Finding(NAME, *masked(json.loads(ended.stdout.splitlines()[-1])))


def _on_disk(pattern: str) -> tuple[str, str, str]:
    """State, what is found, and what to do, of files of this machine."""
    from elasticdl.data.shards import find_shards

    try:
        shards = find_shards(pattern)
    except ElasticDLError as error:
        found, _, do = str(error).removeprefix(f"{NAME} ").partition("; ")
        return "failed", found, do or "name other files"
    records = sum(one.num_records for one in shards)
    return "ok", f"'{pattern}': {_files(len(shards))}, {records:,} records", ""


def _in_store(uri: str) -> tuple[str, str, str]:
    """State, what is found, and what to do, of an object store's files."""
    scheme = uri.partition("://")[0]
    if scheme not in _STORES:
        return "failed", f"'{uri}': '{scheme}' is no store that is known", _UNKNOWN
    login, copy = _STORES[scheme]
    try:
        names = _listed(uri)
    except (OSError, ValueError, NotImplementedError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        return "failed", f"'{uri}': {said}", _what_to_do(said.lower(), login)
    if not names:
        return "failed", f"'{uri}': the store answers and has no such file", "look at the name"
    do = f"jobs read local files so far: copy them to a disk ({copy})"
    return "warning", f"'{uri}': {_files(len(names))}, and '{names[0]}' can be read", do


def _listed(uri: str) -> list[str]:
    """The files that a URI, whose last part may be a glob, names; the first is read."""
    from pyarrow.fs import FileSelector, FileSystem, FileType

    address, mark, options = uri.partition("?")
    head, _, last = address.rpartition("/")
    pattern = last if glob.has_magic(last) else "*"
    if pattern == last:
        address = head
    store, path = FileSystem.from_uri(f"{address}{mark}{options}")
    path = path.rstrip("/")
    found = [store.get_file_info(path)]
    if pattern == last or found[0].type is FileType.Directory:
        found = store.get_file_info(FileSelector(path))
        found = [one for one in found if fnmatch.fnmatchcase(one.base_name, pattern)]
    files = sorted(one.path for one in found if one.type is FileType.File)
    if files:
        with store.open_input_stream(files[0]) as stream:
            stream.read(1)
    return [path.rpartition("/")[2] for path in files]


def _what_to_do(said: str, login: str) -> str:
    if any(one in said for one in _REFUSED):
        return f"log in ({login}), and be allowed to list and to read there"
    if any(one in said for one in _GONE):
        return "look at the bucket's name, and its region (region=…)"
    return _NETWORK


def _files(number: int) -> str:
    return f"{number:,} file{'' if number == 1 else 's'}"


if __name__ == "__main__":
    die_with_parent()
    asked = sys.stdin.read()
    print(json.dumps(_in_store(asked) if "://" in asked else _on_disk(asked)))

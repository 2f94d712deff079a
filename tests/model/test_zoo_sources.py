"""Zoos that are git repositories: which commit is used, and what a hostile address or tree gets."""

from __future__ import annotations

import base64
import functools
import http.server
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from elasticdl.api.kubernetes.certificates import make_certificates
from elasticdl.errors import UsageError
from elasticdl.job_spec import JobSpec
from elasticdl.model.source import ModelSource
from elasticdl.model.zoo_sources import ORIGIN_FILE, Zoo, resolve_zoo, with_zoo, zoo_of

WHO = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "init.defaultBranch=main")


def git(repository: Path, *arguments: str) -> str:
    command = ["git", *WHO, *arguments]
    ended = subprocess.run(
        command, cwd=repository, capture_output=True, text=True, check=True, timeout=60
    )
    return ended.stdout.strip()


def commit(repository: Path, text: str) -> str:
    (repository / "model.py").write_text(text)
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", text)
    return git(repository, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of one commit, whose branch is main."""
    directory = tmp_path / "models"
    directory.mkdir()
    git(directory, "init", "--quiet")
    commit(directory, "ONE = 1")
    return directory


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def text_of(zoo: Zoo) -> str:
    return (zoo.directory / "model.py").read_text()


def test_a_directory_is_what_it_is(tmp_path: Path, home: Path) -> None:
    assert resolve_zoo(str(tmp_path), home) == Zoo(tmp_path)
    assert not home.exists()


def test_a_repository_is_used_at_a_fixed_commit_that_the_zoo_knows(
    repository: Path, home: Path
) -> None:
    url = f"file://{repository}"
    first = git(repository, "rev-parse", "HEAD")
    zoo = resolve_zoo(url, home)
    assert (zoo.origin, zoo.commit, text_of(zoo)) == (url, first, "ONE = 1")
    second = commit(repository, "TWO = 2")
    assert text_of(zoo) == "ONE = 1"
    newer = resolve_zoo(url, home)
    assert (newer.commit, text_of(newer)) == (second, "TWO = 2")
    assert zoo_of(newer.directory) == newer
    assert not (newer.directory / ".git").exists()


def test_branch_tag_and_commit_may_be_asked_for(repository: Path, home: Path) -> None:
    url = f"file://{repository}"
    first = git(repository, "rev-parse", "HEAD")
    git(repository, "tag", "plain")
    git(repository, "tag", "--annotate", "--message=first", "v1.0")
    git(repository, "checkout", "--quiet", "-b", "feature/x")
    second = commit(repository, "TWO = 2")
    git(repository, "checkout", "--quiet", "main")
    third = commit(repository, "THREE = 3")
    commits = {
        "": third,
        "@main": third,
        "@HEAD": third,
        "@refs/heads/main": third,
        "@feature/x": second,
        "@plain": first,
        "@v1.0": first,
        f"@{second}": second,
        f"@{first[:10]}": first,
    }
    found = {ref: resolve_zoo(f"{url}{ref}", home).commit for ref in commits}
    assert found == commits
    assert {path.name for path in (home / "zoos").glob("*/*")} == {first, second, third}


def test_what_was_fetched_is_used_without_the_repository(repository: Path, home: Path) -> None:
    zoo = resolve_zoo(f"file://{repository}", home)
    moved = repository.rename(repository.with_name("moved"))
    assert resolve_zoo(f"file://{repository}@{zoo.commit}", home) == zoo
    with pytest.raises(UsageError, match=r"git ls-remote: fatal: .*models"):
        resolve_zoo(f"file://{repository}@main", home)
    assert moved.is_dir()


def test_a_commit_that_a_server_gives_to_nobody_by_its_name_is_found(
    repository: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = git(repository, "rev-parse", "HEAD")
    commit(repository, "TWO = 2")
    # The protocol of before 2018, in which only what a branch or tag points at can be asked for.
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "'protocol.version'='2'")
    monkeypatch.setenv("HOME", str(repository.parent))
    (repository.parent / ".gitconfig").write_text("[protocol]\nversion = 0\n")
    assert text_of(resolve_zoo(f"file://{repository}@{first}", home)) == "ONE = 1"


def test_the_model_is_from_the_commit_and_its_source_says_so(repository: Path, home: Path) -> None:
    options = {
        "model_zoo": f"file://{repository}@main",
        "model_def": "model.ONE",
        "data": "x.recordio",
        "output": str(home / "out"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELASTICDL_HOME", str(home))
        source = ModelSource.of_job(with_zoo(JobSpec.resolve("train", options)))
    assert source.zoo_origin == f"file://{repository}"
    assert source.zoo_commit == git(repository, "rev-parse", "HEAD")
    assert Path(source.model_zoo).is_relative_to(home / "zoos")


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("file://{}@--upload-pack=touch /tmp/x", "is no branch, tag or commit"),
        ("file://{}@main:refs/heads/x", "is no branch, tag or commit"),
        ("file://{}@a..b", "is no branch, tag or commit"),
        ("file://{}@", "is no branch, tag or commit"),
        ("file://{}@gone", "has no branch or tag 'gone'"),
        ("file://{}@abcdef0", "no branch or tag of the repository has the commit abcdef0"),
        ("file://{}@" + "0" * 40, "no branch or tag of the repository has the commit 0000000"),
        ("ext::sh -c 'touch /tmp/x'://{}", "not an address|is not fetched"),
        ("http://example.com{}", "could change its code"),
        ("ftp://example.com{}", "ftp:// is not fetched"),
        ("https://{}", "not the address of a repository"),
        ("https://example.com:port{}", "not an address"),
        ("https://example.com{}?depth=1", "not the address of a repository"),
        ("ssh://-oProxyCommand=touch{}", "git ls-remote: fatal: strange hostname"),
    ],
)
def test_what_is_no_repository_or_no_commit_of_it_is_one_line(
    repository: Path, home: Path, url: str, complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        resolve_zoo(url.format(repository), home)
    assert "\n" not in str(caught.value)
    assert not list(home.glob("zoos/*/*"))
    assert not list(home.glob("zoos/*/.*"))


@pytest.mark.parametrize("target", ["../../../../etc/passwd", "/etc/passwd", ".."])
def test_a_repository_whose_links_lead_out_of_it_is_refused(
    repository: Path, home: Path, target: str
) -> None:
    (repository / "data").mkdir()
    (repository / "data" / "vocabulary.txt").symlink_to(target)
    if target == "..":
        (repository / "data" / "vocabulary.txt").unlink()
        (repository / "up").symlink_to(target)
    commit(repository, "TWO = 2")
    with pytest.raises(UsageError, match="is a symbolic link that leads out of it"):
        resolve_zoo(f"file://{repository}", home)
    assert not list(home.glob("zoos/*/*"))


def test_links_inside_stay_and_nothing_of_a_repository_is_run(repository: Path, home: Path) -> None:
    (repository / "same.py").symlink_to("model.py")
    (repository / ".gitmodules").write_text(
        '[submodule "other"]\npath = other\nurl = ext::touch /tmp/x\n'
    )
    (repository / ORIGIN_FILE).write_text('{"origin": "https://example.com/other", "commit": "0"}')
    (repository / ".git" / "hooks" / "post-checkout").write_text("#!/bin/sh\ntouch ran\n")
    newest = commit(repository, "TWO = 2")
    zoo = resolve_zoo(f"file://{repository}", home)
    assert (zoo.directory / "same.py").read_text() == "TWO = 2"
    assert (zoo.origin, zoo.commit) == (f"file://{repository}", newest)
    names = {path.name for path in zoo.directory.iterdir()}
    assert names == {"model.py", "same.py", ".gitmodules", ORIGIN_FILE}


def test_files_of_a_commit_are_not_edited_by_accident(repository: Path, home: Path) -> None:
    zoo = resolve_zoo(f"file://{repository}", home)
    assert (zoo.directory / "model.py").stat().st_mode & 0o222 == 0


def test_a_git_that_runs_us_is_left_alone(
    repository: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    git(own, "init", "--quiet")
    commit(own, "OWN = 0")
    monkeypatch.setenv("GIT_DIR", str(own / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(own))
    assert text_of(resolve_zoo(f"file://{repository}", home)) == "ONE = 1"
    assert (own / "model.py").read_text() == "OWN = 0"


class _WithPassword(http.server.SimpleHTTPRequestHandler):
    """Gives files to who knows the password."""

    def do_GET(self) -> None:
        expected = base64.b64encode(b"ada:pass/word").decode()
        if self.headers.get("Authorization") == f"Basic {expected}":
            super().do_GET()
        else:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="models"')
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """HOST:PORT of a real server of the repository, by TLS and with a password."""
    git(repository, "update-server-info")
    for name, content in make_certificates("git").items():
        (tmp_path / name).write_bytes(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "master.crt", tmp_path / "master.key")
    handler = functools.partial(_WithPassword, directory=str(repository.parent))
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    listening.socket = context.wrap_socket(listening.socket, server_side=True)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    monkeypatch.setenv("GIT_SSL_NO_VERIFY", "1")  # The certificate names a role, not this address.
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield f"127.0.0.1:{listening.server_port}"
    listening.shutdown()
    thread.join(10)
    listening.server_close()


def test_a_password_is_used_and_told_to_nobody(
    server: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = tmp_path / "words"
    noted = tmp_path / "bin" / "git"
    noted.parent.mkdir()
    noted.write_text(f'#!/bin/sh\necho "$@" >> {words}\nexec /usr/bin/git "$@"\n')
    noted.chmod(0o755)
    monkeypatch.setenv("PATH", f"{noted.parent}:{os.environ['PATH']}")
    zoo = resolve_zoo(f"https://ada:pass%2Fword@{server}/models/.git@main", home)
    assert text_of(zoo) == "ONE = 1"
    assert zoo.origin == f"https://{server}/models/.git"
    assert "ls-remote" in words.read_text()
    everything = [words, *(path for path in home.rglob("*") if path.is_file())]
    for secret in (b"pass/word", b"pass%2Fword"):
        assert not [path for path in everything if secret in path.read_bytes()]


@pytest.mark.parametrize("who", ["", "ada:wrong@"])
def test_without_the_right_password_nobody_waits_for_one(server: str, home: Path, who: str) -> None:
    with pytest.raises(UsageError, match="git ls-remote: fatal: ") as caught:
        resolve_zoo(f"https://{who}{server}/models/.git", home)
    assert "wrong" not in str(caught.value)

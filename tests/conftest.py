"""What all tests share."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.object_stores import (  # noqa: F401
    gcs,
    gcs_server,
    line,
    s3,
    s3_server,
    store,
)
from tests.progress import Progress

# How long an example takes depends on what else the machine does, another process of tests for one.
settings.register_profile("any load", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any load")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Show lines where this process has others run the tests."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and config.pluginmanager.has_plugin("dsession"):
        config.pluginmanager.register(Progress(reporter))


@pytest.fixture(scope="session", autouse=True)
def temporary_files_of_tests() -> Iterator[None]:
    """Keep what tests, and processes that they start, leave in the temporary directory: it goes.

    Its path is short: programs, Chromium for one, have sockets there, whose paths have 107 bytes
    at most.
    """
    with tempfile.TemporaryDirectory(prefix="tests-") as directory:
        before, os.environ["TMPDIR"] = os.environ.get("TMPDIR"), directory
        tempfile.tempdir = None
        yield
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before
        tempfile.tempdir = None


@pytest.fixture(scope="session", autouse=True)
def no_configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what the person who runs the tests has configured out of them."""
    before = os.environ.get("XDG_CONFIG_HOME")
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))
    yield
    if before is None:
        del os.environ["XDG_CONFIG_HOME"]
    else:
        os.environ["XDG_CONFIG_HOME"] = before


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """Have processes of tests heed SIGINT: those of a shell's background ignore it, and inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

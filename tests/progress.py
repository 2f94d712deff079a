"""What is shown of tests that run in several processes, beside a dot for each: a line now and then.

A line of dots takes minutes where tests are real jobs, and names none.
"""

from __future__ import annotations

import time

import pytest

LINE_EVERY_S = 5.0


class Progress:
    """Says how many tests have ended, and which one just has; of one that fails, at once.

    Args:
      reporter: writes the lines.
    """

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self._reporter = reporter
        self._number = self._ended = 0
        self._began = self._told = time.monotonic()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Note how many tests there are: each process finds the same."""
        self._number = len(ids)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Name what failed; what it printed comes after the last test."""
        if report.failed:
            self._write(f"FAILED ({report.when})", report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Name the test that has ended, where the last line is old."""
        self._ended += 1
        if time.monotonic() - self._told >= LINE_EVERY_S:
            self._write("ended", nodeid)

    def _write(self, what: str, nodeid: str) -> None:
        self._told = time.monotonic()
        minutes, seconds = divmod(int(self._told - self._began), 60)
        number = f"{self._ended} of {self._number}"
        self._reporter.write_line(f"{minutes:3d}:{seconds:02d} {number}: {what} {nodeid}")

"""Jobs to be disturbed are started as those of `tests/job` are."""

from tests.job.conftest import start

__all__ = ["start"]

"""`python -m elasticdl.worker.spare`: an idle process, TensorFlow imported, to become a worker.

It waits as `elasticdl.early` says, for one line of JSON, the `Role`, and is that worker then.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from elasticdl.early import take_log, wait_for_line
from elasticdl.instance import die_with_parent
from elasticdl.job_spec import JobSpec
from elasticdl.model.keras_choice import use_keras


@dataclass(frozen=True)
class Role:
    """Which worker a spare becomes.

    Attributes:
      arguments: of the command line of `python -m elasticdl.worker`.
      log: the file that its standard output and error go to.
    """

    arguments: Sequence[str]
    log: str

    def to_line(self) -> bytes:
        """As it is sent to the spare."""
        return json.dumps(asdict(self)).encode() + b"\n"


def warm_up(keras: str) -> None:
    """Import all that every worker imports, and compute nothing so far."""
    use_keras(keras)
    from elasticdl.worker.__main__ import IMPORTS

    for module in IMPORTS:
        importlib.import_module(module)


def main() -> int:
    """Entry point."""
    die_with_parent()
    parser = argparse.ArgumentParser(prog="python -m elasticdl.worker.spare")
    parser.add_argument("--job_dir", required=True, help="the job's directory")
    spec = JobSpec.load(parser.parse_args().job_dir)
    warm_up(spec.keras or "3")
    line = wait_for_line()
    if not line:
        return 0
    role = Role(**json.loads(line))
    take_log(role.log)
    from elasticdl.worker import __main__ as worker

    sys.argv = [worker.__file__, *role.arguments]
    return worker.main()


if __name__ == "__main__":
    sys.exit(main())

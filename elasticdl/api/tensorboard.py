"""TensorBoard beside a job: `--tensorboard`."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from elasticdl.errors import UsageError
from elasticdl.instance import child_environment
from elasticdl.job_spec import JobSpec
from elasticdl.master.event_file import DIRECTORY

END_S = 5.0
# Ends with whoever launched it.
_RUN = (
    "from elasticdl.instance import die_with_parent; die_with_parent(); "
    "from tensorboard.main import run_main; run_main()"
)


def check_tensorboard(spec: JobSpec) -> None:
    """Raise UsageError where TensorBoard is wanted, and is not installed."""
    if spec.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UsageError(
            "tensorboard=true: TensorBoard is not installed; pip install tensorboard, or "
            f"look later, anywhere: tensorboard --logdir={spec.job_dir}/{DIRECTORY}"
        )


@contextlib.contextmanager
def tensorboard(spec: JobSpec, tell: Callable[[str], None]) -> Iterator[None]:
    """Run TensorBoard for the length of a block, if the job wants it.

    Args:
      spec: the job.
      tell: called once with what is to be told to people, from another thread.
    """
    if not spec.tensorboard:
        yield
        return
    directory = Path(spec.job_dir) / DIRECTORY
    directory.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", _RUN, f"--logdir={directory}"),
            *(f"--host={spec.dashboard_host}", "--port=0", "--reload_interval=5"),
        ],
        env=child_environment(spec.keras),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    listening = threading.Thread(target=_listen, args=(process, tell), daemon=True)
    listening.start()
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        listening.join()


def _listen(process: subprocess.Popen[str], tell: Callable[[str], None]) -> None:
    """Tell the URL, and read on, so that the process never waits for its reader."""
    assert process.stderr is not None
    was_told = False
    with process.stderr as said:
        for line in said:
            found = re.search(r"TensorBoard \S+ at (http://\S+)", line)
            if found and not was_told:
                was_told = True
                tell(f"TensorBoard: {found[1]}")

"""Takes the README's pictures of the dashboard: `make screenshots`.

A real job trains on handwritten digits; a worker and a parameter server are killed, and a worker is
added, before the picture is taken.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from elasticdl.api import jobs
from elasticdl.errors import JobError
from tests.dashboard.browser import WHY_NOT, Browser
from tests.job.real_jobs import wait_until

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
MOST_BYTES = 500_000
WIDTH = 1200
NAME = "mnist-1"


def main() -> None:
    """Run the job, disturb it, and leave the pictures in docs/pictures."""
    if WHY_NOT:
        sys.exit(f"screenshots: {WHY_NOT}")
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        os.environ["ELASTICDL_HOME"] = str(place / "home")
        with (place / "terminal").open("w+") as terminal:
            job = subprocess.Popen(_command(place), cwd=ROOT, stdout=terminal, stderr=terminal)
            try:
                _watch(job, place)
            except BaseException:
                terminal.seek(0)
                print(terminal.read(), file=sys.stderr)
                raise
            finally:
                job.send_signal(signal.SIGINT)
                job.wait()


def _command(place: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "elasticdl.api", "train", "--model_zoo=model_zoo"),
        *("--model_def=mnist.MnistElasticDLSpec", "--data=data/mnist/train/*.recordio"),
        "--validation_data=data/mnist/test/*.recordio",
        f"--output={place / 'model'}",
        *(f"--job_name={NAME}", "--num_workers=2", "--num_ps=2", "--num_epochs=60"),
        *("--minibatch_size=32", "--checkpoint_secs=10", "--evaluation_epochs=2"),
    ]


def _watch(job: subprocess.Popen[bytes], place: Path) -> None:
    terminal = place / "terminal"
    address = r"http://127\.0\.0\.1:\d+/"
    found = wait_until("the address", lambda: re.search(address, terminal.read_text()))
    browser = Browser(place / "profile", WIDTH, 900)
    try:
        browser.open(found.group())
        _until_epoch(job, 6)
        _kill("worker", 1)
        _until_epoch(job, 12)
        _kill("ps", 0)
        _until_epoch(job, 18)
        jobs.scale(NAME, num_workers=3)
        _until_epoch(job, 26)
        _take(browser)
    finally:
        browser.close()


def _take(browser: Browser) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    for scheme, name in (("light", "dashboard.png"), ("dark", "dashboard-dark.png")):
        browser.prefer("prefers-color-scheme", scheme)
        end = (
            "return Math.ceil(document.querySelector('#instances').getBoundingClientRect().bottom)"
        )
        browser.js("window.scrollTo(0, 0)")
        browser.size(WIDTH, browser.js(end) + 12)
        browser.until("it is drawn", lambda: browser.text("#link-text") == "live")
        browser.save(PICTURES / name)
        size = (PICTURES / name).stat().st_size
        assert size < MOST_BYTES, f"{name} has {size:,} bytes"
        print(f"{PICTURES.relative_to(ROOT) / name}: {size:,} bytes")


def _status() -> dict:
    try:
        return jobs.status(NAME)
    except JobError:
        return {}


def _until_epoch(job: subprocess.Popen[bytes], epoch: int) -> None:
    def is_there() -> bool:
        assert job.poll() is None, "the job ended early"
        return _status().get("progress", {}).get("epoch", 0) >= epoch

    wait_until(f"epoch {epoch}", is_there, 400.0)


def _kill(role: str, index: int) -> None:
    def process() -> int | None:
        instances = _status().get("instances", [])
        found = [i["pid"] for i in instances if (i["role"], i["index"]) == (role, index)]
        return found[0] if found else None

    os.kill(wait_until(f"{role} {index}", process), signal.SIGKILL)


if __name__ == "__main__":
    main()

"""Looks at a running job once a second; adds to its history, saves figures when that is due."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from elasticdl.instance import resident_bytes
from elasticdl.master.coordinator import Coordinator
from elasticdl.master.event_file import EventFile
from elasticdl.master.history import History
from elasticdl.master.instances import InstanceSpec, Role, State
from elasticdl.master.job_figures import JobFigures
from elasticdl.master.job_view import learning_rate
from elasticdl.master.vitals import JobVitals
from elasticdl.proto import master_pb2
from elasticdl.refusals import REFUSALS

logger = logging.getLogger(__name__)

EVERY_S = 1.0
SPEED_WINDOW_S = 10.0


class HistoryKeeper:
    """Keeps the history of one job, from a thread of its own.

    Args:
      coordinator: of the job.
      vitals: of its instances; the master's own are noted here.
      history: to be kept.
      figures: likewise.
      incarnation: of this master.
      event_file: also gets the numbers of training; None where nothing is trained.
      clock: seconds since 1970.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        vitals: JobVitals,
        history: History,
        figures: JobFigures,
        incarnation: int,
        event_file: EventFile | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._coordinator = coordinator
        self._vitals = vitals
        self._history = history
        self._figures = figures
        self._event_file = event_file
        self._evaluations_told = len(coordinator.story.evaluations)
        self._clock = clock
        self._spec = InstanceSpec(Role.MASTER, 0, incarnation)
        self._speeds: deque[tuple[float, int]] = deque()
        self._records_per_s = 0.0
        # Tasks done and records done again, and since when it is so many.
        self._progress: tuple[tuple[int, int], float] = (-1, 0), 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_forever, name="history", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look once more, and end."""
        if self._thread.is_alive():
            self._stopped.set()
            self._thread.join()
            self._look()

    @property
    def records_per_s(self) -> float:
        """Records done per second, also those that are done again, of the last seconds."""
        return self._records_per_s

    @property
    def stands_still_s(self) -> float:
        """For how long no task was done."""
        return max(0.0, self._clock() - self._progress[1]) if self._progress[1] else 0.0

    def _keep_forever(self) -> None:
        while not self._stopped.wait(EVERY_S):
            self._look()

    def _look(self) -> None:
        try:
            self.look()
        except Exception:  # A job does not depend on its history.
            logger.exception("no row of the history")

    def look(self) -> None:
        """Note what there is now."""
        own = master_pb2.Vitals(
            memory_bytes=resident_bytes(), doing="coordinates", refusals=REFUSALS.told()
        )
        self._vitals.note(self._spec, time.process_time(), own)
        self._figures.save_if_due()
        now = self._coordinator.snapshot()
        at = self._clock()
        self._note_speed(at, now.records_done + now.records_repeated)
        self._tell_evaluations(at)
        progress = now.tasks_done, now.records_repeated
        if progress != self._progress[0]:
            self._progress = progress, at
        if not self._history.is_due(at):
            return
        running = [one for one in now.instances if one.state in (State.RUNNING, State.STOPPING)]
        heard = [self._vitals.of(spec) for spec in (self._spec, *(one.spec for one in running))]
        said = [one for one in heard if one is not None]
        rates = [one.learning_rate for one in said if one.learning_rate is not None]
        rate = max(rates) if rates else self._coordinator.look(learning_rate)
        if now.phase == "training":
            numbers = {
                "loss": now.loss,
                "learning_rate": rate,
                "records_per_second": self._records_per_s,
                "epoch": now.epoch + 1,
            }
            self._tell(at, self._coordinator.look(lambda ledger, _: ledger.steps_done), numbers)
        self._history.add(
            (
                round(at, 3),
                now.epoch + 1,
                now.records_done,
                round(self._records_per_s, 3),
                now.loss,
                rate,
                sum(one.spec.role is Role.WORKER for one in running),
                sum(one.spec.role is Role.PS for one in running),
                round(sum(one.cpu or 0.0 for one in said), 3),
                sum(one.memory_bytes for one in said),
            )
        )

    def _tell_evaluations(self, at: float) -> None:
        evaluations = self._coordinator.story.evaluations
        for one in evaluations[self._evaluations_told :]:
            numbers = {f"evaluation/{name}": value for name, value in one.metrics.items()}
            self._tell(at, one.steps, numbers)
        self._evaluations_told = len(evaluations)

    def _tell(self, at: float, step: int, numbers: Mapping[str, float | None]) -> None:
        if self._event_file is None:
            return
        try:
            self._event_file.add(at, step, numbers)
        except OSError as error:
            logger.warning("nothing more for TensorBoard: %s", error)
            self._event_file = None

    def _note_speed(self, at: float, records: int) -> None:
        samples = self._speeds
        was_set_back = samples and (at < samples[-1][0] or records < samples[-1][1])
        if was_set_back:  # The system's clock, or the job to a checkpoint.
            samples.clear()
        samples.append((at, records))
        while samples[0][0] < at - SPEED_WINDOW_S:
            samples.popleft()
        then, before = samples[0]
        self._records_per_s = (records - before) / (at - then) if at > then else 0.0

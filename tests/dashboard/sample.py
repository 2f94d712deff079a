"""A job's values as its master would serve them, for tests of the page alone: checked by schema."""

from __future__ import annotations

import copy
import math
import time
from typing import Any

from tests.dashboard.schema import COLUMNS, checked

BEGAN_S_AGO = 1500.0
EPOCH_RECORDS = 450_000
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script></script>\'"&\u2028'


class Sample:
    """One job, half way, that has lost a worker, a parameter server and its master so far.

    Attributes:
      values: by name: `job`, `state`, `history`, `events`; `logs` by "role/index/incarnation".
    """

    def __init__(self, now: float | None = None) -> None:
        now = time.time() if now is None else now
        self._now = now
        began = now - BEGAN_S_AGO
        self.values: dict[str, Any] = {
            "job": {
                "name": "deepfm-1",
                "directory": "/home/ada/.elasticdl/jobs/deepfm-1",
                "command": "train",
                "began": began,
                "version": "1.0.0",
                "options": {"model_def": "deepfm.DeepFM", "num_epochs": 12, "params": HOSTILE},
            },
            "events": self._events(began),
            "history": self._history(began, now),
            "state": self._state(now),
        }
        self.logs = {
            "worker/1/3": {
                "path": "/home/ada/.elasticdl/jobs/deepfm-1/logs/worker-1.3.log",
                "tail": "".join(f"step {n}\n" for n in range(400)) + HOSTILE + "\n",
                "first_error": None,
            },
            "worker/1/2": {
                "path": "/home/ada/.elasticdl/jobs/deepfm-1/logs/worker-1.2.log",
                "tail": f"Traceback\n{HOSTILE}\n",
                "first_error": f"ValueError: {HOSTILE}",
            },
        }
        for name, values in self.values.items():
            checked(name, values)
        for log in self.logs.values():
            checked("log", log)

    def _events(self, began: float) -> dict[str, Any]:
        told: list[tuple[float, str, str, str | None, dict[str, Any]]] = [
            (0.5, "master", "master, incarnation 1 begins", None, {}),
        ]
        for index in range(4):
            body = {"role": "worker", "index": index, "incarnation": 1}
            text = f"worker {index}, incarnation 1: is up"
            told.append((5.0 + index, "registered", text, "join", body))
        for number in range(1, 24):
            text = f"checkpoint {number}: on schedule"
            told.append((60.0 * number, "checkpoint", text, "checkpoint", {}))
        for epoch in range(1, 6):
            text = f"round {epoch}: loss {0.6 / epoch:.3f}, auc 0.8"
            told.append((240.0 * epoch, "evaluated", text, "evaluation", {}))
        for at, index, incarnation in ((380.0, 1, 1), (1210.0, 1, 2)):
            gone = {"role": "worker", "index": index, "incarnation": incarnation}
            text = f"worker {index}, incarnation {incarnation}: killed by SIGKILL"
            told.append((at, "exited", text, "death", gone))
            back = {**gone, "incarnation": incarnation + 1}
            text = f"worker {index}, incarnation {incarnation + 1}: is up"
            told.append((at + 6.0, "registered", text, "join", back))
        lost = {"role": "ps", "index": 0, "incarnation": 1}
        told.append((700.0, "exited", f"PS 0, incarnation 1: {HOSTILE}", "death", lost))
        told.append((703.0, "restored", "parameter server 0 was restored", None, {}))
        told.append((704.0, "registered", "ps 0, incarnation 2: is up", "join", lost))
        told.append(
            (950.0, "master", "master, incarnation 2 goes on from the journal", "master", {})
        )
        died = {"role": "master", "index": 0, "incarnation": 1}
        told.append((949.0, "exited", "master, incarnation 1: killed by SIGKILL", "death", died))
        told.append((1350.0, "rescaled", "3 parameter servers are up after 1.2 s", "rescale", {}))
        told.sort(key=lambda one: one[0])
        events = [
            {**body, "number": n, "time": began + at, "kind": kind, "text": text, "mark": mark}
            for n, (at, kind, text, mark, body) in enumerate(told, 1)
        ]
        return {"events": events, "last": len(events)}

    def _history(self, began: float, now: float) -> dict[str, Any]:
        rows = []
        for n in range(750):
            s = 2.0 * n
            if 950 < s < 956:
                continue  # It had no master.
            lost = 380 < s < 386 or 1210 < s < 1216
            pause = 700 < s < 704
            rate = 0.0 if pause else (3 if lost else 4) * 1e4 * (1 + 0.06 * math.sin(n * 1.7))
            loss = 0.12 + 0.58 * math.exp(-s / 300) + 0.01 * math.sin(n * 2.3)
            row = [began + s, s // 240 + 1, int(s * 1900), rate, None if s < 10 else loss, 1e-3]
            row += [3 if lost else 4, 1 if pause else 2 if s < 1350 else 3]
            rows.append([*row, 1.6 + 0.2 * math.sin(n / 9), int(2.1e9 + s * 2e5)])
        evaluations = []
        for e in range(1, 7):
            metrics = {"loss": 0.14 + 0.5 * math.exp(-e), "auc": 0.9 - 0.3 * math.exp(-e)}
            metrics["mae"] = 40 / e
            evaluations.append(
                {"at": began + 240.0 * e, "epoch": e, "steps": e * 14_000, "metrics": metrics}
            )
        return {"interval_s": 2.0, "columns": COLUMNS, "rows": rows, "evaluations": evaluations}

    def _state(self, now: float) -> dict[str, Any]:
        epochs = []
        for epoch in range(1, 13):
            done = EPOCH_RECORDS if epoch < 7 else 112_500 if epoch == 7 else 0
            left = 60.0 + 240.0 * max(0, epoch - 7) if epoch >= 7 else None
            epochs.append(
                {
                    "epoch": epoch,
                    "records_done": done,
                    "records_expected": EPOCH_RECORDS,
                    "seconds": 241.0 if epoch < 7 else 62.0 if epoch == 7 else None,
                    "seconds_left": left,
                }
            )
        return {
            "at": now,
            "state": "running",
            "phase": "training",
            "error": "",
            "traceback": "",
            "progress": {
                "epoch": 7,
                "num_epochs": 12,
                "records_done": 6 * EPOCH_RECORDS + 112_500,
                "records_expected": 12 * EPOCH_RECORDS,
                "records_to_repeat": 0,
                "records_per_s": 40_312.0,
                "seconds_left": 1380.0,
                "epochs": epochs,
            },
            "loss": 0.1234,
            "learning_rate": 1e-3,
            "metrics": {"loss": 0.1412, "auc": 0.8993, "mae": 6.6667},
            "training_seconds": 1492.0,
            "output": None,
            "bottleneck": (
                "workers wait for input (61% of their time): the input function (dataset) takes "
                "longer than a step; make it do less a record, or add workers"
            ),
            "phases": [
                {"role": role, "phase": phase, "share": share, "ms": ms}
                for role, phase, share, ms in (
                    ("worker", "parse", 0.61, 8.4),
                    ("worker", "step", 0.22, 3.1),
                    ("worker", "pull_wait", 0.11, 1.5),
                    ("worker", "collect", 0.04, 0.6),
                    ("worker", "push_wait", 0.02, 0.3),
                    ("ps", "gather", 0.18, 0.4),
                    ("ps", "apply", 0.24, 0.6),
                    ("master", "grant", 0.003, 0.1),
                )
            ],
            "health": [],
            "workers_wanted": 4,
            "ps_wanted": 3,
            "instances": [
                self._instance("master", 0, 2, 1500.0 - 952, 0.03, "coordinating"),
                self._instance("ps", 0, 2, 800.0, 0.41, "serving"),
                self._instance("ps", 1, 1, 1495.0, 0.39, "serving"),
                self._instance("ps", 2, 1, 150.0, 0.37, "writing checkpoint 24"),
                self._instance("worker", 0, 1, 1494.0, 0.52, "training task 1041"),
                self._instance("worker", 1, 3, 284.0, 0.55, "training task 1043"),
                self._instance("worker", 2, 1, 1494.0, 0.51, "training task 1042"),
                self._instance("worker", 3, 1, 1494.0, 0.54, "training task 1044"),
            ],
            "tasks": {
                "todo": 30,
                "leased": 4,
                "done": 9,
                "to_repeat": 0,
                "replayed": 2,
                "strip": [
                    ("done", 5),
                    ("replayed", 2),
                    ("done", 4),
                    ("leased", 3),
                    ("todo", 1),
                    ("leased", 1),
                    ("todo", 29),
                ],
            },
            "partitions": [
                {
                    "index": index,
                    "incarnation": incarnation,
                    "rows": rows,
                    "bytes": rows * 136,
                    "pulls_per_s": 120.5,
                    "pushes_per_s": 118.0,
                    "bytes_per_s": rows * 11.0,
                    "staleness": [400, 1200, 700, 90, 4],
                }
                for index, incarnation, rows in (
                    (0, 2, 1_204_113),
                    (1, 1, 1_198_220),
                    (2, 1, 1_633_004),
                )
            ],
            "imbalance": 1.21,
            "audit": None,
        }

    def _instance(
        self, role: str, index: int, incarnation: int, age_s: float, cpu: float, doing: str
    ) -> dict[str, Any]:
        return {
            "role": role,
            "index": index,
            "incarnation": incarnation,
            "state": "running",
            "pid": 4200 + index,
            "age_s": age_s,
            "cpu": cpu,
            "memory_bytes": 512_000_000 + index * 1_000_000,
            "doing": doing,
            "heard_s": 0.4,
            "reason": "",
            "log": f"/home/ada/.elasticdl/jobs/deepfm-1/logs/{role}-{index}.{incarnation}.log",
            "relaunches": incarnation - 1,
        }

    def state(self) -> dict[str, Any]:
        """The state a moment later than before."""
        values = copy.deepcopy(self.values["state"])
        values["at"] = time.time()
        return checked("state", values)

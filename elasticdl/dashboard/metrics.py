"""The metrics of a job, for Prometheus: those of every role, as the master knows them."""

from __future__ import annotations

from collections.abc import Mapping

from elasticdl.dashboard.source import Source, Values
from elasticdl.exposition import CONTENT_TYPE, Exposition

__all__ = ["CONTENT_TYPE", "exposition"]

STATES = ("running", "succeeded", "failed", "stopped", "lost")
INSTANCE_STATES = ("launching", "running", "stopping", "gone")


def exposition(source: Source) -> str:
    """Return the text that Prometheus scrapes."""
    job, state, counters = source.job(), source.state(), source.counters()
    metrics = Exposition(job_name=job["name"])
    metrics.gauge("job_info", "1; what runs.", 1, command=job["command"], version=job["version"])
    metrics.gauge("job_start_timestamp_seconds", "When the job began.", job["began"])
    for one in STATES:
        is_so = int(state["state"] == one)
        metrics.gauge("job_state", "1 for the state that the job is in.", is_so, state=one)
    _add_progress(metrics, state, counters)
    _add_instances(metrics, state, counters)
    _add_partitions(metrics, state, counters)
    for one in counters.get("phases", ()):
        labels = {"role": one["role"], "phase": one["phase"]}
        metrics.counter(
            "phase_seconds_total",
            "Spent by instances of a role, as far as this master was told.",
            one["seconds"],
            **labels,
        )
        metrics.counter("phase_count_total", "How often it was.", one["count"], **labels)
    for level in ("error", "warning"):
        found = sum(one["level"] == level for one in state["health"])
        metrics.gauge("health_findings", "What is wrong with the job now.", found, level=level)
    return metrics.text()


def _add_progress(metrics: Exposition, state: Values, counters: Values) -> None:
    progress, tasks = state["progress"], state["tasks"]
    metrics.gauge("epoch", "The epoch under way, from 1.", progress["epoch"])
    metrics.gauge("epochs", "Epochs in all.", progress["num_epochs"])
    metrics.counter(
        "records_total", "Records of tasks that are done, each once.", progress["records_done"]
    )
    metrics.gauge(
        "records_expected", "Records that the job is to do.", progress["records_expected"]
    )
    metrics.gauge(
        "records_per_second",
        "Records done lately, a second, also again.",
        progress["records_per_s"],
    )
    metrics.gauge("loss", "Recent loss of training, mean of the workers.", state["loss"])
    metrics.gauge("learning_rate", "In force.", state["learning_rate"])
    for name, value in state["metrics"].items():
        metrics.gauge("evaluation_metric", "Of the last evaluation.", value, metric=name)
    for one in ("todo", "leased", "done"):
        metrics.gauge("tasks", "Tasks by state.", tasks[one], state=one)
    metrics.gauge(
        "tasks_to_repeat", "Tasks that are to be done again after a loss.", tasks["to_repeat"]
    )
    metrics.counter(
        "tasks_replayed_total", "Tasks that were done again after a loss.", tasks["replayed"]
    )
    metrics.gauge(
        "stands_still_seconds", "For how long no task was done.", counters.get("stands_still_s")
    )
    for mark, count in counters.get("marks", {}).items():
        metrics.counter("events_total", "Deaths, joins, checkpoints and so on.", count, mark=mark)
    metrics.counter(
        "checkpoint_failures_total",
        "Checkpoints that could not be written.",
        counters.get("checkpoint_failures"),
    )
    metrics.gauge(
        "last_checkpoint_timestamp_seconds",
        "When the last checkpoint was committed.",
        counters.get("last_checkpoint"),
    )
    for directory, free in counters.get("disks", {}).items():
        metrics.gauge("disk_free_bytes", "Where the job writes.", free, directory=directory)


def _add_instances(metrics: Exposition, state: Values, counters: Values) -> None:
    for role, wanted in (("worker", state["workers_wanted"]), ("ps", state["ps_wanted"])):
        metrics.gauge("instances_wanted", "How many should run.", wanted, role=role)
        for one in INSTANCE_STATES:
            found = sum(
                each["role"] == role and each["state"] == one for each in state["instances"]
            )
            metrics.gauge("instances", "How many there are.", found, role=role, state=one)
    cpu: Mapping[tuple[str, int], float] = counters.get("cpu_s", {})
    refusals: Mapping[tuple[str, int], Mapping[str, int]] = counters.get("refusals", {})
    for one in state["instances"]:
        labels = {"role": one["role"], "index": one["index"]}
        if one["state"] == "gone":
            continue
        metrics.gauge(
            "instance_memory_bytes", "Memory of a process.", one["memory_bytes"], **labels
        )
        metrics.counter(
            "instance_cpu_seconds_total",
            "Processor time of a process.",
            cpu.get((one["role"], one["index"])),
            **labels,
        )
        metrics.counter(
            "instance_relaunches_total", "Lives before this one.", one["relaunches"], **labels
        )
        metrics.gauge(
            "instance_heard_seconds", "Since its last sign of life.", one["heard_s"], **labels
        )
        for reason, count in refusals.get((one["role"], one["index"]), {}).items():
            told = "Calls of others that it refused, or had answered before."
            metrics.counter("instance_refusals_total", told, count, **labels, reason=reason)


def _add_partitions(metrics: Exposition, state: Values, counters: Values) -> None:
    metrics.gauge(
        "partition_imbalance_ratio",
        "Bytes a second of the busiest partition over the mean.",
        state["imbalance"],
    )
    counts = counters.get("partitions", {})
    for one in state["partitions"]:
        index = one["index"]
        metrics.gauge("partition_rows", "Rows of embeddings held.", one["rows"], index=index)
        metrics.gauge("partition_bytes", "Memory of its values.", one["bytes"], index=index)
        found = counts.get(index, {})
        for name, told in (
            ("pulls", "Pulls answered."),
            ("pushes", "Pushes of minibatches."),
            ("sent_bytes", "Answered to pulls."),
            ("received_bytes", "Of pushes."),
        ):
            metrics.counter(f"partition_{name}_total", told, found.get(name), index=index)
        metrics.histogram(
            "partition_staleness_minibatches",
            "Minibatches between what a push was computed from and its application.",
            one["staleness"],
            index=index,
        )

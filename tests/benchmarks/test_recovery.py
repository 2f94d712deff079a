from benchmarks.disturbed_job import Kill
from benchmarks.recovery import bars, recovery_of
from elasticdl.master.journal import Entry


def story(*entries: tuple[float, str, dict]) -> list[Entry]:
    return [Entry(number, *entry) for number, entry in enumerate(entries, start=1)]


def granted(at: float, task: int, worker: int, incarnation: int = 1):
    return at, "granted", {"task": task, "worker": worker, "incarnation": incarnation}


def done(at: float, task: int, partitions: tuple[int, ...] = (1, 2)):
    """A task is closed on partitions of these incarnations; none for what is no training."""
    body = {"type": "TaskCompleted", "task": task, "partition_incarnations": list(partitions)}
    return at, "event", body


def test_a_workers_work_is_resumed_when_a_task_it_held_is_done_and_it_is_back_when_it_does_one():
    entries = story(
        granted(1.0, 7, worker=0),
        granted(1.1, 8, worker=1),
        granted(1.2, 9, worker=0),
        done(1.5, 9),
        done(3.0, 8),
        granted(3.1, 7, worker=1),
        done(4.0, 7),
        granted(9.0, 10, worker=0, incarnation=2),
        done(9.5, 11),
        done(9.75, 10),
    )
    assert recovery_of(Kill("worker", 0, 1, at=2.0), entries) == {"resumed": 2.0, "back": 7.75}


def test_a_worker_that_held_only_tasks_to_be_trained_again_has_recovered_all_the_same():
    entries = story(
        granted(1.0, 7, worker=0),
        done(1.5, 7),
        (1.5, "done", {"task": 7, "kind": "TRAINING"}),
        granted(1.6, 7, worker=0),  # A server lost it; it is not done anew, only completed.
        granted(2.5, 7, worker=1),
        done(3.0, 7),
    )
    assert recovery_of(Kill("worker", 0, 1, at=2.0), entries) == {"resumed": 1.0}


def test_a_server_has_recovered_when_training_goes_on_with_its_replacement():
    entries = story(
        done(2.1, 1),  # On its way when the server was killed.
        (3.0, "registered", {"role": "ps", "index": 1, "incarnation": 3}),
        (3.5, "registered", {"role": "ps", "index": 0, "incarnation": 2}),
        done(3.75, 2, ()),
        done(4.0, 3, (2, 3)),
    )
    assert recovery_of(Kill("ps", 0, 1, at=2.0), entries) == {"resumed": 2.0}
    assert recovery_of(Kill("ps", 0, 2, at=3.75), entries) == {}


def test_the_master_has_recovered_when_the_next_one_hears_of_a_task():
    entries = story(done(2.1, 1), (3.0, "master", {"incarnation": 2}), done(3.5, 2))
    assert recovery_of(Kill("master", 0, 0, at=2.0), entries) == {"resumed": 1.5}


def test_a_pause_is_seen_in_the_bars():
    samples = [(float(s), 100 * min(s, 5) + 100 * max(0, s - 8)) for s in range(11)]
    drawn = bars(samples, most_per_s=100, width=10)
    assert drawn == "█████" + "   " + "██"

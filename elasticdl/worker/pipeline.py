"""The input pipeline of a worker: tasks go in as records, minibatches come out."""

from __future__ import annotations

import queue
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from elasticdl.errors import UserCodeError
from elasticdl.freed_memory import go_on_keeping
from elasticdl.model.contract import Contract
from elasticdl.model.element_spec import split_element
from elasticdl.model.mode import Mode
from elasticdl.model.records_input import array_specs, minibatches, records_dataset
from elasticdl.model.user_code import without_library_frames
from elasticdl.phases import Phase, Track
from elasticdl.worker.digests import minibatch_digest
from elasticdl.worker.packing import Packer, packer
from elasticdl.worker.records import TableRecords, TaskRecords
from elasticdl.worker.watchdog import WATCHDOG

_END_OF_TASK = -1
_NO_LIMIT = -1
# An assertion of a layer with a bounded range of ids.
_WRONG_ID = re.compile(r"assertion failed: \[(layer '.*?': an id is not in .*?:)\] \[(.*?)\]")
_WRAPPING = re.compile(
    r"\{\{function_node [^}]*\}\}|Error in user-defined function passed to .*? iterator: \S*: "
)


@dataclass(frozen=True)
class Minibatch:
    """One minibatch of a task.

    Attributes:
      task_id: the task.
      k: which minibatch of it, from 0.
      features: as the user's function made them, batched.
      labels: likewise; None where the dataset has none.
      ids: what each embedding table is asked for, int64 ``[n]`` by table.
      num_records: how many records it is of.
      sample_weights: batched likewise; None where the dataset has none.
      num_records_before: how many the task's minibatches before it are of.
      digest_before: of the task's minibatches before it; 0 where none are made.
      digest_after: with this one.
    """

    task_id: int
    k: int
    features: Any
    labels: Any
    ids: tuple[np.ndarray, ...]
    num_records: int
    sample_weights: Any = None
    num_records_before: int = 0
    digest_before: int = 0
    digest_after: int = 0


@dataclass(frozen=True)
class TaskEnd:
    """Follows the last minibatch of a task.

    Attributes:
      task_id: the task.
      num_minibatches: how many it has, those before the first asked for included.
      num_records: how many records those minibatches are of.
      is_cut: whether the limit ended it: the records would have made more minibatches.
      digest: of the minibatches; 0 where none are made.
    """

    task_id: int
    num_minibatches: int
    num_records: int
    is_cut: bool = False
    digest: int = 0


@dataclass(frozen=True)
class _Descriptor:
    task_id: int
    first_minibatch: int
    max_minibatches: int | None
    records: TaskRecords

    def has_reached_limit(self, num_minibatches: int) -> bool:
        """Whether a task that made so many minibatches may make no more."""
        return self.max_minibatches is not None and num_minibatches >= self.max_minibatches


class TaskPipeline:
    """Turns tasks into minibatches through the user's input function, which is traced once.

    Tasks come out in the order they were put in. The next minibatches are made while the caller
    works on one. `put` and `close` may be called from any thread; iterate in one.

    Args:
      contract: its `dataset` maps records to elements of one record each.
      mode: given to the user's function.
      minibatch_size: records in a minibatch; the last of a task may have fewer.
      collect: given the features of a minibatch, returns the ids of each table; traced.
      prefetch: minibatches made ahead.
      digests: whether to make digests of the minibatches, those before a task's first included.

    Attributes:
      starving: counts as `read` while all tasks that were put have been taken.

    Raises:
      UserCodeError: the user's function raises while it is traced.
    """

    def __init__(
        self,
        contract: Contract,
        mode: Mode,
        minibatch_size: int,
        collect: Callable[[Any], tuple[Any, ...]] | None = None,
        prefetch: int = 2,
        digests: bool = False,
    ) -> None:
        self.starving = Track(None)
        self._function = contract.function("dataset")
        self._waiting: queue.SimpleQueue[_Descriptor | None] = queue.SimpleQueue()
        self._tasks: deque[_Descriptor] = deque()
        self._digests = digests
        # Of the task under way:
        self._num_minibatches = 0
        self._num_records = 0
        self._digest = 0
        self._is_cut = False
        self._failed = False
        self._has_begun = False
        # A shuffle of the user's repeats one permutation, in every process and after every restart.
        tf.random.set_seed(contract.source.seed)
        options = tf.data.Options()
        options.deterministic = True
        # Its thread holds up the end of the iterator, by minutes; AUTOTUNE then means all threads.
        options.autotune.enabled = False
        self._layout = _Layout()
        dataset = tf.data.Dataset.from_generator(
            self._descriptors,
            output_signature=(
                tf.TensorSpec([], tf.int64),
                tf.TensorSpec([], tf.int64),
                *array_specs(contract.source.schema),
            ),
        ).flat_map(_minibatches(contract, mode, minibatch_size, collect, self._layout))
        self._elements = iter(dataset.with_options(options).prefetch(prefetch))

    def put(
        self,
        task_id: int,
        records: TaskRecords,
        first_minibatch: int = 0,
        max_minibatches: int | None = None,
    ) -> None:
        """Add a task.

        Args:
          task_id: names it in what comes out.
          records: its records, in the order they are to be used; rows where the job has columns.
          first_minibatch: start at this one; those before it are made of the records, and only
            counted and digested.
          max_minibatches: how many the task may have, those before the first included.
        """
        task = _Descriptor(task_id, first_minibatch, max_minibatches, records)
        self._tasks.append(task)
        self._waiting.put(task)

    def close(self) -> None:
        """Say that no task will follow; iteration ends after those that were put."""
        self._waiting.put(None)

    def release(self) -> None:
        """Free TensorFlow's iterator; after the last `next`, or whoever iterates waits no more."""
        self._elements = iter(())

    def __iter__(self) -> Iterator[Minibatch | TaskEnd]:
        return self

    def __next__(self) -> Minibatch | TaskEnd:
        """Return the next minibatch, or the end of its task; waits while no task is there.

        Raises:
          UserCodeError: the user's function raised on the task's records. The rest of the task is
            dropped; the next call goes on with the next task.
          StopIteration: closed, and all tasks are through.
        """
        while True:
            try:
                with WATCHDOG.watching("the input function", lambda: bool(self._tasks)):
                    task_id, k, num_records, value = self._layout.open(next(self._elements))
                if not self._has_begun:
                    self._has_begun = True
                    go_on_keeping()
            except (tf.errors.OpError, UnicodeDecodeError) as error:
                if not self._tasks:
                    raise
                if self._failed:
                    continue  # another record of the task that is being dropped
                if self._tasks[0].has_reached_limit(self._num_minibatches):
                    self._is_cut = True
                    continue  # a record that is not wanted
                self._failed = True
                raise self._error(error) from error
            task = self._tasks[0]
            if k == _END_OF_TASK:
                self._tasks.popleft()
                end = TaskEnd(
                    task_id,
                    self._num_minibatches,
                    self._num_records,
                    self._is_cut,
                    self._digest,
                )
                failed = self._failed
                self._begin_task()
                if failed:
                    continue
                return end
            if self._failed:
                continue
            if task.has_reached_limit(k):
                self._is_cut = True
                continue
            self._num_minibatches = k + 1
            self._num_records += num_records
            is_wanted = k >= task.first_minibatch
            if not is_wanted and not self._digests:
                continue
            try:
                features, labels, weights, table_ids = self._layout.unpack(value)
            except tf.errors.InvalidArgumentError as error:
                self._failed = True
                raise self._error(error) from error
            ids = tuple(each._numpy() for each in table_ids)
            digest_before = self._digest
            if self._digests:
                of = (labels, ids) if labels or ids else features
                self._digest = minibatch_digest(of, num_records, digest_before)
            if not is_wanted:
                continue
            return Minibatch(
                task_id,
                k,
                features,
                labels[0] if labels else None,
                ids,
                num_records,
                weights[0] if weights else None,
                self._num_records - num_records,
                digest_before,
                self._digest,
            )

    def _begin_task(self) -> None:
        self._digest = 0
        self._num_minibatches = 0
        self._num_records = 0
        self._is_cut = False
        self._failed = False

    def _descriptors(self) -> Iterator[tuple[Any, ...]]:
        while (task := self._next_task()) is not None:
            # One more than the limit, to know whether there is more.
            limit = _NO_LIMIT if task.max_minibatches is None else task.max_minibatches + 1
            records = task.records
            arrays = records.arrays if isinstance(records, TableRecords) else [list(records)]
            yield task.task_id, limit, *arrays

    def _next_task(self) -> _Descriptor | None:
        with self.starving.measure(Phase.READ):
            return self._waiting.get()

    def _error(self, error: tf.errors.OpError | UnicodeDecodeError) -> UserCodeError:
        task = self._tasks[0]
        text = _cause(error)
        done = self._num_minibatches
        after = f"minibatch {done}" if done else "its first minibatch"
        wrong_id = _WRONG_ID.search(text.replace("\\'", "'"))
        if wrong_id is not None:
            what = f"{wrong_id[1]} {wrong_id[2]}, in {after} of task {task.task_id}"
            return UserCodeError(what, text)
        return UserCodeError(
            f"{self._function} in {after} of task {task.task_id}: {text.partition(chr(10))[0]}",
            without_library_frames(text),
        )


class _Layout:
    """How a minibatch travels through the pipeline: as one opaque tensor.

    `tf.data` puts every element it yields together in Python, which takes longer than to parse a
    minibatch; so elements are an optional of (task id, k and number of records, optional of the
    components). The end of a task has k −1 and no components: an end that comes through the
    pipeline cannot overtake a minibatch.
    """

    def __init__(self) -> None:
        self._dtypes: list[tf.DType] = []
        # Checked for each minibatch: what was traced relies on them.
        self._shapes: list[tf.TensorShape] = []
        self._pack: Packer | None = None

    def close(self, task_id: tf.Tensor, k: tf.Tensor, num_records: tf.Tensor, value: Any) -> Any:
        """Return the element of a minibatch, while the pipeline is traced; the same nest always.

        Args:
          value: features, labels, weights and ids. Labels and weights are a tuple of one, or of
            none.
        """
        parts = tf.nest.flatten(value, expand_composites=True)
        self._dtypes = [part.dtype for part in parts]
        self._shapes = [part.shape for part in parts]
        self._pack = packer(tf.nest.map_structure(tf.type_spec_from_value, value))
        return _element(task_id, k, num_records, tf.raw_ops.OptionalFromValue(components=parts))

    def open(self, element: tf.Tensor) -> tuple[int, int, int, tf.Tensor]:
        """Return task id, k and number of records of an element, and its value, not opened."""
        numbers, value = _values(element, [tf.int64, tf.variant], [tf.TensorShape(None)] * 2)
        task_id, k, num_records = numbers._numpy().tolist()
        return task_id, k, num_records, value

    def unpack(
        self, value: tf.Tensor
    ) -> tuple[Any, tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]:
        """Return features, labels, weights and ids."""
        assert self._pack is not None
        return self._pack(_values(value, self._dtypes, self._shapes))


def _element(task_id: tf.Tensor, k: tf.Tensor, num_records: tf.Tensor, value: tf.Tensor) -> Any:
    return tf.raw_ops.OptionalFromValue(components=[tf.stack([task_id, k, num_records]), value])


def _values(
    optional: tf.Tensor, dtypes: list[tf.DType], shapes: list[tf.TensorShape]
) -> list[tf.Tensor]:
    return tf.raw_ops.OptionalGetValue(optional=optional, output_types=dtypes, output_shapes=shapes)


def _minibatches(
    contract: Contract,
    mode: Mode,
    minibatch_size: int,
    collect: Callable[[Any], tuple[Any, ...]] | None,
    layout: _Layout,
) -> Callable[..., tf.data.Dataset]:
    """Return the function from a task's descriptor to the dataset of its minibatches and its end.

    Elements are as `layout` closes them.
    """

    def finish(*element: Any) -> tuple[tf.Tensor, tuple[Any, ...]]:
        features, *targets = split_element(element if len(element) > 1 else element[0])
        ids = collect(features) if collect is not None else ()
        labels, weights = (
            () if each is None or mode is Mode.PREDICTION else (each,) for each in targets
        )
        return _num_records(features), (features, labels, weights, ids)

    schema, where = contract.source.schema, contract.function("dataset")
    # AutoGraph is for the user's code; converting this project's takes it a second.
    with_autograph = tf.__internal__.autograph.control_status_ctx()

    @tf.autograph.experimental.do_not_convert
    def of_task(task_id: tf.Tensor, limit: tf.Tensor, *arrays: tf.Tensor) -> tf.data.Dataset:
        records = records_dataset(arrays, schema, minibatch_size)
        with with_autograph:
            elements = contract.dataset(records, mode)
        batches = minibatches(elements, schema, minibatch_size, where, records, arrays)
        made = (
            batches.take(limit)
            .enumerate()
            .map(lambda k, element: layout.close(task_id, k, *finish(*_as_arguments(element))))
        )
        end = tf.data.Dataset.from_tensors(tf.constant(_END_OF_TASK, tf.int64)).map(
            lambda k: _element(task_id, k, tf.constant(0, tf.int64), tf.raw_ops.OptionalNone())
        )
        return made.concatenate(end)

    return of_task


def _as_arguments(element: Any) -> tuple[Any, ...]:
    return element if isinstance(element, tuple) else (element,)


def _num_records(features: Any) -> tf.Tensor:
    first = tf.nest.flatten(features)[0]
    if isinstance(first, tf.RaggedTensor):
        return tf.cast(first.nrows(), tf.int64)
    if isinstance(first, tf.SparseTensor):
        return first.dense_shape[0]
    return tf.shape(first, tf.int64)[0]


def _cause(error: tf.errors.OpError | UnicodeDecodeError) -> str:
    """Return what an operation reports, without what the pipeline adds to it."""
    if isinstance(error, UnicodeDecodeError):
        # The report quotes a record that is not text, and TensorFlow fails to make a string of it.
        message = error.object.decode(errors="replace")
    else:
        message = error.message
    text = message.partition("\n\t [[")[0].partition(" [Op:")[0]
    return _WRAPPING.sub("", text).strip()

"""One worker: leases tasks of all kinds and does them until the job is over."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from elasticdl.errors import ElasticDLError
from elasticdl.heartbeat import NotAMember, wait_for_cluster
from elasticdl.job_spec import JobSpec
from elasticdl.logs.line import fields
from elasticdl.model.callback_plan import user_callbacks
from elasticdl.model.contract import load_contract
from elasticdl.model.element_spec import element_spec
from elasticdl.model.metrics import Metrics
from elasticdl.model.mode import Mode
from elasticdl.model.source import ModelSource
from elasticdl.model.trained_model import load_parameters
from elasticdl.model.warm_start import check_same, flat, open_warm_start, rows_to_load
from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps.client import (
    WIRE_DTYPES,
    GaveUp,
    ModelLayout,
    ParameterClient,
    StaleCluster,
    TaskDiffers,
    TaskRewound,
)
from elasticdl.ps.lifetime_rules import LifetimeRules
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.rpc import Client, RpcError, Transport
from elasticdl.worker.callbacks import CallbackHost, describe_callbacks
from elasticdl.worker.evaluation import Evaluator
from elasticdl.worker.exporting import export, pull_dense
from elasticdl.worker.failures import tell_failure
from elasticdl.worker.leases import HeldTask, Leases
from elasticdl.worker.pinning import make_pin
from elasticdl.worker.pipeline import TaskPipeline
from elasticdl.worker.prediction import Predictor, merge
from elasticdl.worker.records import RecordSources, TaskRecords
from elasticdl.worker.seeds import order_seed
from elasticdl.worker.stream import DenseUse, MinibatchStream
from elasticdl.worker.synchronous import SynchronousTrainer
from elasticdl.worker.training import Trainer
from elasticdl.worker.two_phase import TwoPhaseModel
from elasticdl.worker.watchdog import WATCHDOG

logger = logging.getLogger(__name__)

# Before what others have to put right is tried again.
PAUSE_S = 0.1
# For the first task to come, before time is found for what training needs.
FIRST_TASK_S = 0.2
_ALL_LIVE = LifetimeRules()
MODES = {"train": Mode.TRAINING, "evaluate": Mode.EVALUATION, "predict": Mode.PREDICTION}


class Worker:
    """The work of one worker. `run` is called once, by the thread that does it.

    Args:
      spec: the job.
      instance: who this worker is.
      master: the master's client.
      connect: makes a transport to a parameter server.
      master_address: told to the model's code; empty in a job of one process.
    """

    def __init__(
        self,
        spec: JobSpec,
        instance: master_pb2.InstanceId,
        master: Client,
        connect: Callable[[master_pb2.Partition], Transport],
        master_address: str = "",
    ) -> None:
        self._spec = spec
        self._master_address = master_address
        self._instance = instance
        self._master = master
        self._connect = connect
        self._leaving = threading.Event()
        # In words, for people.
        self.doing = "builds the model"
        self._source = ModelSource.of_job(spec)
        self._mode = MODES[spec.command]
        self._leases = Leases(master, instance, self._read, self._let_pin_go)
        self._client: ParameterClient | None = None
        self._cluster_version = 0
        self._model: TwoPhaseModel | None = None
        self._contract: Any = None
        self._features: Any = None
        self._callbacks: CallbackHost | None = None
        self._sources: RecordSources | None = None
        self._doers: dict[Mode, Trainer | Evaluator | Predictor] = {}
        self._lanes: SynchronousTrainer | None = None
        self._ahead: HeldTask | None = None
        self._making = threading.Lock()
        self._made: TaskPipeline | None = None
        self._is_prepared = self._mode is not Mode.TRAINING
        kinds = master_pb2.TaskKind
        self._handlers: dict[int, Callable[[HeldTask], None]] = {
            kinds.INITIALIZE: self._initialize,
            kinds.TRAINING: self._train,
            kinds.EVALUATION: self._evaluate,
            kinds.SUMMARIZE: self._summarize,
            kinds.PREDICTION: self._predict,
            kinds.EXPORT: self._export,
            kinds.MERGE: self._merge,
            kinds.PIN: self._pin,
            kinds.CALLBACKS: self._call_back,
        }

    # ----------------------------------------------------------- asked by others

    @property
    def grants(self) -> list[int]:
        """The grants this worker works on."""
        return self._leases.grants

    @property
    def loss(self) -> float | None:
        """The recent loss of training here."""
        trainer = self._lanes or self._doers.get(Mode.TRAINING)
        return trainer.loss if isinstance(trainer, Trainer | SynchronousTrainer) else None

    @property
    def has_begun(self) -> bool:
        """Whether its model is built, and it asks for work."""
        return self._leases.has_begun

    def leave(self) -> None:
        """Finish the minibatch under way, return the rest and end. Not for signal handlers."""
        self._leaving.set()
        self._leases.stop()

    def note_cluster(self, version: int) -> None:
        """Tell which version of the cluster the master has: an older one is waited for no more."""
        self._cluster_version = max(self._cluster_version, version)

    # ------------------------------------------------------------------ the run

    def run(self) -> None:
        """Work until the job is over or this worker is to leave.

        Raises:
          NotAMember: this incarnation was replaced.
          DeadlinePassed: somebody did not answer for long.
        """
        build_error = self._build()
        trains_lanes = self._spec.consistency == "sync" and self._mode is Mode.TRAINING
        self._leases.start(lanes_apart=trains_lanes and build_error is None)
        if trains_lanes and build_error is None:
            self._lanes = SynchronousTrainer(
                self._spec,
                self.model,
                self._new_client,
                self._training_pipeline,
                self._leases,
                self._leaving,
            )
        try:
            while (held := self._next()) is not None:
                self._do(held, build_error)
        except GaveUp:
            logger.info("the job is over")
        finally:
            self._end()

    def _build(self) -> ElasticDLError | None:
        """Build the model; its error is told with the first task, as every other of user code."""
        try:
            context = {
                "job_name": self._spec.job_name,
                "role": "worker",
                "index": self._instance.index,
                "incarnation": self._instance.incarnation,
                "master_address": self._master_address,
                "mode": self._mode,
            }
            self._contract = load_contract(self._source, self._mode, context)
            structure = element_spec(self._contract, self._mode)
            self._features = structure.features
            self._model = TwoPhaseModel(
                self._contract,
                structure.features,
                structure.labels,
                self._source.seed,
                structure.sample_weights,
                clips=self._spec.consistency == "async",
            )
            self._layout = ModelLayout(self._define(self._model))
        except ElasticDLError as error:
            return error
        return None

    def _define(self, model: TwoPhaseModel) -> ps_pb2.ModelDefinition:
        trains = self._mode is Mode.TRAINING
        optimizer = model.optimizer.config if trains else OptimizerConfig(name="sgd")
        undecayed = model.undecayed() if trains else frozenset()
        return ps_pb2.ModelDefinition(
            tables=[
                ps_pb2.TableDefinition(
                    name=table.name,
                    dim=table.dim,
                    initializer=ps_pb2.RowInitializer(
                        kind=table.initializer.kind,
                        seed=table.initializer.seed,
                        a=table.initializer.a,
                        b=table.initializer.b,
                    ),
                    frozen=table.frozen,
                    excluded_from_weight_decay=table.name in undecayed,
                    # Nothing comes or goes where nothing is trained.
                    rules=_wire_rules(table.rules if trains and not table.frozen else _ALL_LIVE),
                )
                for table in model.table_definitions
            ],
            variables=[
                ps_pb2.VariableDefinition(
                    name=variable.path,
                    shape=variable.shape,
                    trainable=variable.trainable,
                    excluded_from_weight_decay=variable.path in undecayed,
                    momentum=None if variable.momentum == 1.0 else variable.momentum,
                )
                for variable in model.variables
            ],
            optimizer=optimizer.to_json(),
            synchronous=self._synchronous(),
            staleness_aware_learning_rate=self._spec.staleness_aware_learning_rate,
        )

    def _synchronous(self) -> ps_pb2.Synchronous | None:
        if self._spec.consistency != "sync" or self._mode is not Mode.TRAINING:
            return None
        return ps_pb2.Synchronous(max_steps=self._spec.max_steps or 0)

    def _next(self) -> HeldTask | None:
        if self._leaving.is_set():
            return None
        held, self._ahead = self._ahead, None
        if held is not None:
            return held
        self.doing = "waits for a task"
        if not self._is_prepared and not self._leases.is_ready(FIRST_TASK_S):
            self._prepare()
        return self._leases.next()

    def _prepare(self) -> None:
        """Trace what training needs while there is nothing to do; a task tells what goes wrong."""
        self._is_prepared = True
        self.doing = "traces the training step"
        if self._model is None:
            return
        try:
            with WATCHDOG.watching("tracing the training step"):
                with self._making:
                    self._made = self._pipeline(Mode.TRAINING)
                self.model.traced_step()
        except Exception as error:
            logger.info("nothing was traced ahead: %s", error)

    def _do(self, held: HeldTask, build_error: ElasticDLError | None) -> None:
        try:
            if build_error is not None:
                raise build_error
            if held.error is not None:
                raise held.error
            task = held.task
            kind = master_pb2.TaskKind.Name(task.kind).lower()
            said = fields(task=task.id, shard=task.shard, start=task.start, end=task.end)
            logger.info("task %d: %s", task.id, kind, extra=said)
            self.doing = f"task {task.id} ({kind})"
            self._handlers[task.kind](held)
            return
        except (GaveUp, RpcError, NotAMember):
            raise
        except Exception as error:
            if tell_failure(self._leases, held, error):
                self._close_client()
                self._leaving.wait(PAUSE_S)
        self._start_again()

    def _start_again(self) -> None:
        """Drop what is half done; other tasks held are given back, for anybody; lanes go on."""
        self._close_doers()
        self._ahead = None
        self._leases.give_back_all(lanes=False)

    def _end(self) -> None:
        trainer = self._doers.get(Mode.TRAINING)
        try:
            if isinstance(trainer, Trainer):
                trainer.finish()
        except (GaveUp, ElasticDLError, StaleCluster, TaskDiffers, TaskRewound) as error:
            logger.info("pushes were not finished: %s", error)
        self._close_doers()
        self._leases.stop()
        if self._lanes is not None:
            self._lanes.close()
        if self._made is not None:
            self._made.release()
        if self._leaving.is_set():
            self._leases.give_back_all(goodbye=True)
        self._close_client()

    def _close_doers(self) -> None:
        for doer in self._doers.values():
            doer.close()
        self._doers.clear()

    def _close_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    # -------------------------------------------------------------- what it needs

    def _read(self, task: master_pb2.Task) -> TaskRecords:
        if task.kind not in (
            master_pb2.TaskKind.TRAINING,
            master_pb2.TaskKind.EVALUATION,
            master_pb2.TaskKind.PREDICTION,
        ):
            return []
        shuffled = task.kind == master_pb2.TaskKind.TRAINING and self._spec.shuffle
        seed = order_seed(self._spec.seed, task) if shuffled else None
        with WATCHDOG.watching(f"reading {task.shard}, records {task.start} to {task.end}"):
            return self._read_range(task.shard, task.start, task.end, seed)

    def _read_range(
        self, shard: str, start: int, end: int, permutation_seed: str | None = None
    ) -> TaskRecords:
        if self._sources is None:  # Read by one thread first: that of the leases.
            self._sources = RecordSources(self._spec, self._contract)
        return self._sources.read(shard, start, end, permutation_seed)

    @property
    def model(self) -> TwoPhaseModel:
        """The model, once it is built."""
        assert self._model is not None
        return self._model

    def _parameters(self) -> ParameterClient:
        if self._client is None:
            self._client = self._new_client(self._leaving.is_set)
        return self._client

    def _new_client(self, give_up: Callable[[], bool]) -> ParameterClient:
        cluster = wait_for_cluster(self._master, self._instance, os.getpid(), give_up=self._leaving)
        rates = self.model.optimizer.rates if self._mode is Mode.TRAINING else None
        return ParameterClient(
            cluster,
            self._connect,
            self._layout,
            give_up,
            rates,
            is_stale=lambda: self._cluster_version > cluster.version,
            wire_dtype=WIRE_DTYPES[self._spec.wire_dtype],
        )

    def _pipeline(self, mode: Mode) -> TaskPipeline:
        collect = self.model.collect if self.model.table_definitions else None
        digests = mode is Mode.TRAINING
        return TaskPipeline(
            self._contract, mode, self._spec.minibatch_size, collect, digests=digests
        )

    def _training_pipeline(self) -> TaskPipeline:
        with self._making:
            self._is_prepared = True
            made, self._made = self._made, None
            return made or self._pipeline(Mode.TRAINING)

    def _stream(self, mode: Mode) -> MinibatchStream:
        """Return what reads for measuring and predicting: parameters of one pin do not change."""
        return MinibatchStream(
            self._pipeline(mode), self._parameters(), dense_use=DenseUse.forever()
        )

    def _complete(self, held: HeldTask, result: dict[str, Any] | None) -> None:
        """Tell the master what a task produced, and from which lives of the partitions."""
        self._leases.complete(held, 0, self._parameters().incarnations, result)

    # ------------------------------------------------------------- kinds of tasks

    def _initialize(self, held: HeldTask) -> None:
        client, model = self._parameters(), self.model
        if self._spec.warm_start is not None:
            path = self._spec.warm_start
            warm = open_warm_start(path)
            check_same(path, warm, model.table_definitions, model.variables)
            client.initialize(flat(warm, model.variables))
            for definition in model.table_definitions:
                for ids, rows in rows_to_load(warm, definition):
                    client.load_rows(definition.name, ids, rows)
        elif self._spec.trained_model is None:
            client.initialize(model.initial_dense())
            for name, rows in model.given_rows().items():
                client.load_rows(name, np.arange(len(rows), dtype=np.int64), rows)
        else:
            parameters = load_parameters(self._spec.trained_model)
            client.initialize(parameters.flat(model.variables))
            for name, table in parameters.tables.items():
                client.load_rows(name, table.ids, table.rows)
        result = None
        if self._mode is Mode.TRAINING:
            result = describe_callbacks(self._spec, self._contract, model)
        self._complete(held, result)

    def _call_back(self, held: HeldTask) -> None:
        if self._callbacks is None:
            self._callbacks = CallbackHost(
                self._contract,
                self._features,
                self._source.seed,
                user_callbacks(self._contract),
                self._spec.num_epochs,
            )
        asked = json.loads(held.task.payload)
        dense, version = pull_dense(self.model, self._parameters(), held.task.pin)
        result = self._callbacks.run(asked["events"], asked["learning_rate"], dense, version)
        self._complete(held, result)

    def _train(self, held: HeldTask) -> None:
        trainer = self._doers.get(Mode.TRAINING)
        if not isinstance(trainer, Trainer):
            # Traced while a parameter server that was lost is restored.
            pipeline = self._training_pipeline()
            try:
                client = self._parameters()
            except BaseException:
                pipeline.close()
                pipeline.release()
                raise
            trainer = self._doers[Mode.TRAINING] = Trainer(
                self._spec, self.model, client, pipeline, self._leases, self._leaving
            )
        if not trainer.has_taken(held):
            trainer.take(held)
        trainer.train(held, lambda: self._look_ahead(trainer))

    def _look_ahead(self, trainer: Trainer) -> None:
        """Begin to read the next task while this one is trained."""
        if self._ahead is not None:
            return
        self._ahead = self._leases.next_if_ready()
        ahead = self._ahead
        trains = ahead is not None and ahead.task.kind == master_pb2.TaskKind.TRAINING
        if ahead is not None and trains and ahead.error is None:
            trainer.take(ahead)

    def _evaluator(self) -> Evaluator:
        evaluator = self._doers.get(Mode.EVALUATION)
        if not isinstance(evaluator, Evaluator):
            evaluator = self._doers[Mode.EVALUATION] = Evaluator(
                self.model,
                Metrics(self._contract, Mode.EVALUATION),
                self._stream(Mode.EVALUATION),
                lambda epoch: self._parameters().training_losses().get(epoch),
                self._read_range,
            )
        return evaluator

    def _evaluate(self, held: HeldTask) -> None:
        self._complete(held, self._evaluator().evaluate(held))

    def _summarize(self, held: HeldTask) -> None:
        self._complete(held, self._evaluator().summarize(held.task))

    def _predict(self, held: HeldTask) -> None:
        predictor = self._doers.get(Mode.PREDICTION)
        if not isinstance(predictor, Predictor):
            process = self._contract.process_predictions(self._instance.index)
            predictor = self._doers[Mode.PREDICTION] = Predictor(
                self._spec, self.model, self._stream(Mode.PREDICTION), process
            )
        self._complete(held, predictor.predict(held))

    def _export(self, held: HeldTask) -> None:
        result = export(self._spec, self._source, self.model, self._parameters(), held.task)
        self._complete(held, result)

    def _let_pin_go(self, number: int) -> None:
        """Free what the partitions kept for a pin; where that fails, the next pin does it."""
        client = self._client
        try:
            if client is not None:
                client.unpin(number)
        except Exception as error:  # Its connections may just be closed by the thread that trains.
            logger.info("pin %d was not let go: %s", number, error)

    def _pin(self, held: HeldTask) -> None:
        is_sync = json.loads(held.task.payload)["consistency"] == "sync"
        client, number = self._parameters(), held.task.pin
        versions = make_pin(client, number, held.grant, is_sync, self._leaving)
        self._complete(held, {"versions": versions})

    def _merge(self, held: HeldTask) -> None:
        self._leases.complete(held, result=merge(self._spec, held.task))


def _wire_rules(rules: LifetimeRules) -> ps_pb2.LifetimeRules:
    return ps_pb2.LifetimeRules(
        admission_count=rules.admission_count,
        max_rows=rules.max_rows,
        evict_after_steps=rules.evict_after_steps,
    )

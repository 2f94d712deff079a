"""An embedding table: unbounded int64 ids, one row of weights and optimizer slots each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from elasticdl.errors import ElasticDLError
from elasticdl.memory import POOL
from elasticdl.proto import ps_pb2
from elasticdl.ps import bfloat16, kernels
from elasticdl.ps.admission import MAX_CANDIDATES, Admission
from elasticdl.ps.arena import Arena
from elasticdl.ps.arrays import require
from elasticdl.ps.change_marks import ChangeMarks
from elasticdl.ps.initializers import RowInitializer
from elasticdl.ps.lifetime_kernels import NEW, REFUSED
from elasticdl.ps.lifetime_rules import LifetimeRules
from elasticdl.ps.lifetimes import UNLIMITED, GroupSteps, Lifetimes
from elasticdl.ps.optimizers import OptimizerConfig, apply_rows
from elasticdl.ps.row_directory import RowDirectory
from elasticdl.ps.row_parts import in_parts
from elasticdl.ps.table_image import TableImage
from elasticdl.ps.table_snapshot import Candidates, RowPage, TableSnapshot


class TableFullError(ElasticDLError, MemoryError):
    """An embedding table would exceed the number of rows it is allowed; nothing was changed."""


_ALL_ROWS_LIVE = LifetimeRules()


class EmbeddingTable:
    """Rows of one table on one partition. Not thread-safe: callers lock; kernels release the GIL.

    Every method checks its arguments, and has room for what it needs, before it changes anything.

    Args:
      name: as in the model.
      dim: weights of a row.
      optimizer: decides the slots, and how `apply` updates.
      initializer: what an unseen id's row is.
      max_rows: `TableFullError` beyond.
      rules: which rows are made and kept.
      num_groups: bucket groups of this partition.
      total_groups: of the job.

    Attributes:
      unadmitted: by local group, gradients that were dropped for want of a row, int64 ``[groups]``.
      evicted: likewise, rows that were evicted.
    """

    def __init__(
        self,
        name: str,
        dim: int,
        optimizer: OptimizerConfig,
        initializer: RowInitializer,
        max_rows: int = 1 << 40,
        rules: LifetimeRules = _ALL_ROWS_LIVE,
        num_groups: int = 1,
        total_groups: int = 1,
    ) -> None:
        if dim < 1:
            raise ValueError(f"table '{name}': dim is {dim}; it must be at least 1")
        self.name = name
        self.dim = dim
        self.optimizer = optimizer
        self.initializer = initializer
        self.max_rows = max_rows
        self.unadmitted = np.zeros(num_groups, np.int64)
        self.evicted = np.zeros(num_groups, np.int64)
        self._image: TableImage | None = None
        self._snapshot: TableSnapshot | None = None
        self._marks = ChangeMarks()
        self._directory = RowDirectory()
        self._lifetimes: Lifetimes | None = None
        self._admission: Admission | None = None
        if rules.are_any:
            quota = max(1, rules.max_rows // total_groups) if rules.max_rows else UNLIMITED
            self._lifetimes = Lifetimes(num_groups, quota, rules.evict_after_steps)
        if rules.admission_count > 1:
            quota = max(1, MAX_CANDIDATES // total_groups)
            self._admission = Admission(
                rules.admission_count, rules.evict_after_steps, num_groups, quota
            )
        self._storage = Arena(np.float32, dim * (1 + optimizer.num_slots))
        self._initial_slots = np.repeat(
            np.array(
                [optimizer.initial_slot_value(slot) for slot in range(optimizer.num_slots)],
                np.float32,
            ),
            dim,
        )

    def __len__(self) -> int:
        """How many rows exist."""
        return len(self._directory)

    @property
    def end_row(self) -> int:
        """One more than the highest row that was ever in use; see `page`."""
        return self._directory.end_row

    @property
    def rows_age(self) -> bool:
        """Whether last updates decide which rows live."""
        return self._lifetimes is not None

    @property
    def num_candidates(self) -> int:
        """How many ids without a row are being counted."""
        return 0 if self._admission is None else len(self._admission)

    @property
    def num_bytes(self) -> int:
        """Memory in use: weights, slots, id and age of each row, the index, and images."""
        row_bytes = self._storage.row_bytes + self._marks.row_bytes
        row_bytes += 0 if self._lifetimes is None else self._lifetimes.row_bytes
        others = sum(image.num_bytes for image in self._images)
        others += 0 if self._admission is None else self._admission.num_bytes
        return self.end_row * row_bytes + self._directory.num_bytes + others

    @property
    def _images(self) -> list[TableImage]:
        snapshot = None if self._snapshot is None else self._snapshot.image
        return [image for image in (self._image, snapshot) if image is not None]

    def lookup(self, ids: np.ndarray) -> np.ndarray:
        """Return weights, float32 ``[n, dim]``; unseen ids' are initial ones and stay unseen."""
        ids = require("ids", ids, np.int64, (None,))
        values, storage = POOL.float32s(len(ids), self.dim), self._storage.rows

        def look_up(part: slice, rows: np.ndarray) -> int:
            num_missing = self._directory.find(ids[part], rows)[1]
            kernels.gather_rows(storage, rows, values[part])
            if num_missing:
                missing = rows < 0
                values[part][missing] = self.initializer.rows(ids[part][missing], self.dim)
            return num_missing

        self._look_up(ids, look_up)
        return values

    def _look_up(self, ids: np.ndarray, look_up: Callable[[slice, np.ndarray], int]) -> None:
        """Do something with the rows of ids, part by part, which are found on the way.

        Those that are looked up are mostly those to be updated next: they are not found again.

        Args:
          ids: int64 ``[n]``.
          look_up: finds the rows of some ids, writes them where it is told to, int64 ``[m]``, and
            returns how many have none.
        """
        rows = np.empty(len(ids), np.int64)
        num_missing = sum(in_parts(len(ids), lambda part: look_up(part, rows[part])))
        if not num_missing and self._lifetimes is None:
            self._directory.remember(ids, rows)

    def sent(self, ids: np.ndarray, dtype: ps_pb2.WireDtype) -> np.ndarray:
        """Return what `lookup` does as it is to travel; bfloat16 is uint16 ``[n, dim]``."""
        if dtype == ps_pb2.WIRE_FLOAT32:
            return self.lookup(ids)
        ids = require("ids", ids, np.int64, (None,))
        halves, storage = POOL.array(np.uint16, len(ids), self.dim), self._storage.rows

        def look_up(part: slice, rows: np.ndarray) -> int:
            num_missing = self._directory.find(ids[part], rows)[1]
            bfloat16.gather_narrow(storage, rows, halves[part])
            if num_missing:
                missing = rows < 0
                initial = self.initializer.rows(ids[part][missing], self.dim)
                halves[part][missing] = bfloat16.narrow(initial).reshape(initial.shape)
            return num_missing

        self._look_up(ids, look_up)
        return halves

    def reserve(self, ids: np.ndarray) -> np.ndarray:
        """Create the rows of unseen ids with initial weights and slots.

        Returns:
          The row of each id, int64 ``[n]``.

        Raises:
          TableFullError: `max_rows` would be exceeded.
          MemoryError: the system has no room.
        """
        return self._rows_of(require("ids", ids, np.int64, (None,)))

    def _rows_of(self, ids: np.ndarray, are_set: bool = False) -> np.ndarray:
        """Do as `reserve`; the values of new rows are nothing yet where the caller sets all."""
        for image in self._images:
            image.reserve(len(ids))
        known = self._directory.recall(ids)
        if known is not None:
            return known
        rows, num_missing = self._directory.find(ids)
        if not num_missing:
            return rows
        missing = rows < 0
        missing_ids = ids[missing]
        inverse = None
        if len(self) + num_missing > self.max_rows:  # perhaps only because of repeats
            missing_ids, inverse = np.unique(missing_ids, return_inverse=True)
            if len(self) + len(missing_ids) > self.max_rows:
                raise TableFullError(
                    f"table '{self.name}': {len(self)} rows and {len(missing_ids)} new ones; "
                    f"max_rows is {self.max_rows}"
                )
        self._make_room(len(missing_ids))
        new_rows = self._create(missing_ids, are_set)
        rows[missing] = new_rows if inverse is None else new_rows[inverse]
        return rows

    def prepare(self, ids: np.ndarray) -> np.ndarray | None:
        """Make room for whatever `apply` may do with these ids; no row that lives changes.

        Returns:
          The row of each id, int64 ``[n]``; None where only `apply` decides which rows live.

        Raises:
          TableFullError: `max_rows` would be exceeded.
          MemoryError: the system has no room.
        """
        if self._lifetimes is None:
            return self.reserve(ids)
        for image in self._images:
            image.reserve(2 * len(ids))
        self._make_room(len(ids))
        if self._admission is not None:
            self._admission.reserve(len(ids))
        return None

    def _make_room(self, num_new: int) -> None:
        end_row = self._directory.reserve(num_new)
        self._storage.reserve(end_row)
        self._marks.reserve(end_row)
        if self._lifetimes is not None:
            self._lifetimes.reserve(end_row)

    def _create(self, ids: np.ndarray, are_set: bool = False) -> np.ndarray:
        """Give ids without a row, for which there is room, initial ones, or any."""
        if are_set:
            rows = self._directory.add(ids)
            self._marks.changed(rows)
            return rows
        weights = self.initializer.rows(ids, self.dim)
        rows = self._directory.add(ids)
        self._marks.changed(rows)
        kernels.set_new_rows(self._storage.rows, rows, weights, self._initial_slots)
        return rows

    def apply(
        self,
        ids: np.ndarray,
        gradients: np.ndarray,
        learning_rate: float,
        iterations: np.ndarray,
        steps: GroupSteps | None = None,
        rows: np.ndarray | None = None,
    ) -> None:
        """Update the rows of some ids, created where unseen and admitted.

        Args:
          ids: distinct ids, int64 ``[n]``.
          gradients: one summed gradient per id, float32 ``[n, dim]``.
          learning_rate: of this step.
          iterations: 1 for an id's group's first update, int64 ``[n]``.
          steps: the update as its groups count it; needed where rows do not all live.
          rows: what `prepare` returned for these ids, if nothing changed since.
        """
        ids = require("ids", ids, np.int64, (None,))
        gradients = require("gradients", gradients, np.float32, (len(ids), self.dim))
        iterations = require("iterations", iterations, np.int64, (len(ids),))
        if self._lifetimes is None:
            rows = self.reserve(ids) if rows is None else rows
        else:
            assert steps is not None
            self.prepare(ids)
            rows = self._rows_that_live(ids, steps, self._lifetimes)
            kept = rows >= 0
            rows, gradients, iterations = rows[kept], gradients[kept], iterations[kept]
        self._save(rows)
        apply_rows(self.optimizer, self._storage.rows, rows, gradients, learning_rate, iterations)

    def _rows_that_live(
        self, ids: np.ndarray, steps: GroupSteps, lifetimes: Lifetimes
    ) -> np.ndarray:
        """Return the row of each id after evictions and admissions; below 0 where it has none."""
        order = np.argsort(ids, kind="stable")
        ids, steps = ids[order], steps.of(order)
        rows, _ = self._directory.find(ids)
        if self._admission is not None:
            unseen = np.flatnonzero(rows == NEW)
            admitted = self._admission.see(ids[unseen], steps.of(unseen))
            rows[unseen[~admitted]] = REFUSED
        self._evict(lifetimes.begin(rows, steps), lifetimes)
        self.unadmitted += np.bincount(steps.groups[rows == REFUSED], minlength=len(self.evicted))
        new = rows == NEW
        rows[new] = self._create(ids[new])
        kept = rows >= 0
        groups = steps.groups[kept]
        lifetimes.end(rows[kept], groups, steps.iterations[groups])
        in_order = np.empty_like(rows)
        in_order[order] = rows
        return in_order

    def _evict(self, rows: np.ndarray, lifetimes: Lifetimes) -> None:
        if not len(rows):
            return
        for image in self._images:
            image.displace(rows, self._storage.rows, self._directory.row_ids)
        self._marks.gone(self._directory.row_ids[rows, 0], len(self))
        self._directory.remove(rows)
        self.evicted += np.bincount(lifetimes.groups_of(rows), minlength=len(self.evicted))

    def load(
        self,
        ids: np.ndarray,
        weights: np.ndarray,
        slots: np.ndarray | None = None,
        groups: np.ndarray | None = None,
    ) -> None:
        """Set rows, created where unseen, as if last updated at the start.

        Args:
          ids: int64 ``[n]``; distinct, and ascending over all calls, where rows do not all live.
          weights: float32 ``[n, dim]``.
          slots: float32 ``[n, num_slots * dim]``; initial ones without it.
          groups: the local position of each id's group; needed where rows do not all live.

        Raises:
          TableFullError: there would be more rows than the table, or a group of it, may have.
        """
        ids = require("ids", ids, np.int64, (None,))
        weights = require("weights", weights, np.float32, (len(ids), self.dim))
        slots_shape = (len(ids), len(self._initial_slots))
        if slots is None:
            slots = np.broadcast_to(self._initial_slots, slots_shape)
        slots = require("slots", slots, np.float32, slots_shape)
        if self._lifetimes is not None:
            assert groups is not None
            known, _ = self._directory.find(ids)
            if not self._lifetimes.count_in(groups[known < 0]):
                raise TableFullError(
                    f"table '{self.name}': more rows to load than a bucket group's share of "
                    "max_rows; raise it"
                )
            self._lifetimes.take_out(known)
        rows = self.reserve(ids)
        if self._lifetimes is not None and groups is not None:
            self._lifetimes.end(rows, groups, np.zeros(len(rows), np.int64))
        self._save(rows)
        kernels.scatter_rows(self._storage.rows, rows, 0, weights)
        kernels.scatter_rows(self._storage.rows, rows, self.dim, slots)

    # ------------------------------------------------------------------ the pin

    def pin(self, with_slots: bool = False) -> None:
        """Keep what the table holds now, until `unpin`, while it changes; an older image goes."""
        num_columns = self._storage.rows.shape[1] if with_slots else self.dim
        self._image = TableImage(self.end_row, num_columns, self._directory.free_rows)

    def unpin(self) -> None:
        """Let the image go."""
        self._image = None

    def pinned_lookup(self, ids: np.ndarray) -> np.ndarray:
        """Return what `lookup` would have returned at the time of `pin`."""
        assert self._image is not None
        ids = require("ids", ids, np.int64, (None,))
        rows, _ = self._directory.find(ids)
        values = np.empty((len(ids), self.dim), np.float32)
        missing = self._image.lookup(ids, rows, self._storage.rows, values)
        if len(missing):
            values[missing] = self.initializer.rows(ids[missing], self.dim)
        return values

    def pinned_page(
        self, first_row: int, max_rows: int, with_slots: bool = False
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Return a page of the rows there were at the time of `pin`, and where the next starts.

        The next page's first row is -1 at the end; the rest is as `page` returns it. Slots are
        there if `pin` was asked to keep them.
        """
        assert self._image is not None
        if first_row < 0 or max_rows < 0:
            raise ValueError(f"page of {max_rows} rows from {first_row}; neither may be negative")
        num_columns = self._storage.rows.shape[1] if with_slots else self.dim
        if num_columns > self._image.num_columns:
            raise ValueError(f"table '{self.name}': the pin does not hold the optimizer's slots")
        return self._image.page(
            first_row, max_rows, num_columns, self._storage.rows, self._directory.row_ids
        )

    def _save(self, rows: np.ndarray) -> None:
        """Keep what the images need of rows about to change, and mark them."""
        for image in self._images:
            image.save(rows, self._storage.rows, self._directory.row_ids)
        self._marks.changed(rows)

    # ------------------------------------------------------------------ the snapshot

    def knows_changes_since(self, base: int) -> bool:
        """Whether a snapshot may hold only what changed since the one of this mark began."""
        return self._marks.knows(base)

    def begin_snapshot(self, mark: int, base: int = 0) -> TableSnapshot:
        """Keep what the table holds now, beside a pin, until `end_snapshot`; an older one goes.

        At once are copied 4 bytes a row for an increment, 8 where rows age, and the candidates.

        Args:
          mark: higher than of any snapshot before.
          base: a mark since which changes are known, for these only; 0 for everything.
        """
        assert not base or self.knows_changes_since(base)
        lifetimes, admission = self._lifetimes, self._admission
        self._snapshot = TableSnapshot(
            TableImage(self.end_row, self._storage.rows.shape[1], self._directory.free_rows),
            self._marks.since(base, self.end_row) if base else None,
            None if lifetimes is None else lifetimes.last_updates(slice(self.end_row)).copy(),
            None if admission is None else admission.candidates(),
            self.unadmitted.copy(),
            self.evicted.copy(),
        )
        self._marks.begin(mark)
        return self._snapshot

    def end_snapshot(self, snapshot: TableSnapshot) -> None:
        """Let a snapshot go; nothing happens if a newer one is here."""
        if self._snapshot is snapshot:
            self._snapshot = None

    def read_snapshot(self, snapshot: TableSnapshot, first: int, count: int) -> RowPage:
        """Return the rows at some positions of the snapshot, with their slots."""
        assert self._snapshot is snapshot
        rows, ids, values = snapshot.image.read(
            snapshot.rows_at(first, count),
            self._storage.rows.shape[1],
            self._storage.rows,
            self._directory.row_ids,
        )
        lasts = snapshot.last_updates
        return RowPage(ids, values, None if lasts is None else lasts[rows])

    # ------------------------------------------------------------------ the restoring

    def expect(self, num_rows: int) -> None:
        """Make room for so many rows that will be restored.

        Raises:
          MemoryError: there is none.
        """
        self._make_room(num_rows)

    def restore(
        self,
        ids: np.ndarray,
        vectors: Sequence[np.ndarray],
        last_updates: np.ndarray,
        groups: np.ndarray,
    ) -> None:
        """Set rows as a snapshot has them, created where unseen; `end_restore` follows.

        Args:
          ids: distinct, int64 ``[n]``.
          vectors: weights and each of the slots, float32 ``[n, dim]``.
          last_updates: int64 ``[n]``; only looked at where rows age.
          groups: the local position of each id's group, int64 ``[n]``.

        Raises:
          TableFullError: `max_rows` would be exceeded.
        """
        ids = require("ids", ids, np.int64, (None,))
        vectors = [
            require("vectors", one, np.float32, (len(ids), self.dim))
            for one in vectors[: 1 + self.optimizer.num_slots]
        ]
        rows = self._rows_of(ids, are_set=True)
        storage = self._storage.rows

        def put(part: slice) -> None:
            for column, values in enumerate(vectors):
                kernels.scatter_rows(storage, rows[part], column * self.dim, values[part])

        in_parts(len(ids), put)
        if self._lifetimes is not None:
            self._lifetimes.put(rows, groups, last_updates)

    def restore_without(self, ids: np.ndarray) -> None:
        """Take ids out that an increment says are gone; those unseen are no matter."""
        rows, _ = self._directory.find(np.unique(ids))
        self._directory.remove(rows[rows >= 0])

    def end_restore(self) -> None:
        """Bring rows that age in order."""
        if self._lifetimes is not None:
            rows = self._directory.live_rows(0, self.end_row)
            self._lifetimes.put_in_order(rows, self._directory.row_ids[rows, 0])

    def restore_candidates(self, candidates: Candidates, groups: np.ndarray) -> None:
        """Count ids without a row on from what a snapshot has; all at once."""
        if self._admission is not None:
            self._admission.restore(candidates, groups)

    # ------------------------------------------------------------------ everything

    def page(
        self, first_row: int, max_rows: int, with_slots: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of the rows that live in a range of rows below `end_row`.

        They are in the order of their creation where none was evicted.

        Returns:
          ids int64 ``[n]``, and float32 ``[n, dim]`` weights or, with slots beside them,
          ``[n, dim * (1 + num_slots)]``; at most `max_rows`.
        """
        if first_row < 0 or max_rows < 0:
            raise ValueError(f"page of {max_rows} rows from {first_row}; neither may be negative")
        num_columns = self._storage.rows.shape[1] if with_slots else self.dim
        rows = self._directory.live_rows(first_row, first_row + max_rows)
        return self._directory.row_ids[rows, 0], self._storage.rows[rows, :num_columns]

    def pages(
        self, page_rows: int = 65536, with_slots: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Iterate over all rows, page by page; see `page`."""
        for first_row in range(0, self.end_row, page_rows):
            yield self.page(first_row, page_rows, with_slots)

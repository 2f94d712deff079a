"""What every group of a partition has counted, for the job's audit."""

from __future__ import annotations

from elasticdl.phases import PHASES
from elasticdl.proto import ps_pb2
from elasticdl.ps.contents import Contents


def partition_audit(contents: Contents, with_figures: bool) -> ps_pb2.PartitionAudit:
    """Describe what a partition holds, whose lock is held, and what its time went into."""
    progress = contents.progress
    totals = progress.totals
    return ps_pb2.PartitionAudit(
        groups=contents.groups,
        applied_records=totals.applied_records,
        applied_minibatches=totals.applied_minibatches,
        repeats_dropped=totals.repeats_dropped,
        skipped_records=totals.skipped_records,
        filtered_records=totals.filtered_records,
        added_records=totals.added_records,
        beyond_limit_records=totals.beyond_limit_records,
        closed_records=totals.closed_records,
        repeated_records=totals.repeated_records,
        closed_tasks=len(progress.closed),
        epochs=[
            # Every group counts every minibatch; a group's own sums stand for the epoch.
            ps_pb2.EpochSum(epoch=epoch, records=int(sums.records[0]), loss_sum=float(sums.loss[0]))
            for epoch, sums in sorted(progress.epochs.items())
        ],
        tables=[
            ps_pb2.TableSize(
                name=table.name,
                rows=len(table),
                num_bytes=table.num_bytes,
                candidates=table.num_candidates,
                unadmitted_gradients=int(table.unadmitted.sum()),
                evicted_rows=int(table.evicted.sum()),
            )
            for table in contents.tables
        ],
        dense_bytes=4 * contents.dense.size,
        figures=PHASES.figures("ps").to_message() if with_figures else None,
    )

"""The loops over ids and rows, compiled by numba: hashing, the id index, rows in and out.

Every kernel releases the GIL, is compiled for explicit types and cached on disk, so that importing
this module loads machine code. They check nothing: callers see to it that shapes are right and
indices in range. What a kernel calls lives in its file, because numba's cache notices changes of a
file, not of what the file imports (`prefetch`, which two files use, changes no result).
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, float64, int32, int64, njit, types, uint64, void
from numba.core import cgutils
from numba.extending import intrinsic

SEGMENT_SLOTS = 4096
"""Slots of one segment of the id index: 64 KiB, split in about 50 µs."""

CONSTANT, UNIFORM, NORMAL, TRUNCATED_NORMAL = range(4)
"""Distributions that `fill_initial_rows` knows."""

TRUNCATION_PROBABILITY = 0.022750131948179207
"""Phi(-2): what a normal distribution cut at two standard deviations lacks at each end."""

LINE_FLOATS = 16
"""Floats of a cache line."""

_SEGMENT_BITS = 12
_PREFETCH_DISTANCE = 16
# Of finding ids: how far ahead slots are asked for, how many ids are gone through at a time, and
# slots of a cache line.
_SLOTS_AHEAD = 64
_BLOCK = 256
_LINE_SLOTS = 4


def read_only(dtype: types.Type, ndim: int = 1) -> types.Array:
    """Name the type of a contiguous array a kernel only reads; writable ones are accepted too."""
    return types.Array(dtype, ndim, "C", readonly=True)


@intrinsic
def prefetch(typing_context: Any, array: Any, row: Any, column: Any) -> Any:
    """Ask for the cache line of an element, and do not wait for it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type = signature.args[0]
        fields = context.make_array(array_type)(context, builder, arguments[0])
        strides = cgutils.unpack_tuple(builder, fields.strides, array_type.ndim)
        offset = builder.add(
            builder.mul(arguments[1], strides[0]), builder.mul(arguments[2], strides[1])
        )
        pointer = cgutils.pointer_add(builder, fields.data, offset, return_type=cgutils.voidptr_t)
        bit32 = ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch",
            (cgutils.voidptr_t,),
            ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, bit32, bit32, bit32]),
        )
        builder.call(function, [pointer, bit32(0), bit32(3), bit32(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), generate


# Hashing ------------------------------------------------------------------------------------------


@njit(inline="always")
def _splitmix64(state):
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@njit(void(read_only(int64), uint64, int32[::1]), nogil=True, cache=True)
def hash_to_groups(ids, num_groups, groups):
    """Write each id's bucket group, splitmix64(id) % num_groups."""
    for i in range(len(ids)):
        groups[i] = np.int32(_splitmix64(np.uint64(ids[i])) % num_groups)


@njit(int64(read_only(int64), read_only(int64), int64[::1]), nogil=True, cache=True)
def hash_to_positions(ids, position_of_group, positions):
    """Write the position of each id's bucket group; return the lowest, at most 0."""
    num_groups = np.uint64(len(position_of_group))
    low_bits = num_groups - np.uint64(1)
    lowest = np.int64(0)
    if num_groups & low_bits == 0:  # A power of two: without dividing, it is vectorized.
        for i in range(len(ids)):
            position = position_of_group[_splitmix64(np.uint64(ids[i])) & low_bits]
            positions[i] = position
            lowest = min(lowest, position)
    else:
        for i in range(len(ids)):
            position = position_of_group[_splitmix64(np.uint64(ids[i])) % num_groups]
            positions[i] = position
            lowest = min(lowest, position)
    return lowest


@njit(
    types.Tuple((int64[::1], int32[::1], int64[::1]))(read_only(int64), read_only(int32), int64),
    nogil=True,
    cache=True,
)
def deduplicate(ids, partition_of_group, num_partitions):
    """Return the distinct ids ordered by partition, where each id went, and partition bounds."""
    num_ids = len(ids)
    bits = np.uint64(4)
    while (np.uint64(1) << bits) < np.uint64(2 * num_ids):
        bits += np.uint64(1)
    mask = (np.uint64(1) << bits) - np.uint64(1)
    shift = np.uint64(64) - bits
    num_groups = np.uint64(len(partition_of_group))
    slots = np.zeros(mask + np.uint64(1), np.int32)  # 1 + position in `found`; 0 is empty
    found = np.empty(num_ids, np.int64)
    partitions = np.empty(num_ids, np.int32)
    # It becomes a tensor, without being copied if it starts where one does.
    with_margin = np.empty(num_ids + 16, np.int32)
    start = 15 & (-with_margin.ctypes.data >> 2)
    inverse = with_margin[start : start + num_ids]
    offsets = np.zeros(num_partitions + 1, np.int64)
    num_found = 0
    for i in range(num_ids):
        key = ids[i]
        hashed = _splitmix64(np.uint64(key))
        slot = hashed >> shift
        while True:
            position = slots[slot] - 1
            if position < 0:
                position = num_found
                num_found += 1
                slots[slot] = num_found
                found[position] = key
                partition = partition_of_group[hashed % num_groups]
                partitions[position] = partition
                offsets[partition + 1] += 1
                break
            if found[position] == key:
                break
            slot = (slot + np.uint64(1)) & mask
        inverse[i] = position
    for partition in range(num_partitions):
        offsets[partition + 1] += offsets[partition]
    if num_partitions == 1:
        return found[:num_found].copy(), inverse, offsets
    unique = np.empty(num_found, np.int64)
    ends = offsets.copy()
    for position in range(num_found):
        partition = partitions[position]
        target = ends[partition]
        ends[partition] = target + 1
        unique[target] = found[position]
        partitions[position] = target
    for i in range(num_ids):
        inverse[i] = partitions[inverse[i]]
    return unique, inverse, offsets


# The id index: linear hashing by segments ---------------------------------------------------------
#
# A slot is (id, row + 1); zeros, which fresh pages are, mean empty, so that every id is allowed.
# The low bits of an id's hash choose its segment, the high bits its cache line in that: where that
# line is full, the id is in the next that is not. The index grows by splitting one segment in two,
# in order: no insertion ever waits for a rehash of the whole.


@njit(inline="always")
def _segment_mask(num_segments):
    mask = np.uint64(0)
    while mask + np.uint64(1) < num_segments:
        mask = (mask << np.uint64(1)) | np.uint64(1)
    return mask


@njit(inline="always")
def _home(hashed):
    """Return where in its segment an id is looked for first: the first slot of a cache line."""
    return (hashed >> np.uint64(64 - _SEGMENT_BITS)) & ~np.uint64(_LINE_SLOTS - 1)


@njit(inline="always")
def _segment_start(hashed, num_segments, mask):
    segment = hashed & mask
    if segment >= num_segments:
        segment = segment & (mask >> np.uint64(1))
    return segment << np.uint64(_SEGMENT_BITS)


@njit(inline="always")
def _probe(slots, start, hashed, key):
    """Return the slot that holds the key, or the empty one where it belongs, or -1: full."""
    position = _home(hashed)
    found = np.int64(-1)
    for _ in range(SEGMENT_SLOTS):
        slot = start + position
        if slots[slot, 0] == key or slots[slot, 1] == 0:
            # An empty slot's id is 0 as well, so id 0 ends here too: found or to be inserted.
            found = np.int64(slot)
            break
        position = (position + np.uint64(1)) & np.uint64(SEGMENT_SLOTS - 1)
    return found


@njit(inline="always")
def _next_slot(slot):
    """Return the slot after one, in its segment."""
    in_segment = np.uint64(SEGMENT_SLOTS - 1)
    return (slot & ~in_segment) | ((slot + np.uint64(1)) & in_segment)


@njit(
    int64(read_only(int64, 2), uint64, uint64, read_only(int64), int64[::1]), nogil=True, cache=True
)
def find_rows(slots, num_segments, seed, ids, rows):
    """Write each id's row, -1 for unknown ones; return how many are unknown.

    Nothing waits for memory: all places are computed first, into `rows`, and asked for long before
    they are looked at; what is not in its own cache line is looked for after the rest of its block,
    while the next line is on its way. All slots of a line are looked at without a branch.
    """
    mask = _segment_mask(num_segments)
    half = mask >> np.uint64(1)
    num_ids = len(ids)
    for i in range(num_ids):
        hashed = _splitmix64(np.uint64(ids[i]) ^ seed)
        segment = hashed & mask
        segment = segment if segment < num_segments else segment & half
        rows[i] = np.int64((segment << np.uint64(_SEGMENT_BITS)) | _home(hashed))
    num_missing = 0
    elsewhere = np.empty(_BLOCK, np.int64)
    for first in range(0, num_ids, _BLOCK):
        num_elsewhere = 0
        for i in range(first, min(first + _BLOCK, num_ids)):
            if i + _SLOTS_AHEAD < num_ids:
                prefetch(slots, rows[i + _SLOTS_AHEAD], 0)
            slot, key = np.uint64(rows[i]), ids[i]
            second, third, last = slot + np.uint64(1), slot + np.uint64(2), slot + np.uint64(3)
            # The first that has the key: id 0 is the key of empty slots, too.
            one = third if slots[third, 0] == key else last
            one = second if slots[second, 0] == key else one
            one = slot if slots[slot, 0] == key else one
            entry = slots[one, 1] if slots[one, 0] == key else np.int64(0)
            if entry != 0 or slots[last, 1] == 0:  # A line is filled in order.
                rows[i] = entry - 1
                num_missing += entry == 0
            else:
                slot = _next_slot(last)
                prefetch(slots, np.int64(slot), 0)
                rows[i] = np.int64(slot)
                elsewhere[num_elsewhere] = i
                num_elsewhere += 1
        for k in range(num_elsewhere):
            i = elsewhere[k]
            slot = np.uint64(rows[i])
            row = np.int64(-1)
            for _ in range(SEGMENT_SLOTS):
                entry = slots[slot, 1]
                if slots[slot, 0] == ids[i] or entry == 0:
                    row = entry - 1
                    break
                slot = _next_slot(slot)
            rows[i] = row
            if row < 0:
                num_missing += 1
    return num_missing


@njit(
    types.UniTuple(int64, 3)(
        int64[:, ::1],
        uint64,
        uint64,
        read_only(int64),
        int64,
        int64[::1],
        read_only(int64),
        int64,
        int64[::1],
    ),
    nogil=True,
    cache=True,
)
def insert_rows(slots, num_segments, seed, ids, next_row, row_ids, free, num_free, rows):
    """Give unknown ids free rows, the last one first, then those from `next_row` on.

    Returns:
      The next row that was never used, how many free ones are left, and how many ids were handled:
      fewer than all if a segment is full.
    """
    mask = _segment_mask(num_segments)
    for i in range(len(ids)):
        if i + _PREFETCH_DISTANCE < len(ids):
            ahead = _splitmix64(np.uint64(ids[i + _PREFETCH_DISTANCE]) ^ seed)
            start = _segment_start(ahead, num_segments, mask)
            prefetch(slots, np.int64(start + _home(ahead)), 0)
        key = ids[i]
        hashed = _splitmix64(np.uint64(key) ^ seed)
        slot = _probe(slots, _segment_start(hashed, num_segments, mask), hashed, key)
        if slot < 0:
            return next_row, num_free, np.int64(i)
        row = slots[np.uint64(slot), 1] - 1
        if row < 0:
            if num_free > 0:
                num_free -= 1
                row = free[num_free]
            else:
                row = next_row
                next_row += 1
            slots[np.uint64(slot), 0] = key
            slots[np.uint64(slot), 1] = row + 1
            row_ids[row] = key
        rows[i] = row
    return next_row, num_free, np.int64(len(ids))


@njit(void(int64[:, ::1], uint64, uint64, read_only(int64)), nogil=True, cache=True)
def remove_ids(slots, num_segments, seed, ids):
    """Forget some ids; what they pushed along moves back.

    References:
      Knuth, "The Art of Computer Programming", volume 3, 6.4, algorithm R.
    """
    mask = _segment_mask(num_segments)
    last = np.uint64(SEGMENT_SLOTS - 1)
    for i in range(len(ids)):
        hashed = _splitmix64(np.uint64(ids[i]) ^ seed)
        start = _segment_start(hashed, num_segments, mask)
        found = _probe(slots, start, hashed, ids[i])
        if found < 0 or slots[np.uint64(found), 1] == 0:
            continue
        gap = np.uint64(found) - start
        position = gap
        for _ in range(SEGMENT_SLOTS - 1):
            position = (position + np.uint64(1)) & last
            slot = start + position
            if slots[slot, 1] == 0:
                break
            home = _home(_splitmix64(np.uint64(slots[slot, 0]) ^ seed))
            if ((position - home) & last) >= ((position - gap) & last):
                slots[start + gap, 0] = slots[slot, 0]
                slots[start + gap, 1] = slots[slot, 1]
                gap = position
        slots[start + gap, 0] = 0
        slots[start + gap, 1] = 0


@njit(void(int64[:, ::1], uint64, uint64, uint64), nogil=True, cache=True)
def split_segments(slots, num_segments, new_num_segments, seed):
    """Grow the index segment by segment; the slots behind `num_segments` must be zeros."""
    moved = np.empty((SEGMENT_SLOTS, 2), np.int64)
    while num_segments < new_num_segments:
        half = (_segment_mask(num_segments + np.uint64(1)) + np.uint64(1)) >> np.uint64(1)
        start = (num_segments - half) << np.uint64(_SEGMENT_BITS)
        num_segments += np.uint64(1)
        mask = _segment_mask(num_segments)
        for i in range(SEGMENT_SLOTS):
            slot = start + np.uint64(i)
            moved[i, 0] = slots[slot, 0]
            moved[i, 1] = slots[slot, 1]
            slots[slot, 0] = 0
            slots[slot, 1] = 0
        for i in range(SEGMENT_SLOTS):
            if moved[i, 1] != 0:
                key = moved[i, 0]
                hashed = _splitmix64(np.uint64(key) ^ seed)
                target = _probe(slots, _segment_start(hashed, num_segments, mask), hashed, key)
                slots[np.uint64(target), 0] = key
                slots[np.uint64(target), 1] = moved[i, 1]


# Rows ---------------------------------------------------------------------------------------------


@njit(void(read_only(float32, 2), read_only(int64), float32[:, ::1]), nogil=True, cache=True)
def gather_rows(storage, rows, values):
    """Copy the leading columns of some rows; those of row -1 are left as they are."""
    num_rows, num_columns = values.shape
    for i in range(num_rows):
        if i + _PREFETCH_DISTANCE < num_rows:
            for column in range(0, num_columns, LINE_FLOATS):
                prefetch(storage, rows[i + _PREFETCH_DISTANCE], column)
        row = rows[i]
        if row >= 0:
            for j in range(num_columns):
                values[i, j] = storage[np.uint64(row), j]


@njit(
    void(float32[:, ::1], read_only(int64), read_only(float32, 2), read_only(float32)),
    nogil=True,
    cache=True,
)
def set_new_rows(storage, rows, weights, slots):
    """Set the weights of some rows, and the slots of each of them to the same."""
    dim = weights.shape[1]
    for i in range(len(rows)):
        row = np.uint64(rows[i])
        for j in range(dim):
            storage[row, j] = weights[i, j]
        for j in range(len(slots)):
            storage[row, dim + j] = slots[j]


@njit(void(float32[:, ::1], read_only(int64), int64, read_only(float32, 2)), nogil=True, cache=True)
def scatter_rows(storage, rows, first_column, values):
    """Overwrite some columns of some rows."""
    num_rows, num_columns = values.shape
    for i in range(num_rows):
        row = np.uint64(rows[i])
        for j in range(num_columns):
            storage[row, first_column + j] = values[i, j]


# Initial values -----------------------------------------------------------------------------------


@njit(inline="always")
def _ratio(r, n0, n1, n2, n3, n4, n5, n6, n7, d1, d2, d3, d4, d5, d6, d7):
    numerator = ((((((n7 * r + n6) * r + n5) * r + n4) * r + n3) * r + n2) * r + n1) * r + n0
    return numerator / (
        ((((((d7 * r + d6) * r + d5) * r + d4) * r + d3) * r + d2) * r + d1) * r + 1
    )


@njit(float64(float64), nogil=True, cache=True, error_model="numpy")
def ndtri(p):
    """Return the x with Phi(x) = p, for p in (0, 1), to about 1e-16.

    References:
      Wichura, "Algorithm AS 241: The Percentage Points of the Normal Distribution", 1988 (PPND16).
    """
    q = p - 0.5
    if abs(q) <= 0.425:
        return q * _ratio(
            0.180625 - q * q,
            3.3871328727963666080e0,
            1.3314166789178437745e2,
            1.9715909503065514427e3,
            1.3731693765509461125e4,
            4.5921953931549871457e4,
            6.7265770927008700853e4,
            3.3430575583588128105e4,
            2.5090809287301226727e3,
            4.2313330701600911252e1,
            6.8718700749205790830e2,
            5.3941960214247511077e3,
            2.1213794301586595867e4,
            3.9307895800092710610e4,
            2.8729085735721942674e4,
            5.2264952788528545610e3,
        )
    r = math.sqrt(-math.log(p if q < 0.0 else 1.0 - p))
    if r <= 5.0:
        x = _ratio(
            r - 1.6,
            1.42343711074968357734e0,
            4.63033784615654529590e0,
            5.76949722146069140550e0,
            3.64784832476320460504e0,
            1.27045825245236838258e0,
            2.41780725177450611770e-1,
            2.27238449892691845833e-2,
            7.74545014278341407640e-4,
            2.05319162663775882187e0,
            1.67638483018380384940e0,
            6.89767334985100004550e-1,
            1.48103976427480074590e-1,
            1.51986665636164571966e-2,
            5.47593808499534494600e-4,
            1.05075007164441684324e-9,
        )
    else:
        x = _ratio(
            r - 5.0,
            6.65790464350110377720e0,
            5.46378491116411436990e0,
            1.78482653991729133580e0,
            2.96560571828504891230e-1,
            2.65321895265761230930e-2,
            1.24266094738807843860e-3,
            2.71155556874348757815e-5,
            2.01033439929228813265e-7,
            5.99832206555887937690e-1,
            1.36929880922735805310e-1,
            1.48753612908506148525e-2,
            7.86869131145613259100e-4,
            1.84631831751005468180e-5,
            1.42151175831644588870e-7,
            2.04426310338993978564e-15,
        )
    return -x if q < 0.0 else x


@njit(
    void(int64, uint64, float64, float64, read_only(int64), float32[:, ::1]), nogil=True, cache=True
)
def fill_initial_rows(distribution, seed, a, b, ids, values):
    """Write the initial rows of some ids: each element depends on seed, id and column alone.

    CONSTANT: a;  UNIFORM: a + (b - a) * u;  NORMAL: a + b * ndtri(u);
    TRUNCATED_NORMAL: a + b * ndtri(P + u * (1 - 2 * P)), P = Phi(-2), with
    u = ((splitmix64(splitmix64(id ^ splitmix64(seed)) + column) >> 11) + 0.5) * 2**-53
    """
    seed_hash = _splitmix64(seed)
    for i in range(len(ids)):
        row_hash = _splitmix64(np.uint64(ids[i]) ^ seed_hash)
        for j in range(values.shape[1]):
            bits = _splitmix64(row_hash + np.uint64(j)) >> np.uint64(11)
            # Rounding could make u 1 where the formula says 1 - 2**-54.
            u = min((np.float64(np.int64(bits)) + 0.5) * 2.0**-53, 1.0 - 2.0**-53)
            if distribution == UNIFORM:
                value = a + (b - a) * u
            elif distribution == NORMAL:
                value = a + b * ndtri(u)
            elif distribution == TRUNCATED_NORMAL:
                tail = TRUNCATION_PROBABILITY
                value = a + b * ndtri(tail + u * (1.0 - 2.0 * tail))
            else:
                value = a
            values[i, j] = np.float32(value)

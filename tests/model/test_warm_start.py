"""Beginning with the weights of another training: a checkpoint's or a trained model's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from elasticdl.errors import UsageError
from elasticdl.model.definitions import TableDefinition, VariableDefinition
from elasticdl.model.warm_start import (
    check_same,
    check_warm_start,
    flat,
    open_warm_start,
    rows_to_load,
)
from elasticdl.proto import ps_pb2
from elasticdl.ps.initializers import RowInitializer
from elasticdl.ps.lifetime_rules import LifetimeRules
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.ps.partition import Partition
from tests.checkpoints import ask, commit
from tests.partitions import MODEL, Servers

UNIFORM = RowInitializer("uniform", seed=5, a=-1.0, b=1.0)
VARIABLES = [
    VariableDefinition("kernel", (40, 7), trainable=True),
    VariableDefinition("moving_mean", (7,), trainable=False),
]
RULES = [LifetimeRules(), LifetimeRules(evict_after_steps=2)]


def trained(rules: LifetimeRules) -> Servers:
    model = ps_pb2.ModelDefinition()
    model.CopyFrom(MODEL)
    model.optimizer = OptimizerConfig("adam").to_json()
    model.tables[0].rules.evict_after_steps = rules.evict_after_steps
    return Servers(3, model=model)


def chain(servers: Servers, root: Path) -> Path:
    """The last of three checkpoints, each an increment on the one before; rows go and come back."""
    for number in (1, 2, 3):
        for k in range(3 * number - 3, 3 * number):
            servers.push(k, np.arange(20 * (k % 7), 20 * (k % 7) + 60), 1.0, 1.0)
        for one in servers.partitions:
            ask(one, root, number, base=number - 1)
        path = commit(servers.partitions, root, number, base=number - 1)
    return path


def rows_of(partitions: list[Partition]) -> dict[int, bytes]:
    return {
        int(one): row.tobytes()
        for partition in partitions
        for page in partition._tables[0].pages()
        for one, row in zip(*page, strict=True)
    }


@pytest.mark.parametrize("rules", RULES)
def test_the_rows_and_variables_of_a_chain_are_those_of_the_partitions(
    tmp_path: Path, rules: LifetimeRules
) -> None:
    servers = trained(rules)
    path = chain(servers, tmp_path)
    assert any(one["kind"] == "gone" for one in files_of(path)) == rules.are_any
    table = TableDefinition("rows", 3, UNIFORM, rules=rules)
    check_warm_start(str(path))
    warm = open_warm_start(str(path))
    check_same(str(path), warm, [table], VARIABLES)
    np.testing.assert_array_equal(flat(warm, VARIABLES), servers.pull(np.arange(3))[0])
    # As a worker begins another job, on another number of partitions.
    other = Servers(2, model=servers.layout.model)
    seen: list[int] = []
    for ids, rows in rows_to_load(warm, table):
        seen += ids.tolist()
        other.client.load_rows("rows", ids, rows)
    assert len(seen) == len(set(seen))
    assert rows_of(other.partitions) == rows_of(servers.partitions)
    if rules.are_any:
        assert seen == sorted(seen)


def files_of(path: Path) -> list[dict]:
    from elasticdl.ps.manifest import read_manifest

    return [one for part in read_manifest(path).parts for one in part["files"]]


@pytest.mark.parametrize(
    ("tables", "variables", "complaint"),
    [
        ({"rows": 4}, {}, "table 'rows' is of dim 4 in the model, but of dim 3 there"),
        ({}, {}, "table 'rows' is not in the model, but of dim 3 there"),
        ({"rows": 3, "more": 2}, {}, "table 'more' is of dim 2 in the model, but not there"),
        (
            {"rows": 3},
            {"kernel": (40, 8)},
            "variable 'kernel' is of shape (40, 8) in the model, but of shape (40, 7) there",
        ),
        (
            {"rows": 3},
            {"bias": (7,)},
            "variable 'bias' is of shape (7,) in the model, but not there",
        ),
        ({"rows": 3}, {"kernel": None}, "variable 'kernel' is not in the model, but of shape"),
    ],
)
def test_a_model_that_differs_is_refused_by_its_first_difference(
    tmp_path: Path, tables: dict, variables: dict, complaint: str
) -> None:
    path = str(chain(trained(RULES[0]), tmp_path))
    shapes = {one.path: one.shape for one in VARIABLES} | variables
    with pytest.raises(UsageError) as refused:
        check_same(
            path,
            open_warm_start(path),
            [TableDefinition(name, dim, UNIFORM) for name, dim in tables.items()],
            [VariableDefinition(name, shape, True) for name, shape in shapes.items() if shape],
        )
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_damaged_checkpoint_is_refused_before_launch(tmp_path: Path) -> None:
    path = chain(trained(RULES[0]), tmp_path)
    rows = next(tmp_path.glob("0000000001/p1.1-rows-0.arrow"))
    data = bytearray(rows.read_bytes())
    data[len(data) // 2] ^= 1
    rows.write_bytes(bytes(data))
    with pytest.raises(UsageError, match=r"warm_start '.*': .*p1\.1-rows-0\.arrow is damaged"):
        check_warm_start(str(path))


def test_a_directory_of_checkpoints_is_answered_with_one_of_them(tmp_path: Path) -> None:
    path = chain(trained(RULES[0]), tmp_path)
    with pytest.raises(UsageError, match=f"no checkpoint .*; give .*such as {path}"):
        check_warm_start(str(tmp_path))

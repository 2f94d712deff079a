"""A parameter server's own metrics, where a job wants them."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from elasticdl.own_metrics import MetricsServer
from elasticdl.ps.traffic import add_metrics
from elasticdl.refusals import Reason
from tests.partitions import IDS, Servers


def test_a_partition_serves_what_it_counted_and_nothing_else():
    servers = Servers(num_partitions=1)
    (partition,) = servers.partitions
    servers.pull(IDS)
    servers.push(0, IDS, 1.0, 2.0)
    own = MetricsServer(
        "mine", "ps", 0, 1, lambda metrics: add_metrics(metrics, partition.counts())
    )
    with urllib.request.urlopen(f"http://{own.address}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    labels = '{job_name="mine",role="ps",index="0"}'
    assert f"elasticdl_own_pulls_total{labels} 1\n" in text
    assert f"elasticdl_own_pushes_total{labels} 1\n" in text
    assert f"elasticdl_own_staleness_minibatches_count{labels} 1\n" in text
    assert "elasticdl_own_memory_bytes" in text
    for reason in Reason:
        assert f'elasticdl_own_refusals_total{labels[:-1]},reason="{reason}"}} ' in text
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://{own.address}/", timeout=30)
    own.stop()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://{own.address}/metrics", timeout=5)

"""One master at a time, by a real apiserver: who waits, who acts, who has to go."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from elasticdl.master.cluster.kubernetes.claim import Claim, Pace, Replaced
from elasticdl.master.cluster.kubernetes.client import KubeClient
from elasticdl.master.exits import Cause, End
from tests.cluster.api import Namespace
from tests.cluster.api_only import ApiOnly
from tests.kubernetes.objects import (
    client,
    config_map,
    pod,
    set_container,
    set_status,
    wait_for,
)

pytestmark = pytest.mark.apiserver

PACE = Pace(renew=0.2, sure=3.0, wait=5.0)
MADE = {key: value for key, value in config_map("job-claim").items() if key != "data"}


class Masters:
    """Makes claims of pods, and forgets none."""

    def __init__(self, master: KubeClient) -> None:
        self.client = master
        self.claims: list[Claim] = []
        self.lost: list[Claim] = []
        self.uids: dict[str, str] = {}

    def pod(self, name: str) -> None:
        self.uids[name] = self.client.create(pod(name))["metadata"]["uid"]

    def claim(self, name: str, pace: Pace = PACE) -> Claim:
        """One of a new process in this pod."""
        if name not in self.uids:
            self.pod(name)
        made: Claim = Claim(
            self.client, MADE, name, self.uids[name], lambda: self.lost.append(made), pace
        )
        self.claims.append(made)
        return made

    def held(self, name: str, journal: int = 0) -> Claim:
        made = self.claim(name)
        made.begin()
        made.wait(lambda: journal)
        return made


@pytest.fixture
def masters(api_namespace: Namespace) -> Iterator[Masters]:
    made = Masters(client(api_namespace.master, api_namespace))
    yield made
    for claim in made.claims:
        claim.close()
    made.client.close()


def taken_s(do: Callable[[], object]) -> float:
    began = time.monotonic()
    do()
    return time.monotonic() - began


def test_the_first_master_of_a_job_acts_at_once(masters: Masters) -> None:
    claim = masters.claim("a")
    assert not claim.is_sure()
    assert claim.begin() == ""
    assert not claim.is_sure()
    assert taken_s(lambda: claim.wait(lambda: 0)) < PACE.wait
    assert claim.is_sure()
    assert claim.incarnation == 1


def test_who_finds_a_journal_and_no_claim_waits_and_follows_it(masters: Masters) -> None:
    claim = masters.claim("a")
    claim.begin()
    assert taken_s(lambda: claim.wait(lambda: 4)) >= PACE.wait
    assert claim.incarnation == 5


def test_a_container_that_is_restarted_goes_on_at_once(masters: Masters) -> None:
    first = masters.held("a")
    first.close()
    assert taken_s(lambda: masters.held("a", journal=1)) < PACE.wait
    assert masters.claims[-1].incarnation == 2


def test_a_master_that_was_told_to_go_lets_the_next_one_act_at_once(masters: Masters) -> None:
    first = masters.held("a")
    first.release()
    assert not first.is_sure()
    with pytest.raises(Replaced):
        first.wait_until_sure()
    assert taken_s(lambda: masters.held("b", journal=1)) < PACE.wait


def test_a_master_that_is_seen_to_have_ended_is_not_waited_for(
    masters: Masters, apiserver: ApiOnly, api_namespace: Namespace
) -> None:
    masters.held("a").close()
    terminated = {"terminated": {"exitCode": 137, "reason": "Error"}}
    set_container(apiserver.api, api_namespace.name, "a", state=terminated)
    assert taken_s(lambda: masters.held("b", journal=1)) < PACE.wait


def test_a_master_whose_pod_is_said_to_have_failed_may_live(
    masters: Masters, apiserver: ApiOnly, api_namespace: Namespace
) -> None:
    """Its kubelet says so before it has ended, and a cluster of a node that it does not hear."""
    masters.held("a").close()
    running = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    set_container(apiserver.api, api_namespace.name, "a", state=running)
    set_status(apiserver.api, api_namespace.name, "a", phase="Failed", reason="Evicted")
    assert taken_s(lambda: masters.held("b", journal=1)) >= PACE.wait
    assert masters.claims[-1].former == (1, End(Cause.EVICTED, message="Evicted"))


def test_a_master_knows_how_the_one_before_it_ended(
    masters: Masters, apiserver: ApiOnly, api_namespace: Namespace
) -> None:
    first = masters.held("a")
    assert first.former is None
    first.close()
    terminated = {"terminated": {"exitCode": 137, "reason": "Error"}}
    set_container(apiserver.api, api_namespace.name, "a", state=terminated)
    second = masters.held("b", journal=1)
    assert second.former == (1, End(Cause.KILLED, -signal.SIGKILL, "Error"))
    second.release()
    masters.client.delete("Pod", "b", grace_s=30)
    third = masters.held("c", journal=2)
    assert third.former == (2, End(Cause.DELETED, message="its pod was deleted"))
    third.close()
    masters.client.delete("Pod", "c", grace_s=0)
    fourth = masters.claim("d")
    fourth.begin()
    assert fourth.former == (3, End(Cause.DELETED, message="its pod is not there"))


def test_a_master_that_may_live_is_waited_for_and_finds_that_it_is_replaced(
    masters: Masters,
) -> None:
    first = masters.held("a")
    second = masters.claim("b")
    second.begin()
    waited = threading.Thread(target=lambda: second.wait(lambda: 1))
    waited.start()
    while waited.is_alive():
        is_second, is_first = second.is_sure(), first.is_sure()
        assert not (is_first and is_second)
        time.sleep(0.01)
    assert second.is_sure()
    assert second.incarnation == 2
    wait_for(lambda: masters.lost == [first], "the first one hears of it")
    with pytest.raises(Replaced, match="another pod"):
        first.wait_until_sure()


def test_who_takes_a_claim_that_waits_waits_as_well(masters: Masters) -> None:
    masters.held("a")
    second = masters.claim("b")
    second.begin()
    second.close()  # It ended before its time was over: nobody knows of the first one yet.
    again = masters.claim("b")
    again.begin()
    assert taken_s(lambda: again.wait(lambda: 1)) >= PACE.wait
    assert again.incarnation == 3


def test_whose_pod_is_deleted_takes_nothing(masters: Masters) -> None:
    first = masters.held("a")
    masters.pod("b")
    masters.client.delete("Pod", "b", grace_s=30)  # No kubelet ends it: it stays terminating.
    with pytest.raises(Replaced, match="deleted"):
        masters.claim("b").begin()
    masters.client.delete("Pod", "b", grace_s=0)
    with pytest.raises(Replaced, match="deleted"):
        masters.claim("b").begin()
    assert first.is_sure()


def test_who_is_waiting_and_is_replaced_never_acts(masters: Masters) -> None:
    masters.held("a")
    second = masters.claim("b")
    second.begin()
    third = masters.claim("c")
    third.begin()
    with pytest.raises(Replaced):
        second.wait(lambda: 1)
    third.wait(lambda: 1)
    assert third.incarnation == 3


def test_a_claim_that_was_deleted_is_lost(masters: Masters, api_namespace: Namespace) -> None:
    first = masters.held("a")
    admin = client(api_namespace.admin, api_namespace)
    admin.delete("ConfigMap", MADE["metadata"]["name"])
    wait_for(lambda: masters.lost == [first], "it hears of it")
    assert not first.is_sure()
    admin.close()


def test_a_master_is_not_sure_while_the_apiserver_is_silent_and_is_again_afterwards(
    masters: Masters, apiserver: ApiOnly
) -> None:
    first = masters.held("a")
    pid = apiserver.plane.apiserver.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: not first.is_sure(), "it is not sure")
    finally:
        os.kill(pid, signal.SIGCONT)
    first.wait_until_sure()
    assert masters.lost == []
    apiserver.restart(away_s=PACE.sure)
    first.wait_until_sure()
    assert masters.lost == []


def test_crashes_are_counted_until_a_task_is_done(masters: Masters) -> None:
    def ended(code: int) -> str:
        claim = masters.claim("a")
        try:
            return claim.begin(End.of_exit_code(code))
        finally:
            claim.close()

    assert [ended(1) for _ in range(5)] == [""] * 5  # The first counts none: nobody was there.
    assert "exit code 1" in ended(1)
    claim = masters.held("a", journal=6)
    claim.task_done()
    claim.release()
    assert ended(1) == ""
    assert [ended(-9) for _ in range(23)] == [""] * 23
    assert "killed by SIGKILL" in ended(-9)


def test_a_master_that_has_no_memory_says_which_option_gives_it_more(masters: Masters) -> None:
    for _ in range(6):
        claim = masters.claim("a")
        failure = claim.begin(End(Cause.OUT_OF_MEMORY, -9))
        claim.close()
    assert "--master_resource_limit" in failure


def test_how_the_one_before_ended_is_read_of_the_own_pod(
    masters: Masters, apiserver: ApiOnly, api_namespace: Namespace
) -> None:
    masters.held("a").close()
    last = {"terminated": {"exitCode": 1, "reason": "Error"}}
    running = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    set_container(apiserver.api, api_namespace.name, "a", state=running, lastState=last)
    masters.held("a", journal=1)
    data = masters.client.get("ConfigMap", "job-claim")["data"]
    assert (data["crashes"], data["deaths"], data["ended"]) == ("1", "1", "exit code 1")


@pytest.mark.parametrize("seed", range(3))
def test_never_two_act_whoever_comes_and_goes(masters: Masters, seed: int) -> None:
    """Masters that come, go with and without a word, and stop for a while: one is sure at most."""
    pace = Pace(renew=0.1, sure=1.0, wait=1.5)
    chance = random.Random(seed)
    acted: list[tuple[float, float, int]] = []
    over = threading.Event()

    def life(name: str) -> None:
        claim = masters.claim(name, pace)
        try:
            claim.begin()
            claim.wait(lambda: max((one[2] for one in acted), default=0))
            while not over.is_set():
                began = time.monotonic()
                claim.wait_until_sure()
                asked = time.monotonic()
                if claim.is_sure():
                    acted.append((began, asked, claim.incarnation))
                over.wait(0.01)
        except Replaced:
            return

    threads = []
    for number in range(6):
        thread = threading.Thread(target=life, args=(f"master-{number}",), daemon=True)
        thread.start()
        threads.append(thread)
        time.sleep(chance.uniform(0.0, 2.5))
        if chance.random() < 0.3:
            masters.claims[-1].close()
        elif chance.random() < 0.3:
            masters.claims[-1].release()
    wait_for(lambda: sum(one.is_alive() for one in threads) <= 1, "all but one have gone")
    over.set()
    for thread in threads:
        thread.join(30)
    incarnations = [one[2] for one in acted]
    assert incarnations == sorted(incarnations), "a former master acted after a later one"
    assert len(set(incarnations)) >= 1

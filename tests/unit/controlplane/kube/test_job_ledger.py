"""How a Job stands: what is held against the user's number, what is not, and what backoffLimit is set to."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from support.jobs import DELETED, KEPT, OWNER, Log, Object, accounted, by_uid, job, job_object, job_pod, noted
from support.pods import pod, seen

from controlplane.domain.captures import Capture
from controlplane.kube.jobs.ledger import End, Ids, Ledger, Seen, account, given_back, read_ledger
from controlplane.kube.jobs.models import LEDGER, TRACKING, Job

pytestmark = pytest.mark.timeout(10)


def test_the_first_tracked_pod_opens_the_account_and_the_limit_is_one_ahead() -> None:
    assert account(job(), {}, KEPT) is None
    found = accounted(job(), job_pod())
    assert found.ledger == Ledger(limit=1, set=2, open={"u1": ("trainer",)})
    assert found.changed


def test_what_is_written_is_read_back_and_then_nothing_is_to_be_done() -> None:
    ledger = accounted(job(), job_pod()).ledger
    again = job({"backoffLimit": 2}, annotations=noted(ledger))
    assert read_ledger(again) == ledger
    assert not accounted(again, job_pod()).changed


def test_an_annotation_that_cannot_be_read_counts_as_none() -> None:
    assert read_ledger(job(annotations={LEDGER: "{not json"})) is None


@pytest.mark.parametrize(
    ("spec", "lead"),
    [
        ({"parallelism": 3, "completions": 10}, 3),
        ({"parallelism": 3, "completions": 2}, 2),
        ({"parallelism": 2, "completions": None}, 2),
        ({"parallelism": None, "completions": 5}, 1),
    ],
)
def test_the_lead_is_as_many_pods_as_may_run_at_once(spec: Object, lead: int) -> None:
    assert accounted(job(spec), job_pod()).ledger.set == 1 + lead


def test_a_pod_whose_end_is_not_counted_yet_is_covered_beside_its_replacement() -> None:
    assert accounted(job(), job_pod("u1", "deleted"), job_pod("u2")).ledger.set == 1 + 2


@pytest.mark.parametrize(
    ("ended", "log", "own"),
    [
        (job_pod("u1", "failed", tracked=False), KEPT, True),
        (job_pod("u1", "deleted", tracked=False), KEPT, False),
        (job_pod("u1", "deleted", tracked=False), Log(u1=Capture.LOST), True),
        (job_pod("u1", "evicted", tracked=False), KEPT, False),
        (job_pod("u1", "evicted", tracked=False), Log(u1=Capture.LOST), True),
        (job_pod("u1", "running", gone=True), KEPT, False),
        (job_pod("u1", "running", gone=True), Log(u1=Capture.LOST), True),
    ],
    ids=["failed", "deleted", "deleted, lost", "evicted", "evicted, lost", "gone", "gone, lost"],
)  # fmt: skip
def test_an_end_is_entered_once_it_is_in_the_jobs_status(ended: Seen, log: Log, own: bool) -> None:
    ledger = Ledger(limit=1, set=2, open={"u1": ("trainer",)})
    about = job({"backoffLimit": 2}, {"failed": 1}, annotations=noted(ledger))
    found = accounted(about, ended, log=log)
    assert (found.ledger.own, found.ledger.open) == (("u1",) if own else (), {})
    assert found.ledger.set == 1 + (0 if own else 1) + 1
    again = job({"backoffLimit": found.ledger.set}, {"failed": 1}, annotations=noted(found.ledger))
    assert accounted(again, ended, log=log).ledger == found.ledger


def test_an_end_whose_dump_is_open_is_held_against_nobody_until_it_is_decided() -> None:
    ledger = Ledger(limit=0, set=1, open={"u1": ("trainer",)})
    about = job({"backoffLimit": 1}, {"failed": 1}, annotations=noted(ledger))
    gone = job_pod("u1", "deleted", tracked=False, gone=True)
    undecided = accounted(about, gone, log=Log(u1=Capture.OPEN))
    assert (undecided.ledger.open, undecided.ledger.set) == ({"u1": ("trainer",)}, 2)
    lost = accounted(about, gone, log=Log(u1=Capture.LOST))
    assert (lost.ledger.own, lost.ledger.set, lost.exhausted) == (("u1",), 0, True)


def test_own_failures_beyond_the_users_number_take_the_lead_away() -> None:
    ledger = Ledger(limit=1, set=5, own=("u1",), open={"u9": ("trainer",)})
    status = {"failed": 3, "uncountedTerminatedPods": {"failed": ["u9"]}}
    found = accounted(job({"backoffLimit": 5}, status, annotations=noted(ledger)), job_pod("u9", "failed"))
    assert found.exhausted
    assert found.ledger.set == 1 + 2 < 4  # what the Job controller has counted by now


def test_an_own_failure_that_is_not_counted_yet_takes_the_lead_away_in_time() -> None:
    ledger = Ledger(limit=0, set=1, open={"u1": ("trainer",)})
    found = accounted(job({"backoffLimit": 1}, annotations=noted(ledger)), job_pod("u1", "failed"))
    assert (found.exhausted, found.ledger.set) == (True, 0)


def test_a_failure_of_its_own_that_happened_while_nobody_watched_is_found_by_its_pod() -> None:
    ledger = Ledger(limit=1, set=2)
    about = job({"backoffLimit": 2}, {"failed": 2}, annotations=noted(ledger))
    found = accounted(about, job_pod("u7", "failed", tracked=False))
    assert found.ledger.own == ("u7",)
    assert found.others == 1  # another came and was deleted: nobody knows why


def test_what_the_job_controller_takes_away_without_counting_it_is_in_no_account() -> None:
    ledger = Ledger(limit=1, set=2, open={"u1": ("trainer",)})
    about = job({"backoffLimit": 2, "suspend": True}, annotations=noted(ledger))
    found = accounted(about, job_pod("u1", "deleted", tracked=False), log=Log(u1=Capture.LOST))
    assert (found.ledger.own, found.ledger.open) == ((), {})


def test_a_pod_that_nobody_here_has_seen_is_judged_by_the_log() -> None:
    ledger = Ledger(limit=1, set=2, open={"u1": ("trainer",)})
    about = job({"backoffLimit": 2}, {"failed": 1}, annotations=noted(ledger))
    assert accounted(about, log=Log(u1=Capture.LOST)).ledger.own == ("u1",)
    assert accounted(about).ledger.own == ()


def test_a_new_number_of_the_users_replaces_the_old_one() -> None:
    ledger = Ledger(limit=1, set=4)
    found = accounted(job({"backoffLimit": 7}, {"failed": 2}, annotations=noted(ledger)), job_pod())
    assert (found.ledger.limit, found.ledger.set) == (7, 7 + 2 + 1)


@pytest.mark.parametrize(("limit", "changed"), [(1000, True), (1001, False), (2**31 - 1, False)])
def test_a_number_that_nobody_reaches_is_left_alone(limit: int, changed: bool) -> None:
    assert accounted(job({"backoffLimit": limit}), job_pod()).changed == changed


@pytest.mark.parametrize(
    "about",
    [
        job({"managedBy": "kueue.x-k8s.io/multikueue"}),
        job(deletionTimestamp="2026-11-23T12:00:00Z"),
        *(job(status={"conditions": [{"type": each, "status": "True"}]})
          for each in ("Complete", "Failed", "FailureTarget", "SuccessCriteriaMet")),
    ],
)  # fmt: skip
def test_there_is_no_account_of_a_job_that_ends_or_is_managed_elsewhere(about: Job) -> None:
    assert account(about, by_uid(job_pod()), KEPT) is None


def test_kubernetes_own_controller_may_be_named() -> None:
    assert account(job({"managedBy": "kubernetes.io/job-controller"}), by_uid(job_pod()), KEPT) is not None


def test_restarts_in_place_that_reach_the_users_number_put_it_back() -> None:
    spec = job_object()["spec"]["template"]["spec"] | {"restartPolicy": "OnFailure"}
    about = job(
        {"template": {"spec": spec}, "backoffLimit": 4}, {"failed": 2}, annotations=noted(Ledger(limit=1, set=4))
    )
    calm = accounted(about, job_pod())
    assert (calm.exhausted, calm.ledger.set) == (False, 4)
    once = job_pod()
    found = accounted(about, replace(once, job=replace(once.job, restarts=1)))
    assert (found.exhausted, found.ledger.set) == (True, 1)


def test_what_is_given_back_keeps_the_ends_that_were_not_its_own() -> None:
    assert given_back(job()) is None
    ledger = Ledger(limit=1, set=6, own=("u1",))
    assert given_back(job({"backoffLimit": 6}, {"failed": 4}, annotations=noted(ledger))) == 1 + 3
    assert given_back(job({"backoffLimit": 9}, {"failed": 4}, annotations=noted(ledger))) == 9 + 3


@pytest.mark.parametrize("started_again", [False, True])
def test_a_container_that_completed_has_nothing_to_be_captured_unless_it_was_started_again(started_again: bool) -> None:
    env = [{"name": "CEDANA_CHECKPOINT", "value": "loader"}]
    spec = {"containers": [{"name": "main", "env": env}, {"name": "other", "env": [{**env[0], "value": "trainer"}]}]}
    statuses: list[Object] = [
        {"name": "main", "containerID": "x://c1", "state": {"terminated": {"exitCode": 0, "containerID": "x://c1"}}},
        {"name": "other", "containerID": "x://c2", "state": {"running": {}}},
    ]
    if started_again:
        statuses[0] |= {"containerID": "x://c9", "lastState": statuses[0]["state"], "state": {"running": {}}}
    meta = {"ownerReferences": [OWNER], "finalizers": [TRACKING], **DELETED}
    view = seen(pod("u1", meta=meta, spec=spec, status={"containerStatuses": statuses}))
    asked: list[Ids] = []

    def captures(uid: str, name: str, ids: Ids, *, has_run: bool) -> Capture:
        asked.append(ids)
        return Capture.KEPT

    assert view.job is not None
    account(job(), {"u1": Seen(view, view.job)}, captures)
    assert asked == [("loader", "trainer")] if started_again else [("trainer",)]


def test_the_ends_have_names_for_every_pod_that_was_seen() -> None:
    found = accounted(job(), job_pod("u1", "failed", tracked=False), job_pod("u2"))
    assert found.ends == {"u1": End.OWN, "u2": End.RUNNING}

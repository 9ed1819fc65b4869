"""The policy file is read strictly, and a mistake in it is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.core.policies import InvalidPolicyError, Policies, read_policies
from controlplane.domain import Keep
from controlplane.domain.state import Incarnation
from controlplane.settings import Settings
from woodfrog.protocol.facts import ContainerFacts
from woodfrog.protocol.ids import CheckpointKey, IncarnationNumber
from woodfrog.service.env import InvalidSettingError

pytestmark = pytest.mark.timeout(5)

WHOLE = """
grace = "30s"
keep_unusable_for = "2d"
[default]
keep_last = 3
[namespaces.team-a]
keep_for = "7d"
interval = "10m"
privileges = "snapshot"
[ids."team-a/train"]
keep_bytes = "1.5GiB"
interval = "off"
privileges = "new-container"
"""


def written(folder: Path, text: str) -> str:
    path = folder / "policy.toml"
    path.write_text(text)
    return str(path)


def test_everything_that_it_may_say_is_understood(tmp_path: Path) -> None:
    policies = read_policies(written(tmp_path, WHOLE))
    retention, schedule = policies.retention, policies.schedule
    assert retention.default == Keep(last=3)
    assert retention.namespaces == {"team-a": Keep(seconds=7 * 86400.0)}
    assert retention.ids == {("team-a", "train"): Keep(bytes=3 << 29)}
    assert (retention.grace_seconds, retention.unusable_seconds) == (30.0, 2 * 86400.0)
    assert (schedule.default_seconds, schedule.namespaces) == (0.0, {"team-a": 600.0})
    assert schedule.ids == {("team-a", "train"): 0.0}
    names = [("team-a", "other"), ("team-a", "train"), ("team-b", "train")]
    bounds = [policies.privileges.bounds(CheckpointKey("here", namespace, name)) for namespace, name in names]
    assert bounds == [False, True, True]


def test_an_interval_has_a_floor_that_is_the_namespaces_or_the_default_one(tmp_path: Path) -> None:
    text = "[default]\ninterval_min = '10s'\n[namespaces.a]\ninterval_min = '5m'\n[namespaces.b]\ninterval = '2s'"
    schedule = read_policies(written(tmp_path, text)).schedule
    for namespace, said, interval in (
        ("a", 1.0, 300.0),
        ("a", 0.0, 0.0),
        ("b", None, 10.0),
        ("c", 1.0, 10.0),
        ("c", 60.0, 60.0),
    ):
        start = Incarnation(IncarnationNumber(1), container=ContainerFacts(interval_seconds=said))
        assert schedule.interval_seconds(CheckpointKey("c", namespace, "x"), start) == interval


def test_an_empty_file_keeps_everything_and_dumps_nothing(tmp_path: Path) -> None:
    assert read_policies(written(tmp_path, "")) == Policies()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[default]\nkeep_lost = 3", "keep_lost"),
        ("[ids.'a/b']\ninterval_min = '5s'", 'ids."a/b".interval_min'),
        ("[default]\ninterval_min = 'often'", "$.default.interval_min"),
        ("[default]\nkeep_last = 0", "$.default.keep_last"),
        ("[default]\nkeep_last = 'three'", "$.default.keep_last"),
        ("[default]\nkeep_for = '7'", "$.default.keep_for"),
        ("[namespaces.a]\nkeep_bytes = '5GB'", "$.namespaces.a.keep_bytes"),
        ("[namespaces.'a b']\nkeep_last = 1", "$.namespaces"),
        ("[ids.train]\nkeep_last = 1", '$.ids."train"'),
        ("[ids.'a/b/c']\nkeep_last = 1", '$.ids."a/b/c"'),
        ("[ids.'a/b']\ninterval = '0.5s'", '$.ids."a/b".interval'),
        ("[default]\nprivileges = 'off'", "$.default.privileges"),
        ("grace = 30", "$.grace"),
        ("[[[", "line 1"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, field: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InvalidPolicyError) as told:
        read_policies(path)
    assert field in str(told.value)
    assert path in str(told.value)


def test_a_control_plane_does_not_start_with_a_policy_that_cannot_be_meant(tmp_path: Path) -> None:
    environment = {"WOODFROG_DATABASE_URL": "sqlite://", "WOODFROG_POLICY_FILE": str(tmp_path / "missing.toml")}
    with pytest.raises(InvalidSettingError, match=r"WOODFROG_POLICY_FILE.*missing\.toml"):
        Settings.from_environment(environment)

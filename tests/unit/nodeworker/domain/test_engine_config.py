"""The configuration of Docker and Podman: one runtime more, and without a trace when it is taken out again."""

from __future__ import annotations

import json
import tomllib

import pytest

from nodeworker.domain import engine_config
from nodeworker.domain.engine_config import EngineConfigError

pytestmark = pytest.mark.timeout(5)

RUNTIME = "/var/lib/wf/bin/woodfrog-runtime"
FILES = [
    "",
    "{}",
    "{ }\n",
    '{\n\t"log-driver": "journald",\n\t"dns": ["10.0.0.2"]\n}\n',
    '{"runtimes": {"other": {"path": "/usr/bin/other", "runtimeArgs": ["-x"]}}, "debug": false}',
    '{"runtimes": {}}',
    '\ufeff{"labels": ["a=é"]}',
]


@pytest.mark.parametrize("before", FILES)
def test_the_runtime_is_added_and_everything_else_is_kept(before: str) -> None:
    after = json.loads(engine_config.add_to_docker(before, RUNTIME))
    assert after["runtimes"].pop("cedana") == {"path": RUNTIME}
    was = engine_config.parse(before)
    assert after == {**was, "runtimes": was.get("runtimes", {})}
    assert [key for key in after if key in was] == list(was)


@pytest.mark.parametrize("before", FILES)
def test_taking_it_out_gives_the_file_back_byte_for_byte(before: str) -> None:
    after = engine_config.add_to_docker(before, RUNTIME)
    assert engine_config.add_to_docker(after, RUNTIME) == after
    assert engine_config.cut_from_docker(after, RUNTIME, before) == before


@pytest.mark.parametrize("before", FILES)
def test_what_an_administrator_changed_meanwhile_stays(before: str) -> None:
    changed = json.loads(engine_config.add_to_docker(before, RUNTIME)) | {"live-restore": True}
    after = json.loads(engine_config.cut_from_docker(json.dumps(changed), RUNTIME, before))
    was = engine_config.parse(before) | {"live-restore": True}
    assert {key: value for key, value in after.items() if value} == {key: value for key, value in was.items() if value}


def test_the_indentation_is_the_administrators() -> None:
    assert '\n\t"runtimes": {\n\t\t"cedana"' in engine_config.add_to_docker(FILES[3], RUNTIME)


def test_another_runtime_of_the_name_is_neither_replaced_nor_removed() -> None:
    theirs = '{"runtimes": {"cedana": {"path": "/opt/theirs"}}}'
    with pytest.raises(EngineConfigError, match="/opt/theirs"):
        engine_config.add_to_docker(theirs, RUNTIME)
    assert engine_config.cut_from_docker(theirs, RUNTIME, None) == theirs


@pytest.mark.parametrize("broken", ["{", "[]", "1", '{"runtimes": []}', '{"runtimes": {"x": 1},}'])
def test_a_file_that_docker_would_not_take_is_refused(broken: str) -> None:
    with pytest.raises(EngineConfigError):
        engine_config.add_to_docker(broken, RUNTIME)


def test_dockerd_is_given_a_file_that_names_its_runtimes_even_if_there_are_none() -> None:
    assert json.loads(engine_config.naming_no_runtime("")) == {"runtimes": {}}
    kept = {"runtimes": {"other": {"path": "/x"}}, "debug": True}
    assert json.loads(engine_config.naming_no_runtime(json.dumps(kept))) == kept


def test_the_drop_in_of_podman_names_the_runtime_and_nothing_else() -> None:
    written = tomllib.loads(engine_config.podman_drop_in(RUNTIME))
    assert written == {"engine": {"runtimes": {"cedana": [RUNTIME]}}}

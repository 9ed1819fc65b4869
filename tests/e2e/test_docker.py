"""Woodfrog under a real Docker: what is promised of every engine, and health checks, ``--init``, compose, and the installation."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engine_cases import KILLED, EngineCases
from support.engines import COUNT, IMAGE, Docker, Engine
from support.stack import WOODFROG, Stack, until

pytestmark = [pytest.mark.criu, pytest.mark.containerd, pytest.mark.nats, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def docker(stack: Stack) -> Iterator[Docker]:
    with tempfile.TemporaryDirectory(prefix="wf-", ignore_cleanup_errors=True) as folder:
        made = Docker(Path(folder), stack)
        try:
            made.start()
            yield made
        finally:
            made.close()


@pytest.fixture
def engine(docker: Docker) -> Iterator[Docker]:
    yield docker
    docker.remove_containers()


class TestDocker(EngineCases):
    """The cases of every engine."""

    def programs(self, engine: Engine) -> dict[str, str]:
        assert isinstance(engine, Docker)
        config = f'case $1 in *install) exec {WOODFROG} "$@" --config {engine.config} ;; esac'
        return {
            "woodfrog": f'{config}; exec {WOODFROG} "$@"',
            "docker": f'[ "$1" != compose ] || {{ shift; exec {engine.compose_command} "$@"; }}\n'
            f'exec {shutil.which("docker")} "$@"',
        }

    def test_docker_init_is_restored_with_its_child(self, engine: Docker) -> None:
        engine.run("init", "init", "--init")
        engine.until_counted("init")
        counted = engine.stop("init")
        engine.run("init-again", "init", "--init")
        assert engine.until_counted("init-again")[0] == counted[-1] + 1
        engine.stop("init-again")

    def test_a_container_is_never_unhealthy_over_checkpoints_and_a_restore(self, stack: Stack, engine: Docker) -> None:
        """A check that meets the freeze waits for its end."""
        began = int(time.time())
        check = ("--health-cmd", "test -d /proc/1", "--health-interval", "1s", "--health-timeout", "5s")
        engine.run("healthy", "healthy", *check)
        until(lambda: engine.field("healthy", "{{.State.Health.Status}}") == "healthy", 20, saying="it is healthy")
        for _ in range(3):
            stack.cli("checkpoint", "healthy")
        counted = engine.stop("healthy")
        engine.run("healed", "healthy", *check)
        until(lambda: engine.field("healed", "{{.State.Health.Status}}") == "healthy", 20, saying="it is healthy again")
        assert engine.numbers("healed")[0] == counted[-1] + 1
        engine.stop("healed")
        since, now = str(began), str(int(time.time()) + 1)
        said = engine.cli("events", "--since", since, "--until", now, "--filter", "event=health_status").stdout
        assert said.count("health_status: healthy") == 2
        assert "unhealthy" not in said

    def test_services_of_compose_go_on_after_stop_and_after_down(self, engine: Docker) -> None:
        service = f"""
    image: {IMAGE}
    runtime: cedana
    command: ["sh", "-c", {json.dumps(COUNT.replace("$", "$$"))}]
    volumes: ["shared:/shared", "/data"]
    environment: {{CEDANA_CHECKPOINT: compose-%s}}"""
        services = "".join(f"\n  {name}:{service % name}" for name in ("left", "right"))
        (engine.folder / "docker-compose.yml").write_text(
            f"version: '3'\nservices:{services}\nvolumes: {{shared: {{}}}}\n"
        )

        def names() -> list[str]:
            return sorted(engine.cli("ps", "-a", "--format", "{{.Names}}").stdout.split())

        engine.compose("-p", "wf", "up", "-d")
        for name in names():
            engine.until_counted(name)
        engine.compose("-p", "wf", "stop")
        stopped = {name: engine.numbers(name) for name in names()}
        assert [engine.exit_code(name) for name in names()] == [KILLED, KILLED]
        engine.compose("-p", "wf", "start")
        for name, counted in stopped.items():
            engine.until_counted(name, len(counted) + 5)
        engine.compose("-p", "wf", "stop")
        last = {name: engine.numbers(name)[-1] for name in names()}
        engine.compose("-p", "wf", "down")
        engine.compose("-p", "wf", "up", "-d")
        for name, number in last.items():
            assert engine.until_counted(name)[0] == number + 1
        engine.compose("-p", "wf", "down", "-v")

    def test_the_runtime_is_taken_away_and_given_back_beside_a_container_that_runs(
        self, stack: Stack, engine: Docker
    ) -> None:
        engine.run("runs", "runs")
        stack.cli("uninstall", "docker", "--config", str(engine.config))
        assert engine.config.read_text() == '{"debug": false}'
        refused = engine.cli(*engine.arguments("runs", "-d"), check=False)
        assert refused.returncode != 0
        assert "cedana" in refused.stderr
        counted = engine.stop("runs")
        assert engine.exit_code("runs") == KILLED

        stack.cli("install", "docker", "--config", str(engine.config))
        again = stack.cli("install", "docker", "--config", str(engine.config))
        assert "names the runtime cedana already" in again.stderr
        assert json.loads(engine.config.read_text()) == {
            "debug": False,
            "runtimes": {"cedana": {"path": str(stack.runtime)}},
        }
        engine.cli("start", "runs")
        assert len(engine.until_counted("runs", len(counted) + 3)) > len(counted)
        engine.stop("runs")

    def test_a_configuration_that_docker_does_not_take_stays_as_it_was(self, stack: Stack, engine: Docker) -> None:
        sound = engine.config.read_text()
        stack.cli("uninstall", "docker", "--config", str(engine.config))
        try:
            for broken in (
                '{"debug": fals}',
                '{"no-such-option": 1}',
                '{"runtimes": {"cedana": {"path": "/opt/theirs"}}}',
            ):
                engine.config.write_text(broken)
                done = stack.cli("install", "docker", "--config", str(engine.config), check=False)
                assert done.returncode == 1
                assert "engine-config" in done.stderr
                assert str(engine.config) in done.stderr
                assert engine.config.read_text() == broken
        finally:
            engine.config.write_text('{"debug": false}')
            stack.cli("install", "docker", "--config", str(engine.config))
        assert json.loads(engine.config.read_text()) == json.loads(sound)

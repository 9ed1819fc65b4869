"""Woodfrog under a real Podman: what is promised of every engine, and ``--rm``, annotations, and the installation."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engine_cases import EngineCases
from support.engines import Engine, Podman
from support.stack import WOODFROG, Stack, until

pytestmark = [pytest.mark.criu, pytest.mark.containerd, pytest.mark.nats, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def podman(stack: Stack) -> Iterator[Podman]:
    with tempfile.TemporaryDirectory(prefix="wf-", ignore_cleanup_errors=True) as folder:
        made = Podman(Path(folder), stack)
        try:
            made.start()
            yield made
        finally:
            made.close()


@pytest.fixture
def engine(podman: Podman) -> Iterator[Podman]:
    yield podman
    podman.remove_containers()


class TestPodman(EngineCases):
    """The cases of every engine."""

    foreground = ("--stop-signal", "SIGINT")

    def programs(self, engine: Engine) -> dict[str, str]:
        podman = " ".join(str(word) for word in engine.command())
        config = engine.folder / "page.conf"
        return {
            # The containers.conf of the tests names the runtime already: the page's own file is tested below.
            "woodfrog": f'case $1 in install) exit 0 ;; uninstall) exec {WOODFROG} "$@" --config {config} ;; esac\n'
            f'exec {WOODFROG} "$@"',
            "podman": f'PATH={os.environ["PATH"]} exec {podman} "$@"',
        }

    def test_a_container_that_podman_removes_at_its_end_goes_on_and_has_its_image(
        self, stack: Stack, engine: Podman
    ) -> None:
        engine.run("brief", "brief", "--rm")
        counted = engine.until_counted("brief")
        engine.cli("stop", "brief")
        stack.until_stored("brief")
        engine.run("longer", "brief")
        assert engine.until_counted("longer")[0] > counted[-1]
        engine.stop("longer")
        images = {event["data"]["container"]["image_digest"] for event in stack.history("brief")[:1]}
        assert images == {f"sha256:{engine.field('longer', '{{.Image}}')}"}

    def test_an_annotation_asks_for_snapshots_at_an_interval(self, stack: Stack, engine: Podman) -> None:
        engine.run("annotated", "annotated", "--annotation", "woodfrog.io/interval=1s")
        stack.until_stored("annotated", 2)
        engine.stop("annotated")

    def test_the_runtime_is_given_and_taken_away_by_a_drop_in(self, stack: Stack, tmp_path: Path) -> None:
        """On a copy of /etc/containers, in a mount namespace of its own."""
        (tmp_path / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{tmp_path}/root"\nrunroot = "{tmp_path}/run"\n'
        )
        script = f"""set -e
        cp -a /etc/containers {tmp_path}/etc
        mount --bind {tmp_path}/etc /etc/containers
        drop_in=/etc/containers/containers.conf.d/50-woodfrog.conf
        ls -lR /etc/containers >{tmp_path}/before
        {WOODFROG} install podman --state-dir {stack.state}
        {WOODFROG} install podman --state-dir {stack.state}
        podman --runtime cedana info --format '{{{{.Host.OCIRuntime.Path}}}}'
        podman info --format '{{{{.Host.OCIRuntime.Name}}}}'
        {WOODFROG} uninstall podman --state-dir {stack.state}
        {WOODFROG} uninstall podman --state-dir {stack.state}
        test ! -e $drop_in
        """
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script],
            check=False, capture_output=True, text=True, timeout=60,
            env={**os.environ, "CONTAINERS_STORAGE_CONF": str(tmp_path / "storage.conf")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        path, default = done.stdout.split()
        assert path == str(stack.runtime)
        assert default in {"runc", "crun"}
        said = done.stderr
        assert said.count("now names the runtime cedana") == 1
        assert said.count("names the runtime cedana already") == 1
        assert said.count("was taken out of") == 1
        assert said.count("does not name the runtime cedana") == 1

    def test_the_drop_in_stays_while_a_container_needs_it(self, stack: Stack, engine: Podman, tmp_path: Path) -> None:
        engine.run("needs", "needs")
        words = " ".join(str(word) for word in engine.command())
        programs = tmp_path / "programs"
        programs.mkdir()
        (programs / "podman").write_text(f'#!/bin/sh\nPATH={os.environ["PATH"]} exec {words} "$@"\n')
        (programs / "podman").chmod(0o755)
        drop_in = tmp_path / "50-woodfrog.conf"
        drop_in.write_text("here\n")

        def uninstall() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [WOODFROG, "uninstall", "podman", "--config", drop_in, "--state-dir", stack.state],
                check=False, capture_output=True, text=True, timeout=60,
                env={**engine.environment, "PATH": f"{programs}:{os.environ['PATH']}"},
            )  # fmt: skip

        refused = uninstall()
        assert refused.returncode == 1
        assert "engine-in-use" in refused.stderr
        assert "needs" in refused.stderr
        engine.stop("needs")
        until(lambda: uninstall().returncode == 0, 10, saying="the drop-in can go")
        assert not drop_in.exists()

"""``woodfrog-node``: what is done to a node, from its own shell or from a privileged pod with ``hostPID``.

From a pod, ``install`` and ``uninstall`` lay the bundle on the host and go on there, with the host's files and processes
and the bundle's Python; ``run`` becomes the worker, in the host's namespaces; ``doctor`` looks from where the worker does.

Exit codes: 0 done, 1 failed (the reason is told), 2 used wrongly. ``doctor``: 1 if something does not work.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeworker.host import doctor, namespaces, releases, self_test, self_test_report
from nodeworker.host.bundle import RELEASE
from nodeworker.host.install import Options, install, read_record, uninstall, worker_pid
from nodeworker.host.paths import Places
from nodeworker.settings import from_environment
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.service.env import InvalidSettingError
from woodfrog.service.printable import printable_output

_HERE: Final = "--here"
_HOST: Final = Path("/proc/1/root")
"""The node's files, as seen from a privileged pod with ``hostPID``."""
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OOM_SCORE: Final = "-998"
"""Killed only after everything else but the kubelet: what it has frozen stays frozen until it is back."""
_SETTINGS: Final = ("WOODFROG_", "AWS_", "GOOGLE_", "AZURE_")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    with printable_output():
        return _main(sys.argv[1:] if arguments is None else arguments)


def _main(words: list[str]) -> int:
    given = _parser().parse_args(words)
    try:
        _refuse_where_nothing_can_be_done(here=given.here)
        places = Places(given.root.absolute())
        if given.command == "run":
            if namespaces.outside() and (code := _prove(given, ["self-test", *words[1:]])) != 0:
                return code
            _become_worker(places)
        if given.command == "doctor" and _as_the_worker(places):
            return _here(given)
        if namespaces.outside() and not given.here:
            return (_prove if given.command == "install" else _from_pod)(given, words)
        return _here(given)
    except FailureError as problem:
        _say(str(problem))
        if problem.failure.detail:
            _say(problem.failure.detail)
    except OSError as problem:
        _say(f"{problem.filename or ''}: {problem.strerror or problem}".removeprefix(": "))
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="woodfrog-node", description="Make this machine a node of Woodfrog.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, says in (
        ("install", "lay the bundle down and give the container engine the runtime"),
        ("uninstall", "leave the node as it was"),
        ("run", "be the node worker"),
        ("self-test", "dump, restore and continue a small container, unless one has succeeded since the node booted"),
        ("doctor", "show what works on this node and what does not"),
    ):
        command = commands.add_parser(name, help=says, description=says[0].upper() + says[1:] + ".")
        command.add_argument(
            "--root", type=Path, default=Path("/"), help="lay files under DIR instead of / (for tests)"
        )
        command.add_argument("--containerd-socket", type=Path, help="where containerd listens")
        command.add_argument("--containerd-config", type=Path, help="its configuration file")
        command.add_argument("--runc", help="the OCI runtime to hand over to (default: what pods have now)")
        command.add_argument(_HERE, action="store_true", help=argparse.SUPPRESS)
        if name == "uninstall":
            command.add_argument("--purge", action="store_true", help="remove journal, spool and local store, too")
        if name == "doctor":
            command.add_argument("-o", "--output", choices=("text", "json"), default="text")
    return parser


def _here(given: argparse.Namespace) -> int:
    places = Places(given.root.absolute())
    options = Options(
        places=places, socket=given.containerd_socket or _path("WOODFROG_CONTAINERD_SOCKET"), config=given.containerd_config or _path("WOODFROG_CONTAINERD_CONFIG"),
        runc=given.runc or os.environ.get("WOODFROG_RUNC") or None,
    )  # fmt: skip
    match given.command:
        case "install":
            changed = install(options, releases.bundle_here())
            _say("installed" if changed else "everything is as it should be")
            return _self_test(options)
        case "self-test":
            return _self_test(options)
        case "uninstall":
            needed = uninstall(options, purge=given.purge)
            _say(
                f"uninstalled; {places.runtime} stays until the last container of ours ends"
                if needed
                else "uninstalled"
            )
            return 0
        case _:
            return doctor.report(doctor.examine(options, os.environ), as_json=given.output == "json")


def _self_test(options: Options) -> int:
    """Prove the node.

    Raises:
        FailureError: ``self-test-failed``.
    """
    runc, criu = doctor.tools(options, os.environ)
    outcome = self_test.ensure(runc, criu)
    when = "earlier since this node booted" if outcome.kept else f"in {outcome.seconds:.1f} s"
    _say(f"self-test passed: a container was dumped, restored and continued {when}")
    return 0


def _path(variable: str) -> Path | None:
    return Path(os.environ[variable]) if os.environ.get(variable) else None


def _from_pod(given: argparse.Namespace, words: list[str]) -> int:
    """Run the command on the host, in a child."""
    command = [words[0], _HERE, *words[1:]]
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _on_host(Places(given.root), command)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


def _prove(given: argparse.Namespace, words: list[str]) -> int:
    """Run a command that ends with a self-test; tell the control plane if that failed, for no worker will."""
    code = _from_pod(given, words)
    failed = self_test.last_failure(_HOST) if code else None
    if failed is not None:
        with suppress(InvalidSettingError):
            asyncio.run(self_test_report.tell(from_environment(os.environ), failed))
    return code


def _on_host(places: Places, command: list[str]) -> None:
    """Step over and go on there; never returns."""
    try:
        bundle = releases.bundle_here()
        held = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if command[0] == "doctor":
            _step_over(places)
        else:
            namespaces.enter()
        name = Path(f"/proc/self/fd/{held}/{RELEASE}").read_text().strip()
        release = places.releases / name
        if command[0] in {"install", "uninstall"}:
            release = releases.lay(Path(f"/proc/self/fd/{held}"), places)
        program = str(release / "bin/woodfrog-node")
        os.execve(program, [program, *command], {**os.environ, "PATH": _PATH})  # noqa: S606 -- as ourselves, on the host
    except BaseException as problem:  # noqa: BLE001 -- the child must not go on as the parent
        _say(f"{problem}")
        os._exit(1)


def _as_the_worker(places: Places) -> bool:
    """See mounts and settings as the worker that runs here does, if one does."""
    pid = worker_pid(places)
    if not pid:
        return False
    with suppress(OSError):
        namespaces.enter(pid, ("mnt",))
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="surrogateescape").split("\0")
        for entry in entries:
            name, _, value = entry.partition("=")
            if name.startswith(_SETTINGS):
                os.environ[name] = value
        return True
    return False


def _become_worker(places: Places) -> None:
    """Become the node worker; never returns, but with a failure."""
    environment = dict(os.environ)
    if namespaces.outside():
        bundle = releases.bundle_here()
        name = (bundle / RELEASE).read_text().strip()
        there = Places(_HOST)
        if (there.releases / name).is_dir():
            releases.lay(bundle, there)  # compares it with the image, and lays it down again if it is not the same
        environment |= _step_over(places)
        release = places.releases / name
    else:
        release = places.current.resolve()
    python = release / "bin/python3"
    record = read_record(places)
    if not python.exists() or record is None:
        raise FailureError(
            Failure(
                "not-installed",
                f"the release {release.name} is not installed on this node",
                "Run `woodfrog-node install` first: the init container of the DaemonSet does.",
            )
        )
    environment.setdefault("WOODFROG_CRIU", str(release / "bin/criu"))
    environment.setdefault("WOODFROG_RUNC", record.runc)
    environment.setdefault("WOODFROG_RUN_DIR", str(places.run))
    environment.setdefault("WOODFROG_STATE_DIR", str(places.state))
    environment["PATH"] = _PATH
    if "SSL_CERT_FILE" not in environment and not Path("/etc/ssl/certs").exists():
        environment["SSL_CERT_FILE"] = str(release / "packages/certifi/cacert.pem")
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    limit = doctor.memory_limit_bytes()
    if limit is not None:
        _say(
            f"warning: this worker's memory is limited to {limit >> 20} MiB; killed for it, it leaves containers frozen"
        )
    os.execve(python, [str(python), "-I", "-m", "nodeworker"], environment)  # noqa: S606 -- signals are the worker's then


def _step_over(places: Places) -> Mapping[str, str]:
    """Go to the host, with the pod's name service and volumes; return the variables that name files there anew."""
    points = namespaces.volumes()
    named = list(namespaces.named_files(os.environ, points))
    carried = {volume: namespaces.take_up(volume) for volume in sorted({each.volume for each in named})}
    names = _read("/etc/resolv.conf")
    namespaces.enter()
    namespaces.own_mounts()
    places.run.mkdir(exist_ok=True, mode=0o700)
    folder = places.run / "pod"
    folder.mkdir(exist_ok=True, mode=0o700)
    targets: dict[str, Path] = {}
    for number, (volume, mount) in enumerate(carried.items()):
        targets[volume] = folder / str(number)
        targets[volume].mkdir(exist_ok=True, mode=0o700)
        namespaces.attach(mount, targets[volume])
    if names:
        own = folder / "resolv.conf"
        own.write_bytes(names)
        with suppress(FileNotFoundError):
            namespaces.bind(own, Path("/etc/resolv.conf"))
    moved = {each.variable: f"{each.prefix}{targets[each.volume] / each.rest}" for each in named}
    os.environ.update(moved)
    return moved


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _refuse_where_nothing_can_be_done(*, here: bool) -> None:
    if os.geteuid() != 0:
        raise FailureError(Failure("not-root", "what is done to a node is done by root only", "Run this as root."))
    if not here and namespaces.in_pod_without_host_pid():
        raise FailureError(
            Failure(
                "no-host-pid",
                "this pod cannot see the processes of its host",
                "It needs hostPID: true and a privileged container, as the chart's DaemonSet has.",
            )
        )


def _say(words: str) -> None:
    sys.stderr.write(f"woodfrog: {words}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())

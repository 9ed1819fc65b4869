"""Which signals mean that a container is to end, so that its final snapshot is taken: as far as its engine names them."""
# Paths here are text: importing pathlib would double the start-up time.

from __future__ import annotations

import os

from nodeworker.runtime import container, engines
from nodeworker.runtime.minimal_stdlib import signal, suppress

STOP_SIGNAL_ANNOTATION = "org.opencontainers.image.stopSignal"
CRI_TYPE_ANNOTATION = "io.kubernetes.cri.container-type"


def is_meant(asked: int, bundle: str, container_id: str) -> bool:
    """Whether a signal ends the container, and is not SIGKILL.

    SIGTERM does, and the signal that the engine names for its image: Podman and CRI-O by an annotation, Docker in its own record.
    Where no annotation names one, so does SIGINT, by which Ctrl-C ends a container in the foreground; where nothing does, so does
    the other usual stop signal of images, SIGQUIT.
    """
    if asked in {0, int(signal.SIGKILL)}:
        return False
    stops = {int(signal.SIGTERM)}
    with suppress(OSError, ValueError):
        spec = container.read_json(os.path.join(bundle, "config.json"))
        annotations = container.part(spec, "annotations")
        if annotations.get(CRI_TYPE_ANNOTATION) == "container":
            return True  # The CRI can only stop a container. Its signal is the image's or the pod's, and nothing here names it.
        named = annotations.get(STOP_SIGNAL_ANNOTATION)
        if named:
            stops.add(number(str(named)))
        else:
            of_docker = engines.docker_stop_signal(spec, container_id)
            stops |= {int(signal.SIGINT), number(of_docker) if of_docker else int(signal.SIGQUIT)}
    return asked in stops


def number(text: str) -> int:
    """Read a signal as runc does: a number, or a name with or without SIG; 0 if it is none."""
    if text.isdigit():
        return int(text)
    name = text.upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    if name in {"SIGTERM", "SIGKILL"}:
        return int(getattr(signal, name))
    from signal import Signals  # noqa: PLC0415  # slow to import, and these two are nearly all there is

    if name.startswith(("SIGRTMIN+", "SIGRTMAX-")):
        base, sign, offset = name[:8], name[8], name[9:]
        steps = int(offset) if offset.isdigit() else 0
        return int(Signals[base]) + (steps if sign == "+" else -steps)
    found = Signals.__members__.get(name)
    return int(found) if found is not None else 0

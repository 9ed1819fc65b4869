"""``woodfrog doctor``: the node's doctor, for the one machine of ``woodfrog dev``."""

from __future__ import annotations

import os
from pathlib import Path

from nodeworker.host import doctor
from nodeworker.host.criu_bundle import find_criu
from nodeworker.host.install import Options
from nodeworker.host.paths import Places
from woodfrog.dev_state import StateDirectory
from woodfrog.protocol.failures import FailureError


def examine(state: StateDirectory, *, as_json: bool) -> int:
    """Write what works and what does not to standard output; return the exit code."""
    environment = dict(os.environ)
    environment["WOODFROG_STATE_DIR"] = str(state.path)
    environment["WOODFROG_RUN_DIR"] = str(state.run)
    environment["WOODFROG_STORE_URL"] = f"file://{state.store}"
    try:
        environment["WOODFROG_CRIU"] = str(find_criu().resolve())
    except FailureError:  # the findings about CRIU say so
        environment["WOODFROG_CRIU"] = "criu"
    try:
        described = state.described()
    except FailureError:  # never started: the findings about the worker and NATS say so
        pass
    else:
        environment["WOODFROG_NATS_URL"] = described.nats_url
        environment["WOODFROG_STORE_URL"] = f"file://{described.store}"
        environment["WOODFROG_RUN_DIR"] = str(Path(described.socket).parent)
    return doctor.report(doctor.examine(Options(places=Places()), environment, installed=False), as_json=as_json)

"""The page of ``woodfrog dev``: where it is, and the token that this machine's root signs in with."""

from __future__ import annotations

import secrets
from pathlib import Path

from woodfrog.dev_state import StateDirectory
from woodfrog.local.oci_bundle import BadInputError
from woodfrog.service.http import Address, InvalidAddressError


def environment(state: StateDirectory, address: str, *, actions: bool = False) -> dict[str, str]:
    """Say to a control plane where it serves the page and whether that may change anything, and make the token at the first time.

    Raises:
        BadInputError: the address is none, or others could reach it.
    """
    try:
        host = Address.parse(address).host
    except InvalidAddressError as problem:
        raise BadInputError("--page", str(problem)) from problem
    if host not in {"127.0.0.1", "::1", "localhost"}:
        raise BadInputError("--page", f"{host or 'every address'} can be reached by others; use 127.0.0.1")
    said = {"WOODFROG_API_ADDRESS": address, "WOODFROG_API_TOKENS_FILE": str(_tokens(state, acts=actions))}
    return said | ({"WOODFROG_API_ACTIONS": "on"} if actions else {})


def link(state: StateDirectory, address: str) -> str:
    """Write the page's address, with the token in the part that a browser sends to nobody."""
    token = _tokens(state).read_text().split()[1]
    return f"http://{address}/#token={token}"


def _tokens(state: StateDirectory, *, acts: bool = False) -> Path:
    file = state.path / "page-tokens"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(f"root {secrets.token_urlsafe(32)} *\n")
    if acts and len(words := file.read_text().split()) == 3:
        file.write_text(f"{' '.join(words)} act\n")
    return file

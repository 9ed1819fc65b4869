"""``python -m woodfrog.isolation``: write the server's configuration, let nodes in and shut them out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from woodfrog.isolation import CALLOUT, CONTROL, ISSUER, OPERATOR, Isolation
from woodfrog.isolation.derived import VARIABLE, DerivedKeys
from woodfrog.protocol import subjects
from woodfrog.protocol.failures import FailureError
from woodfrog.protocol.ids import NodeName


def _init(asked: argparse.Namespace) -> None:
    isolation = Isolation(asked.directory)
    isolation.make(callout=asked.callout)
    _say(f"{isolation.server_configuration}: for nats-server")
    for user in (CONTROL, OPERATOR, CALLOUT, ISSUER):
        if isolation.seed_file(user).exists():
            _say(f"{isolation.seed_file(user)}: the seed of {user}")


def _add_node(asked: argparse.Namespace) -> None:
    isolation = Isolation(asked.directory)
    isolation.add_node(NodeName(asked.node), asked.public_key)
    if asked.public_key is None:
        _say(f"{isolation.seed_file(subjects.token(asked.node))}: the seed of {asked.node}; take it there")


def _remove_node(asked: argparse.Namespace) -> None:
    Isolation(asked.directory).remove_node(NodeName(asked.node))


def _derive(asked: argparse.Namespace) -> None:
    keys = DerivedKeys(os.environ.get(VARIABLE, ""))
    if asked.server:
        keys.write_server(asked.directory, callout=asked.callout)
    else:
        keys.write_seeds(asked.directory, *asked.user, *((CALLOUT, ISSUER) if asked.callout else ()))


def main() -> int:
    """Do what is asked; answer the exit code: 0 done, 1 it could not be done, 2 it was asked for wrongly."""
    parser = argparse.ArgumentParser(prog="python -m woodfrog.isolation", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)

    def verb(name: str, does: Callable[[argparse.Namespace], None], told: str) -> argparse.ArgumentParser:
        arguments = verbs.add_parser(name, help=told, description=told)
        arguments.set_defaults(does=does)
        return arguments

    init = verb("init", _init, "write the configuration and the first keys")
    add = verb("add-node", _add_node, "let a node in by a key of its own")
    remove = verb("remove-node", _remove_node, "shut a node out")
    derive = verb("derive", _derive, f"write what follows from {VARIABLE}: seeds, or the server's configuration")
    for each in (init, add, remove, derive):
        each.add_argument("directory", type=Path)
    for each in (add, remove):
        each.add_argument("node")
    init.add_argument("--callout", action="store_true", help="have the control plane asked about node workers' tokens")
    derive.add_argument("--server", action="store_true", help="the server's configuration, with public keys only")
    derive.add_argument(
        "--user", action="append", default=[], choices=[CONTROL, OPERATOR], help="whose seed; may be repeated"
    )
    derive.add_argument("--callout", action="store_true", help="and what the server's questions about others take")
    add.add_argument("--public-key", help="of a pair that was made on the node")
    asked = parser.parse_args()
    try:
        asked.does(asked)
    except FailureError as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())

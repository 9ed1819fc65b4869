"""``python -m woodfrog.isolation``: write the server's configuration, let nodes in and shut them out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from protocol import subjects
from protocol.failures import FailureError
from protocol.ids import NodeName
from woodfrog.isolation import CONTROL, OPERATOR, Isolation


def main() -> int:
    """Do what is asked; answer the exit code: 0 done, 1 it could not be done, 2 it was asked for wrongly."""
    parser = argparse.ArgumentParser(prog="python -m woodfrog.isolation", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("init", "add-node", "remove-node"):
        arguments = verbs.add_parser(verb)
        arguments.add_argument("directory", type=Path)
        if verb != "init":
            arguments.add_argument("node")
        if verb == "add-node":
            arguments.add_argument("--public-key", help="of a pair that was made on the node")
    asked = parser.parse_args()
    isolation = Isolation(asked.directory)
    try:
        if asked.verb == "init":
            isolation.make()
            _say(f"{isolation.server_configuration}: for nats-server")
            for user in (CONTROL, OPERATOR):
                _say(f"{isolation.seed_file(user)}: the seed of {user}")
        elif asked.verb == "add-node":
            isolation.add_node(NodeName(asked.node), asked.public_key)
            if asked.public_key is None:
                _say(f"{isolation.seed_file(subjects.token(asked.node))}: the seed of {asked.node}; take it there")
        else:
            isolation.remove_node(NodeName(asked.node))
    except FailureError as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())

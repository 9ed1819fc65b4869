"""The names under which a dumped process knows files of ConfigMaps, Secrets and tokens, so that it finds the new pod's.

The kubelet's atomic writer (pkg/volume/util/atomic_writer.go) keeps such files in a directory that is named by the time, behind
the link ``..data``. A process that holds or watches one was opened through that directory, whose name another pod does not
have. A snapshot holds nothing of such volumes but that name, as another link to ``..data``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeworker.capture.trees.tree_reader import CapturedTree
from woodfrog.protocol.manifest import CONFIG_DATA, Entry, TreeName

_STAMP: Final = re.compile(r"\.\.\d{4}(_\d\d){5}\.\d+", re.ASCII)


def links(configs: Mapping[str, Path]) -> list[CapturedTree]:
    """Make a tree of one link for each such volume, given by where it is mounted and by its directory outside."""
    trees = []
    for destination, source in configs.items():
        with suppress(OSError):
            name = (source / CONFIG_DATA).readlink().name
            if _STAMP.fullmatch(name):
                entry = Entry(name, "symlink", 0o777, target=CONFIG_DATA)
                trees.append(CapturedTree(TreeName.CONFIG, (entry,), {}, volume=destination))
    return trees

"""Directory trees as values: what a dump takes of the file system, and how a restore puts it back.

The door to modules that share little but the entries of ``woodfrog.protocol.manifest``: one reads what a container wrote, one writes
what a manifest says, one remembers what was there before.
"""

from nodeworker.capture.trees.tree_reader import CapturedTree, copy_tree, list_tree, root_of
from nodeworker.capture.trees.tree_writer import ReadInto, apply_tree
from nodeworker.capture.trees.undo_log import Aside, Stays, discard, rollback

__all__ = [
    "Aside",
    "CapturedTree",
    "ReadInto",
    "Stays",
    "apply_tree",
    "copy_tree",
    "discard",
    "list_tree",
    "rollback",
    "root_of",
]

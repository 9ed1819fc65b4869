"""Directory trees as values: what a dump takes of the file system, and how a restore puts it back.

The door to modules that share little but the entries of ``protocol.manifest``: one reads what a container wrote, one writes
what a manifest says, one remembers what was there before.
"""

from nodeworker.capture.applying import ReadInto, apply_tree
from nodeworker.capture.aside import Aside, Stays, put_back, settle
from nodeworker.capture.copying import CapturedTree, copy_tree, list_tree, root_of

__all__ = [
    "Aside",
    "CapturedTree",
    "ReadInto",
    "Stays",
    "apply_tree",
    "copy_tree",
    "list_tree",
    "put_back",
    "root_of",
    "settle",
]

"""Directory trees as values: what a dump takes of the file system, and how a restore puts it back.

The door to two modules that share nothing but the entries of ``protocol.manifest``: one reads what a container wrote, the
other writes what a manifest says.
"""

from nodeworker.capture.applying import ReadInto, apply_tree, inverse_of
from nodeworker.capture.copying import CapturedTree, copy_tree, list_tree, root_of

__all__ = ["CapturedTree", "ReadInto", "apply_tree", "copy_tree", "inverse_of", "list_tree", "root_of"]

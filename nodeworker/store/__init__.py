"""The snapshot store: chunks in packs, a manifest written last, everything checked before it is called valid."""

from nodeworker.store.encryption_keys import KeyRing
from nodeworker.store.pack_reader import Unpacker
from nodeworker.store.snapshots import ManifestHeader, SnapshotStore, Stored, tree_of

__all__ = ["KeyRing", "ManifestHeader", "SnapshotStore", "Stored", "Unpacker", "tree_of"]

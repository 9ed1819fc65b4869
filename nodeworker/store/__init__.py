"""The snapshot store: chunks in packs, a manifest written last, everything checked before it is called valid."""

from nodeworker.store.snapshots import ManifestHeader, SnapshotStore, Stored

__all__ = ["ManifestHeader", "SnapshotStore", "Stored"]

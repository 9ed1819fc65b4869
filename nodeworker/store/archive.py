"""A snapshot as a checkpoint archive: the tar file that podman, CRI-O and containerd write and ``checkpointctl`` reads.

Its layout is that of checkpointctl's ``lib/metadata.go``: ``config.dump`` and ``spec.dump`` say what it is, ``checkpoint/`` holds
CRIU's images, ``rootfs-diff.tar`` what the container changed, ``deleted.files`` what it deleted, ``devshm-checkpoint.tar`` its /dev/shm and
``volumes/`` its volumes. Every byte is proved on its way. Before them lies ``woodfrog.manifest``, which those tools pass over: the
snapshot's own manifest, which says what the layout cannot and by which ``archive_reader.py`` proves an archive that comes back.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Final

import msgspec
from blake3 import blake3

from nodeworker.domain.filename_codec import bytes_of
from nodeworker.store.pack_reader import Unpacker
from woodfrog.protocol.manifest import HOLE, Entry, Manifest, Tree, TreeName
from woodfrog.protocol.wire import encode

MANIFEST: Final = "woodfrog.manifest"
CHECKPOINT: Final = "checkpoint/"
_OPAQUE: Final = ".wh..wh..opq"
"""An empty file of this name hides what lies in its directory below (OCI image specification, layer.md)."""
_COPY_BYTES: Final = 1 << 20
_TYPES: Final = {
    "directory": tarfile.DIRTYPE,
    "file": tarfile.REGTYPE,
    "symlink": tarfile.SYMTYPE,
    "fifo": tarfile.FIFOTYPE,
}


class _Content(io.RawIOBase):
    """The proved bytes of one file; reads on until as much is there as was asked for, which is what tarfile expects."""

    def __init__(self, unpacker: Unpacker, manifest: Manifest, entry: Entry, count: Callable[[int], None]) -> None:
        self._unpacker = unpacker
        self._count = count
        self._chunk_bytes = manifest.chunk_bytes
        self._entry = entry
        self._position = 0
        self._chunk = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        """Read so much, or less at the end."""
        pieces = []
        while size != 0 and self._has_more():
            piece = self._chunk if size < 0 else self._chunk[:size]
            self._chunk = self._chunk[len(piece) :]
            size -= len(piece) if size > 0 else 0
            pieces.append(piece)
        return b"".join(pieces)

    def _has_more(self) -> bool:
        if not self._chunk and self._position < self._entry.size_bytes:
            index = self._entry.chunks[self._position // self._chunk_bytes]
            length = min(self._chunk_bytes, self._entry.size_bytes - self._position)
            self._chunk = memoryview(bytes(length) if index == HOLE else self._unpacker.chunk(index))
            self._position += length
            self._count(length)
        return len(self._chunk) > 0


class ArchiveWriter:
    """Writes one snapshot."""

    def __init__(self, manifest: Manifest, unpacker: Unpacker) -> None:
        self._manifest = manifest
        self._unpacker = unpacker
        self._described = encode(manifest)
        self.digest: str = blake3(self._described).hexdigest()
        """BLAKE3 of the manifest in the archive: whoever has it knows every byte that an import takes."""
        self.done_bytes = 0
        """Of files, so far."""

    def _count(self, length: int) -> None:
        self.done_bytes += length

    def write(self, path: Path) -> None:
        """Write the archive, readable for its owner alone: it holds a process's memory. An existing file is replaced at the end.

        Raises:
            FailureError: ``snapshot-corrupt``, ``snapshot-missing``, and what a store refuses.
            OSError: the file cannot be written.
        """
        aside = path.with_name(f".{path.name}.new")
        aside.unlink(missing_ok=True)
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                with _tar(file) as tar:
                    self._fill(tar, path.parent)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    def _fill(self, tar: tarfile.TarFile, beside: Path) -> None:
        self._add_file(tar, MANIFEST, io.BytesIO(self._described))
        self._add_text(tar, "config.dump", self._config())
        self._add_text(tar, "spec.dump", self._spec())
        for tree in self._manifest.trees:
            if tree.name is TreeName.PROCESSES:
                tar.addfile(self._directory("checkpoint"))
                self._add_tree(tar, tree.entries, CHECKPOINT)
                continue
            if tree.name is TreeName.LAYER:
                deleted = [f"/{entry.path}" for entry in tree.entries if entry.kind == "whiteout"]
                self._add_text(tar, "deleted.files", deleted)
            with tempfile.TemporaryFile(dir=beside) as inner:
                with _tar(inner) as nested:
                    self._add_tree(nested, tree.entries, "")
                self._add_file(tar, name_of(tree), inner)

    def _add_tree(self, tar: tarfile.TarFile, entries: Iterable[Entry], prefix: str) -> None:
        for entry in entries:
            if entry.kind not in _TYPES:  # a whiteout is told of beside; a socket is made by who binds it
                continue
            info = tarfile.TarInfo(prefix + os.fsdecode(bytes_of(entry.path)))
            info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.gid
            info.mtime = entry.mtime_ns // 1_000_000_000
            info.pax_headers = {
                f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape") for name, value in entry.xattrs.items()
            }
            info.type = _TYPES[entry.kind]
            content = None
            if entry.hardlink is not None:
                info.type, info.linkname = tarfile.LNKTYPE, prefix + os.fsdecode(bytes_of(entry.hardlink))
            elif entry.kind == "symlink":
                info.linkname = os.fsdecode(bytes_of(entry.target or ""))
            elif entry.kind == "file":
                info.size = entry.size_bytes
                content = _Content(self._unpacker, self._manifest, entry, self._count)
            tar.addfile(info, content)
            if entry.opaque:
                tar.addfile(tarfile.TarInfo(f"{info.name}/{_OPAQUE}"))

    def _add_text(self, tar: tarfile.TarFile, name: str, content: object) -> None:
        self._add_file(tar, name, io.BytesIO(msgspec.json.format(msgspec.json.encode(content), indent=2)))

    def _add_file(self, tar: tarfile.TarFile, name: str, file: IO[bytes]) -> None:
        info = tarfile.TarInfo(name)
        info.mode, info.mtime = 0o600, int(self._manifest.taken_at.timestamp())
        info.size = file.seek(0, os.SEEK_END)
        file.seek(0)
        tar.addfile(info, file)

    def _directory(self, name: str) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o700, int(self._manifest.taken_at.timestamp())
        return info

    def _config(self) -> dict[str, object]:
        manifest = self._manifest
        return {
            "id": manifest.snapshot_id,
            "name": manifest.key.id,
            "rootfsImageName": manifest.container_facts.image or "",
            "runtime": "runc",
            "createdTime": manifest.taken_at,
            "checkpointedTime": manifest.taken_at,
        }

    def _spec(self) -> dict[str, object]:
        manifest, node = self._manifest, self._manifest.node_facts
        told = {
            "io.container.manager": "containerd",
            "io.kubernetes.cri.container-name": manifest.key.id,
            "io.kubernetes.cri.sandbox-name": manifest.container_facts.pod,
            "io.kubernetes.cri.sandbox-namespace": manifest.key.namespace,
            "org.criu.checkpoint.container.name": manifest.key.id,
            "org.criu.checkpoint.rootfsImageName": manifest.container_facts.image,
            "org.criu.checkpoint.rootfsImageSha": manifest.container_facts.image_digest,
            "org.criu.checkpoint.runtime.name": "runc",
            "org.criu.checkpoint.runtime.version": node.runc_version,
            "org.criu.checkpoint.criu.version": node.criu_version,
            "org.criu.checkpoint.host.arch": node.architecture,
            "org.criu.checkpoint.host.kernel": node.kernel_release,
            "org.criu.checkpoint.cgroup.version": f"v{node.cgroup_version}" if node.cgroup_version else None,
            "woodfrog.io/incarnation": str(manifest.incarnation),
        }
        return {
            "ociVersion": "1.0.2",
            "annotations": {key: value for key, value in told.items() if value},
            "mounts": [{"destination": mount} for mount in manifest.container_facts.mounts],
        }


def name_of(tree: Tree) -> str:
    """Name the member that holds a tree which is not CRIU's images. Two volumes may have one name; they lie in the manifest's order."""
    if tree.name is TreeName.LAYER:
        return "rootfs-diff.tar"
    if tree.name is TreeName.SHM:
        return "devshm-checkpoint.tar"
    return f"volumes/{tree.volume.strip('/').replace('/', '-')}.tar"


def _tar(file: IO[bytes]) -> tarfile.TarFile:
    return tarfile.TarFile(
        fileobj=file, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape", copybufsize=_COPY_BYTES
    )

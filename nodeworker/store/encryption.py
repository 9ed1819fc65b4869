"""Encryption at rest: whatever goes through here is sealed in the store, and read back as if it were not.

An object is a header and segments of 64 KiB, each sealed with AES-256-GCM under a key of the object's own (``keys.py``). The
number of a segment, and whether it is the last, are its nonce, and the header and the snapshot's folder are vouched for with
every segment: so none can be changed, moved, left out or taken from elsewhere unnoticed, and any range can be read
alone. (This is the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár, 2015.)

Names tell nothing either. What would lie in ``<cluster>/<namespace>/<id>/<snapshot>/`` lies in
``sealed/<id of the key>/<name that only holders of the key can derive>/``. A folder ``sealed-keys`` tells which keys a store
was ever sealed with, by their ids, so that a worker without the right one says so, and does not take a snapshot for lost.

With a recipient, each snapshot is sealed with a key of its own as well (``woodfrog/service/data_keys.py``), which lies wrapped in the
headers of its objects. Names follow from the store's key alone, so whoever holds that can remove a snapshot, but not read it.

What remains visible: how many snapshots there are, how large their packs are, and when they were written.
"""

from __future__ import annotations

import os
import threading
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nodeworker.domain.common_failures import corrupt, missing
from nodeworker.store.encryption_keys import ID_BYTES, KeyRing, StoreKey
from nodeworker.store.object_store import ObjectReader, Objects, ObjectWriter
from woodfrog.protocol.failures import DATA_KEY_MISSING, SNAPSHOT_MISSING, Failure, FailureError
from woodfrog.service.data_keys import DATA_KEY_BYTES, WRAPPED_BYTES, Recipient

MAGIC: Final = b"WFSEAL1\n"
SEGMENT_BYTES: Final = 64 << 10
MARKERS: Final = "sealed-keys"
_SALT_BYTES: Final = 32
_HEADER_BYTES: Final = len(MAGIC) + ID_BYTES + _SALT_BYTES
_MOST_UNLOCKED: Final = 1024
_TAG_BYTES: Final = 16
_WHOLE_BYTES: Final = SEGMENT_BYTES + _TAG_BYTES
_LISTED_AS_THEY_ARE: Final = ("manifest.json",)
_MOST_REMEMBERED: Final = 4096
_MOST_LISTED: Final = 256
"""Folders whose objects are remembered between a list and a removal; each put lists one."""


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\1" if last else b"\0")


class _Place(NamedTuple):
    """Where a snapshot's objects lie if they are sealed with ``key``, or if they are not sealed."""

    key: StoreKey | None
    folder: str
    data_key: bytes = b""
    wrapped: bytes = b""

    def name(self, plain_folder: str, name: str) -> str:
        """Name an object there. The manifest keeps its name: it is removed first, also by who cannot read it."""
        if self.key is None or name in _LISTED_AS_THEY_ARE:
            return name
        return f"{self.key.name(plain_folder, name)}.pack"


class SealedObjects:
    """A port in front of another: seals with the ring's first key, opens with any, and reads what was never sealed as well."""

    def __init__(self, inner: Objects, ring: KeyRing, recipient: Recipient | None = None) -> None:
        """With a ``recipient`` each snapshot gets a key of its own, wrapped for it."""
        self._inner = inner
        self._ring = ring
        self._recipient = recipient if ring.keys else None
        self._begun: dict[str, _Place] = {}
        self._unlocked: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._marked: set[bytes] = set()
        self._remembered: dict[str, _Place] = {}
        self._listed: dict[str, dict[str, _Place]] = {}

    def begin(self, folder: str) -> None:
        """Make the key of a snapshot that is about to be put, if it is to have one."""
        if self._recipient is None:
            return
        data_key = os.urandom(DATA_KEY_BYTES)
        place = _sealed(self._ring.with_data_keys[0], folder)
        with self._lock:
            self._begun[folder] = place._replace(
                data_key=data_key, wrapped=self._recipient.wrap(data_key, folder.encode())
            )
        self.unlock(folder, data_key)

    def end(self, folder: str) -> None:
        """Forget the key of a snapshot that was put."""
        with self._lock:
            self._begun.pop(folder, None)
            self._unlocked.pop(folder, None)

    def unlock(self, folder: str, data_key: bytes) -> None:
        """Take a snapshot's own key, to read it."""
        with self._lock:
            if len(self._unlocked) >= _MOST_UNLOCKED:
                self._unlocked.pop(next(iter(self._unlocked)))
            self._unlocked[folder] = data_key

    def locked(self, path: str) -> bytes:
        """Return what is wrapped in an object whose snapshot's key is not here; nothing if none is needed.

        Raises:
            FailureError: the store cannot be read.
        """
        folder, _, name = path.rpartition("/")
        with self._lock:
            if folder in self._unlocked:
                return b""
        for key in self._ring.with_data_keys:
            place = _sealed(key, folder)
            try:
                reader = self._inner.open(f"{place.folder}/{place.name(folder, name)}")
            except FailureError as problem:
                if problem.failure.code != SNAPSHOT_MISSING:
                    raise
                continue
            try:
                return bytes(reader.read(_HEADER_BYTES, WRAPPED_BYTES))
            finally:
                reader.close()
        return b""

    def check_key(self) -> None:
        """See that what is put from here is sealed no less than the rest of the store.

        Raises:
            FailureError: ``store-sealed`` or ``recipient-missing``; or the store cannot be read.
        """
        marked = {name for name in self._inner.names(MARKERS) if not name.startswith(".")}
        if marked and self._ring.first is None:
            raise FailureError(
                Failure(
                    "store-sealed",
                    "The store holds encrypted snapshots, and nothing is put there without its key.",
                    "Name the store's keys by WOODFROG_STORE_KEY_FILE.",
                )
            )
        if self._recipient is None and marked & {key.id.hex() for key in self._ring.with_data_keys}:
            raise FailureError(
                Failure(
                    "recipient-missing",
                    "The snapshots of the store have keys of their own, and it is not configured for whom those are wrapped.",
                    "Name the control planes' public key by WOODFROG_DATA_KEY_RECIPIENT_FILE, as node workers have it.",
                )
            )

    def create(self, folder: str) -> ObjectWriter:
        """Begin an object."""
        place = self._own(folder)
        if place.key is None:
            return self._inner.create(folder)
        self._mark(place.key)
        self._remember(folder, place)
        return _SealedWriter(self._inner.create(place.folder), place, folder)

    def open(self, path: str, *, fresh: bool = False) -> ObjectReader:
        """Open an object, wherever it is."""
        folder, _, name = path.rpartition("/")
        for place in self._places(folder):
            try:
                reader = self._inner.open(f"{place.folder}/{place.name(folder, name)}", fresh=fresh)
            except FailureError as problem:
                if problem.failure.code != SNAPSHOT_MISSING:
                    raise
                continue
            self._remember(folder, place)
            return reader if place.key is None else self._opened(reader, place, folder, path)
        self._tell_apart(path)
        raise missing(path)

    def _opened(self, reader: ObjectReader, place: _Place, folder: str, path: str) -> ObjectReader:
        assert place.key is not None
        with self._lock:
            data_key = self._unlocked.get(folder, b"")
        if place.key.with_data_keys and not data_key:
            reader.close()
            raise FailureError(
                Failure(
                    DATA_KEY_MISSING,
                    f"{path} is sealed with a key of its snapshot's own, which was not given to this reader.",
                    "Give control planes the private keys by WOODFROG_DATA_KEY_FILE, those from before as well.",
                )
            )
        return _SealedReader(reader, place._replace(data_key=data_key), folder, path)

    def settle(self, folder: str) -> None:
        """Wait for the inner store."""
        self._inner.settle(self._own(folder).folder)

    def names(self, folder: str) -> list[str]:
        """List what is in a snapshot's folder, as the inner store names it."""
        found = {name: place for place in self._places(folder) for name in self._inner.names(place.folder)}
        with self._lock:
            self._listed.pop(folder, None)
            self._listed[folder] = found
            while len(self._listed) > _MOST_LISTED:
                del self._listed[next(iter(self._listed))]
        return sorted(found)

    def remove(self, folder: str, name: str) -> None:
        """Remove an object, listed again if that is long ago."""
        with self._lock:
            listed = self._listed.get(folder)
        if listed is None:
            self.names(folder)
            with self._lock:
                listed = self._listed.get(folder, {})
        place = listed.get(name)
        if place is not None:
            self._inner.remove(place.folder, name)

    def prune(self, folder: str) -> None:
        """Remove the snapshot's folders if they are empty."""
        with self._lock:
            self._listed.pop(folder, None)
            self._remembered.pop(folder, None)
        for place in self._places(folder):
            self._inner.prune(place.folder)

    def _own(self, folder: str) -> _Place:
        with self._lock:
            begun = self._begun.get(folder)
        key = self._ring.first
        return begun or (_Place(None, folder) if key is None else _sealed(key, folder))

    def _places(self, folder: str) -> list[_Place]:
        keys = (*self._ring.with_data_keys, *self._ring.keys)
        places = [*(_sealed(key, folder) for key in keys), _Place(None, folder)]
        with self._lock:
            first = self._remembered.get(folder)
        return places if first is None else [first, *(each for each in places if each.folder != first.folder)]

    def _remember(self, folder: str, place: _Place) -> None:
        with self._lock:
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[folder] = _Place(place.key, place.folder)

    def _mark(self, key: StoreKey) -> None:
        """Say, once a process, that the store holds objects sealed with a key, before the first of them is there."""
        if key.id in self._marked:
            return
        writer = self._inner.create(MARKERS)
        try:
            writer.write(b"Snapshots in this store are sealed with the key of this id.\n")
            writer.commit(key.id.hex(), exclusive=True)
        except FileExistsError:
            writer.abort()
        except BaseException:
            writer.abort()
            raise
        else:
            self._inner.settle(MARKERS)
        self._marked.add(key.id)

    def _tell_apart(self, path: str) -> None:
        """See that what is not found is not only sealed with a key that is not here.

        Raises:
            FailureError: it may be.
        """
        known = {key.id.hex() for key in (*self._ring.keys, *self._ring.with_data_keys)}
        unknown = [name for name in self._inner.names(MARKERS) if name not in known and not name.startswith(".")]
        if unknown and not known:
            raise FailureError(
                Failure(
                    "store-sealed",
                    f"{path} was not found, but the store holds encrypted snapshots and this worker has no key.",
                    "Give the worker the store's keys by WOODFROG_STORE_KEY_FILE.",
                )
            )
        if unknown:
            raise FailureError(
                Failure(
                    "store-key-unknown",
                    f"{path} was not found with this worker's keys ({', '.join(sorted(known))}); the store also holds "
                    f"snapshots that are sealed with {', '.join(unknown)}.",
                    "Add the missing key to WOODFROG_STORE_KEY_FILE, below the first. If that key and its snapshots are gone "
                    f"for good, remove {MARKERS}/<id> from the store.",
                )
            )


def _sealed(key: StoreKey, folder: str) -> _Place:
    return _Place(key, f"sealed/{key.id.hex()}/{key.name(folder)}")


class _SealedWriter:
    """Holds back what may be the last segment, since only the end tells which one is."""

    def __init__(self, inner: ObjectWriter, place: _Place, folder: str) -> None:
        assert place.key is not None
        salt = os.urandom(_SALT_BYTES)
        header = MAGIC + place.key.id + salt + place.wrapped
        self._inner = inner
        self._place = place
        self._folder = folder
        self._cipher = AESGCM(place.key.of_object(salt, place.data_key))
        self._vouched = header + folder.encode()
        self._held = bytearray()
        self._number = 0
        inner.write(header)

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        if self._held:
            taken = min(SEGMENT_BYTES - len(self._held), len(view))
            self._held += view[:taken]
            view = view[taken:]
            if not view:
                return
            self._seal(self._held, last=False)
            self._held = bytearray()
        while len(view) > SEGMENT_BYTES:
            self._seal(view[:SEGMENT_BYTES], last=False)
            view = view[SEGMENT_BYTES:]
        self._held += view

    def commit(self, name: str, *, exclusive: bool = False) -> None:
        self._seal(self._held, last=True)
        self._inner.commit(self._place.name(self._folder, name), exclusive=exclusive)

    def abort(self) -> None:
        self._inner.abort()

    def _seal(self, plain: bytearray | memoryview, *, last: bool) -> None:
        self._inner.write(self._cipher.encrypt(_nonce(self._number, last), plain, self._vouched))
        self._number += 1


class _SealedReader:
    def __init__(self, inner: ObjectReader, place: _Place, folder: str, shown: str) -> None:
        assert place.key is not None
        key = place.key
        self._inner = inner
        self._shown = shown
        self._header_bytes = _HEADER_BYTES + (WRAPPED_BYTES if key.with_data_keys else 0)
        sealed_bytes = inner.size_bytes - self._header_bytes
        self._segments = -(-sealed_bytes // _WHOLE_BYTES)
        self.size_bytes = sealed_bytes - self._segments * _TAG_BYTES
        try:
            header = self._header(key)
        except BaseException:
            inner.close()
            raise
        self._cipher = AESGCM(key.of_object(header[_HEADER_BYTES - _SALT_BYTES : _HEADER_BYTES], place.data_key))
        self._vouched = header + folder.encode()
        if self.size_bytes == 0:
            try:
                self._plain(0, 0)
            except BaseException:
                inner.close()
                raise

    def _header(self, key: StoreKey) -> bytes:
        before_the_last = (self._segments - 1) * SEGMENT_BYTES
        if self.size_bytes < 0 or before_the_last < 0 or (before_the_last and self.size_bytes <= before_the_last):
            raise corrupt(f"The sealed object {self._shown} is cut off: it has {self._inner.size_bytes} bytes.")
        header = bytes(self._inner.read(0, self._header_bytes))
        if header[: _HEADER_BYTES - _SALT_BYTES] != MAGIC + key.id:
            raise corrupt(f"The object {self._shown} does not begin as one sealed with key {key.id.hex()} must.")
        return header

    def read(self, offset_bytes: int, length_bytes: int) -> bytes | memoryview:
        end = offset_bytes + length_bytes
        if end > self.size_bytes:
            raise corrupt(f"The object {self._shown} is truncated: it ends at byte {self.size_bytes}.")
        if length_bytes == 0:
            return b""
        first, last = offset_bytes // SEGMENT_BYTES, (end - 1) // SEGMENT_BYTES
        skipped = offset_bytes - first * SEGMENT_BYTES
        return memoryview(self._plain(first, last))[skipped : skipped + length_bytes]

    def _plain(self, first: int, last: int) -> bytes:
        start = self._header_bytes + first * _WHOLE_BYTES
        stop = min(start + (last - first + 1) * _WHOLE_BYTES, self._inner.size_bytes)
        sealed = memoryview(self._inner.read(start, stop - start))
        try:
            return b"".join(
                [
                    self._cipher.decrypt(
                        _nonce(number, number == self._segments - 1),
                        sealed[(number - first) * _WHOLE_BYTES : (number - first + 1) * _WHOLE_BYTES],
                        self._vouched,
                    )
                    for number in range(first, last + 1)
                ]
            )
        except InvalidTag as problem:
            raise corrupt(
                f"Segments {first} to {last} of the sealed object {self._shown} are not what was sealed."
            ) from problem

    def close(self) -> None:
        self._inner.close()

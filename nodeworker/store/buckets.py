"""Objects in a bucket, through obstore: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage.

Two things make a bucket different from a disk. It is far away, so reads go out in windows of some MiB, several at a time and
ahead of who reads. And it refuses for reasons that say nothing about a snapshot: those become failures of their own, because
a snapshot that is *missing* is never used again, and a bucket that is misspelt must not cost anybody a snapshot.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore, from_url

from nodeworker.domain.common_failures import corrupt, missing
from woodfrog.protocol.failures import Failure, FailureError

SCHEMES: Final = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")
_CONNECT: Final = timedelta(seconds=5)
_REQUEST: Final = timedelta(seconds=60)
"""One request carries 8 MiB at most."""
_RETRIES: Final = 6
_RETRY: Final = timedelta(seconds=90)
_PART_BYTES: Final = 8 << 20
_PARTS_AT_ONCE: Final = 8
_WINDOW_BYTES: Final = 4 << 20
_WINDOWS_KEPT: Final = 24
_WINDOWS_AHEAD: Final = 4
_REQUESTS_AT_ONCE: Final = 8
_NO_OBJECT: Final = "woodfrog-is-the-bucket-there/"

_BUCKET_MISSING: Final = Failure(
    "store-bucket-missing",
    "there is no such bucket",
    "Make the bucket, or correct WOODFROG_STORE_URL; look at the region and the endpoint, too.",
)
_THROTTLED: Final = Failure(
    "store-throttled",
    "it asks for fewer requests",
    "Ask the provider for a higher rate, or dump less often.",
)
_CREDENTIALS: Final = Failure(
    "store-credentials",
    "it does not know who the worker is",
    "Give the worker credentials by its cloud's usual variables or the node's identity; see that they have not expired and "
    "that the node's clock is right.",
)
_DENIED: Final = Failure(
    "store-denied",
    "it does not allow this",
    "Allow the worker to get, put, delete and list objects below the store's prefix.",
)
_UNREACHABLE: Final = Failure(
    "store-unreachable",
    "it did not answer as it should",
    "See that the node reaches the store: name resolution, proxy, endpoint, certificate.",
)
_NO_BUCKET: Final = re.compile(r"nosuchbucket|bucket does not exist|containernotfound|container does not exist")
_CAUSES: Final = (
    (_NO_BUCKET, _BUCKET_MISSING),
    (re.compile(r"slow ?down|toomanyrequests|serverbusy|\b429\b|ratelimit|rate exceeded"), _THROTTLED),
    (re.compile(r"169\.254\.|meta-data|latest/api/token|metadata\.google|oauth2|credential"), _CREDENTIALS),
    (re.compile(r"invalidaccesskeyid|signaturedoesnotmatch|requesttimetooskewed|authenticationfailed"), _CREDENTIALS),
    (re.compile(r"expiredtoken|invalidtoken|unauthenticated|\b401\b"), _CREDENTIALS),
    (re.compile(r"accessdenied|authorizationpermission|permission denied|forbidden|\b403\b"), _DENIED),
)
"""What the first line of an error says, in lower case; the first row that matches counts."""


def open_bucket(url: str, environment: Mapping[str, str]) -> BucketObjects:
    """Open the bucket that a URL names; credentials and endpoint are what the cloud's usual variables say.

    Plain HTTP is spoken only to an endpoint that is given as ``http://``.

    Raises:
        ValueError: no bucket can be meant.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.netloc or parts.query or parts.fragment or parts.password is not None:
        raise ValueError(f"the store's URL {url!r} names no bucket; write s3://bucket/prefix, gs://… or az://…")
    endpoints = [
        value for name, value in environment.items() if "ENDPOINT" in name and name.startswith(("AWS_", "AZURE_"))
    ]
    try:
        store = from_url(
            url.rstrip("/"),
            client_options={
                "connect_timeout": _CONNECT,
                "timeout": _REQUEST,
                "allow_http": any(each.startswith("http://") for each in endpoints),
            },
            retry_config={"max_retries": _RETRIES, "retry_timeout": _RETRY},
        )
    except BaseError as problem:
        raise ValueError(f"the store {url!r} cannot be opened: {_first_line(problem)}") from problem
    return BucketObjects(store, url)


def _first_line(problem: BaseException) -> str:
    text = str(problem).partition("Debug source")[0]
    return re.sub(r"\s+", " ", text).strip()[:500]


class BucketObjects:
    """Objects in whatever obstore reaches. An object appears whole when its upload completes, and is durable then."""

    def __init__(self, store: ObjectStore, url: str) -> None:
        self._store = store
        self._url = url.rstrip("/")
        self._windows = _Windows(store)

    def create(self, folder: str) -> _BucketWriter:
        """Begin an object; it is held in memory, because its name is known only at its end."""
        return _BucketWriter(self, folder)

    def open(self, path: str, *, fresh: bool = False) -> _BucketReader:
        """Open an object."""
        if fresh:
            self._windows.forget(path)
        with self.explained(path):
            size: int = obstore.head(self._store, path)["size"]
        return _BucketReader(self, self._windows, path, size)

    def settle(self, folder: str) -> None:
        """Nothing to wait for."""

    def names(self, folder: str) -> list[str]:
        """List a folder."""
        with self.explained(folder):
            listed = obstore.list_with_delimiter(self._store, f"{folder}/" if folder else None)
        return sorted(meta["path"].rpartition("/")[2] for meta in listed["objects"])

    def remove(self, folder: str, name: str) -> None:
        """Remove an object."""
        path = f"{folder}/{name}"
        self._windows.forget(path)
        with self.explained(path, missing_is_fine=True):
            obstore.delete(self._store, path)

    def prune(self, folder: str) -> None:
        """Buckets have no folders."""

    def shown(self, path: str) -> str:
        """Name an object for people."""
        return f"{self._url}/{path}"

    def put(self, path: str, data: bytearray, *, exclusive: bool) -> None:
        """Upload an object, a large one in parts.

        Raises:
            FileExistsError: ``exclusive``, and there is one of that name.
        """
        with self.explained(path):
            if exclusive:
                obstore.put(self._store, path, bytes(data), mode="create")
            else:
                obstore.put(self._store, path, data, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)

    @contextmanager
    def explained(self, path: str, *, missing_is_fine: bool = False) -> Iterator[None]:
        """Turn what the store says into failures that a person can act on."""
        try:
            yield
        except AlreadyExistsError as problem:
            raise FileExistsError(self.shown(path)) from problem
        except FileNotFoundError as problem:
            if "nosuchbucket" in str(problem).lower() or not self._is_there():
                raise self._failure(_BUCKET_MISSING, path, problem) from problem
            if not missing_is_fine:
                raise missing(self.shown(path)) from problem
        except (BaseError, PermissionError) as problem:
            said = _first_line(problem).lower()
            told = next((told for words, told in _CAUSES if words.search(said)), _UNREACHABLE)
            raise self._failure(told, path, problem) from problem

    def _is_there(self) -> bool:
        """Look whether the bucket exists: the answer to a HEAD does not say whether the bucket or the object is missing."""
        try:
            obstore.list_with_delimiter(self._store, _NO_OBJECT)
        except FileNotFoundError:
            return False
        except (BaseError, PermissionError) as problem:
            return not _NO_BUCKET.search(_first_line(problem).lower())
        return True

    def _failure(self, told: Failure, path: str, problem: BaseException) -> FailureError:
        cause = f"The store refused {self.shown(path)}: {told.cause}."
        return FailureError(Failure(told.code, cause, told.advice, _first_line(problem)))


class _BucketWriter:
    def __init__(self, objects: BucketObjects, folder: str) -> None:
        self._objects = objects
        self._folder = folder
        self._data = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self._data += data

    def commit(self, name: str, *, exclusive: bool = False) -> None:
        self._objects.put(f"{self._folder}/{name}".lstrip("/"), self._data, exclusive=exclusive)
        self._data = bytearray()

    def abort(self) -> None:
        self._data = bytearray()


class _Windows:
    """Parts of objects that were asked for or will be, so many and no more, whoever reads."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], Future[memoryview]] = OrderedDict()
        self._threads: ThreadPoolExecutor | None = None

    def of(self, path: str, index: int, size_bytes: int, *, ahead: int) -> Future[memoryview]:
        """Ask for a window, and for those behind it."""
        last = (size_bytes - 1) // _WINDOW_BYTES
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(_REQUESTS_AT_ONCE, thread_name_prefix="bucket")
            for each in range(index, min(index + ahead, last) + 1):
                if (path, each) not in self._kept:
                    self._kept[path, each] = self._threads.submit(self._read, path, each, size_bytes)
            wanted = self._kept[path, index]
            self._kept.move_to_end((path, index))
            while len(self._kept) > _WINDOWS_KEPT:
                self._kept.popitem(last=False)
        return wanted

    def forget(self, path: str, index: int | None = None) -> None:
        """Keep nothing of an object, or not one window."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == path and index in {None, key[1]}]:
                self._kept.pop(key).cancel()

    def _read(self, path: str, index: int, size_bytes: int) -> memoryview:
        start = index * _WINDOW_BYTES
        end = min(start + _WINDOW_BYTES, size_bytes)
        return memoryview(obstore.get_range(self._store, path, start=start, end=end))


class _BucketReader:
    def __init__(self, objects: BucketObjects, windows: _Windows, path: str, size_bytes: int) -> None:
        self._objects = objects
        self._windows = windows
        self._path = path
        self.size_bytes = size_bytes

    def read(self, offset_bytes: int, length_bytes: int) -> bytes | memoryview:
        end = offset_bytes + length_bytes
        if end > self.size_bytes:
            shown = self._objects.shown(self._path)
            raise corrupt(f"The object {shown} is truncated: it ends at byte {self.size_bytes}.")
        pieces = []
        while offset_bytes < end:
            index, within = divmod(offset_bytes, _WINDOW_BYTES)
            length = min(end - offset_bytes, _WINDOW_BYTES - within)
            piece = self._window(index)[within : within + length]
            if len(piece) < length:
                raise corrupt(f"The object {self._objects.shown(self._path)} became shorter while it was read.")
            pieces.append(piece)
            offset_bytes += length
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _window(self, index: int) -> memoryview:
        window = self._windows.of(self._path, index, self.size_bytes, ahead=_WINDOWS_AHEAD)
        try:
            with self._objects.explained(self._path):
                return window.result()
        except BaseException:
            self._windows.forget(self._path, index)
            raise

    def close(self) -> None:
        self._windows.forget(self._path)

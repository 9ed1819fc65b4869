"""Snapshots in a bucket, over real HTTP: what is stored comes back, and what the store refuses is told for what it is."""

from __future__ import annotations

import http.server
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
from support.buckets import BUCKET, s3_environment, s3_server
from support.snapshots import HEADER, KEY, SNAPSHOT, Place, contents, mixed

from nodeworker.store import SnapshotStore, buckets
from nodeworker.store.buckets import open_bucket
from nodeworker.store.identity import MARK
from woodfrog.protocol.failures import CONDEMNING_CODES, FailureError

pytestmark = pytest.mark.timeout(120)

URL = f"s3://{BUCKET}/a/prefix"


@pytest.fixture(scope="module")
def served() -> Iterator[dict[str, str]]:
    with s3_server() as environment:
        yield environment


@pytest.fixture
def s3(served: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in served.items():
        monkeypatch.setenv(name, value)
    return served


@pytest.fixture
def place(tmp_path: Path, s3: dict[str, str]) -> Iterator[Place]:
    place = Place(tmp_path)
    place.store = SnapshotStore(URL, workers=4)
    yield place
    place.store.discard(KEY, SNAPSHOT)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up after the second try."""
    monkeypatch.setattr(buckets, "_RETRIES", 1)


def keys(s3: dict[str, str]) -> list[str]:
    client = boto3.client("s3", endpoint_url=s3["AWS_ENDPOINT_URL"], region_name="us-east-1")
    listed = client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    client.close()
    return [each["Key"] for each in listed]


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(FailureError) as refused:
        call()
    assert refused.value.failure.advice
    return refused.value.failure.code


def test_a_snapshot_goes_to_s3_and_comes_back(place: Place, s3: dict[str, str]) -> None:
    mixed(place)
    stored = place.put()
    assert all(key.startswith(f"a/prefix/{KEY}/{SNAPSHOT}/") for key in keys(s3) if not key.endswith(MARK))
    assert place.fetch(stored) == contents(place.images)
    place.store.discard(KEY, SNAPSHOT)
    assert [key for key in keys(s3) if not key.endswith(MARK)] == []
    assert code_of(lambda: place.open(stored)) == "snapshot-missing"


def test_packs_of_many_parts_and_windows_come_back(place: Place, s3: dict[str, str]) -> None:
    place.write("large", random.Random(3).randbytes(41 * 1024 * 1024 + 7))
    place.write("small", b"x" * 5)
    assert place.fetch(place.put()) == contents(place.images)


def test_storing_again_replaces_and_a_repeated_upload_is_no_failure(place: Place, s3: dict[str, str]) -> None:
    mixed(place)
    first = place.put()
    assert place.put() == first
    place.store._objects.remove = lambda folder, name: None  # type: ignore[method-assign]
    assert place.put() == first


def test_another_manifest_is_not_overwritten(s3: dict[str, str]) -> None:
    objects = open_bucket(URL, s3)
    first = objects.create("folder")
    first.write(b"first")
    first.commit("manifest.json", exclusive=True)
    second = objects.create("folder")
    second.write(b"second")
    with pytest.raises(FileExistsError):
        second.commit("manifest.json", exclusive=True)
    reader = objects.open("folder/manifest.json")
    assert bytes(reader.read(0, reader.size_bytes)) == b"first"
    objects.remove("folder", "manifest.json")


def test_a_missing_bucket_is_not_a_missing_snapshot(place: Place, s3: dict[str, str]) -> None:
    mixed(place)
    stored = place.put()
    elsewhere = SnapshotStore("s3://another-bucket/prefix")
    for call in (
        lambda: elsewhere.put(HEADER, [place.listed()]),
        lambda: elsewhere.open_manifest(KEY, SNAPSHOT, stored.manifest_digest),
        lambda: elsewhere.discard(KEY, SNAPSHOT),
    ):
        assert code_of(call) == "store-bucket-missing"


@contextmanager
def refusing(status: int, code: str) -> Iterator[tuple[str, list[str]]]:
    """An S3 server that answers everything with one error."""
    asked: list[str] = []

    class Refuse(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _refuse(self) -> None:
            asked.append(f"{self.command} {self.path}")
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    for verb in ("GET", "PUT", "HEAD", "POST", "DELETE"):
        setattr(Refuse, f"do_{verb}", Refuse._refuse)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "said", "code"),
    [
        (403, "AccessDenied", "store-denied"),
        (403, "InvalidAccessKeyId", "store-credentials"),
        (403, "SignatureDoesNotMatch", "store-credentials"),
        (400, "ExpiredToken", "store-credentials"),
        (403, "RequestTimeTooSkewed", "store-credentials"),
        (503, "SlowDown", "store-throttled"),
        (429, "TooManyRequests", "store-throttled"),
        (500, "InternalError", "store-unreachable"),
        (404, "NoSuchBucket", "store-bucket-missing"),
    ],
)
def test_what_a_store_refuses_is_told_for_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hurried: None, status: int, said: str, code: str
) -> None:
    place = Place(tmp_path)
    mixed(place)
    with refusing(status, said) as (endpoint, asked):
        for name, value in s3_environment(endpoint).items():
            monkeypatch.setenv(name, value)
        place.store = SnapshotStore(URL, workers=2)
        assert code_of(place.put) == code
        assert code not in CONDEMNING_CODES
        if status >= 500:
            assert len(asked) > 1, "it is asked again"
        assert code_of(lambda: place.store.open_manifest(KEY, SNAPSHOT, "0" * 64)) not in CONDEMNING_CODES


def test_a_store_that_cannot_be_reached_says_nothing_about_a_snapshot(
    place: Place, monkeypatch: pytest.MonkeyPatch, hurried: None
) -> None:
    mixed(place)
    stored = place.put()
    good = place.store
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    place.store = SnapshotStore(URL)
    assert code_of(lambda: place.open(stored)) == "store-unreachable"
    place.store = good


def test_without_credentials_a_worker_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hurried: None, s3: dict[str, str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with refusing(403, "Forbidden") as (metadata, _):
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", metadata)
        place = Place(tmp_path)
        mixed(place)
        place.store = SnapshotStore(URL)
        assert code_of(place.put) == "store-credentials"


@pytest.mark.parametrize(
    ("url", "environment"),
    [
        ("gs://bucket/prefix", {}),
        ("az://container/prefix", {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"}),
        ("s3://bucket", {}),
    ],
)
def test_every_cloud_is_reached_by_its_url_and_its_usual_variables(
    url: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert open_bucket(url, environment).shown("a") == f"{url}/a"


@pytest.mark.parametrize(
    "url", ["s3://", "s4://bucket", "bucket", "", "s3://key:secret@bucket/", "s3://bucket/a?region=x", "az://container", "memory:///"]
)  # fmt: skip
def test_a_url_that_names_no_bucket_is_refused_at_the_start(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(ValueError, match="store"):
        SnapshotStore(url)


def test_a_bucket_keeps_its_identity_when_a_rule_removes_the_mark(tmp_path: Path, s3: dict[str, str]) -> None:
    url = f"s3://{BUCKET}/marked"
    store = SnapshotStore(url, remembered=tmp_path)
    identity = store.identity.read()
    assert f"marked/{MARK}" in keys(s3)
    assert SnapshotStore(url).identity.read() == identity, "another node reads the same mark"
    client = boto3.client("s3", endpoint_url=s3["AWS_ENDPOINT_URL"], region_name="us-east-1")
    client.delete_object(Bucket=BUCKET, Key=f"marked/{MARK}")
    client.close()
    assert SnapshotStore(url, remembered=tmp_path).identity.read() == identity
    assert f"marked/{MARK}" in keys(s3)

"""A bucket's snapshots are encrypted without anybody asking, and the key outlives every upgrade."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.chart import Manifest, RefusedError, one, pods, render
from support.chart_lookup import Cluster, cluster

from woodfrog.service.data_keys import Recipient, Unwrapper

pytestmark = pytest.mark.timeout(180)

BUCKET = {"store": {"type": "s3", "bucket": "b"}}


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path) as made:
        made.objects["Namespace", "kube-system"] = {
            "kind": "Namespace",
            "apiVersion": "v1",
            "metadata": {"name": "kube-system"},
        }
        yield made


def key(manifests: list[Manifest]) -> str | None:
    found = [
        each for each in manifests if each["kind"] == "Secret" and each["metadata"]["name"] == "woodfrog-store-key"
    ]
    worker: dict[str, Any] = one(manifests, "DaemonSet", "woodfrog-node")["spec"]["template"]["spec"]["containers"][0]
    told = {each["name"] for each in worker["env"]}
    assert ("WOODFROG_STORE_KEY_FILE" in told) == bool(found)
    return str(found[0]["data"]["key"]) if found else None


@pytest.mark.parametrize(
    "store",
    [{"type": "s3", "bucket": "b"}, {"type": "gcs", "bucket": "b"}, {"type": "azure", "bucket": "b", "account": "a"}],
)
def test_a_first_installation_encrypts_what_it_stores_in_a_bucket_and_keeps_the_key(
    there: Cluster, store: dict[str, str]
) -> None:
    first = there.render({"store": store})
    assert key(first) is not None
    there.apply(first)
    assert key(there.render({"store": store})) == key(first)
    kept = one(first, "Secret", "woodfrog-store-key")["metadata"]["annotations"]
    assert kept["helm.sh/resource-policy"] == "keep"


def test_a_key_that_outlived_an_earlier_release_is_used_again(there: Cluster) -> None:
    first = there.render(BUCKET)
    there.apply([one(first, "Secret", "woodfrog-store-key")])
    assert key(there.render(BUCKET)) == key(first)


def test_an_installation_without_encryption_is_not_changed_behind_its_back(there: Cluster) -> None:
    there.apply(there.render({"store": {"type": "s3", "bucket": "b", "encryption": {"generate": False}}}))
    assert key(there.render(BUCKET)) is None
    assert key(there.render({"store": {"type": "s3", "bucket": "b", "encryption": {"generate": True}}})) is not None


def test_no_key_is_made_where_there_is_nothing_to_keep_it_in_or_that_holds_a_bucket(there: Cluster) -> None:
    assert key(render(BUCKET)) is None  # every rendering would make another, and no snapshot could be read
    assert key(there.render({})) is None


def test_a_key_of_ones_own_goes_before(there: Cluster) -> None:
    manifests = there.render({"store": {"type": "s3", "bucket": "b", "encryption": {"existingSecret": "mine"}}})
    assert not [each for each in manifests if each["metadata"]["name"] == "woodfrog-store-key"]


PER_SNAPSHOT = {"store": {"type": "s3", "bucket": "b", "encryption": {"perSnapshotKeys": {"enabled": True}}}}


def test_the_private_key_for_snapshots_own_keys_is_the_control_planes_alone_and_stays(
    there: Cluster, tmp_path: Path
) -> None:
    first = there.render(PER_SNAPSHOT)
    there.apply(first)
    second = there.render(PER_SNAPSHOT)
    private, public = (
        [one(each, "Secret", f"woodfrog-data-key{name}") for each in (first, second)] for name in ("", "-recipient")
    )
    assert private[0]["data"] == private[1]["data"]
    assert public[0]["data"] == public[1]["data"]
    assert set(public[0]["data"]) == {"tls.crt"}
    assert private[0]["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    holders = [
        name
        for name, pod in pods(first)
        if "woodfrog-data-key" in {volume.get("secret", {}).get("secretName") for volume in pod.get("volumes", [])}
    ]
    assert holders == ["Deployment/woodfrog-controlplane"]

    for name, key, secret in (("key", "tls.key", private[0]), ("pub", "tls.crt", public[0])):
        (tmp_path / name).write_bytes(base64.b64decode(secret["data"][key]))
    wrapped = Recipient.from_file(tmp_path / "pub").wrap(b"k" * 32, b"a snapshot")
    assert Unwrapper.from_file(tmp_path / "key").unwrap(wrapped, b"a snapshot") == b"k" * 32


@pytest.mark.parametrize(
    ("encryption", "word"),
    [
        ({"generate": False, "perSnapshotKeys": {"enabled": True}}, "needs the store's key"),
        ({"existingSecret": "k", "perSnapshotKeys": {"enabled": True, "existingSecret": "p"}}, "or neither"),
    ],
)
def test_keys_for_snapshots_that_cannot_work_are_refused(there: Cluster, encryption: dict[str, Any], word: str) -> None:
    with pytest.raises(RefusedError, match=word):
        there.render({"store": {"type": "s3", "bucket": "b", "encryption": encryption}})


def test_no_keys_for_snapshots_are_made_where_nothing_can_keep_them() -> None:
    values = {
        "store": {
            "type": "s3",
            "bucket": "b",
            "encryption": {"existingSecret": "k", "perSnapshotKeys": {"enabled": True}},
        }
    }
    with pytest.raises(RefusedError, match="every rendering"):
        render(values)

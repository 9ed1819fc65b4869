"""A bucket's snapshots are encrypted without anybody asking, and the key outlives every upgrade."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.chart import Manifest, one, render
from support.chart_lookup import Cluster, cluster

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

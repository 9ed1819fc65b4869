""".NET inside Python: a thread pool, a queue and a timer of .NET's count, while its collector works."""

import json
import os
from pathlib import Path

import dotnetcore2
from clr_loader import get_coreclr
from pythonnet import set_runtime

HOME = Path(dotnetcore2.__file__).parent / "bin"
NAME = "Microsoft.NETCore.App"

os.environ["DOTNET_SYSTEM_GLOBALIZATION_INVARIANT"] = "1"  # without libicu
version = os.listdir(HOME / "shared" / NAME)[0]
config = Path("/tmp/dotnet.runtimeconfig.json")
config.write_text(json.dumps({"runtimeOptions": {"framework": {"name": NAME, "version": version}}}))
set_runtime(get_coreclr(runtime_config=str(config), dotnet_root=str(HOME)))

import clr  # noqa: E402 -- the run-time is chosen before

clr.AddReference("System.Collections.Concurrent")
from System import GC, Array, Byte  # noqa: E402
from System.Collections.Concurrent import BlockingCollection  # noqa: E402
from System.Threading import ThreadPool, Timer, TimerCallback, WaitCallback  # noqa: E402

ticks, sums = BlockingCollection[int](), BlockingCollection[int]()
timer = Timer(TimerCallback(lambda _: ticks.Add(1)), None, 50, 50)
count = 0
with open("/out", "a", buffering=1) as out:
    while True:
        tick = ticks.Take()
        ThreadPool.QueueUserWorkItem(WaitCallback(lambda _, tick=tick: sums.Add(count + tick)))
        count = sums.Take()
        Array.CreateInstance(Byte, 1 << 20)
        print(count, file=out)
        if count % 10 == 0:
            GC.Collect()

"""Programs on a real GPU that need nothing but Python and the driver: kernels are PTX, which the driver compiles itself.

``on_gpu.py MODE FILE [BYTES]``: every number written to FILE was counted on the GPU, and is checked there in all of memory.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time

PTX = b"""
.version 6.4
.target sm_60
.address_size 64
.visible .entry add_one(.param .u64 data, .param .u32 count)
{
    .reg .pred %p<2>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [data];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32 %rd3, %r5, 4;
    add.s64 %rd4, %rd2, %rd3;
    ld.global.u32 %r6, [%rd4];
    add.u32 %r7, %r6, 1;
    st.global.u32 [%rd4], %r7;
DONE:
    ret;
}
\0"""
THREADS = 256
WORDS = 1 << 20


class Gpu:
    """The first GPU, with one kernel."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")
        self("cuInit", 0)
        device = ctypes.c_int()
        self("cuDeviceGet", ctypes.byref(device), 0)
        self.context = ctypes.c_void_p()
        self("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), device)
        self("cuCtxSetCurrent", self.context)
        module, self.kernel = ctypes.c_void_p(), ctypes.c_void_p()
        self("cuModuleLoadData", ctypes.byref(module), PTX)
        self("cuModuleGetFunction", ctypes.byref(self.kernel), module, b"add_one")

    def __call__(self, function: str, *arguments: object) -> None:
        code = getattr(self.library, function)(*arguments)
        if code != 0:
            raise SystemExit(f"{function}: CUDA error {code}")

    def allocate(self, size: int) -> ctypes.c_uint64:
        at = ctypes.c_uint64()
        self("cuMemAlloc_v2", ctypes.byref(at), ctypes.c_size_t(size))
        self("cuMemsetD32_v2", at, 0, ctypes.c_size_t(size // 4))
        return at

    def add_one(self, at: ctypes.c_uint64, words: int, stream: ctypes.c_void_p | None = None) -> None:
        count = ctypes.c_uint(words)
        parameters = (ctypes.c_void_p * 2)(ctypes.addressof(at), ctypes.addressof(count))
        grid = (words + THREADS - 1) // THREADS
        self("cuLaunchKernel", self.kernel, grid, 1, 1, THREADS, 1, 1, 0, stream, parameters, None)

    def read(self, at: ctypes.c_uint64, words: int) -> list[int]:
        found = (ctypes.c_uint * words)()
        self("cuMemcpyDtoH_v2", found, at, ctypes.c_size_t(4 * words))
        return list(found)


def write(path: str, number: int) -> None:
    with open(path, "a") as file:
        file.write(f"{number}\n")


def same(words: list[int]) -> int:
    if len(set(words)) != 1:
        raise SystemExit(f"the GPU's memory holds {sorted(set(words))[:5]} where one number must be")
    return words[0]


def add(path: str, size: int) -> None:
    """The seed's vector addition, in a loop, over all of an allocation; the rest is only held."""
    gpu = Gpu()
    words = min(WORDS, size // 4)
    data, held = gpu.allocate(4 * words), []
    while size - 4 * words > 4096:
        piece = min(1 << 30, size - 4 * words)
        held.append(gpu.allocate(piece))
        size -= piece
    count(gpu, data, words, path)


def count(gpu: Gpu, data: ctypes.c_uint64, words: int, path: str) -> None:
    while True:
        gpu.add_one(data, words)
        write(path, same(gpu.read(data, words)))
        time.sleep(0.02)


def features(path: str, size: int) -> None:
    """Pinned memory that the GPU writes to, two streams, and a graph that is launched again and again."""
    gpu = Gpu()
    streams = [ctypes.c_void_p() for _ in range(2)]
    for stream in streams:
        gpu("cuStreamCreate", ctypes.byref(stream), 1)
    pinned, data = ctypes.c_void_p(), [gpu.allocate(4 * WORDS) for _ in streams]
    gpu("cuMemHostAlloc", ctypes.byref(pinned), ctypes.c_size_t(4 * WORDS), 3)
    graph, runnable = ctypes.c_void_p(), ctypes.c_void_p()
    gpu("cuStreamBeginCapture_v2", streams[0], 0)
    gpu.add_one(data[0], WORDS, streams[0])
    gpu("cuMemcpyDtoHAsync_v2", pinned, data[0], ctypes.c_size_t(4 * WORDS), streams[0])
    gpu("cuStreamEndCapture", streams[0], ctypes.byref(graph))
    gpu("cuGraphInstantiateWithFlags", ctypes.byref(runnable), graph, ctypes.c_uint64(0))
    while True:
        gpu("cuGraphLaunch", runnable, streams[0])
        gpu.add_one(data[1], WORDS, streams[1])
        for stream in streams:
            gpu("cuStreamSynchronize", stream)
        through_graph = same(list((ctypes.c_uint * WORDS).from_address(pinned.value or 0)))
        if through_graph != same(gpu.read(data[1], WORDS)):
            raise SystemExit("the streams do not agree")
        write(path, through_graph)
        time.sleep(0.02)


def two(path: str, size: int) -> None:
    """A second process on the same GPU, started and not forked."""
    subprocess.Popen([sys.executable, __file__, "add", f"{path}.2", str(size)])
    add(path, size)


class IpcHandle(ctypes.Structure):
    """CUipcMemHandle."""

    _fields_ = (("reserved", ctypes.c_ubyte * 64),)


def ipc(path: str, size: int) -> None:
    """A second process counts in memory that is this one's, by CUDA IPC; this one counts in other memory (FILE.2)."""
    gpu = Gpu()
    handle = IpcHandle()
    gpu("cuIpcGetMemHandle", ctypes.byref(handle), gpu.allocate(4 * WORDS))
    words = [sys.executable, __file__, "borrow", path, str(size), bytes(handle).hex()]
    subprocess.Popen(words, close_fds=False)  # the file of the job that both are in must stay open
    count(gpu, gpu.allocate(4 * WORDS), WORDS, f"{path}.2")


def borrow(path: str, size: int) -> None:
    """The second process of ``ipc``."""
    gpu = Gpu()
    handle = IpcHandle.from_buffer_copy(bytes.fromhex(sys.argv[4]))
    data = ctypes.c_uint64()
    gpu("cuIpcOpenMemHandle_v2", ctypes.byref(data), handle, 1)
    count(gpu, data, WORDS, path)


if __name__ == "__main__":
    mode, file, *rest = sys.argv[1:]
    act = {"add": add, "features": features, "two": two, "ipc": ipc, "borrow": borrow}[mode]
    act(file, int(rest[0]) if rest else 4 * WORDS)

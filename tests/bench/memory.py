"""Memory as processes have it, from a fixed seed: what the benchmarks dump, store and restore.

The pages come in runs of 64 KiB to 8 MiB: 20 % zero (touched and never filled), 35 % pointers and small integers (heap of an
interpreter), 20 % text (JSON lines), 25 % random (weights, compressed and encrypted caches).
"""

from __future__ import annotations

import random
from pathlib import Path

SEED = 20261123


def _heap(size: int, rng: random.Random) -> bytes:
    """Objects as CPython lays them out: a count, a type pointer, and a few pointers or small numbers."""
    types = [0x7F3A_1C00_0000 + rng.randrange(1 << 20) * 16 for _ in range(60)]
    base = 0x7F3A_2000_0000
    words: list[int] = []
    while len(words) * 8 < size:
        words += (rng.choice((1, 1, 1, 2, 3)), rng.choice(types), rng.choice((0, 1, 2, 24, 64)))
        words += (base + rng.randrange(1 << 22) * 16, rng.randrange(1 << 14), base + (len(words) << 3))
    return b"".join(word.to_bytes(8, "little") for word in words)[:size]


def _text(size: int, rng: random.Random) -> bytes:
    """JSON lines with words, numbers and identifiers."""
    words = ["".join(rng.choices("etaoinshrdlucmfwypvbgk", k=rng.randint(2, 11))) for _ in range(4000)]
    lines: list[str] = []
    length = 0
    while length < size:
        said = " ".join(rng.choices(words, k=rng.randint(4, 30)))
        lines.append(f'{{"id": "{rng.getrandbits(64):016x}", "score": {rng.random():.6f}, "text": "{said}"}}\n')
        length += len(lines[-1])
    return "".join(lines).encode()[:size]


def write_memory(path: Path, size_bytes: int) -> None:
    """Write ``size_bytes`` of the memory described above."""
    rng = random.Random(SEED)
    sources = {"heap": _heap(24 << 20, rng), "text": _text(24 << 20, rng)}
    with path.open("wb") as pages:
        left = size_bytes
        serial = 0
        while left:
            size = min(left, rng.choice((64, 128, 256, 512, 1024, 2048, 4096, 8192)) << 10)
            kind = rng.choices(("zero", "heap", "text", "random"), (20, 35, 20, 25))[0]
            if kind == "zero":
                pages.write(bytes(size))
            elif kind == "random":
                pages.write(rng.randbytes(size))
            else:
                start = rng.randrange(len(sources[kind]) - size) & ~4095
                block = bytearray(sources[kind][start : start + size])
                for page in range(0, size, 4096):  # no two pages are the same, so that nobody gains by a repetition
                    serial += 1
                    number = serial * 0x9E37_79B9_7F4A_7C15 & ((1 << 64) - 1)
                    block[page + 8 : page + 16] = number.to_bytes(8, "little")
                pages.write(block)
            left -= size

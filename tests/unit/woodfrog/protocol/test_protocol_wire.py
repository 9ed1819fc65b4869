"""The decoder under threads: msgspec learns a Struct's fields at its first use, and two first uses at once end the process."""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec
import pytest

from woodfrog.protocol import wire
from woodfrog.protocol.requests import ResolveRequest

pytestmark = pytest.mark.timeout(20)


def test_no_two_threads_ever_learn_a_type_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    learning, most = 0, 0
    real = msgspec.json.Decoder

    def slow(as_type: Any) -> msgspec.json.Decoder[Any]:
        nonlocal learning, most
        learning += 1
        most = max(most, learning)
        time.sleep(0.02)
        learning -= 1
        return real(as_type)

    monkeypatch.setattr(msgspec.json, "Decoder", slow)
    wire._decoder.cache_clear()
    together = threading.Barrier(6)

    def first_use(as_type: Any) -> None:
        together.wait()
        with pytest.raises(wire.MalformedMessageError):
            wire.decode(b"{", as_type)

    types = [ResolveRequest, int, str] * 2
    threads = [threading.Thread(target=first_use, args=(as_type,)) for as_type in types]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1

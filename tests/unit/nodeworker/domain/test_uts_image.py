"""The host name in CRIU's images: read, replaced, and nothing believed that has another form."""

from __future__ import annotations

import pytest

from nodeworker.domain.uts_image import names_of, with_names

pytestmark = pytest.mark.timeout(5)

IMAGE = bytes.fromhex("1943565403324754") + (15).to_bytes(4, "little") + b"\x0a\x05first\x12\x06(none)"
"""As CRIU 4.2 writes it."""


def test_a_name_is_replaced_and_the_other_stays() -> None:
    assert names_of(IMAGE) == {"hostname": "first", "domainname": "(none)"}
    assert names_of(with_names(IMAGE, {"hostname": "träiner-2"})) == {"hostname": "träiner-2", "domainname": "(none)"}
    assert with_names(IMAGE, {}) == IMAGE
    assert names_of(with_names(IMAGE, {"hostname": "h" * 64}))["hostname"] == "h" * 64


def test_a_name_that_the_kernel_would_refuse_is_refused() -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        with_names(IMAGE, {"hostname": "h" * 65})


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        IMAGE[:11],
        IMAGE[:-1],
        IMAGE + b"x",
        b"x" + IMAGE[1:],
        IMAGE.replace(b"\x12", b"\x1a"),
        IMAGE[:8] + bytes(4),
    ],
)
def test_an_image_of_another_form_is_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError, match="UTS namespace"):
        with_names(wrong, {"hostname": "x"})

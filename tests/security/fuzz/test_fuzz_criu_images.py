"""CRIU's images: whatever is in them, they are read as CRIU does or refused, and what was lowered is low."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import strategies as st
from support.criu_images import SPECIMENS, load, magic_of
from support.fuzzing import bytes_of, fuzz, is_short

from nodeworker.domain.criu_images import (
    CannotLowerError,
    MalformedImageError,
    connections,
    form,
    lower,
    mounted_places,
    read_privileges,
    repaired,
)
from nodeworker.domain.criu_images.protobuf import Message, data_field, number_field
from nodeworker.domain.uts_image import names_of, with_names
from woodfrog.protocol.privileges import CAPABILITY_SETS, Privileges, ceiling, excess

NETWORK = connections.Network(frozenset({ip_address("127.0.0.1")}), {4: ip_address("10.0.0.1")})
NUMBERS = [0, 1, 2, 3, 6, 7, 1 << 21, 1 << 22, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
BYTES = [b"", b"\0", b"/", b"..", b"/a/../b", b"/vol", b"\xff" * 9, b"\x08\x01" * 3, b"a" * 3000]
edits = st.lists(
    st.tuples(
        st.sampled_from(["number", "data", "double", "remove", "swap", "add", "deeper", "deeper", "deeper"]),
        st.integers(0, 1 << 16),
        st.sampled_from(NUMBERS),
        st.sampled_from(BYTES),
    ),
    min_size=1,
    max_size=8,
)


def changed(raw: bytes, steps: list[tuple[str, int, int, bytes]]) -> bytes:
    """Change a message, or one within it, step by step."""
    if not steps:
        return raw
    (kind, place, number, data), *rest = steps
    try:
        fields = [one for many in Message(raw, "it")._fields.values() for one in many]
    except MalformedImageError:
        return raw
    if not fields:
        return raw + number_field(1 + place % 20, number)
    field = fields[place % len(fields)]
    before, own, after = raw[: field.start], raw[field.start : field.end], raw[field.end :]
    if kind == "deeper":
        if isinstance(field.value, bytes) and field.wire_type == 2:
            own = data_field(field.number, changed(field.value, rest))
        return before + own + after
    others = {
        "number": number_field(field.number, number),
        "data": data_field(field.number, data),
        "double": own * 2,
        "remove": b"",
        "swap": after + own,
        "add": own + number_field(1 + place % 20, number),
    }
    return changed(before + others[kind] + (b"" if kind == "swap" else after), rest)


class Images(dict[str, bytes]):
    """Shown by what differs from the specimen."""

    def __init__(self, specimen: str) -> None:
        self.specimen = specimen
        super().__init__(load(specimen))

    def __repr__(self) -> str:
        whole = load(self.specimen)
        differing = {
            name: self[name].hex()[:6000] if name in self else None for name in whole if self.get(name) != whole[name]
        }
        return f"{self.specimen} with {differing}"


@st.composite
def hostile(draw: st.DrawFn) -> Images:
    """The images of a dump, one of them or two not as CRIU wrote them."""
    images = Images(draw(st.sampled_from(SPECIMENS)))
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from([name for name in sorted(images) if name != "utsns-12.img"]))
        how = draw(st.integers(0, 5))
        if how == 0:
            images[name] = draw(bytes_of([images[name]]))
        elif how == 1:
            del images[name]
        else:
            try:
                messages = [one.raw for one in form.read_messages(images[name], magic_of(name), name)]
            except MalformedImageError:
                continue
            if messages:
                place = draw(st.integers(0, len(messages) - 1))
                messages[place] = changed(messages[place], draw(edits))
                images[name] = form.write_messages(messages, magic_of(name))
    return images


few = st.sampled_from([(), ("CAP_CHOWN",), ("CAP_CHOWN", "CAP_NET_RAW")])
allowed = st.builds(
    Privileges,
    user=st.sampled_from([0, 1]),
    uids=st.just((0,)),
    no_new_privs=st.booleans(),
    read_only=st.sampled_from([(), ("/sys",), ("/vol",), ("/", "/rovol", "/opt")]),
    rlimits=st.sampled_from([(), (("RLIMIT_NOFILE", 7),)]),
    oom_score_adj=st.sampled_from([None, -5, 900]),
    **dict.fromkeys(CAPABILITY_SETS, few),
)


@fuzz(images=hostile(), spec=allowed)
def test_privileges_are_read_and_lowered_or_the_images_are_refused(images: dict[str, bytes], spec: Privileges) -> None:
    try:
        held = read_privileges(images)
    except MalformedImageError as problem:
        is_short(problem)
        return
    mounted_places(images)
    try:
        changes = lower(images, ceiling(spec))
    except (CannotLowerError, MalformedImageError) as problem:
        is_short(problem, 20_000)
        return
    assert set(changes) <= set(images)
    after = images | changes
    low = read_privileges(after)
    wrong = [one for one in excess(low, spec) if one.lowers and one.field != "lsm"]
    assert "mount" in (held.host_namespaces or ()) or not wrong
    assert lower(after, ceiling(spec)) == {}
    for kind in CAPABILITY_SETS:
        assert set(getattr(low, kind)) <= set(getattr(held, kind))
    assert (low.uids, low.gids, low.groups, low.seccomp) == (held.uids, held.gids, held.groups, held.seccomp)


@fuzz(images=hostile())
def test_images_are_mended_once_or_refused(images: dict[str, bytes]) -> None:
    try:
        changes = repaired(images)
    except MalformedImageError as problem:
        is_short(problem)
        return
    assert set(changes) <= set(images)
    assert repaired(images | changes) == {}


@fuzz(images=hostile(), keep=st.booleans())
def test_connections_are_settled_or_refused(images: dict[str, bytes], *, keep: bool) -> None:
    try:
        settled = connections.settle(images, NETWORK, keep=keep)
    except MalformedImageError as problem:
        is_short(problem)
        return
    assert set(settled.changed) <= set(images)
    assert connections.settle(images | settled.changed, NETWORK, keep=keep).closed in {(), settled.closed}


UTS = [load(specimen)["utsns-12.img"] for specimen in SPECIMENS]


@fuzz(image=bytes_of(UTS), name=st.text(max_size=70))
def test_a_host_name_is_put_into_an_image_or_the_image_is_refused(image: bytes, name: str) -> None:
    try:
        renamed = with_names(image, {"hostname": name})
    except ValueError as problem:
        is_short(problem)
        return
    assert names_of(renamed)["hostname"] == name
    assert with_names(renamed, {"hostname": name}) == renamed

"""Adding one runtime to a containerd's configuration, and taking it out again, without touching a byte of the rest.

Administrators keep comments, order and formatting in that file, and a tool that parses and writes it anew loses them. So
text is put in as a block between two marks and cut out again, and the parsed file before and after must differ by our
tables alone. Where the marks were lost, because somebody did write the file anew, the tables themselves are cut.

A configuration says in ``version`` under which name it knows the CRI plugin (containerd-config.toml(5)).
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from nodeworker.domain.dump_scheduling import GRACE_PERIOD

HANDLER: Final = "cedana"
ANNOTATIONS: Final = "woodfrog.io/*"
RUNC_TYPE: Final = "io.containerd.runc.v2"

Table = dict[str, Any]

_PLUGINS: Final = {1: "cri", 2: "io.containerd.grpc.v1.cri"}
_PLUGIN_SINCE_3: Final = "io.containerd.cri.v1.runtime"
_BEGIN: Final = "# woodfrog: begin (added by `woodfrog-node install`; `woodfrog-node uninstall` removes it)"
_BEGIN_MID_LINE: Final = "# woodfrog: begin (as above; the line before had no end)"
_END: Final = "# woodfrog: end"
_BLOCK: Final = re.compile(
    rf"^{re.escape(_BEGIN)}\n.*?^{_END}\n|\n{re.escape(_BEGIN_MID_LINE)}\n.*?^{_END}\n", re.MULTILINE | re.DOTALL
)
_HEADER: Final = re.compile(r"\s*\[.*\]\s*(#.*)?$")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_MEANS_NOTHING: Final[tuple[object, ...]] = ("", 0, False, [], {}, "podsandbox")
"""Values of a runtime's table that say what leaving the key out says."""


class ConfigError(ValueError):
    """The configuration cannot be edited so that only our part changes; the message says why."""


def parse(text: str) -> Table:
    """Parse a configuration.

    Raises:
        ConfigError: if it is no TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(f"it is not valid TOML: {problem}") from problem


def version(config: Table) -> int:
    """Tell the layout of a parsed configuration; one that does not say is of the first."""
    found = config.get("version", 1)
    return found if isinstance(found, int) else 1


def plugin(layout: int) -> str:
    """Name the CRI plugin as a layout does."""
    return _PLUGINS.get(layout, _PLUGIN_SINCE_3)


def runtimes(config: Table) -> dict[str, Table]:
    """All runtimes of the CRI that a parsed configuration names."""
    found: dict[str, Table] = _dig(config, *_path(config))
    return found


def default_runtime(config: Table) -> tuple[str, Table]:
    """Tell the runtime that pods without a class get, if it is runc's kind, else the one called ``runc``."""
    known = runtimes(config)
    named = _dig(config, *_path(config)[:-1]).get("default_runtime_name") or "runc"
    if known.get(named, {}).get("runtime_type", RUNC_TYPE) != RUNC_TYPE:
        named = "runc"
    return named, known.get(named, {})


def cri_disabled(config: Table) -> bool:
    """Whether the configuration turns the CRI plugin off, as Docker's own packages do."""
    disabled = config.get("disabled_plugins") or []
    return any(name in disabled for name in ("cri", *_PLUGINS.values(), _PLUGIN_SINCE_3))


def has_plugin(config: Table) -> bool:
    """Whether the configuration has a section of the CRI plugin."""
    return bool(_dig(config, "plugins", plugin(version(config))))


def our_runtime(base: Mapping[str, Any], binary: str) -> Table:
    """Make our runtime's table: the node's own runtime in all, but for the binary and what annotations pass."""
    table = {key: value for key, value in base.items() if value not in _MEANS_NOTHING and key != "options"}
    options = {key: value for key, value in base.get("options", {}).items() if value not in _MEANS_NOTHING}
    for key, ours in (("pod_annotations", [ANNOTATIONS]), ("container_annotations", [ANNOTATIONS, GRACE_PERIOD])):
        table[key] = [*(each for each in base.get(key) or [] if each not in ours), *ours]
    return {"runtime_type": RUNC_TYPE, **table, "options": {**options, "BinaryName": binary}}


def is_ours(table: Mapping[str, Any], binary: str) -> bool:
    """Whether a runtime's table starts our binary."""
    return isinstance(table.get("options"), dict) and table["options"].get("BinaryName") == binary


def add(text: str, tables: Mapping[str, Table], *, layout: int = 1) -> str:
    """Add runtimes to a configuration. One that sets nothing yet is given the ``layout``; it would be taken as the first.

    Raises:
        ConfigError: if it is no TOML, has such a runtime already, or is written in a way that a table cannot be added to.
    """
    before = parse(text)
    known = runtimes(before)
    for name in tables:
        if name in known:
            raise ConfigError(f"it has a runtime {name!r} already")
    named = {} if before or layout == 1 else {"version": layout}
    path = _path(before | named)
    lines = [f"{key} = {value}" for key, value in named.items()]
    lines += [line for name, table in tables.items() for line in _render((*path, name), table)]
    opening = _BEGIN if not text or text.endswith("\n") else f"\n{_BEGIN_MID_LINE}"
    after = "\n".join([text + opening, *lines, _END, ""])
    expected = _with(before | named, path, tables)
    try:
        found = tomllib.loads(after)
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(f"its runtimes are written so that no table can be added to them: {problem}") from problem
    if found != expected:
        raise ConfigError("adding a runtime at its end would change more than that")
    return after


def cut(text: str, binary: str) -> str:
    """Take out what :func:`add` put in; text that has nothing of ours is returned as it is.

    Raises:
        ConfigError: if our runtime cannot be taken out without changing more.
    """
    bare = _BLOCK.sub("", text)
    before = parse(text)
    if not is_ours(runtimes(parse(bare)).get(HANDLER, {}), binary):
        return bare
    bare = "".join(_without_table(bare, (*_path(before), HANDLER)))
    expected = parse(text)
    runtimes(expected).pop(HANDLER)
    if runtimes(parse(bare)) != runtimes(expected):
        raise ConfigError(f"the runtime {HANDLER!r} is written so that it cannot be cut out by itself")
    return bare


def same_but_for(before: Table, after: Table, added: str) -> bool:
    """Whether two effective configurations agree in all but the runtime that was added and the list of files read."""
    trimmed = json.loads(json.dumps(after, default=str))
    runtimes(trimmed).pop(added, None)
    bare = json.loads(json.dumps(before, default=str))
    for each in (trimmed, bare):
        each.pop("imports", None)
    return bool(trimmed == bare)


def _path(config: Table) -> tuple[str, str, str, str]:
    return ("plugins", plugin(version(config)), "containerd", "runtimes")


def _dig(config: Any, *path: str) -> Any:
    for key in path:
        config = config.get(key, {}) if isinstance(config, dict) else {}
    return config if isinstance(config, dict) else {}


def _with(config: Table, path: tuple[str, ...], tables: Mapping[str, Table]) -> Table:
    copy: Table = json.loads(json.dumps(config, default=str))
    inner = copy
    for key in path:
        inner = inner.setdefault(key, {})
    inner.update(tables)
    # Dates have become text in the copy; containerd's configuration has none, and the comparison would only refuse.
    return copy


def _render(path: tuple[str, ...], table: Table) -> Iterator[str]:
    indent = "  " * (len(path) - 5)
    yield f"{indent}[{'.'.join(_key(part) for part in path)}]"
    for key, value in table.items():
        if not isinstance(value, dict):
            yield f"{indent}  {_key(key)} = {_value(value)}"
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _render((*path, key), value)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else json.dumps(key)


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_value(each) for each in value)}]"
    return json.dumps(value)


def _without_table(text: str, path: tuple[str, ...]) -> Iterator[str]:
    """Leave out a table and the ones below it; comments and blank lines that precede the next one stay with that."""
    held: list[str] = []
    ours = False
    for line, header in _lines(text):
        if header is not None:
            ours = header[: len(path)] == path
            if not ours:
                yield from held
            held = []
        if not ours:
            yield line
        elif line.strip() and not line.strip().startswith("#"):
            held = []
        else:
            held.append(line)
    yield from held


def _lines(text: str) -> Iterator[tuple[str, tuple[str, ...] | None]]:
    """Every line, with the path of the table that it opens."""
    quote = ""
    for line in text.splitlines(keepends=True):
        opens = None
        if not quote and _HEADER.match(line):
            try:
                opens = tuple(_keys(tomllib.loads(line)))
            except tomllib.TOMLDecodeError:
                opens = None
        for mark in ('"""', "'''"):
            if quote in {"", mark} and line.count(mark) % 2:
                quote = "" if quote else mark
        yield line, opens


def _keys(table: Any) -> Iterator[str]:
    while table:
        if isinstance(table, list):
            table = table[0]
            continue
        key, table = next(iter(table.items()))
        yield key

"""The privileges that a container's config.json allows.

What is not said there is as the OCI runtime specification (config.md, config-linux.md) has it: no capabilities where none are
named, and the node's own namespace where none of its kind is named.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from woodfrog.protocol.privileges import CAPABILITY_SETS, NO_FILTER, Privileges

IsHosts = Callable[[str, str], bool]
"""Whether the namespace of a kind (as config.json calls it) at a path is the node's own."""

_NAMESPACES: Final = ("cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts")
_OF_THE_PROFILE: Final = ("defaultAction", "defaultErrnoRet", "architectures", "flags", "syscalls")
"""What decides about calls; where a listener is told of them is another matter."""
_IDS: Final = range(1 << 32)
_LIMITS: Final = range(1 << 64)
_SCORES: Final = range(-1000, 1001)
_MOUNTED_READ_ONLY: Final = frozenset({"ro", "rro"})


def allowed(config: Mapping[str, Any], is_hosts: IsHosts) -> Privileges:
    """Read what a container allows.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: config.json is not what the specification says.
    """
    process, linux = config.get("process") or {}, config.get("linux") or {}
    user = process.get("user") or {}
    uid, gid = _number(user.get("uid") or 0, _IDS), _number(user.get("gid") or 0, _IDS)
    sets = process.get("capabilities") or {}
    named = {field: tuple(sorted(set(sets.get(field) or ()))) for field in CAPABILITY_SETS}
    score = process.get("oomScoreAdj")
    return Privileges(
        user=uid,
        given=named["ambient"] if uid else (),
        uids=(uid,),
        gids=(gid,),
        groups=tuple(sorted(_number(each, _IDS) for each in user.get("additionalGids") or ())),
        **named,
        no_new_privs=bool(process.get("noNewPrivileges")),
        seccomp=profile_digest(linux.get("seccomp")),
        lsm=tuple(_security_modules(process)),
        read_only=_places([*_read_only(config), *(linux.get("readonlyPaths") or ())]),
        masked=_places(linux.get("maskedPaths") or ()),
        host_namespaces=tuple(sorted(_host_namespaces(linux.get("namespaces") or (), is_hosts))),
        rlimits=tuple(
            sorted((str(each["type"]), _number(each["hard"], _LIMITS)) for each in process.get("rlimits") or ())
        ),
        oom_score_adj=None if score is None else _number(score, _SCORES),
    )


def profile_digest(profile: Mapping[str, Any] | None) -> str:
    """Name a seccomp profile by what it decides: the same rules in another order of names have the same digest."""
    if not profile:
        return NO_FILTER
    kept: dict[str, Any] = {name: profile[name] for name in _OF_THE_PROFILE if profile.get(name)}
    rules = [{**rule, "names": sorted(rule.get("names") or ())} for rule in kept.get("syscalls", ())]
    kept["syscalls"] = sorted(rules, key=lambda rule: json.dumps(rule, sort_keys=True))
    for name in ("architectures", "flags"):
        kept[name] = sorted(kept.get(name, ()))
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def lsm_profile(config: Mapping[str, Any]) -> str:
    """Name the AppArmor profile or SELinux label of a container as runc's ``--lsm-profile`` wants it; empty if it has none.

    A runtime may be given both and runc restores with one: a kernel confines by one of the two.
    """
    process = config.get("process") or {}
    if label := process.get("selinuxLabel"):
        return f"selinux:{label}"
    profile = process.get("apparmorProfile")
    return f"apparmor:{profile}" if profile and profile != "unconfined" else ""


def without_level(label: str) -> str:
    """Name the user, role and type of an SELinux label: its level is another for each container."""
    parts = label.split(":")
    return ":".join(parts[:3]) if len(parts) > 3 else label


def _number(value: object, among: range) -> int:
    if type(value) is not int or value not in among:
        raise ValueError(f"{value!r:.40} is not a number that can stand there")
    return value


def _security_modules(process: Mapping[str, Any]) -> Iterable[str]:
    if label := process.get("selinuxLabel"):
        yield without_level(str(label))
    if (profile := process.get("apparmorProfile")) and profile != "unconfined":
        yield str(profile)


def _read_only(config: Mapping[str, Any]) -> Iterable[str]:
    if (config.get("root") or {}).get("readonly"):
        yield "/"
    for mount in config.get("mounts") or ():
        said = [option for option in mount.get("options") or () if option in {*_MOUNTED_READ_ONLY, "rw", "rrw"}]
        if said and said[-1] in _MOUNTED_READ_ONLY:
            yield mount["destination"]


def _host_namespaces(namespaces: Iterable[Mapping[str, Any]], is_hosts: IsHosts) -> Iterable[str]:
    paths = {each["type"]: each.get("path") or "" for each in namespaces}
    for kind in _NAMESPACES:
        if kind not in paths or (paths[kind] and is_hosts(kind, paths[kind])):
            yield kind


def _places(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({posixpath.normpath(f"/{path.lstrip('/')}") for path in paths}))

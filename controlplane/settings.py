"""What may be set about the control plane: environment variables, as a pod or a shell sets them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from controlplane.core.policies import InvalidPolicyError, Policies, read_policies
from controlplane.domain.start_outcomes import RESTORE_TRIES
from controlplane.http.api.settings import ApiSettings, InvalidApiSettingError
from woodfrog.protocol.durations import InvalidAmountError, parse_bytes
from woodfrog.protocol.ids import InvalidIdError, check_id
from woodfrog.service.http import Address, InvalidAddressError
from woodfrog.service.natstls import InvalidTrustError, Trust

_MOST: Final = 1000
_MOST_REPORTS: Final = 10_000_000
_DNS_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


class InvalidSettingError(ValueError):
    """A variable is missing or says something that it may not; the message names it."""


class Settings(msgspec.Struct, frozen=True):
    """Everything that differs between two control planes."""

    database_url: str
    """``WOODFROG_DATABASE_URL``: SQLAlchemy's URL of the event log, e.g. ``sqlite+aiosqlite:////var/lib/woodfrog/log.db``."""
    log_archive: Path | None = None
    """``WOODFROG_LOG_ARCHIVE``: the directory of the files of archived events; none if it is not set."""
    log_key_file: Path | None = None
    """``WOODFROG_LOG_KEY_FILE``: the secret by which heads of the log are signed; they are not if it is not set."""
    nats_url: str = "nats://127.0.0.1:4222"
    """``WOODFROG_NATS_URL``."""
    nats_seed_file: Path | None = None
    """``WOODFROG_NATS_SEED_FILE``: the nkey seed by which NATS knows this control plane; none if the URL says who it is."""
    nats_trust: Trust = Trust()
    """``WOODFROG_NATS_CA_FILE`` and ``WOODFROG_NATS_INSECURE``: see :mod:`woodfrog.service.natstls`."""
    data_key_file: Path | None = None
    """``WOODFROG_DATA_KEY_FILE``: private keys by which the keys of snapshots are unwrapped for who is to restore them."""
    nats_callout_dir: Path | None = None
    """``WOODFROG_NATS_CALLOUT_DIR``: holds ``callout.seed`` and ``issuer.seed``; unset: NATS asks nobody about connections."""
    node_service_account: tuple[str, str] = ("", "")
    """``WOODFROG_NODE_SERVICE_ACCOUNT``: ``<namespace>/<name>``, as whom node workers run; needed with the former."""
    instance: str = ""
    """``WOODFROG_INSTANCE``: what people call this one of several control planes; the host's name if it is not set."""
    cluster: str = "local"
    """``WOODFROG_CLUSTER``: named in audit messages."""
    node_lost_seconds: float = 15.0
    """``WOODFROG_NODE_LOST_SECONDS``: how long a worker may be silent before nobody waits for it any more."""
    handover_seconds: float = 120.0
    """``WOODFROG_HANDOVER_SECONDS``: the longest that a start waits for its predecessor's snapshot."""
    record_details: bool = False
    """``WOODFROG_RECORD_DETAILS``: whether the log takes the lines of CRIU's and runc's logs that failures carry."""
    restore_tries: int = RESTORE_TRIES
    """``WOODFROG_RESTORE_TRIES``: from how many containers in a row that failed soon after their restore a snapshot is passed over."""

    lease: Literal["sql", "kubernetes"] = "sql"
    """``WOODFROG_LEASE``: where the lease lies by which one of several control planes leads: in the log's database, or in the Lease
    ``woodfrog-controlplane`` of the namespace ``WOODFROG_POD_NAMESPACE``."""
    pod_namespace: str = ""
    """``WOODFROG_POD_NAMESPACE``: the namespace that this control plane runs in."""
    kubernetes: bool = False
    """``WOODFROG_KUBERNETES``: ``on`` to watch pods and nodes, and to tell pods what became of their containers."""
    runtime_classes: tuple[str, ...] = ("cedana",)
    """``WOODFROG_RUNTIME_CLASSES``: names of the RuntimeClasses that stand for our runtime, separated by commas."""
    outside_nodes: tuple[str, ...] = ()
    """``WOODFROG_OUTSIDE_NODES``: nodes that are not Kubernetes', separated by commas: what they say of their containers is believed."""
    preserve_jobs: bool = True
    """``WOODFROG_PRESERVE_JOBS``: ``off`` to leave it to the Job controller what a preemption costs a Job; where it was on before, the users'
    ``backoffLimit`` is put back."""
    ending_taints: tuple[str, ...] | None = None
    """``WOODFROG_ENDING_TAINTS``: taints and conditions of a node that is about to end, separated by commas; unset: those that
    common clouds and tools set. Empty: none, so that nothing is dumped but by its stop signal, its interval or a wish."""

    questions_per_node: int = 128
    """``WOODFROG_QUESTIONS_PER_NODE``: how many starts of a node are decided or wait at the same time; a worker asks again for those beyond."""
    reports_per_node: int = 50_000
    """``WOODFROG_REPORTS_PER_NODE``: how many messages of a node REPORTS keeps."""
    stream_replicas: int = 1
    """``WOODFROG_STREAM_REPLICAS``: how many servers of a NATS cluster keep each stream."""
    streams_bytes: int | None = None
    """``WOODFROG_STREAMS_BYTES``: how much of NATS's storage the streams may share, such as ``4GiB``; unset: what the account's limit
    says, or 4 GiB."""
    http_address: Address | None = None
    """``WOODFROG_HTTP_ADDRESS``: where ``/healthz``, ``/readyz`` and ``/metrics`` are shown; nowhere if it is not set."""
    probe_address: Address | None = None
    """``WOODFROG_PROBE_ADDRESS``: where ``/healthz`` and ``/readyz`` are shown as well, by a server of their own."""

    api: ApiSettings | None = None
    """``WOODFROG_API_ADDRESS`` and what begins like it: see :mod:`controlplane.http.api.settings`."""

    policies: Policies = Policies()
    """``WOODFROG_POLICY_FILE``: what is kept, and how often containers are dumped; unset: everything, and never."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the settings.

        Raises:
            InvalidSettingError: naming the variable and what is wrong with it.
        """
        database_url = environment.get("WOODFROG_DATABASE_URL", "")
        if not database_url:
            raise InvalidSettingError(
                "WOODFROG_DATABASE_URL is not set; e.g. sqlite+aiosqlite:////var/lib/woodfrog/log.db"
            )
        cluster = environment.get("WOODFROG_CLUSTER", "local")
        seed_file = environment.get("WOODFROG_NATS_SEED_FILE", "")
        callout_dir = environment.get("WOODFROG_NATS_CALLOUT_DIR", "")
        instance = environment.get("WOODFROG_INSTANCE", "")
        try:
            check_id(cluster, "WOODFROG_CLUSTER")
            if instance:
                check_id(instance, "WOODFROG_INSTANCE")
        except InvalidIdError as problem:
            raise InvalidSettingError(str(problem)) from problem
        try:
            nats_trust = Trust.from_environment(environment)
        except InvalidTrustError as problem:
            raise InvalidSettingError(str(problem)) from problem
        try:
            api = ApiSettings.from_environment(environment)
        except InvalidApiSettingError as problem:
            raise InvalidSettingError(str(problem)) from problem
        policy_file = environment.get("WOODFROG_POLICY_FILE", "")
        log_archive = environment.get("WOODFROG_LOG_ARCHIVE", "")
        try:
            policies = read_policies(policy_file) if policy_file else Policies()
        except InvalidPolicyError as problem:
            raise InvalidSettingError(f"WOODFROG_POLICY_FILE: {problem}") from problem
        return cls(
            database_url=database_url,
            log_archive=Path(log_archive) if log_archive else None,
            log_key_file=Path(log_key) if (log_key := environment.get("WOODFROG_LOG_KEY_FILE", "")) else None,
            nats_url=environment.get("WOODFROG_NATS_URL", "nats://127.0.0.1:4222"),
            nats_seed_file=Path(seed_file) if seed_file else None,
            nats_trust=nats_trust,
            data_key_file=Path(data_key_file)
            if (data_key_file := environment.get("WOODFROG_DATA_KEY_FILE", ""))
            else None,
            nats_callout_dir=Path(callout_dir) if callout_dir else None,
            node_service_account=_service_account(environment) if callout_dir else ("", ""),
            instance=instance,
            cluster=cluster,
            node_lost_seconds=_seconds(environment, "WOODFROG_NODE_LOST_SECONDS", 15.0, least=1.0),
            handover_seconds=_seconds(environment, "WOODFROG_HANDOVER_SECONDS", 120.0, least=0.0),
            restore_tries=_count(environment, "WOODFROG_RESTORE_TRIES", RESTORE_TRIES),
            policies=policies,
            api=api,
            **_of_kubernetes(environment),
            questions_per_node=_count(environment, "WOODFROG_QUESTIONS_PER_NODE", 128),
            reports_per_node=_count(environment, "WOODFROG_REPORTS_PER_NODE", 50_000, _MOST_REPORTS),
            stream_replicas=_replicas(environment, "WOODFROG_STREAM_REPLICAS"),
            streams_bytes=_bytes(environment, "WOODFROG_STREAMS_BYTES"),
            http_address=_address(environment, "WOODFROG_HTTP_ADDRESS"),
            probe_address=_address(environment, "WOODFROG_PROBE_ADDRESS"),
        )


def _service_account(environment: Mapping[str, str]) -> tuple[str, str]:
    text = environment.get("WOODFROG_NODE_SERVICE_ACCOUNT", "")
    namespace, _, name = text.partition("/")
    if not _DNS_NAME.fullmatch(namespace) or not _DNS_NAME.fullmatch(name):
        raise InvalidSettingError(
            f"WOODFROG_NODE_SERVICE_ACCOUNT is {text!r}; it must be <namespace>/<name> of the node workers' ServiceAccount"
        )
    return namespace, name


def _seconds(environment: Mapping[str, str], name: str, default: float, *, least: float) -> float:
    text = environment.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= least):
        raise InvalidSettingError(f"{name} is {text!r}; it must be a number of seconds, {least:g} or more")
    return value


def _bytes(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    try:
        return parse_bytes(text) or None if text else None
    except InvalidAmountError as problem:
        raise InvalidSettingError(f"{name}: {problem}") from problem


def _address(environment: Mapping[str, str], name: str) -> Address | None:
    text = environment.get(name, "")
    try:
        return Address.parse(text) if text else None
    except InvalidAddressError as problem:
        raise InvalidSettingError(f"{name}: {problem}") from problem


def _of_kubernetes(environment: Mapping[str, str]) -> dict[str, Any]:
    lease = environment.get("WOODFROG_LEASE", "sql")
    if lease not in {"sql", "kubernetes"}:
        raise InvalidSettingError(f"WOODFROG_LEASE is {lease!r}; it must be sql or kubernetes")
    namespace = environment.get("WOODFROG_POD_NAMESPACE", "")
    if lease == "kubernetes" and not namespace:
        raise InvalidSettingError("WOODFROG_POD_NAMESPACE is not set; WOODFROG_LEASE=kubernetes needs to know it")
    taints = environment.get("WOODFROG_ENDING_TAINTS")
    return {
        "lease": lease,
        "pod_namespace": namespace,
        "kubernetes": _switch(environment, "WOODFROG_KUBERNETES", "off"),
        "runtime_classes": _names(environment.get("WOODFROG_RUNTIME_CLASSES", "cedana")),
        "outside_nodes": _names(environment.get("WOODFROG_OUTSIDE_NODES", "")),
        "record_details": _switch(environment, "WOODFROG_RECORD_DETAILS", "off"),
        "preserve_jobs": _switch(environment, "WOODFROG_PRESERVE_JOBS", "on"),
        "ending_taints": None if taints is None else _names(taints),
    }


def _switch(environment: Mapping[str, str], name: str, default: str) -> bool:
    text = environment.get(name, default)
    if text not in {"on", "off"}:
        raise InvalidSettingError(f"{name} is {text!r}; it must be on or off")
    return text == "on"


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _count(environment: Mapping[str, str], name: str, default: int, most: int = _MOST) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise InvalidSettingError(f"{name} is {text!r}; it must be a whole number from 1 to {most}")
    return int(text)


def _replicas(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name) or "1"
    if text not in {"1", "3", "5"}:
        raise InvalidSettingError(f"{name} is {text!r}; it must be 1, 3 or 5")
    return int(text)

"""What may be set about the control plane: environment variables, as a pod or a shell sets them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from controlplane.core.policies import InvalidPolicyError, Policies, read_policies
from controlplane.domain.start_outcomes import RESTORE_TRIES
from controlplane.http.api.settings import ApiSettings
from woodfrog.service.env import Env, InvalidSettingError
from woodfrog.service.http import Address
from woodfrog.service.natstls import Trust

_MOST: Final = 1000
_MOST_REPORTS: Final = 10_000_000
_DNS_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


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
        env = Env(environment)
        callout_dir = env.file("WOODFROG_NATS_CALLOUT_DIR")
        taints = environment.get("WOODFROG_ENDING_TAINTS")
        lease = env.one_of("WOODFROG_LEASE", "sql", ("sql", "kubernetes"))
        return cls(
            database_url=env.needed("WOODFROG_DATABASE_URL", "e.g. sqlite+aiosqlite:////var/lib/woodfrog/log.db"),
            log_archive=env.file("WOODFROG_LOG_ARCHIVE"),
            log_key_file=env.file("WOODFROG_LOG_KEY_FILE"),
            nats_url=env.text("WOODFROG_NATS_URL", "nats://127.0.0.1:4222"),
            nats_seed_file=env.file("WOODFROG_NATS_SEED_FILE"),
            nats_trust=Trust.from_environment(environment),
            data_key_file=env.file("WOODFROG_DATA_KEY_FILE"),
            nats_callout_dir=callout_dir,
            node_service_account=_service_account(env) if callout_dir else ("", ""),
            instance=env.id("WOODFROG_INSTANCE"),
            cluster=env.id("WOODFROG_CLUSTER", "local"),
            node_lost_seconds=env.number("WOODFROG_NODE_LOST_SECONDS", 15.0, least=1.0),
            handover_seconds=env.number("WOODFROG_HANDOVER_SECONDS", 120.0),
            record_details=env.switch("WOODFROG_RECORD_DETAILS"),
            restore_tries=env.count("WOODFROG_RESTORE_TRIES", RESTORE_TRIES, most=_MOST),
            lease="kubernetes" if lease == "kubernetes" else "sql",
            pod_namespace=(
                env.needed("WOODFROG_POD_NAMESPACE", "WOODFROG_LEASE=kubernetes needs to know it")
                if lease == "kubernetes"
                else env.text("WOODFROG_POD_NAMESPACE")
            ),
            kubernetes=env.switch("WOODFROG_KUBERNETES"),
            runtime_classes=env.names("WOODFROG_RUNTIME_CLASSES", "cedana"),
            outside_nodes=env.names("WOODFROG_OUTSIDE_NODES"),
            preserve_jobs=env.switch("WOODFROG_PRESERVE_JOBS", default=True),
            ending_taints=None if taints is None else env.names("WOODFROG_ENDING_TAINTS"),
            questions_per_node=env.count("WOODFROG_QUESTIONS_PER_NODE", 128, most=_MOST),
            reports_per_node=env.count("WOODFROG_REPORTS_PER_NODE", 50_000, most=_MOST_REPORTS),
            stream_replicas=int(env.one_of("WOODFROG_STREAM_REPLICAS", "1", ("1", "3", "5"))),
            streams_bytes=env.bytes("WOODFROG_STREAMS_BYTES", 0) or None,
            http_address=env.address("WOODFROG_HTTP_ADDRESS"),
            probe_address=env.address("WOODFROG_PROBE_ADDRESS"),
            api=ApiSettings.from_environment(environment),
            policies=_policies(env),
        )


def _policies(env: Env) -> Policies:
    file = env.text("WOODFROG_POLICY_FILE")
    try:
        return read_policies(file) if file else Policies()
    except InvalidPolicyError as problem:
        raise InvalidSettingError(f"WOODFROG_POLICY_FILE: {problem}") from problem


def _service_account(env: Env) -> tuple[str, str]:
    name = "WOODFROG_NODE_SERVICE_ACCOUNT"
    namespace, _, account = env.text(name).partition("/")
    if not _DNS_NAME.fullmatch(namespace) or not _DNS_NAME.fullmatch(account):
        raise env.invalid(name, "it must be <namespace>/<name> of the node workers' ServiceAccount")
    return namespace, account

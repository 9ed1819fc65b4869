"""The control plane put together: one log, one input loop, and the bus around them.

Several may run on one log. All of them answer queries; the one that holds the lease decides, takes reports in and sends.

Every part is a task of one group: the death of any is the death of the process, which whoever started it starts again. All
that is needed to go on is in the log.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from nats.aio.client import Client

from controlplane.bus.endpoints import Decisions, Queries
from controlplane.bus.heartbeats import Heartbeats
from controlplane.bus.node_statuses import NodeStatuses
from controlplane.bus.pod_event_consumer import PodEventConsumer
from controlplane.bus.relay import Relay
from controlplane.bus.report_consumer import ReportConsumer
from controlplane.bus.report_reconciliation import ReportReconciliation
from controlplane.bus.stream_replicas import keep_replicated
from controlplane.bus.stream_storage import Use, keep_within
from controlplane.bus.streams import REQUEST_SECONDS
from controlplane.cluster import Cluster
from controlplane.core.loop import DecisionLoop
from controlplane.domain.inputs import Policy
from controlplane.election.candidate import Election
from controlplane.election.holder import holder_identity
from controlplane.election.lease import LeaseStore
from controlplane.election.sql_lease import SqlLease
from controlplane.head_signing import into_config_map, sign_heads
from controlplane.http.api.actions import OverNats
from controlplane.http.api.assembly import open_api
from controlplane.http.api.next_dumps import Live
from controlplane.http.health_pages import Health, pages
from controlplane.http.metrics import Metrics
from controlplane.kube.api import KubernetesApi, kubernetes
from controlplane.kube.authcallout import AuthCallout
from controlplane.kube.lease import KubernetesLease
from controlplane.kube.token_review import NodeWorkers
from controlplane.log.deadletters import DeadLetters
from controlplane.log.eventlog import EventLog
from controlplane.log.heads import HeadKey
from controlplane.log.records import utc_now
from controlplane.settings import Settings
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import Epoch, NodeName
from woodfrog.service.data_keys import DataKeyError, Unwrapper
from woodfrog.service.http import HttpServer, probes
from woodfrog.service.nats import connect

_log = structlog.get_logger(component="controlplane")

_CLOSING_SECONDS: Final = 5.0


def _policy(settings: Settings) -> Policy:
    said = settings.policies
    return Policy(
        handover_seconds=settings.handover_seconds,
        restore_tries=settings.restore_tries,
        retention=said.retention,
        schedule=said.schedule,
        privileges=said.privileges,
        ownership=said.ownership,
        forgetting=said.forgetting,
        quotas=said.quotas,
    )


class ControlPlane:
    """One control plane: a standby that leads when nobody else does."""

    def __init__(self, settings: Settings, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._settings = settings
        self._clock = clock
        self._metrics = Metrics()
        self._health = Health()
        self._live = Live()
        self.ready = asyncio.Event()
        """Set once it leads, the state is folded and requests are heard."""

    async def run(self) -> None:
        """Answer queries from the start, stand by until the lead is free, then lead until cancelled.

        The database must have been migrated.

        Raises:
            LeadLostError, StaleEpochError: another control plane has taken the lead.
            FailureError: the log or the AUDIT stream cannot be worked with.
        """
        shown = pages(self._health, self._metrics)
        async with asyncio.TaskGroup() as group:
            servers = [
                group.create_task(HttpServer(address, some).run())
                for address, some in (
                    (self._settings.http_address, shown),
                    (self._settings.probe_address, probes(shown)),
                )
                if address is not None
            ]
            await self._stand_by()
            for server in servers:
                server.cancel()

    async def _stand_by(self) -> None:
        settings = self._settings
        async with AsyncExitStack() as stack:
            log = await EventLog.open(settings.database_url, archive=settings.log_archive)
            stack.push_async_callback(log.close)
            api = None
            wanted_by_api = settings.api is not None and settings.api.kubernetes
            if settings.kubernetes or settings.lease == "kubernetes" or wanted_by_api:
                api = await stack.enter_async_context(kubernetes())
            election = Election(await _lease(settings, api, stack), holder_identity(settings.instance))
            client = await connect(
                settings.nats_url,
                name="woodfrog control plane",
                seed_file=settings.nats_seed_file,
                trust=settings.nats_trust,
            )
            stack.push_async_callback(_close, client)
            self._metrics.connected(lambda: client.certificate_expires)
            async with asyncio.TaskGroup() as group:
                if settings.nats_callout_dir is not None:
                    group.create_task(let_nodes_in(settings))
                statuses = NodeStatuses(client)
                group.create_task(statuses.run())
                if settings.api is not None:
                    served = await open_api(
                        stack,
                        settings.api,
                        log,
                        settings.database_url,
                        cluster=settings.cluster,
                        policy=_policy(settings),
                        live=self._live,
                        statuses=statuses,
                        api=api,
                        asks=OverNats(client),
                    )
                    group.create_task(served.run())
                queries = Queries(client, log, statuses)
                group.create_task(queries.run())
                await queries.listening.wait()
                self._health.answers(client)
                await election.win()
                try:
                    await self._lead(log, client, election, api if settings.kubernetes else None)
                finally:
                    await election.release()

    async def _lead(self, log: EventLog, client: Client, election: Election, api: KubernetesApi | None) -> None:
        letters = DeadLetters(self._settings.database_url)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(election.hold())
                election.check()  # a process that was held up since it won must not depose whoever leads by now
                epoch = await log.take_lead()
                loop = DecisionLoop(log, epoch=epoch, policy=_policy(self._settings), clock=self._clock)
                await loop.load()
                gc.freeze()  # the state lives as long as the process: no collection need walk through it
                await _log.ainfo("leading", epoch=epoch, position=loop.committed.value)
                cluster = None
                if api is not None:
                    cluster = Cluster(api, self._settings, log, client, loop, clock=self._clock)
                    group.create_task(cluster.run())
                self._sign(group, log, loop, api)
                await self._serve(log, loop, client, election, letters, epoch, cluster)
        finally:
            await letters.close()

    async def _serve(
        self,
        log: EventLog,
        loop: DecisionLoop,
        client: Client,
        election: Election,
        letters: DeadLetters,
        epoch: Epoch,
        cluster: Cluster | None,
    ) -> None:
        put_aside = self._metrics.counting(partial(letters.put_aside, epoch=epoch))
        ingest = ReportConsumer(client, loop, put_aside, details=self._settings.record_details)
        decisions = Decisions(
            client,
            loop,
            ingest.taken_in,
            loop.waiters,
            election.check,
            pods=None if cluster is None else cluster.placements,
            outside=[NodeName(node) for node in self._settings.outside_nodes],
            questions_per_node=self._settings.questions_per_node,
            data_keys=_unwrapper(self._settings.data_key_file),
        )
        decisions.on_resolved = self._metrics.resolved
        self._metrics.answers(decisions.places)
        self._metrics.leads(loop)
        self._live.leads(loop, _policy(self._settings).schedule)
        relay = Relay(
            client.jetstream(timeout=REQUEST_SECONDS),
            log,
            committed=loop.committed,
            open_commands=loop.open_commands,
            nodes=loop.nodes,
            cluster=self._settings.cluster,
            check_lease=election.check,
        )
        reconciliation = ReportReconciliation(client, log, letters.hold, ingest.taken_in)
        heartbeats = Heartbeats(
            client, loop, loop.nodes, lost_seconds=self._settings.node_lost_seconds, vouch=reconciliation.vouch
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(loop.run())
            group.create_task(_tell_of_stale_views(log))
            if self._settings.stream_replicas > 1:
                jetstream = client.jetstream(timeout=REQUEST_SECONDS)
                group.create_task(keep_replicated(jetstream, self._settings.stream_replicas))
            group.create_task(
                keep_within(
                    client.jetstream(timeout=REQUEST_SECONDS),
                    self._settings.streams_bytes,
                    self._streams_seen,
                    reports_per_node=self._settings.reports_per_node,
                )
            )
            group.create_task(relay.run())
            group.create_task(ingest.run())
            group.create_task(heartbeats.run())
            group.create_task(PodEventConsumer(client, loop, self._settings.cluster).run())
            group.create_task(decisions.run())
            await ingest.ready.wait()
            await decisions.listening.wait()
            await _log.ainfo("control plane ready", cluster=self._settings.cluster, position=loop.committed.value)
            self.ready.set()

    def _sign(self, group: asyncio.TaskGroup, log: EventLog, loop: DecisionLoop, api: KubernetesApi | None) -> None:
        """Begin to sign the log's heads, if there is a key."""
        settings = self._settings
        if settings.log_key_file is None:
            return
        key = HeadKey.from_file(settings.log_key_file)
        publish = None
        if api is not None and settings.pod_namespace:
            publish = into_config_map(api, settings.pod_namespace)
        group.create_task(sign_heads(log, loop, key, settings.cluster, clock=self._clock, publish=publish))

    def _streams_seen(self, use: Use) -> None:
        self._metrics.streams_use(use)
        self._health.streams_use(use)


def _unwrapper(file: Path | None) -> Unwrapper | None:
    try:
        return None if file is None else Unwrapper.from_file(file)
    except DataKeyError as problem:
        raise FailureError(Failure("data-key-unusable", str(problem), "Correct WOODFROG_DATA_KEY_FILE.")) from problem


async def _tell_of_stale_views(log: EventLog) -> None:
    failure = await log.refreshed()
    if failure is not None:
        await _log.aerror("the views cannot be rebuilt", code=failure.code, cause=failure.cause, advice=failure.advice)


async def _lease(settings: Settings, api: KubernetesApi | None, stack: AsyncExitStack) -> LeaseStore:
    if settings.lease == "kubernetes":
        assert api is not None
        return KubernetesLease(api, settings.pod_namespace)
    lease = SqlLease(settings.database_url)
    stack.push_async_callback(lease.close)
    return lease


async def let_nodes_in(settings: Settings, listening: asyncio.Event | None = None) -> None:
    """Answer the broker's questions about node workers, leading or not, until cancelled."""
    assert settings.nats_callout_dir is not None
    namespace, name = settings.node_service_account
    async with kubernetes() as api:
        workers = NodeWorkers(api, namespace=namespace, service_account=name)
        await AuthCallout(
            settings.nats_url, settings.nats_callout_dir, workers, trust=settings.nats_trust, listening=listening
        ).run()


async def _close(client: Client) -> None:
    try:
        async with asyncio.timeout(_CLOSING_SECONDS):
            await client.close()
    except TimeoutError:
        await _log.awarning("the connection to NATS did not close in time")

"""The API put together, for one control plane."""

from __future__ import annotations

from contextlib import AsyncExitStack

from controlplane.bus.node_statuses import NodeStatuses
from controlplane.domain import Policy
from controlplane.http.api.actions import Actions, Asks
from controlplane.http.api.database import Reader
from controlplane.http.api.kubernetes import KubernetesViewers
from controlplane.http.api.next_dumps import Live
from controlplane.http.api.queries import Questions
from controlplane.http.api.server import ApiServer
from controlplane.http.api.settings import ApiSettings
from controlplane.http.api.tail import Tails
from controlplane.http.api.tokens import TokenFile
from controlplane.http.api.viewers import Authenticator
from controlplane.http.assets import page_files
from controlplane.kube.api import KubernetesApi
from controlplane.log.eventlog import EventLog


async def open_api(
    stack: AsyncExitStack,
    settings: ApiSettings,
    log: EventLog,
    database_url: str,
    *,
    cluster: str,
    policy: Policy,
    live: Live,
    statuses: NodeStatuses,
    api: KubernetesApi | None,
    asks: Asks | None = None,
) -> ApiServer:
    """Make the server, with what it reads from; ``stack`` gives that back. ``asks`` reaches the control plane that leads."""
    reader = Reader(database_url)
    stack.push_async_callback(reader.close)
    actions = None if asks is None or not settings.actions else Actions(asks, cluster)
    questions = Questions(reader, cluster, policy, live, statuses, None if actions is None else actions.may)
    authenticators: list[Authenticator] = []
    if settings.tokens_file is not None:
        authenticators.append(TokenFile(settings.tokens_file))
    if settings.kubernetes:
        assert api is not None
        authenticators.append(KubernetesViewers(api))
    return ApiServer(settings, questions, Tails(log, questions), authenticators, page_files(), actions)

"""NATS asks here who a node worker is: the broker's *auth callout*, answered with what Kubernetes says of a pod's token.

A DaemonSet has one Secret for all nodes, so keys in Secrets would let a node speak for another. Instead the worker presents
its pod's token, the server asks this service about the connection, and the answer makes the connection a user of the account
NODES with the permissions of the pod's node, for at most an hour: then the worker connects again, with the token of then.

Every control plane answers, standbys too: a node may connect while nobody leads. The server sends its questions to an
account that only control planes are in, so nobody else can read a token there or make up an answer; the answer is signed
with the key of the *issuer* that the server's configuration names.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from controlplane.bus.responder import flushed
from controlplane.kube.api import ApiError
from controlplane.kube.token_review import NodeWorker, NodeWorkers, RefusedError
from woodfrog.protocol import permissions
from woodfrog.service import natsjwt
from woodfrog.service.nats import connect
from woodfrog.service.natstls import Trust
from woodfrog.service.nkeys import KeyPair, Owner

_log = structlog.get_logger(component="authcallout")

SUBJECT: Final = "$SYS.REQ.USER.AUTH"
CALLOUT_SEED: Final = "callout.seed"
ISSUER_SEED: Final = "issuer.seed"
_QUEUE_GROUP: Final = "controlplane"
_MOST_AT_ONCE: Final = 16
"""How many tokens are looked at together: anybody who reaches the broker can have one looked at."""
_MOST_WAITING: Final = 1024
_LONGEST_SECONDS: Final = 3600
_SHORTEST_SECONDS: Final = 60


class AuthCallout:
    """Answers a server's questions about connections, until cancelled."""

    def __init__(
        self,
        url: str,
        seeds: Path,
        workers: NodeWorkers,
        *,
        trust: Trust | None = None,
        clock: Callable[[], float] = time.time,
        listening: asyncio.Event | None = None,
    ) -> None:
        """``seeds`` is a directory with the seed of this service as a user and that of the issuer of its answers.

        Raises:
            InvalidSeedError: one of them is not there.
        """
        self._url = url
        self._trust = trust or Trust()
        self._seed_file = seeds / CALLOUT_SEED
        KeyPair.from_file(self._seed_file)
        self._issuer = KeyPair.from_file(seeds / ISSUER_SEED, Owner.ACCOUNT)
        self._workers = workers
        self._clock = clock
        self._at_once = asyncio.Semaphore(_MOST_AT_ONCE)
        self._waiting = 0
        self.listening = listening or asyncio.Event()
        """Set once questions are heard."""

    async def run(self) -> None:
        """Connect and answer, however often the broker goes away."""
        client = await connect(self._url, name="woodfrog authorization", seed_file=self._seed_file, trust=self._trust)
        try:
            async with asyncio.TaskGroup() as group:
                await self._listen(client, group)
        finally:
            await client.close()

    async def _listen(self, client: Client, group: asyncio.TaskGroup) -> None:
        async def heard(message: Msg) -> None:
            if self._waiting >= _MOST_WAITING:  # the server gives up on it, and the client tries again
                await _log.aerror("too many connections ask to be let in at once")
                return
            self._waiting += 1
            group.create_task(self._serve(client, message))

        await client.subscribe(SUBJECT, queue=_QUEUE_GROUP, cb=heard)
        await flushed(client)
        self.listening.set()
        await asyncio.Event().wait()

    async def _serve(self, client: Client, message: Msg) -> None:
        try:
            async with self._at_once:
                answer = await self._answer(message.data)
            if answer is not None and message.reply:
                await client.publish(message.reply, answer)
        except (NatsError, OSError) as problem:
            await _log.awarning("an answer could not be sent", error=problem)
        except Exception:  # noqa: BLE001 - one question must not end the answers to all others; the server gives up on it
            await _log.aexception("a connection could not be judged")
        finally:
            self._waiting -= 1

    async def _answer(self, data: bytes) -> bytes | None:
        now = int(self._clock())
        try:
            request = natsjwt.read_request(data, now_seconds=now)
        except natsjwt.InvalidClaimError as problem:
            await _log.awarning("a question about a connection is not answered", error=str(problem))
            return None
        asked = request.nats
        try:
            worker = await self._workers.whose(asked.connect_opts.auth_token)
        except RefusedError as problem:
            reason = str(problem)
            await _log.awarning("a connection is refused", reason=reason, host=asked.client_info.host)
        except ApiError as problem:
            reason = "Kubernetes cannot be asked now"
            await _log.aerror("a connection cannot be judged and is refused", error=str(problem))
        else:
            await _log.ainfo("a node is let in", node=worker.node, pod=worker.pod, host=asked.client_info.host)
            user = self._user(request, worker, now)
            return natsjwt.response(self._issuer, request, user_jwt=user, now_seconds=now)
        return natsjwt.response(self._issuer, request, error=reason, now_seconds=now)

    def _user(self, request: natsjwt.RequestClaims, worker: NodeWorker, now: int) -> str:
        # Spread, so that nodes that came together after the broker was away do not come back together.
        longest = now + random.randint(_LONGEST_SECONDS // 2, _LONGEST_SECONDS)  # noqa: S311 - no secret
        expires = min(longest, worker.token_expires_seconds or longest)
        may = permissions.of_node(worker.node)
        return natsjwt.user(
            self._issuer,
            request,
            name=worker.node,
            account=permissions.NODES_ACCOUNT,
            publish=may.publish,
            subscribe=may.subscribe,
            now_seconds=now,
            expires_seconds=max(expires, now + _SHORTEST_SECONDS),
        )

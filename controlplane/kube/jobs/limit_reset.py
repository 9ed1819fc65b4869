"""Puts the users' numbers back: where Jobs are not kept going any more, and when Woodfrog is uninstalled."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

import structlog

from controlplane.kube.api import ApiError, KubernetesApi
from controlplane.kube.jobs.actions import JobActions
from controlplane.kube.jobs.ledger import given_back
from controlplane.kube.jobs.models import Job
from controlplane.kube.models import Page
from woodfrog.protocol import wire

JOBS: Final = "/apis/batch/v1/jobs"

_log = structlog.get_logger(component="jobs")

_PAGE: Final = "500"
_FIRST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 60.0


async def give_back(api: KubernetesApi, actions: JobActions) -> int:
    """Put every Job's ``backoffLimit`` back and remove the ledger; return of how many.

    A Job that changes meanwhile is fetched and tried again.

    Raises:
        ApiError: the Jobs cannot be had, or one cannot be changed.
    """
    done = 0
    query = {"limit": _PAGE}
    while True:
        page = await api.ask("GET", JOBS, Page, **query)
        for item in page.items or ():
            try:
                job = wire.decode(bytes(item), Job)
            except wire.MalformedMessageError as problem:
                await _log.awarning("a Job cannot be read", error=str(problem))
            else:
                done += await _give_back(actions, job)
        if not page.metadata.continue_:
            return done
        query["continue"] = page.metadata.continue_


async def give_back_until_done(api: KubernetesApi, actions: JobActions) -> None:
    """Put them back, and try again for as long as the API server refuses or is away."""
    pause_seconds = _FIRST_PAUSE_SECONDS
    while True:
        try:
            done = await give_back(api, actions)
        except ApiError as problem:
            await _log.awarning("backoffLimit of Jobs cannot be put back", error=str(problem))
            await asyncio.sleep(max(problem.retry_after_seconds, pause_seconds))
            pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
        else:
            if done:
                await _log.ainfo("backoffLimit was put back", jobs=done)
            return


async def _give_back(actions: JobActions, job: Job) -> bool:
    while (limit := given_back(job)) is not None and not job.ending:
        try:
            await actions.patch(job, limit, None)
        except ApiError as problem:
            if problem.status not in {HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND}:
                raise
            fetched = await actions.fetch(job)
            if fetched is None:
                return False
            job = fetched[1]
        else:
            return True
    return False

"""``woodfrog migrate POD``: move a running pod to another node, with all that its protected containers have in memory.

The stop signal takes the final dump, and whoever owns the pod makes the one that resumes from it: so a migration is a snapshot first,
to see that it works while nothing is lost yet, then an eviction that honours disruption budgets. Nobody but the scheduler
chooses nodes, and no owner's template is touched: for as long as the new pod is on its way, the nodes that it shall not go to
are cordoned, and only those that were not. A pod without an owner is made again, as it was.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Final, TypeVar

import msgspec
import typer

from woodfrog.cli.context import in_control_plane
from woodfrog.cli.kubectl import Kubectl, NotFoundError, Object, away
from woodfrog.cli.options import Namespace, Output, telling, timeout
from woodfrog.cli.pod_eligibility import bare_copy, ids_of, is_ready, refusal_to_move, replaces
from woodfrog.local import dev
from woodfrog.output import Form, put_json
from woodfrog.protocol.failures import Failure, FailureError
from woodfrog.protocol.ids import check_id

T = TypeVar("T")
_POLL_SECONDS: Final = 0.5


class Moved(msgspec.Struct, frozen=True):
    """How a migration ended."""

    pod: str
    from_node: str
    to_node: str
    new_pod: str
    ids: tuple[str, ...]
    snapshots: tuple[str, ...]
    """From which each id went on."""
    away_seconds: float
    """From the eviction until the new pod was ready."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(migrate)


def migrate(
    pod: Annotated[str, typer.Argument(metavar="POD", help="The pod.", show_default=False)],
    to: Annotated[str | None, typer.Option("--to", help="The node to go to.", show_default="any other")] = None,
    timeout_seconds: Annotated[float, timeout("Seconds after which to stop waiting.")] = 600.0,
    namespace: Namespace = dev.NAMESPACE,
    output: Output = Form.TABLE,
) -> None:
    """Move a running pod of a cluster to another node, where it resumes."""
    with telling():
        check_id(pod, "POD")
        check_id(namespace, "--namespace")
        kubectl = Kubectl.find()
        if kubectl is None:
            raise away("there is no kubectl, or no cluster is configured for it")
        moved = Migration(kubectl, namespace, pod, to, timeout_seconds, _say).run()
    if output is Form.JSON:
        put_json(moved)
    else:
        sys.stdout.write(
            f"{moved.pod} continues as {moved.new_pod} on {moved.to_node} after {moved.away_seconds:.1f} s\n"
        )


def _say(words: str) -> None:
    sys.stderr.write(f"{words}\n")


class Migration:
    """One pod on its way."""

    def __init__(
        self,
        kubectl: Kubectl,
        namespace: str,
        pod: str,
        to: str | None,
        timeout_seconds: float,
        say: Callable[[str], None],
    ) -> None:
        self._kubectl = kubectl
        self._namespace = namespace
        self._pod = pod
        self._to = to
        self._deadline = time.monotonic() + timeout_seconds
        self._say = say

    def run(self) -> Moved:
        """Move the pod.

        Raises:
            FailureError: it cannot be moved, and runs where it was; or it left and what became of it is in the message.
        """
        old = self._kubectl.get("pod", self._pod, "--namespace", self._namespace)
        nodes: list[Object] = self._kubectl.get("nodes")["items"]
        refusal = refusal_to_move(old, nodes, self._to)
        if refusal is not None:
            raise FailureError(refusal)
        ids = ids_of(old)
        woodfrog = in_control_plane(self._kubectl)
        for each in ids:
            self._say(f"taking a snapshot of {each}")
            seconds = max(1.0, self._deadline - time.monotonic())
            asked = [*woodfrog, "checkpoint", each, "--namespace", self._namespace, "--timeout", f"{seconds:.0f}"]
            self._kubectl.run(*asked, seconds=seconds + 30)
        here = old["spec"]["nodeName"]
        barred = [
            node["metadata"]["name"]
            for node in nodes
            if not node["spec"].get("unschedulable")
            and (node["metadata"]["name"] == here if self._to is None else node["metadata"]["name"] != self._to)
        ]
        with self._cordoned(barred):
            self._say(f"ending {self._pod} on {here}")
            began = time.monotonic()
            self._evict()
            if not old["metadata"].get("ownerReferences"):
                self._make_again(old)
            new = self._replacement(old)
            self._say(f"{new['metadata']['name']} is to run on {new['spec']['nodeName']}")
        new = self._until_ready(new)
        away_seconds = time.monotonic() - began
        return Moved(
            pod=self._pod,
            from_node=here,
            to_node=new["spec"]["nodeName"],
            new_pod=new["metadata"]["name"],
            ids=ids,
            snapshots=tuple(self._restored(woodfrog, each) for each in ids),
            away_seconds=away_seconds,
        )

    @contextmanager
    def _cordoned(self, nodes: list[str]) -> Iterator[None]:
        done: list[str] = []
        try:
            for node in nodes:
                self._kubectl.run("cordon", node)
                done.append(node)
            yield
        finally:
            for node in done:
                with suppress(FailureError):
                    self._kubectl.run("uncordon", node)

    def _evict(self) -> None:
        """Ask for the eviction, again while a disruption budget does not allow it; without the API, delete.

        Raises:
            FailureError: ``eviction-refused``.
        """
        served = {each["groupVersion"] for group in self._kubectl.raw("/apis")["groups"] for each in group["versions"]}
        version = "policy/v1" if "policy/v1" in served else "policy/v1beta1"
        eviction = {
            "apiVersion": version,
            "kind": "Eviction",
            "metadata": {"name": self._pod, "namespace": self._namespace},
        }
        path = f"/api/v1/namespaces/{self._namespace}/pods/{self._pod}/eviction"
        while True:
            try:
                self._kubectl.run("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
            except FailureError as problem:
                if "disruption budget" not in problem.failure.cause or time.monotonic() > self._deadline:
                    advice = "The pod runs on where it was. Look at its PodDisruptionBudget, or delete the pod."
                    raise FailureError(Failure("eviction-refused", problem.failure.cause, advice)) from problem
                time.sleep(_POLL_SECONDS)
            else:
                return

    def _make_again(self, old: Object) -> None:
        self._wait(lambda: self._is_gone(old), f"{self._pod} does not end")
        self._kubectl.run("create", "-f", "-", stdin=json.dumps(bare_copy(old)))

    def _is_gone(self, old: Object) -> bool:
        try:
            now = self._kubectl.get("pod", self._pod, "--namespace", self._namespace)
        except NotFoundError:
            return True
        return bool(now["metadata"]["uid"] != old["metadata"]["uid"])

    def _replacement(self, old: Object) -> Object:
        """Wait for the pod that takes over, and for its node."""

        def look() -> Object | None:
            pods: list[Object] = self._kubectl.get("pods", "--namespace", self._namespace)["items"]
            return next((pod for pod in pods if replaces(pod, old) and pod["spec"].get("nodeName")), None)

        return self._wait(look, "no pod that takes over found a node; the scheduler's events have the reason")

    def _until_ready(self, new: Object) -> Object:
        name = new["metadata"]["name"]

        def look() -> Object | None:
            pod = self._kubectl.get("pod", name, "--namespace", self._namespace)
            return pod if is_ready(pod) or pod["status"].get("phase") == "Succeeded" else None

        return self._wait(look, f"{name} does not become ready; see `kubectl describe pod {name}`")

    def _wait(self, look: Callable[[], T | None], otherwise: str) -> T:
        while not (found := look()):
            if time.monotonic() > self._deadline:
                advice = "Its snapshots are kept: the next pod with its ids resumes from them."
                raise FailureError(Failure("migration-timed-out", otherwise, advice))
            time.sleep(_POLL_SECONDS)
        return found

    def _restored(self, woodfrog: list[str], checkpoint_id: str) -> str:
        """Name the snapshot that the id resumed from.

        Raises:
            FailureError: ``migrated-cold``.
        """
        text = self._kubectl.run(*woodfrog, "why", checkpoint_id, "--namespace", self._namespace, "-o", "json")
        told = json.loads(text)
        if told["choice"] != "restored":
            advice = f"`woodfrog why {checkpoint_id} -n {self._namespace}` shows its whole history."
            cause = f"{checkpoint_id} runs on another node, but started cold: {told['reason']}"
            raise FailureError(Failure("migrated-cold", cause, advice))
        return str(told["snapshot_id"])

"""What is seen of pods with a container under a key, and what is done about Jobs whose pods end from outside."""

from __future__ import annotations

from woodfrog.protocol.events.base import AboutPod
from woodfrog.protocol.ids import NodeName
from woodfrog.protocol.pods import EndedBecause, Why

__all__ = [
    "JobOutcome",
    "PodContainerEnded",
    "PodEndCounted",
    "PodFact",
    "PodGone",
    "PodReplaced",
    "PodScheduled",
    "PodTerminating",
]


class PodScheduled(AboutPod, frozen=True, tag="pod.scheduled"):
    """A pod with a container under the key was given ``node``; ``incarnation`` is 0 while no start was asked for."""

    node: NodeName
    owner: str = ""
    """Kind and name of what made it, such as ``Job/train``."""

    def __str__(self) -> str:
        return f"pod {self.pod}{f' of {self.owner}' if self.owner else ''} is to run on node {self.node}"


class PodTerminating(AboutPod, frozen=True, tag="pod.terminating"):
    """A pod with a container under the key was asked to end: its last dump is to be expected, and worth waiting for."""

    why: Why
    by: str = ""
    node: NodeName | None = None
    grace_seconds: float = 30.0
    dumps_at_stop: bool = True
    """Whether its containers are dumped when they get the stop signal (annotation ``woodfrog.io/on-stop``)."""

    def __str__(self) -> str:
        why = f"{self.why}{f' by {self.by}' if self.by else ''}"
        return f"pod {self.pod} was asked to end within {self.grace_seconds:g} s: {why}"


class PodContainerEnded(AboutPod, frozen=True, tag="pod.container-ended"):
    """The kubelet says how a container under the key ended. Whether it was dumped before, only its worker can say."""

    container: str
    because: EndedBecause
    exit_code: int
    signal: int = 0
    """The signal that ended it, 0 if none did or the kubelet does not say."""
    detail: str = ""
    """The kubelet's word for it, such as ``OOMKilled``. Never what the container wrote."""

    def __str__(self) -> str:
        end = f"ended with exit code {self.exit_code}: {self.because}"
        return f"container {self.container} of pod {self.pod} {end}"


class PodGone(AboutPod, frozen=True, tag="pod.gone"):
    """A pod with a container under the key is not in the API any more, or its node is gone."""

    def __str__(self) -> str:
        return f"pod {self.pod} is gone"


class PodReplaced(AboutPod, frozen=True, tag="pod.replaced"):
    """Pod ``by`` was created in place of one of a Job that was ended from outside, so that nothing waits for the Job controller."""

    job: str
    by: str
    why: str = ""

    def __str__(self) -> str:
        return f"pod {self.by} was created in place of pod {self.pod} of Job {self.job} ({self.why})"


class PodEndCounted(AboutPod, frozen=True, tag="pod.end-counted"):
    """The end of a Job's pod from outside counts against the Job's ``backoffLimit``: its work was not captured."""

    job: str
    why: str = ""

    def __str__(self) -> str:
        counts = f"counts against the backoffLimit of Job {self.job}: nothing of it was captured"
        return f"the end of pod {self.pod} ({self.why}) {counts}"


PodFact = PodScheduled | PodTerminating | PodContainerEnded | PodGone
"""What was seen of pods; their incarnation is 0 where no start is known that belongs to the pod."""
JobOutcome = PodReplaced | PodEndCounted
"""What was done about Jobs; the incarnation is that of the pod that ended, 0 where no start of it is known."""

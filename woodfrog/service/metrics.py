"""What the two sides' metrics have in common: buckets, and labels that cannot grow without end.

A label's value that comes from outside, such as a failure's code, could fill Prometheus's memory: every new value is a new
series for good. :class:`BoundedLabel` lets the first so many through and calls all others ``other``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from woodfrog.protocol.events.base import EventBase
from woodfrog.protocol.events.measures import Metric
from woodfrog.service.http import Page

SECONDS_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
"""From a small container's dump to an image of 100 GiB on its way into object storage."""
QUICK_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""For commits, and answers that somebody waits for."""
_MOST_VALUES: Final = 100
OTHER: Final = "other"

Children = Mapping[Metric, Callable[..., Counter | Histogram]]
"""What of events a service counts: given the labels' values, the counter or histogram to count in."""


class BoundedLabel:
    """Lets no more than a number of different values become a label's."""

    def __init__(self, most: int = _MOST_VALUES) -> None:
        self._most = most
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        """Give the value back, or ``other`` if there have been too many different ones."""
        if value not in self._seen:
            if len(self._seen) >= self._most:
                return OTHER
            self._seen.add(value)
        return value


def new_registry() -> CollectorRegistry:
    """Make a registry that tells of this process's memory, processor time and open files, too."""
    disable_created_metrics()  # type: ignore[no-untyped-call] # a second series beside each, which nobody asks for
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    return registry


def count_event(event: EventBase, children: Children) -> None:
    """Count what the event says is to be counted of it, as far as the service does."""
    for measure in event.measures():
        if measure.metric in children:
            child = children[measure.metric](*measure.labels)
            if isinstance(child, Histogram):
                child.observe(measure.value)
            else:
                child.inc(measure.value)


def page(registry: CollectorRegistry) -> Page:
    """Write all that the registry holds in the text format that every Prometheus reads."""
    return Page(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

"""What is read of a container's declaration: config.json, annotations, the environment of pods."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from support.fuzzing import HOSTILE, bytes_of, corpus, fuzz, is_refusal, is_short, json_of, plain_of

from controlplane.bus.pod_event_consumer import RefusedPodEventError, read_pod_event
from controlplane.bus.streams import MAX_MESSAGE_BYTES
from controlplane.kube import pod_diff
from controlplane.kube.env_expansion import checkpoint_ids
from controlplane.kube.models import Pod
from nodeworker import bundle
from nodeworker.domain import checkpoint_options, pod_annotations
from nodeworker.domain.checkpoint_options import CheckpointOptions, InvalidWishError
from nodeworker.domain.gpu import visible_gpus
from nodeworker.runtime import container
from woodfrog.protocol import subjects, wire
from woodfrog.protocol.failures import FailureError

BUNDLES, PODS = corpus("bundles"), corpus("pods")
ANNOTATIONS: list[dict[str, str]] = [json.loads(data) for data in corpus("annotations")]
CODES = {"bundle-unreadable", "invalid-annotation", "namespace-unknown"}
ID = "c0" * 32


@contextmanager
def folder(config: bytes) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="wf-") as base:
        place = Path(base, ID, "userdata")
        place.mkdir(parents=True)
        (place / "config.json").write_bytes(config)
        yield str(place)


def test_every_specimen_is_read() -> None:
    for data in BUNDLES:
        with folder(data) as place:
            assert bundle.read(place).rootfs == Path(place) / "rootfs"
            assert bundle.variable(place, "CEDANA_CHECKPOINT") == "trainer-3"
    for data in PODS:
        assert checkpoint_ids(wire.decode(data, Pod)) == {"i": "trainer-0"}
    for words in ANNOTATIONS:
        assert isinstance(checkpoint_options.read(words), CheckpointOptions)


@fuzz(data=st.one_of(json_of(BUNDLES), bytes_of(BUNDLES)))
def test_a_bundle_is_read_or_refused(data: bytes) -> None:
    with folder(data) as place:
        try:
            live = bundle.read(place)
        except FailureError as problem:
            is_refusal(problem, CODES)
            return
        try:
            assert live.v2_cgroup.startswith("/")
        except FailureError as problem:
            is_refusal(problem, {"cgroup-unknown"})
        visible_gpus(live.gpu, ())
        assert all(isinstance(source, Path) for source in (*live.travelling.values(), *live.configs.values()))
        wire.encode(live.facts)


@fuzz(data=st.one_of(json_of(BUNDLES), bytes_of(BUNDLES)))
def test_the_runtime_reads_a_bundle_or_says_that_it_cannot(data: bytes) -> None:
    with folder(data) as place:
        try:
            spec = container.read_json(f"{place}/config.json")
        except ValueError as problem:
            is_short(problem)
            return
        value = container.variable(spec, "CEDANA_CHECKPOINT")
        assert value is None or len(value) <= len(data) + 4096
        container.uts_namespace(spec)
        before = container.read_json(f"{place}/config.json")
        container.adapt(place, "/run/criu.conf")
        after = container.read_json(f"{place}/config.json")
        assert container.part(after, "annotations")["org.criu.config"] == "/run/criu.conf"
        assert {key: after[key] for key in after if key != "annotations"} == {
            key: before[key] for key in before if key != "annotations"
        }


texts = st.one_of(
    st.text(max_size=30),
    st.sampled_from([one for one in HOSTILE if isinstance(one, str)]),
    st.from_regex(r"-?[0-9._eE+]{1,12} ?[smhdKMGTPE]?i?[,:]?", fullmatch=True),
    st.sampled_from([value for one in ANNOTATIONS for value in one.values()]),
)


@fuzz(
    annotations=st.dictionaries(
        st.sampled_from([*checkpoint_options.ANNOTATIONS, *(name for one in ANNOTATIONS for name in one)]),
        texts,
        max_size=8,
    ),
    container_id=st.sampled_from([ID, "", "x"]),
)
def test_annotations_mean_something_or_are_refused(annotations: dict[str, str], container_id: str) -> None:
    pod_annotations.read(annotations, container_id)
    try:
        wished = checkpoint_options.read(annotations)
    except InvalidWishError as problem:
        is_short(problem)
        return
    if wished.interval_seconds:
        assert math.isfinite(wished.interval_seconds)
        assert wished.interval_seconds >= 1
    assert 0 <= wished.volumes_limit_bytes < 1 << 63


@fuzz(data=st.one_of(json_of(PODS), bytes_of(PODS)))
def test_the_ids_of_a_pod_are_known_or_not(data: bytes) -> None:
    try:
        pod = wire.decode(data, Pod)
    except wire.MalformedMessageError as problem:
        is_short(problem)
        return
    for found in checkpoint_ids(pod).values():
        assert 0 < len(found) < 100_000


@fuzz(before=st.one_of(st.none(), json_of(PODS)), now=json_of(PODS))
def test_what_happened_to_a_pod_fits_into_a_message(before: bytes | None, now: bytes) -> None:
    try:
        then, today = (None if data is None else wire.decode(data, Pod) for data in (before, now))
    except wire.MalformedMessageError:
        return
    views = [
        None if pod is None else pod_diff.view(pod, runtime_classes={"woodfrog"}, cordoned={"node-1"})
        for pod in (then, today)
    ]
    for what in pod_diff.happened(*views):
        seen = views[1] or views[0]
        assert seen is not None
        event = pod_diff.told(seen, what, cluster="lab", at=datetime.now(UTC))
        data = wire.encode(event)
        if len(now) < 20_000:
            assert len(data) < MAX_MESSAGE_BYTES
        with suppress(RefusedPodEventError, UnicodeError):
            read_pod_event(subjects.pods(event.namespace, event.pod), data)


@fuzz(
    variables=st.lists(
        st.tuples(
            st.sampled_from(["A", "B", "C", "CEDANA_CHECKPOINT"]),
            st.lists(
                st.sampled_from(["$(A)", "$(B)", "$(C)", "$$", "$(", ")", "x", "xxxxxxxxxxxxxxxx"]), max_size=9
            ).map("".join),
        ),
        max_size=300,
    )
)
def test_variables_that_name_each_other_are_expanded_within_bounds(variables: list[tuple[str, str]]) -> None:
    env: list[Any] = [{"name": name, "value": value} for name, value in variables]
    plain = {
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"containers": [{"name": "c", "env": env}]},
    }
    for found in checkpoint_ids(wire.decode(json.dumps(plain), Pod)).values():
        assert len(found) < 100_000
    spec: dict[str, object] = {"process": {"env": [f"{name}={value}" for name, value in variables]}}
    value = container.variable(spec, "CEDANA_CHECKPOINT")
    assert value is None or len(value) < 100_000


@fuzz(config=plain_of(BUNDLES))
def test_an_environment_is_read_whatever_it_is(config: Any) -> None:
    if isinstance(config, dict):
        assert all(isinstance(name, str) for name in checkpoint_options.from_environment(container.environment(config)))

"""What of a manifest will not be captured or restored, found before anything runs.

Pure: documents of YAML in, findings out, each with the field that it is about. What is refused here is what a worker would refuse, or what
could not come back on another node; what only costs something is a warning.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from controlplane.kube.env_expansion import VARIABLE, checkpoint_ids
from controlplane.kube.models import Pod
from nodeworker.domain import checkpoint_options
from woodfrog.protocol.failures import Failure
from woodfrog.protocol.ids import InvalidIdError, check_id

RUNTIME_CLASS: Final = "cedana"
ON_DEMAND: Final = "woodfrog.io/checkpoint"
_PREFIX: Final = "woodfrog.io/"
_GPU: Final = "nvidia.com/gpu"
_OTHER_GPUS: Final = ("amd.com/gpu", "gpu.intel.com/", "habana.ai/", "google.com/tpu", "aws.amazon.com/neuron")
_OWN_ANNOTATIONS: Final = (*checkpoint_options.ANNOTATIONS, ON_DEMAND)
_USUAL_GRACE_SECONDS: Final = 30
_ABOUT_SIZES: Final = (checkpoint_options.VOLUMES, checkpoint_options.VOLUMES_LIMIT)
_BINARY: Final = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
_HOST_NAMESPACES: Final = (
    (
        "hostPID",
        "error",
        Failure(
            "pid-taken",
            "its process ids must be free on the next node, which has processes of its own",
            "Leave hostPID out.",
        ),
    ),
    (
        "hostIPC",
        "error",
        Failure(
            "host-ipc",
            "shared memory, semaphores, message queues and /dev/shm of the node do not travel",
            "Leave hostIPC out.",
        ),
    ),
    (
        "hostNetwork",
        "warning",
        Failure(
            "address-taken",
            "addresses and ports that it listens on must be there, and free, on the next node",
            "Leave hostNetwork out, or listen on all addresses and a port of its own.",
        ),
    ),
)

Object = Mapping[str, Any]


class Finding(msgspec.Struct, frozen=True):
    """One thing about one field; ``severity`` is ``error`` for what will not work, else ``warning``."""

    object: str
    field: str
    severity: str
    code: str
    cause: str
    advice: str


class _Template(msgspec.Struct, frozen=True):
    """A pod template and where it was found."""

    object: str
    path: str
    """Of the template, with a dot at its end, or nothing for a pod itself."""
    pod: Object
    copies: int
    """How many pods with this template may run at once."""
    owner: Object

    def finding(self, field: str, failure: Failure, *, severity: str = "error") -> Finding:
        """Say something about a field of the template."""
        return Finding(self.object, f"{self.path}{field}", severity, failure.code, failure.cause, failure.advice)


def findings(documents: Iterable[Any]) -> list[Finding]:
    """Look at documents, lists of objects among them; other kinds than those that make pods say nothing."""
    templates = [template for document in documents for template in _templates(document)]
    found = [each for template in templates for each in _of_template(template)]
    if not any(_is_protected(template.pod) for template in templates) and not found:
        cause = f"no pod of it has a container with the variable {VARIABLE}"
        failure = Failure(
            "pod-not-protected", cause, f"Set {VARIABLE}, and runtimeClassName: {RUNTIME_CLASS} on the pod."
        )
        found = [Finding("", "", "error", failure.code, failure.cause, failure.advice)]
    return found


def _templates(document: Any) -> Iterator[_Template]:
    if not isinstance(document, Mapping):
        return
    if isinstance(document.get("items"), list):
        for item in document["items"]:
            yield from _templates(item)
        return
    kind, metadata = document.get("kind", "?"), _part(document, "metadata")
    name = f"{kind}/{metadata.get('name') or metadata.get('generateName') or '?'}"
    spec = _part(document, "spec")
    if kind == "Pod":
        yield _Template(name, "", document, 1, {})
        return
    yield from _nested(name, "spec.", spec, document)


def _nested(name: str, path: str, spec: Object, owner: Object) -> Iterator[_Template]:
    """Find pod templates wherever an owner keeps them: ``template``, ``jobTemplate.spec.template``, ``replicatedJobs[0].template.spec.template``."""
    for field, value in spec.items():
        if not isinstance(value, Mapping | list):
            continue
        if field == "template" and isinstance(value, Mapping) and _part(value, "spec").get("containers"):
            yield _Template(name, f"{path}template.", value, _copies(spec), owner)
        elif isinstance(value, Mapping):
            yield from _nested(name, f"{path}{field}.", value, owner)
        else:
            for number, each in enumerate(value):
                if isinstance(each, Mapping):
                    yield from _nested(name, f"{path}{field}[{number}].", each, owner)


def _copies(spec: Object) -> int:
    counts = [spec.get("replicas", 1), min(_number(spec, "parallelism"), _number(spec, "completions", 1 << 20))]
    return max((count for count in counts if isinstance(count, int)), default=1)


def _number(spec: Object, field: str, otherwise: int = 1) -> int:
    value = spec.get(field)
    return value if isinstance(value, int) else otherwise


def _part(value: Object, name: str) -> Object:
    found = value.get(name)
    return found if isinstance(found, Mapping) else {}


def _listed(value: Object, name: str) -> list[Object]:
    found = value.get(name)
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _names(container: Object) -> bool:
    return any(each.get("name") == VARIABLE for each in _listed(container, "env"))


def _containers(pod: Object) -> Iterator[tuple[str, Object]]:
    for kind in ("initContainers", "containers"):
        for number, container in enumerate(_listed(_part(pod, "spec"), kind)):
            yield f"spec.{kind}[{number}]", container


def _is_protected(pod: Object) -> bool:
    return any(_names(container) for _, container in _containers(pod))


def _of_template(template: _Template) -> Iterator[Finding]:
    spec = _part(template.pod, "spec")
    runtime_class = spec.get("runtimeClassName")
    if not _is_protected(template.pod):
        if runtime_class == RUNTIME_CLASS:
            cause = f"no container of it has the variable {VARIABLE}, so none is protected"
            failure = Failure("id-missing", cause, f"Set {VARIABLE} to an id that is the pod's own.")
            yield template.finding("spec.containers", failure)
        return
    if runtime_class != RUNTIME_CLASS:
        cause = f"runtimeClassName is {runtime_class!r}" if runtime_class else "there is no runtimeClassName"
        failure = Failure(
            "runtime-class-missing", f"{cause}, so {VARIABLE} means nothing", f"Set it to {RUNTIME_CLASS}."
        )
        yield template.finding("spec.runtimeClassName", failure)
    yield from _of_annotations(template)
    yield from _of_ids(template)
    yield from _of_namespaces(template, spec)
    yield from _of_grace(template, spec)
    yield from _of_sizes(template, spec)
    for field, container in _containers(template.pod):
        if _names(container):
            yield from _of_mounts(template, spec, field, container)
            yield from _of_gpus(template, field, container)


def _of_annotations(template: _Template) -> Iterator[Finding]:
    given = _part(_part(template.pod, "metadata"), "annotations")
    for name, value in given.items():
        if not str(name).startswith(_PREFIX):
            continue
        field = f"metadata.annotations[{name}]"
        if name not in _OWN_ANNOTATIONS:
            near = difflib.get_close_matches(str(name), _OWN_ANNOTATIONS, 1)
            advice = f"Did you mean {near[0]}?" if near else f"These are: {', '.join(_OWN_ANNOTATIONS)}."
            yield template.finding(field, Failure("annotation-unknown", f"nothing reads {name}", advice))
            continue
        try:
            checkpoint_options.read({name: str(value) if isinstance(value, str) else repr(value)})
        except checkpoint_options.InvalidWishError as problem:
            advice = "See docs/reference/annotations.md: the container would not be created."
            yield template.finding(field, Failure("invalid-annotation", str(problem), advice))
    if template.path:
        misplaced = [
            name for name in _part(_part(template.owner, "metadata"), "annotations") if name in _OWN_ANNOTATIONS
        ]
        for name in misplaced:
            cause = f"{name} is on the {template.object.partition('/')[0]}, where nothing reads it"
            failure = Failure("annotation-misplaced", cause, f"Move it to {template.path}metadata.annotations.")
            yield Finding(
                template.object, f"metadata.annotations[{name}]", "error", failure.code, failure.cause, failure.advice
            )
    if given.get(checkpoint_options.IO_URING) == "allow":
        cause = "the containers may use io_uring, and one that does gets no snapshot"
        failure = Failure("io-uring", cause, f"Leave {checkpoint_options.IO_URING} out where no program insists on it.")
        yield template.finding(f"metadata.annotations[{checkpoint_options.IO_URING}]", failure, severity="warning")
    yield from _of_volume_names(template, given.get(checkpoint_options.VOLUMES))


def _of_volume_names(template: _Template, text: Any) -> Iterator[Finding]:
    if not isinstance(text, str) or text in {"all", "none"}:
        return
    there = {volume.get("name") for volume in _listed(_part(template.pod, "spec"), "volumes")}
    for name in (part.strip() for part in text.split(",")):
        if name and not name.startswith("/") and name not in there:
            failure = Failure("volume-unknown", f"the pod has no volume {name}", "Name volumes of the pod.")
            yield template.finding(f"metadata.annotations[{checkpoint_options.VOLUMES}]", failure)


def _of_ids(template: _Template) -> Iterator[Finding]:
    metadata = {"name": "?", "uid": "?", "namespace": "?", **_part(template.pod, "metadata")}
    spec = _part(template.pod, "spec")
    try:
        pod = msgspec.convert({"metadata": metadata, "spec": spec}, Pod, strict=False)
    except msgspec.ValidationError as problem:
        failure = Failure(
            "malformed-manifest", f"it is not a pod: {problem}", "Compare it with `kubectl explain pod.spec`."
        )
        yield template.finding("spec", failure)
        return
    known = checkpoint_ids(pod)
    seen: dict[str, str] = {}
    for field, container in _containers(template.pod):
        value = known.get(str(container.get("name")))
        if value is None:
            continue
        where = f"{field}.env[{VARIABLE}]"
        plain = next((each.get("value") for each in _listed(container, "env") if each.get("name") == VARIABLE), None)
        if isinstance(plain, str) and "$(" not in plain:
            try:
                check_id(value, VARIABLE)
            except InvalidIdError as problem:
                yield template.finding(
                    where, Failure("invalid-id", str(problem), "See docs/reference/cli.md for what an id is.")
                )
        if value in seen:
            cause = f"{value} is the id of {seen[value]}, too: each of the two would supersede the other"
            yield template.finding(where, Failure("id-shared", cause, "Give each container an id of its own."))
        elif template.copies > 1 and isinstance(plain, str) and "$(" not in plain:
            cause = f"{template.copies} pods would have the id {value}, and each start supersedes the one before"
            advice = "Let the id hold something that is each pod's own, such as $(POD_NAME) of a StatefulSet or $(JOB_COMPLETION_INDEX)."
            yield template.finding(where, Failure("id-shared", cause, advice))
        seen[value] = str(container.get("name"))


def _of_namespaces(template: _Template, spec: Object) -> Iterator[Finding]:
    if spec.get("hostUsers") is False:
        cause = "the containers would be in the user namespace of their pod, and CRIU cannot restore one into that of another pod"
        failure = Failure("user-namespace", cause, "Leave hostUsers out.")
        yield template.finding("spec.hostUsers", failure)
    for field, severity, failure in _HOST_NAMESPACES:
        if spec.get(field) is True:
            yield template.finding(f"spec.{field}", failure, severity=severity)
    if spec.get("shareProcessNamespace") is True:
        cause = "process ids must be free in the next pod's namespace, and no process may have outlived its parent"
        failure = Failure("pid-taken", cause, "Leave shareProcessNamespace out, if nothing needs it.")
        yield template.finding("spec.shareProcessNamespace", failure, severity="warning")
    if _part(spec, "os").get("name") == "windows":
        yield template.finding(
            "spec.os", Failure("not-linux", "its containers run on Windows", "Woodfrog needs Linux.")
        )


def _of_grace(template: _Template, spec: Object) -> Iterator[Finding]:
    grace = spec.get("terminationGracePeriodSeconds", _USUAL_GRACE_SECONDS)
    if isinstance(grace, int) and grace < 2:
        cause = f"{grace} s are too short for the last snapshot; what was done since the one before would be lost"
        failure = Failure("grace-too-short", cause, f"Give it {_USUAL_GRACE_SECONDS} s or more.")
        yield template.finding("spec.terminationGracePeriodSeconds", failure)


def _of_sizes(template: _Template, spec: Object) -> Iterator[Finding]:
    """Compare what the emptyDirs may hold with what may travel: above that there is no snapshot."""
    annotations = _part(_part(template.pod, "metadata"), "annotations")
    try:
        wished = checkpoint_options.read({name: str(annotations[name]) for name in _ABOUT_SIZES if name in annotations})
    except checkpoint_options.InvalidWishError:
        return  # said already
    sizes = {
        str(volume.get("name")): _bytes(_part(volume, "emptyDir").get("sizeLimit"))
        for volume in _listed(spec, "volumes")
        if "emptyDir" in volume and wished.takes_volume(str(volume.get("name")))
    }
    total = sum(sizes.values())
    if total > wished.volumes_limit_bytes:
        cause = (
            f"its emptyDirs may hold {total >> 20} MiB, and no more than {wished.volumes_limit_bytes >> 20} MiB travel"
        )
        advice = f"Raise the annotation {checkpoint_options.VOLUMES_LIMIT}, or name in {checkpoint_options.VOLUMES} those that are needed."
        yield template.finding("spec.volumes", Failure("volumes-too-large", cause, advice), severity="warning")


def _bytes(quantity: Any) -> int:
    """Read the forms of an amount of bytes that people write for a size limit; 0 for none, and for others."""
    text = str(quantity or "")
    number, unit = text[:-2], text[-2:]
    if unit in _BINARY and number.isdecimal():
        return int(number) * _BINARY[unit]
    if text.isdecimal():
        return int(text)
    return int(text[:-1]) * 10**9 if text.endswith("G") and text[:-1].isdecimal() else 0


def _of_mounts(template: _Template, spec: Object, field: str, container: Object) -> Iterator[Finding]:
    volumes = {volume.get("name"): volume for volume in _listed(spec, "volumes")}
    for number, mount in enumerate(_listed(container, "volumeMounts")):
        volume = volumes.get(mount.get("name"), {})
        if "hostPath" in volume and mount.get("readOnly") is not True:
            path = _part(volume, "hostPath").get("path")
            cause = f"the node's {path} is open for writing and never travels: on another node other files are there"
            advice = "Set readOnly: true, or use an emptyDir, which travels, or a PersistentVolumeClaim, which is attached again."
            yield template.finding(f"{field}.volumeMounts[{number}]", Failure("host-path", cause, advice))
    if _listed(container, "volumeDevices"):
        failure = Failure("device", "a block device cannot be dumped while it is open", "Mount a file system.")
        yield template.finding(f"{field}.volumeDevices", failure)


def _of_gpus(template: _Template, field: str, container: Object) -> Iterator[Finding]:
    wanted = {**_part(_part(container, "resources"), "requests"), **_part(_part(container, "resources"), "limits")}
    for name, count in wanted.items():
        where = f"{field}.resources.limits[{name}]"
        if str(count) in {"0", ""}:
            continue
        if str(name).startswith("nvidia.com/mig-"):
            cause = "it uses a slice of a GPU (MIG), which the driver cannot checkpoint"
            yield template.finding(where, Failure("gpu-mig", cause, "Give the container a whole GPU."))
        elif str(name).startswith(_OTHER_GPUS):
            failure = Failure("gpu-unsupported", f"no driver of {name} can checkpoint", "Only NVIDIA's can.")
            yield template.finding(where, failure)
        elif name == _GPU:
            cause = "GPUs need NVIDIA's driver 550 or newer, injected by CDI; this is unproven on real hardware"
            failure = Failure("gpu-means-missing", cause, "See docs/gpu.md.")
            yield template.finding(where, failure, severity="warning")

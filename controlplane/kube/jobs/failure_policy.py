"""What a Job's podFailurePolicy says about the end of a pod: the rules of batch/v1 as the Job controller applies them.

The first rule that matches decides, and what no rule matches counts (pod_failure_policy.go). A container that has not ended and an
exit code of 0 match no rule.
"""

from __future__ import annotations

from typing import Final

from controlplane.kube.jobs.models import JobPod, OnExitCodes, PodFailurePolicy, Rule

COUNT: Final = "Count"
IGNORE: Final = "Ignore"
FAIL_JOB: Final = "FailJob"
FAIL_INDEX: Final = "FailIndex"


def action_for(policy: PodFailurePolicy | None, pod: JobPod) -> str:
    """Return what becomes of the pod's failure: one of the actions above."""
    rules = () if policy is None else policy.rules
    return next((rule.action for rule in rules if _matches(rule, pod)), COUNT)


def _matches(rule: Rule, pod: JobPod) -> bool:
    if rule.on_exit_codes is not None:
        return any(_is_meant(rule.on_exit_codes, name, code) for name, code in pod.exit_codes)
    return any((each.type, each.status) in pod.conditions for each in rule.on_pod_conditions or ())


def _is_meant(asked: OnExitCodes, container: str, exit_code: int) -> bool:
    if exit_code == 0 or asked.container_name not in {None, container}:
        return False
    return (exit_code in asked.values) == (asked.operator == "In")

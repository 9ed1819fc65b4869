"""Which id the runtime reads off a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nodeworker import bundle
from nodeworker.runtime.container import variable

pytestmark = pytest.mark.timeout(5)


@pytest.mark.parametrize(
    ("environment", "value"),
    [
        ([], None),
        (["PATH=/bin", "ID=train"], "train"),
        (["ID=old", "ID=new"], "new"),
        (["ID="], ""),
        (
            ["ID=train-$(JOB_COMPLETION_INDEX)", "JOB_COMPLETION_INDEX=3"],
            "train-3",
        ),  # as the Job controller orders them
        (["ID=$(A)-$(B)", "A=a=b", "B=c"], "a=b-c"),
        (["ID=train-$(UNKNOWN)"], "train-$(UNKNOWN)"),
        (["ID=$(ID)"], "$(ID)"),
        (["ANOTHER_ID=x", "IDS=y"], None),
    ],
)
def test_the_last_value_counts_with_what_the_kubelet_left_over(environment: list[str], value: str | None) -> None:
    assert variable({"process": {"env": environment}}, "ID") == value


@pytest.mark.parametrize("spec", [{}, {"process": {}}, {"process": {"env": "ID=a"}}, {"process": {"env": [None, 3]}}])
def test_a_bundle_that_is_no_bundle_has_none(spec: dict[str, object]) -> None:
    assert variable(spec, "ID") is None


def test_a_worker_that_looks_ahead_reads_the_same_id_as_the_runtime(tmp_path: Path) -> None:
    spec = {"process": {"env": ["ID=train-$(JOB_COMPLETION_INDEX)", "JOB_COMPLETION_INDEX=3"]}}
    (tmp_path / "config.json").write_text(json.dumps(spec))
    assert bundle.variable(str(tmp_path), "ID") == variable(spec, "ID") == "train-3"

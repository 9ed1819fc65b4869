"""docs/reference/support.md is what tests reported."""

from __future__ import annotations

from pathlib import Path

import pytest
from vm import support

pytestmark = pytest.mark.timeout(5)

MACHINE = {"system": "Debian 13", "kernel": "6.12", "cgroup": "v2", "systemd": True, "runc": "1.1.15", "criu": "4.2.1"}
SHARED = (support.ROOT / "tests/support/engine_cases.py").read_text()
REPORT = """<testsuites><testsuite>
<testcase classname="tests.e2e.test_cgroups" name="a"/>
<testcase classname="tests.e2e.test_cgroups" name="b"><skipped/></testcase>
<testcase classname="tests.e2e.test_pods_volumes" name="c"><failure/></testcase>
<testcase classname="tests.unit.test_choose" name="d"/>
</testsuite></testsuites>"""


def test_the_page_is_made_from_the_reports_and_from_nothing_else() -> None:
    assert support.PAGE.read_text() == support.render(support.known())


def test_reports_are_counted_by_kind(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    (tmp_path / "demo").touch()
    assert support.reported(tmp_path) == {
        "demo": {"demo": "passed"},
        "cgroups": {"test_cgroups::a": "passed", "test_cgroups::b": "skipped"},
        "pods": {"test_pods_volumes::c": "failed"},
    }


def test_what_passed_when_it_was_repeated_did_not_fail_and_is_counted_apart(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    (tmp_path / "report_again.xml").write_text(REPORT.replace("<failure/>", ""))
    assert support.reported(tmp_path)["pods"] == {"test_pods_volumes::c": "repeated"}


def test_a_newer_report_replaces_the_older_one_of_its_tests_on_that_machine_only() -> None:
    first = {"demo": {"demo": "passed"}, "pods": {"test_pods::a": "failed", "test_pods::b": "passed"}}
    rows = support.merged([], {**MACHINE, "date": "2026-01-01"}, first)
    rows[0]["kinds"]["pods"]["unnamed::1"] = ["passed", "2025-01-01"]
    rows = support.merged(rows, {**MACHINE, "date": "2026-02-02"}, {"pods": {"test_pods::a": "passed"}})
    rows = support.merged(rows, {**MACHINE, "kernel": "7.2", "date": "2026-02-02"}, {"demo": {"demo": "passed"}})
    assert len(rows) == 2
    kinds = next(row["kinds"] for row in rows if row["machine"]["kernel"] == "6.12")
    assert kinds["demo"] == {"demo": ["passed", "2026-01-01"]}
    assert kinds["pods"] == {
        "test_pods::a": ["passed", "2026-02-02"],
        "test_pods::b": ["passed", "2026-01-01"],
    }
    page = support.render({"tests": {"demo": 1, "pods": 7}, "machines": rows})
    assert "| 2 of 7 | 2 | 0 | 0 | 0 | 2026-01-01 to 2026-02-02 |" in page


def test_every_test_file_of_the_end_to_end_tests_that_needs_a_machine_is_of_a_kind() -> None:
    apart = {
        "test_bundle",
        "test_data_keys",
        "test_demo",
        "test_dev",
        "test_gpu",
        "test_gpu_rehearsal",
        "test_install_node",
        "test_keep",
    }
    files = {path.stem for path in (support.ROOT / "tests/e2e").glob("test_*.py")}
    assert {name for name in files - apart if support.kind_of(f"tests.e2e.{name}") is None} == set()


@pytest.mark.parametrize("selection", ["every-time", "each-kind", "cluster"])
def test_every_test_that_a_selection_names_is_there(selection: str) -> None:
    lines = (support.ROOT / f"tests/vm/{selection}.txt").read_text().splitlines()
    named = [word for line in lines if not line.startswith("#") for word in line.split() if word.startswith("tests/")]
    assert named
    for name in named:
        file, *inside = name.split("::")
        text = (support.ROOT / file).read_text() + SHARED if inside else ""
        assert not inside or f"def {inside[-1].partition('[')[0]}(" in text, name

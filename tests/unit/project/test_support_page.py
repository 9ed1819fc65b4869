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
    counts = support.counted(tmp_path)
    assert counts["cgroups"] == {"passed": 1, "repeated": 0, "failed": 0, "skipped": 1}
    assert counts["pods"] == {"passed": 0, "repeated": 0, "failed": 1, "skipped": 0}
    assert set(counts) == {"cgroups", "pods", "demo"}


def test_what_passed_when_it_was_repeated_did_not_fail_and_is_counted_apart(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    (tmp_path / "report_again.xml").write_text(REPORT.replace("<failure/>", ""))
    assert support.counted(tmp_path)["pods"] == {"passed": 0, "repeated": 1, "failed": 0, "skipped": 0}


def test_a_newer_report_replaces_the_older_one_of_its_kind_on_that_machine_only() -> None:
    count = {"passed": 1, "failed": 0, "skipped": 0}
    rows = support.merged([], {**MACHINE, "date": "2026-01-01"}, {"demo": count, "pods": count})
    rows = support.merged(rows, {**MACHINE, "date": "2026-02-02"}, {"pods": {**count, "passed": 5}})
    rows = support.merged(rows, {**MACHINE, "kernel": "7.2", "date": "2026-02-02"}, {"demo": count})
    assert len(rows) == 2
    kinds = next(row["kinds"] for row in rows if row["machine"]["kernel"] == "6.12")
    assert kinds["demo"]["date"] == "2026-01-01"
    assert kinds["pods"] == {"passed": 5, "failed": 0, "skipped": 0, "date": "2026-02-02"}
    assert "| 5 | 0 | 0 | 0 | 2026-02-02 |" in support.render(rows)


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

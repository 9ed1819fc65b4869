"""Every block of commands on a page is run by a test or says why not, and names nothing that is not there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from support import documented
from support.console import PLACES, ROOT, Block, Meanings, Step, UnexpectedError, blocks_of, pages, pages_of, problem_of

pytestmark = pytest.mark.timeout(30)

SPAN = re.compile(r"`(woodfrog [^`\n]+)`")
VALUE = re.compile(r"`([a-z]\w*(?:\.\w+)+)(?:=\S+)?`")
NOT_VALUES = {
    "py",
    "md",
    "json",
    "yaml",
    "toml",
    "db",
    "log",
    "sock",
    "sh",
    "conf",
    "key",
    "keys",
    "pem",
    "tar",
    "io",
    "seed",
    "crt",
    "txt",
}
"""What a name with a dot ends in that is a file."""
EVENTS = re.compile(r"^(checkpoint|incarnation|snapshot|container|command|node|log|policy|pod|restore)\.[a-z-]+$")


def module(name: str) -> bool:
    first, second, *_ = name.split(".")
    return first == "controlplane" and importlib.util.find_spec(f"{first}.{second}") is not None


def by_page(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", pages(), ids=by_page)
def test_every_block_of_commands_is_run_or_says_why_not(page: Path) -> None:
    assert [f"line {each.line}: {wrong}" for each in blocks_of(page) if (wrong := problem_of(each))] == []


@pytest.mark.parametrize("place", sorted(PLACES))
def test_the_pages_of_a_place_are_walked_by_its_test(place: str) -> None:
    walks = re.findall(r"pages_of\(([^)]+)\)", (ROOT / PLACES[place]).read_text())
    assert walks == [f'"{place}"' if place not in {"docker", "podman"} else "engine.name"]
    assert pages_of(place)


@pytest.mark.parametrize("page", pages(), ids=by_page)
def test_every_command_on_a_page_is_one_that_there_is(page: Path) -> None:
    typed = [(block.line, step.command) for block in blocks_of(page) if block.is_typed for step in block.steps()]
    found = [(line, documented.problem_of(words)) for line, command in typed for words in documented.commands(command)]
    assert [f"line {line}: {problem}" for line, problem in found if problem] == []


@pytest.mark.parametrize("page", pages(), ids=by_page)
def test_every_verb_and_option_in_a_sentence_is_one_that_there_is(page: Path) -> None:
    if page.parent.name == "decisions" or page.name == "CHANGELOG.md":  # those say what was
        return
    wrong = []
    for span in SPAN.findall(page.read_text()):
        words = re.sub(r"[\[\]…|]", " ", span).split()[1:]
        if problem := documented.verb_problem(words):
            wrong.append(f"{span}: {problem}")
    assert wrong == []


@pytest.mark.parametrize("page", pages(), ids=by_page)
def test_every_annotation_and_value_of_the_chart_on_a_page_is_one_that_there_is(page: Path) -> None:
    text = page.read_text()
    assert documented.annotations(text) - documented.known_annotations() == set()
    if page.parent.name == "decisions" or page.name == "CHANGELOG.md":  # those say what was
        return
    named = {name for name in VALUE.findall(text) if name.partition(".")[0] in documented.tops()}
    values = {
        name for name in named
        if name.rpartition(".")[2] not in NOT_VALUES and not EVENTS.match(name) and not module(name)
    }  # fmt: skip
    assert sorted(name for name in values if not documented.is_value(name)) == []


@pytest.mark.parametrize("page", pages(), ids=by_page)
def test_values_that_a_page_gives_the_chart_are_those_that_it_has(page: Path) -> None:
    for each in blocks_of(page):
        given = yaml.safe_load(each.text) if each.language == "yaml" else None
        if isinstance(given, dict) and set(given) <= documented.tops():
            assert list(documented.unknown_values(given)) == [], f"line {each.line}"


def block(text: str, *mark: str, language: str = "console") -> Block:
    return Block("page.md", 1, language, text, mark or ("run", "machine"))  # type: ignore[arg-type]


def test_a_block_without_a_mark_or_with_a_place_that_nobody_walks_is_refused() -> None:
    assert "neither run" in problem_of(block("make x\n", "", ""))
    assert "no test walks" in problem_of(block("make x\n", "run", "moon"))
    assert "tests/no.py" in problem_of(block("make x\n", "not run", "it is far; tests/no.py does the same"))
    assert "neither run" in problem_of(block("$ ls\n", "", "", language=""))
    assert problem_of(block("make x\n", "not run", "it is far")) == ""


@pytest.mark.parametrize(
    "line",
    [
        "woodfrog nonsense x", "woodfrog run --id x --nope -- sh", "woodfrog pin", "sudo | woodfrog why", "make nothing",
        "python -m woodfrog.nothing", "helm install a b --set controlplane.nothing=1", "woodfrog-node nothing",
        "kubectl exec x -- woodfrog nothing", "X=1 woodfrog get nothing", "woodfrog get ids -o nothing",
    ],
)  # fmt: skip
def test_commands_that_there_are_not_are_found(line: str) -> None:
    assert [problem for words in documented.commands(line) if (problem := documented.problem_of(words))]


def test_what_is_typed_and_what_is_shown_are_told_apart() -> None:
    typed = block("$ a \\\n  b   # why\n1\n2\n^C    # and stop\n$ c\n")
    assert typed.steps() == [Step("a \\\n  b   # why", ("1", "2"), interrupted=True), Step("c")]
    assert block("# only said\na\n\nb \\\n c\n").steps() == [Step("a"), Step("b \\\n c")]


def test_a_count_goes_on_without_a_gap_over_commands() -> None:
    first, left = Meanings().after(["1", "2"], ["woodfrog: started", "1", "2", "3"])
    assert left == []
    second, left = first.after(["3", "4"], ["4", "5"])
    assert (left, second.counted) == ([], 5)
    for wrong in (["3"], ["5"], ["1"]):
        with pytest.raises(UnexpectedError):
            first.after(["3", "4"], wrong)
    with pytest.raises(UnexpectedError):
        Meanings().after(["4"], ["1"])
    with pytest.raises(UnexpectedError):
        Meanings().after(["1"], ["2"])
    assert Meanings().after(["x  | 4"], ["x | 9"])[0].counted == 9


def test_ids_and_digests_are_those_of_this_time() -> None:
    shows = ["captured as 20261123T214501Z-5f3a9c1e", "digest 9d1c…", "… bytes"]
    known, left = Meanings().after(shows, ["captured as 20991231T000000Z-00000001", "digest 0123456789ab", "12 bytes"])
    assert left == []
    assert known.typed("pin 20261123T214501Z-5f3a9c1e 9d1c…") == "pin 20991231T000000Z-00000001 0123456789ab"
    assert known.after(["20261123T214501Z-5f3a9c1e"], ["20991231T000000Z-00000002"])[1] != []
    with pytest.raises(UnexpectedError):
        known.typed("pin 20261123T214501Z-ffffffff")

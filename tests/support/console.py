"""The console blocks of the pages: where each is run, which commands it types, and what it promises that they print.

The line before a block says where it is run, in a comment that a reader does not see:

``<!-- run: machine -->``
    by the test that walks through that place's pages; all blocks of a page are typed in their order, on one machine.
``<!-- run: machine, in second, until "is ready" -->``
    in another terminal, in which its last command stays in the foreground once it has printed that.
``<!-- not run: it needs a real bucket; tests/security/test_bucket_credentials.py does the same -->``
    nowhere, and why.
``<!-- file: compose.yaml -->``
    the block is not typed but written into that file.

In a block with lines that begin with ``$ `` the others are what is printed, in that order, among other lines; ``^C`` is pressed. In a block
without such lines everything is typed. ``…`` stands for anything. An id of a snapshot, and the beginning of a digest before a ``…``, stand for
what is printed in their place, and for the same further down. Lines that are a number are a count: it begins as the page's does, and then
no number may be missing or there twice, whatever happened in between. A program counts on standard output and Woodfrog speaks on standard
error, so a count and other lines have no order between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACES = {
    "machine": "tests/e2e/test_pages_of_a_machine.py",
    "server": "tests/integration/project/test_pages_of_servers.py",
    "docker": "tests/support/engine_cases.py",
    "podman": "tests/support/engine_cases.py",
    "cluster": "tests/cluster/test_28_tutorial.py",
}
"""The file of tests that walks through the pages of each place."""
LANGUAGES = {"console", "sh", "bash", "shell"}
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)$")
_MARK = re.compile(r"^ *<!-- (?P<kind>run|not run|file): (?P<text>.+?) -->$")
_RUN = re.compile(r'^(?P<place>\w+)(?:, in (?P<terminal>\w+))?(?:, until "(?P<until>[^"]+)")?$')
_COUNT = re.compile(r"(?:\S+ +\| )?(\d+)")
_VARYING = re.compile(r"(\d{8}T\d{6}Z-[0-9a-f]{8}|\b[0-9a-f]{4,}…|…)")


@dataclass(frozen=True)
class Step:
    """One command, and what it shows."""

    command: str
    shows: tuple[str, ...] = ()
    interrupted: bool = False
    """Whether Ctrl-C is pressed once all of that was printed."""


@dataclass(frozen=True)
class Block:
    """One block of code on a page; ``mark`` is the kind and text of the comment before it, both empty if there is none."""

    page: str
    line: int
    language: str
    text: str
    mark: tuple[str, str] = ("", "")

    @property
    def is_typed(self) -> bool:
        """Whether a reader would type it."""
        typed = self.language in LANGUAGES or any(line.startswith("$ ") for line in self.text.splitlines())
        return typed and self.mark[0] != "file"

    @property
    def place(self) -> str:
        """Where it is run; empty if it is not."""
        found = _RUN.match(self.mark[1]) if self.mark[0] == "run" else None
        return found["place"] if found else ""

    @property
    def terminal(self) -> str:
        """The terminal in which it is typed."""
        found = _RUN.match(self.mark[1])
        return (found and found["terminal"]) or "first"

    @property
    def until(self) -> str:
        """What its last command prints before it stays in the foreground; empty if it ends."""
        found = _RUN.match(self.mark[1])
        return (found and found["until"]) or ""

    def steps(self) -> list[Step]:
        """What is typed, in order. A line that ends in a backslash goes on in the next one."""
        lines = self.text.replace("\\\n", "\\\0").splitlines()
        lines = [line.replace("\0", "\n") for line in lines]
        if not any(line.startswith(("$ ", "^C")) for line in lines):
            return [Step(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]
        steps = list[Step]()
        for line in lines:
            if line.startswith("$ "):
                steps.append(Step(line.removeprefix("$ ")))
            elif line.split("#")[0].strip() == "^C":
                steps = [*steps[:-1], replace(steps[-1], interrupted=True)] if steps else [Step("", interrupted=True)]
            elif line.strip():
                steps[-1] = replace(steps[-1], shows=(*steps[-1].shows, line))
        return steps


def blocks_of(page: Path) -> list[Block]:
    """Every block of code of a page."""
    found, opened, text, mark = [], None, list[str](), ("", "")
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is not None:
            if line.strip() == "```":
                start, indent, language = opened
                body = "".join(f"{each.removeprefix(indent)}\n" for each in text)
                found.append(Block(str(page.relative_to(ROOT)), start, language, body, mark))
                opened, text, mark = None, [], ("", "")
            else:
                text.append(line)
        elif fence:
            opened = (number, fence["indent"], fence["language"])
        elif line.strip():
            comment = _MARK.match(line)
            mark = (comment["kind"], comment["text"]) if comment else ("", "")
    return found


def pages() -> list[Path]:
    """Every page of the project."""
    places = ("*.md", "docs/**/*.md", "compose/*.md", "examples/**/*.md", "tests/*/README.md")
    return sorted(page for place in places for page in ROOT.glob(place))


def pages_of(place: str) -> list[str]:
    """The pages with blocks that are run in a place."""
    return [str(page.relative_to(ROOT)) for page in pages() if any(block.place == place for block in blocks_of(page))]


def problem_of(block: Block) -> str:
    """What is wrong with how a block is marked; empty if nothing is."""
    kind, text = block.mark
    if not block.is_typed:
        return "" if kind in {"", "file"} else f"nobody types a block of {block.language or 'no language'}"
    if kind == "run":
        return "" if block.place in PLACES else f"no test walks through the place {text!r}"
    if kind == "not run":
        missing = [name for name in re.findall(r"\btests/[\w/.]*\w", text) if not (ROOT / name).exists()]
        return f"there is no {missing}" if missing else ""
    return 'it is neither run ("<!-- run: PLACE -->" before it) nor is it said why not ("<!-- not run: REASON -->")'


class UnexpectedError(AssertionError):
    """Something was printed that contradicts the page."""


@dataclass(frozen=True)
class Meanings:
    """What the ids, digests and counts of a page are this time."""

    words: dict[str, str] = field(default_factory=dict)
    on_page: int = 0
    counted: int = 0
    """The page's last number, and the one that was printed last."""

    def typed(self, command: str) -> str:
        """Return the command with the ids and digests of this time."""
        for word in _VARYING.findall(command):
            if word not in self.words:
                raise UnexpectedError(f"the page does not show where {word!r} of {command!r} comes from")
        return _VARYING.sub(lambda found: self.words[found[1]], command)

    def _fit(self, line: str, printed: str) -> dict[str, str] | None:
        """What is learned where a line of the page may stand for a printed one."""
        parts = _VARYING.split(" ".join(line.split()))
        learned = dict[int, str]()
        pattern = ""
        for number, part in enumerate(parts):
            if number % 2 == 0:
                pattern += re.escape(part)
            elif part == "…":
                pattern += ".*"
            elif part in self.words:
                pattern += re.escape(self.words[part])
            else:
                pattern += f"({r'[0-9a-f]+' if part.endswith('…') else r'[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}'})"
                learned[len(learned) + 1] = part
        found = re.fullmatch(pattern, " ".join(printed.split()))
        return None if found is None else {part: found[group] for group, part in learned.items()}

    def _number(self, page: int, number: int) -> Meanings:
        """Return what is known after a number of the count."""
        follows = page == self.on_page + 1 and self.counted > 0
        fits = number == self.counted + 1 if follows else (number == 1) == (page == 1)
        if not fits:
            raise UnexpectedError(
                f"{number} was printed where the page shows {page}, and {self.counted or 'nothing'} before"
            )
        return replace(self, on_page=page, counted=number)

    def after(self, shows: Sequence[str], printed: Sequence[str]) -> tuple[Meanings, list[str]]:
        """Return what is known after these lines, and what the page shows and was not printed."""
        known, lines = self, [line.strip() for line in shows]
        counts = [found for line in lines if (found := _COUNT.fullmatch(line))]
        others = [line for line in lines if line != "…" and not _COUNT.fullmatch(line)]
        counting = bool(counts)
        for line in map(str.strip, printed):
            if counting and (number := _COUNT.fullmatch(line)):
                if counts:
                    known = known._number(int(counts.pop(0)[1]), int(number[1]))
                elif known.counted:
                    known = replace(known._number(known.on_page + 1, int(number[1])), on_page=known.on_page)
            elif others and (learned := known._fit(others[0], line)) is not None:
                known = replace(known, words={**known.words, **learned})
                others.pop(0)
        return known, [*(count[0] for count in counts), *others]


def walk(page: str, place: str) -> Iterator[Block]:
    """The blocks of a page that are typed or written to files in a place, in order."""
    for block in blocks_of(ROOT / page):
        if block.place == place or block.mark[0] == "file":
            yield block

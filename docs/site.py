# ruff: noqa: INP001 -- a program in a folder of pages
"""Build the site of the documentation into build/site: ``make docs``.

The pages are read where people read them in the repository, and keep their places there, so that a link is good in both. The menu is that of
docs/README.md. A link or an anchor that leads nowhere fails the build, and so does anything that a browser would fetch from elsewhere.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

os.environ["NO_MKDOCS_2_WARNING"] = "1"

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort
from support.console import pages

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ROOT / "build" / "site-pages"
SITE = ROOT / "build" / "site"
PROJECT = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md", "compose/README.md")
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_ITEM = re.compile(r"^(\d+\. |- )")
_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?https?:|<link[^>]*rel=["']?stylesheet[^>]*https?:"""
)


def indented(text: str) -> str:
    """Return a page with what belongs to a numbered item indented by four spaces, as Python-Markdown has it, instead of three."""
    lines, numbered, fenced = list[str](), False, False
    for line in text.splitlines():
        inside = numbered and line.startswith("   ")
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and line.strip() and not inside:
            numbered = re.match(r"\d+\. ", line) is not None
        lines.append(f" {line}" if inside else line)
    return "\n".join(lines) + "\n"


def lay() -> None:
    """Put the pages, and the files that they point at, into the folder that the site is made of."""
    shutil.rmtree(PAGES, ignore_errors=True)
    for page in pages():
        place = PAGES / page.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        text = page.read_text()
        place.write_text(indented(text))
        for target in _LINK.findall(text):
            file = (page.parent / target).resolve()
            if "://" not in target and file.suffix != ".md" and file.is_file():
                there = PAGES / file.relative_to(ROOT)
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, there)


def menu() -> list[Any]:
    """The menu, from the paragraphs of docs/README.md: each begins with its name in bold."""
    entries: list[Any] = [{"Woodfrog": ["README.md", "docs/README.md"]}]
    for name, links in re.findall(
        r"^\*\*([\w ]+)\.\*\* (.*?)(?=\n\n|\Z)", (DOCS / "README.md").read_text(), re.MULTILINE | re.DOTALL
    ):
        entries.append(
            {name: [os.path.relpath((DOCS / each).resolve(), ROOT) for each in dict.fromkeys(_LINK.findall(links))]}
        )
    decisions = sorted(str(page.relative_to(ROOT)) for page in (DOCS / "decisions").glob("0*.md"))
    entries.append({"Decisions": decisions})
    entries.append({"Project": list(PROJECT)})
    return entries


def fetched() -> list[str]:
    """Pages of the built site for which a browser would fetch something from elsewhere."""
    return [str(page.relative_to(SITE)) for page in sorted(SITE.rglob("*.html")) if _FETCHED.search(page.read_text())]


def main() -> int:
    """Build it."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    lay()
    settings = {"docs_dir": str(PAGES), "site_dir": str(SITE), "nav": menu(), "strict": True}
    with (DOCS / "mkdocs.yml").open("rb") as file:
        config = load_config(file, **settings)
    try:
        build(config)
    except Abort as problem:
        sys.stderr.write(f"docs: {problem}\n")
        return 1
    if elsewhere := fetched():
        sys.stderr.write(f"docs: a browser would fetch something from elsewhere for {elsewhere}\n")
        return 1
    sys.stdout.write(f"docs: {SITE / 'index.html'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Terminals with a shell in each, in which a page is typed as a reader would type it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from support.console import ROOT, Meanings, Step, UnexpectedError, walk
from support.time_scale import scaled

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PROMPT = re.compile(r"\[\[wf (\d+)\]\]")
_SECONDS = 180.0
_END_SECONDS = 40.0


class Terminal:
    """A terminal with bash in it. It echoes nothing, so what is read is what commands print."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        attributes = termios.tcgetattr(theirs)
        attributes[1] &= ~termios.OPOST
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(theirs, termios.TCSANOW, attributes)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 250, 0, 0))
        self.process = subprocess.Popen(
            # A shell's background job ignores SIGINT, and so do its children.
            ["env", "--default-signal=INT", "setsid", "--ctty", "bash", "--noprofile", "--norc", "--noediting", "-i"],
            stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder,
            env={**environment, "PS1": "[[wf $?]]", "PS2": "", "TERM": "dumb", "VIRTUAL_ENV_DISABLE_PROMPT": "1"},
        )  # fmt: skip
        os.close(theirs)
        self.printed = ""
        self._prompt(_SECONDS)

    def _read(self, seconds: float) -> None:
        if select.select([self._ours], [], [], seconds)[0]:
            with suppress(OSError):  # EIO: the shell has ended
                self.printed += os.read(self._ours, 65536).decode(errors="replace")

    def _prompt(self, seconds: float) -> int:
        """Wait for the prompt; return the exit code of the command before it."""
        deadline = time.monotonic() + scaled(seconds)
        while not (found := _PROMPT.search(self.printed)):
            if time.monotonic() > deadline:
                raise UnexpectedError(f"it does not end within {seconds:g} s")
            self._read(0.1)
        return int(found[1])

    @property
    def _end(self) -> str:
        return self.printed[-4000:]

    @property
    def is_busy(self) -> bool:
        """Whether a command is in the foreground."""
        return not _PROMPT.search(self.printed)

    def lines(self) -> list[str]:
        """What was printed since the last command was typed."""
        return _ESCAPE.sub("", _PROMPT.sub("\n", self.printed)).splitlines()

    def take(self, step: Step, known: Meanings, until: str = "") -> Meanings:
        """Type a command and see it print what the page shows; return what is known afterwards."""
        if step.command:
            if self.is_busy:
                raise UnexpectedError(f"{step.command!r} is typed while a command runs that has printed:\n{self._end}")
            self.printed = ""
            os.write(self._ours, f"{known.typed(step.command)}\n".encode())
        try:
            self._see((*step.shows, *([f"…{until}…"] if until else [])), known, step.command)
            if step.interrupted:
                self.interrupt()
            code = 0 if step.interrupted or until else self._prompt(_SECONDS)
            after, missing = known.after(step.shows, self.lines())
        except UnexpectedError as problem:
            raise UnexpectedError(f"$ {step.command}\n{problem}\n--- printed:\n{self._end}") from None
        if code or missing:
            wrong = f"exit code {code}" if code else f"this was not printed: {missing}"
            raise UnexpectedError(f"$ {step.command}\n{wrong}\n--- printed:\n{self._end}")
        return after

    def _see(self, shows: tuple[str, ...], known: Meanings, command: str) -> None:
        """Read until that was printed; a command that has ended prints nothing more, unless it is in the background."""
        deadline = time.monotonic() + scaled(_SECONDS)
        stays = command.split("#", maxsplit=1)[0].rstrip().endswith("&")
        while known.after(shows, self.lines()[: None if self.printed.endswith("\n") else -1])[1]:
            if time.monotonic() > deadline or not (stays or self.is_busy):
                return
            self._read(0.1)

    def interrupt(self) -> None:
        """Press Ctrl-C, and wait for the prompt."""
        os.write(self._ours, b"\x03")
        self._prompt(_SECONDS)

    def close(self) -> None:
        """End what is in the foreground as Ctrl-C does, and the shell as a closed window does."""
        with suppress(UnexpectedError, OSError):
            if self.is_busy:
                self.interrupt()
        os.close(self._ours)
        try:
            self.process.wait(timeout=scaled(_END_SECONDS))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Desk:
    """A folder that looks like the clone, a home, and the terminals that a page opens there.

    ``replaced`` are texts in commands and files for which others stand here, such as ``/etc/woodfrog`` for a folder of the test's own.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], replaced: Mapping[str, str] | None = None) -> None:
        self.folder, self.replaced = folder / "clone", dict(replaced or {})
        self.folder.mkdir()
        for each in ROOT.iterdir():
            (self.folder / each.name).symlink_to(each)
        (folder / "home").mkdir(exist_ok=True)
        self.environment = {**environment, "HOME": str(folder / "home")}
        self.terminals: dict[str, Terminal] = {}

    def here(self, text: str) -> str:
        """Return a text with what stands for something else here."""
        for page, ours in self.replaced.items():
            text = text.replace(page, ours)
        return text

    def terminal(self, name: str) -> Terminal:
        """Return the terminal of that name, opened if it is new."""
        if name not in self.terminals:
            self.terminals[name] = Terminal(self.folder, self.environment)
        return self.terminals[name]

    def follow(self, page: str, place: str) -> None:
        """Type what is on a page, and see what it shows."""
        known = Meanings()
        for block in walk(page, place):
            if block.mark[0] == "file":
                path = self.folder / self.here(block.mark[1])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self.here(block.text))
                continue
            steps = block.steps()
            for number, step in enumerate(steps):
                typed = Step(self.here(step.command), tuple(map(self.here, step.shows)), step.interrupted)
                last = number == len(steps) - 1
                try:
                    known = self.terminal(block.terminal).take(typed, known, block.until if last else "")
                except UnexpectedError as problem:
                    raise UnexpectedError(f"{page}:{block.line}: {problem}") from None

    def close(self) -> None:
        """Close the terminals, the last one first."""
        for terminal in reversed(list(self.terminals.values())):
            terminal.close()


@contextmanager
def desk(folder: Path, environment: Mapping[str, str], replaced: Mapping[str, str] | None = None) -> Iterator[Desk]:
    """A desk that is cleared at the end."""
    made = Desk(folder, environment, replaced)
    try:
        yield made
    finally:
        made.close()

"""Fake-dump workers as processes, for tests that kill them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


class PortlessWorker:
    """``support/portless.py`` on a journal of its own."""

    def __init__(self, folder: Path, node: str, url: str, containers: int) -> None:
        self.node = node
        self.effects = folder / "effects"
        self.journal = folder / f"{node}.journal"
        self._log = folder / f"{node}.log"
        script = Path(__file__).with_name("portless.py")
        self._command = [sys.executable, str(script), str(folder), node, url, str(containers)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def text(self) -> str:
        return self._log.read_text()

    def effect(self, command_id: str) -> int:
        """Tell how often a command was really carried out."""
        path = self.effects / command_id
        return path.stat().st_size if path.exists() else 0

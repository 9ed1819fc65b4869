"""The run itself: which id does what next and what is harmed meanwhile, from one seed; and what each start must have continued from.

Every dump is asked for here, so for each snapshot it is known how far its program had counted before: a start from it has at least
that, without a gap. A start from the image, or from an older snapshot, is accounted for by the reason that `woodfrog why` gives.
"""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from support.stack import until

from controlplane.domain.invariants import Rule, Violation, found_in
from woodfrog.protocol.events import AnyEvent

from .account import Failed, failures, unfinished
from .place import Live, Place
from .programs import PROGRAMS, Program, gap

_TRIES: Final = 4
_BETWEEN_TRIES_SECONDS: Final = 15.0
"""A start may be refused while a disk is full, and whoever wants the container asks again."""
_HARM_SECONDS: Final = 3.0
_LONGER_HARM_SECONDS: Final = (3.0, 12.0)
"""Where a dump takes seconds."""
_FULL_SECONDS: Final = (15.0, 40.0)
"""A disk is full until somebody has noticed."""
_SETTLE_SECONDS: Final = 120
_BETWEEN_HARMS_SECONDS: Final = (5.0, 25.0)
_OPERATIONS: Final = {"checkpoint": 3, "stop": 4, "crash": 2, "trouble": 2}


@dataclass
class Act:
    """One thing that was done."""

    at: float
    name: str
    what: str
    harm: str = ""
    result: str = ""


@dataclass
class Id:
    """One id and what is known of it from outside."""

    name: str
    program: Program
    live: Live | None = None
    floors: dict[str, int] = field(default_factory=dict)
    """How far it had counted, at least, in each snapshot."""
    starts: list[str] = field(default_factory=list)
    outcome: str = ""


@dataclass
class Lane:
    """Ids of which one does something at a time."""

    chance: random.Random
    ids: list[Id]
    running: int
    harms: bool


@dataclass
class Campaign:
    """One run. Where things take their time, several lanes do them side by side, and harm is done in one of its own."""

    place: Place
    seed: int
    seconds: float
    ids: int
    running: int
    lanes: int = 1
    only: str = ""
    """What the name of a harm must contain to be done."""
    acts: list[Act] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    log: list[tuple[AnyEvent, datetime]] = field(default_factory=list)
    took: float = 0.0

    def __post_init__(self) -> None:
        kinds = [PROGRAMS[number % len(PROGRAMS)] for number in range(self.ids)]
        self.all = [Id(f"chaos-{number:02}-{program.kind}", program) for number, program in enumerate(kinds)]
        self._began = 0.0

    def run(self) -> None:
        """Do things until the time is up, then start every id once more and account for it."""
        self._began = time.monotonic()
        lanes = [
            Lane(
                random.Random(f"{self.seed}/{number}"),
                self.all[number :: self.lanes],
                self.running // self.lanes,
                self.lanes == 1,
            )
            for number in range(self.lanes)
        ]
        with ThreadPoolExecutor(self.lanes + 1) as threads:
            harming = threads.submit(self._harm) if self.lanes > 1 else None
            list(threads.map(self._act, lanes))
            if harming is not None:
                harming.result()
            until(self.place.healthy, 120, saying="everything answers again")
            list(threads.map(self._finish, lanes))
        with suppress(AssertionError):
            until(
                lambda: not unfinished(self.place.log()), _SETTLE_SECONDS, saying="every capture is stored or given up"
            )
        self.log = self.place.log()
        self.failed = failures(self.log)
        self.violations += unfinished(self.log)
        self.violations += found_in(self.log)
        self.took = time.monotonic() - self._began

    @property
    def counts(self) -> dict[Rule, int]:
        """How often each rule was broken."""
        counted = Counter(each.rule for each in self.violations)
        return {rule: counted[rule] for rule in Rule}

    def _act(self, lane: Lane) -> None:
        while time.monotonic() - self._began < self.seconds:
            self._step(lane)

    def _harm(self) -> None:
        """Do one harm after the other, whatever the lanes do."""
        chance = random.Random(f"{self.seed}/harm")
        while time.monotonic() - self._began < self.seconds:
            time.sleep(chance.uniform(*_BETWEEN_HARMS_SECONDS))
            harms = self._harms()
            name = chance.choice(sorted(harms))
            act = Act(time.monotonic() - self._began, "", "harm", name)
            self.acts.append(act)
            end = harms[name]()
            time.sleep(chance.uniform(*(_FULL_SECONDS if "disk" in name else _LONGER_HARM_SECONDS)))
            end()
            act.result = f"ended after {time.monotonic() - self._began - act.at:.0f} s"

    def _harms(self) -> dict[str, Callable[[], Callable[[], None]]]:
        return {name: harm for name, harm in self.place.harms().items() if self.only in name}

    def _finish(self, lane: Lane) -> None:
        for one in lane.ids:
            if one.live is None and one.starts:
                self._start(one, "")
            if one.live is not None:
                self._stop(one)
            one.outcome = one.starts[-1] if one.starts else "never started"

    def _step(self, lane: Lane) -> None:
        """Let one id do one thing, sometimes while something is harmed."""
        chance = lane.chance
        up = [one for one in lane.ids if one.live is not None]
        harms = self._harms()
        harm = chance.choice(sorted(harms)) if chance.random() < 0.4 and lane.harms else ""
        fresh = len(up) < lane.running and (not up or chance.random() < 0.5)
        one = chance.choice([one for one in lane.ids if one.live is None] if fresh else up)
        what = "start" if fresh else chance.choices(list(_OPERATIONS), list(_OPERATIONS.values()))[0]
        act = Act(time.monotonic() - self._began, one.name, what, harm)
        self.acts.append(act)
        end = harms[harm]() if harm else None
        doing: dict[str, Callable[[], str]] = {
            "start": lambda: self._start(one, harm),
            "stop": lambda: self._stop(one),
            "crash": lambda: self._crash(one),
            "checkpoint": lambda: self._checkpoint(one),
            "trouble": lambda: self._trouble(one),
        }
        if end is not None and what == "start":  # whether it starts is seen through the worker
            time.sleep(_HARM_SECONDS)
            end()
            until(self.place.healthy, 120, saying="everything answers again")
            end = None
        undoing = threading.Timer(_HARM_SECONDS, end or (lambda: None))
        undoing.start()
        try:
            act.result = doing[what]()
        finally:
            undoing.join()

    def _start(self, one: Id, harm: str) -> str:
        live = None
        for number in range(_TRIES):
            if number:
                time.sleep(_BETWEEN_TRIES_SECONDS)
            try:
                live = self.place.start(one.name, one.program)
                break
            except AssertionError as problem:
                last = str(problem)
        if live is None:
            self._broken(Rule.STUCK_START, one, f"{harm}: {last[-300:]}")
            return "did not start"
        one.live = live
        first = len(live.record())
        if not self._counts_on(one, live, first + 3):
            return "ended by a harm before it counted"
        missing = gap(live.record())
        if missing is not None:
            self._broken(Rule.WRONG_DATA, one, missing)
        said = self._account(one, live, first)
        one.starts.append(said)
        return said

    def _counts_on(self, one: Id, live: Live, lines: int) -> bool:
        """Wait until a container has counted that far; return whether it did, and was not ended by a harm before."""
        try:
            until(lambda: len(live.record()) >= lines, 60, saying="it counts")
        except AssertionError:
            if not live.runs():
                return False
            self._broken(Rule.WRONG_DATA, one, "it does not continue")
        return True

    def _account(self, one: Id, live: Live, first: int) -> str:
        """Say how a start stands to what is known, and note what it contradicts."""
        if live.restored_from is not None:
            floor = one.floors.get(live.restored_from, 0)
            if first < floor:
                self._broken(Rule.WRONG_DATA, one, f"{first} lines where {live.restored_from} has {floor}")
            newest = max(one.floors, default=live.restored_from)
            older = f"; fell back from {newest}: {self._why(one)}" if live.restored_from < newest else ""
            return f"continued from {live.restored_from} at line {first}{older}"
        if not one.floors:
            return "first start" if not one.starts else "cold: nothing was captured"
        why = self._why(one)
        if not why:
            self._broken(Rule.SILENT_COLD_START, one, f"although it had {max(one.floors)}")
        return f"cold: {why}"

    def _why(self, one: Id) -> str:
        return " ".join(self.place.why(one.name).split())

    def _stop(self, one: Id) -> str:
        assert one.live is not None
        live, one.live = one.live, None
        floor = len(live.record())
        ended = self.place.stop(live)
        if not ended.captured:
            return f"not captured: {ended.said[-200:]}"
        self._note_floor(one, floor, ended.snapshot_id)
        return f"captured: {ended.said[-200:]}" if "not stored" in ended.said else "captured"

    def _crash(self, one: Id) -> str:
        assert one.live is not None
        live, one.live = one.live, None
        self.place.crash(live)
        return "killed"

    def _checkpoint(self, one: Id) -> str:
        assert one.live is not None
        floor = len(one.live.record())
        if not self.place.checkpoint(one.name):
            runs = self._counts_on(one, one.live, len(one.live.record()) + 3)
            return f"refused or failed; it {'continues' if runs else 'was ended by a harm'}"
        self._note_floor(one, floor)
        return "stored"

    def _trouble(self, one: Id) -> str:
        assert one.live is not None
        return self.place.trouble(one.live)

    def _note_floor(self, one: Id, floor: int, snapshot_id: str | None = None) -> None:
        """Remember the snapshot that was named, or that is stored now, if it can be asked for."""
        try:
            newest = snapshot_id or until(lambda: self.place.newest_stored(one.name), 30, saying="it is stored")
        except (AssertionError, subprocess.TimeoutExpired, ValueError):
            return
        one.floors.setdefault(newest, floor)

    def _broken(self, rule: Rule, one: Id, about: str) -> None:
        self.violations.append(Violation(rule, one.name, about))

"""The command line that container engines give to an OCI runtime, taken apart and put together again.

Imported by the slow path, so: nothing but built-ins. runc parses with urfave/cli v1: one or two dashes, a value after
``=`` or in the next word (runc's main.go and create.go).
"""

from __future__ import annotations

DEFAULT_ROOT = "/run/runc"
_GLOBAL_VALUES = frozenset({"root", "log", "log-format", "criu", "rootless"})
_VERB_VALUES = frozenset({"bundle", "b", "console-socket", "pid-file", "preserve-fds", "pidfd-socket"})
_RESTORE_KNOWS = ("console-socket", "pid-file")


class Call:
    """One call of the runtime."""

    __slots__ = ("arguments", "flags", "options", "positional", "verb")

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        self.flags: list[tuple[str, str | None]] = []
        """The global options in order, names without dashes; ``None`` where there is no value."""
        self.verb = ""
        self.options: dict[str, str | None] = {}
        """The verb's options."""
        self.positional: list[str] = []
        self._parse()

    def _parse(self) -> None:
        words = iter(self.arguments)
        for word in words:
            if word.startswith("-") and word != "-":
                name, given, value = word.lstrip("-").partition("=")
                takes_value = name in (_VERB_VALUES if self.verb else _GLOBAL_VALUES)
                text = value if given else next(words, "") if takes_value else None
                if self.verb:
                    self.options[name] = text
                else:
                    self.flags.append((name, text))
            elif self.verb:
                self.positional.append(word)
            else:
                self.verb = word

    def flag(self, name: str) -> str | None:
        """The value of a global option; the last one counts, as for runc."""
        return next((value for key, value in reversed(self.flags) if key == name), None)

    @property
    def container_id(self) -> str:
        """The first word after the verb's options, or nothing."""
        return self.positional[0] if self.positional else ""

    @property
    def root(self) -> str:
        """Where runc keeps its state."""
        return self.flag("root") or DEFAULT_ROOT

    @property
    def bundle(self) -> str:
        """The bundle's directory, as given."""
        return self.options.get("bundle") or self.options.get("b") or "."

    def globals_with_log(self, log: str) -> list[str]:
        """The global options again, but with a log file of our own: what fails and is made good is no error of runc's."""
        kept = [(name, value) for name, value in self.flags if name not in {"log", "log-format"}]
        words = [f"--{name}" if value is None else f"--{name}={value}" for name, value in kept]
        return [*words, f"--log={log}", "--log-format=json"]

    def restore(self, *, bundle: str, image_path: str, work_path: str, log: str, lsm_profile: str = "") -> list[str]:
        """The arguments of a ``restore`` that takes the place of this ``create``.

        ``restore`` has no ``--no-new-keyring`` and no ``--preserve-fds``: CRIU brings both back as they were.
        """
        words = [*self.globals_with_log(log), "restore", "--detach", f"--bundle={bundle}"]
        words += [f"--{name}={self.options[name]}" for name in _RESTORE_KNOWS if self.options.get(name)]
        words += ["--no-pivot"] if "no-pivot" in self.options else []
        words += [f"--image-path={image_path}", f"--work-path={work_path}"]
        words += ["--ext-unix-sk", "--file-locks"]
        words += [f"--lsm-profile={lsm_profile}"] if lsm_profile else []
        return [*words, self.container_id]

    def create(self, *, bundle: str, log: str) -> list[str]:
        """The arguments of a ``create`` that is to change the bundle and nothing else."""
        return [*self.globals_with_log(log), "create", f"--bundle={bundle}", self.container_id]

    def delete(self, *, log: str) -> list[str]:
        """The arguments of a ``delete --force`` that removes what this call made."""
        return [*self.globals_with_log(log), "delete", "--force", self.container_id]

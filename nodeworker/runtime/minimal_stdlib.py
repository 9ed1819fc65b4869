"""``json``, ``signal``, ``socket`` and ``suppress`` for the slow path, without the price of importing them.

The standard modules wrap C code in regular expressions, enumerations and abstract classes, and importing these costs more
processor time (27 ms of 43) than the interpreter's start and all our own work together; a container waits for each of it. The C
parts alone are enough here. They are CPython's own and no promise of the language: where one is missing or has changed, the
standard module takes its place.
"""
# ruff: noqa: ANN001, ANN002, ANN202, ANN204, PLC0415
# Type checkers are shown the standard modules, so annotations would be for nobody; what is imported late may not be needed.

from __future__ import annotations

TYPE_CHECKING = False  # importing typing would cost what is saved here; type checkers know the name

if TYPE_CHECKING:
    import json
    import signal
    import socket
    from contextlib import suppress
else:
    try:
        import _signal as signal
    except ImportError:
        import signal
    try:
        import _socket
    except ImportError:
        import socket
    else:

        class socket:  # noqa: N801  # the name of what it stands for
            """Like ``socket``, as far as the slow path needs it."""

            AF_UNIX = _socket.AF_UNIX
            SOCK_STREAM = _socket.SOCK_STREAM

            class socket(_socket.socket):  # noqa: N801  # as above
                """A socket that ``with`` closes."""

                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    self.close()

    class suppress:  # noqa: N801  # the name of what it stands for
        """Like ``contextlib.suppress``."""

        def __init__(self, *expected):
            self._expected = expected

        def __enter__(self):
            pass

        def __exit__(self, kind, problem, trace):
            return kind is not None and issubclass(kind, self._expected)

    class _Json:
        """Like ``json``, as far as the slow path needs it: JSON in UTF-8, and plain values."""

        strict = True
        object_hook = None
        object_pairs_hook = None
        parse_float = float
        parse_int = int
        parse_constant = float

        def __init__(self, accelerator):
            self._scan = accelerator.make_scanner(self)
            self._make_encoder = accelerator.make_encoder
            self._quote = accelerator.encode_basestring_ascii

        def loads(self, text):
            """Read a value; anything but one value is a ``ValueError``."""
            if not isinstance(text, str):
                text = str(text, "utf-8", "surrogatepass")
            text = text.strip(" \t\n\r")
            try:
                value, end = self._scan(text, 0)
            except StopIteration as problem:
                raise ValueError(f"no JSON value at character {problem.value}") from None
            if end != len(text):
                raise ValueError(f"more than one JSON value, from character {end} on")
            return value

        def dumps(self, value):
            """Write a value."""
            # In the order of json.encoder.JSONEncoder.iterencode: markers, default, encoder, indent, separators, flags.
            encode = self._make_encoder({}, self._refuse, self._quote, None, ": ", ", ", False, False, True)
            return "".join(encode(value, 0))

        def load(self, file):
            """Read a value from a file."""
            return self.loads(file.read())

        def dump(self, value, file):
            """Write a value to a file."""
            file.write(self.dumps(value))

        def _refuse(self, value):
            raise TypeError(f"{type(value).__name__} cannot be written as JSON")

    def _chosen():
        with suppress(Exception):  # whatever has changed: the standard module has not
            import _json

            made = _Json(_json)
            probe = {"a": [1, -2.5, None, True, "\u00e9\n"], "b": {}}
            if made.loads(made.dumps(probe)) == probe:
                return made
        import json as standard

        return standard

    json = _chosen()

__all__ = ["json", "signal", "socket", "suppress"]

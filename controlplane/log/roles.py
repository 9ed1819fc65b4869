"""``python -m controlplane.log.roles``: the former name of :mod:`controlplane.log.admin.roles`, which works for one more release."""

from __future__ import annotations

import sys

from controlplane.log.admin.roles import main

if __name__ == "__main__":
    sys.stderr.write("note: this command is now python -m controlplane.log.admin.roles\n")
    sys.exit(main(sys.argv[1:]))

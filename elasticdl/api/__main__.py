"""``python -m elasticdl.api`` is the command ``elasticdl``."""

from __future__ import annotations

import sys

from elasticdl.api.command_line import main

if __name__ == "__main__":
    sys.exit(main())

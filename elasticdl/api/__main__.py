"""``python -m elasticdl.api`` is the command ``elasticdl``."""

from __future__ import annotations

import os
import sys

from elasticdl.api import command_line


def main() -> int:
    """Run the command; return its exit code.

    With TensorFlow in this process there is no return: its threads, which may be inside the user's
    input function, would hold up the interpreter's end, and everything is told by then.
    """
    code = command_line.main()
    if "tensorflow" in sys.modules:
        leave(code)
    return code


def leave(code: int) -> None:
    """End this process at once, with everything printed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())

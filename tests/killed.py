"""The command line in a process that kills itself with SIGKILL at a chosen moment.

The moment is the interpreter's own audit event on a path, so it does not depend on how fast the
machine is: ``python -m tests.killed os.rename "*/report.md.*" 1 compare …``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from alphaedit_plugin.cli.main import main

ROOT = Path(__file__).parents[1]


def killed_at(event: str, pattern: str, words: Sequence[str], cache: Path, nth: int = 1) -> None:
    """Run a command that dies as ``event`` happens the nth time to a path like ``pattern``."""
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name, event, pattern, str(nth), *words],
        env=os.environ | {"OMP_NUM_THREADS": "1", "ALPHAEDIT_CACHE": str(cache)},
        cwd=ROOT, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, f"it ended by itself:\n{done.stdout}{done.stderr}"


def _die(event: str, pattern: str, nth: int) -> None:
    left = nth

    def audit(happened: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if happened == event and fnmatch(str(arguments[0]), pattern):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


if __name__ == "__main__":
    _die(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    sys.exit(main(sys.argv[4:]))

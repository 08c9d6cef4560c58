"""``python -m alphaedit_plugin`` is the ``alphaedit`` command."""

from __future__ import annotations

import sys

from alphaedit_plugin.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

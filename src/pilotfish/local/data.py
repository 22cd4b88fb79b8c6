"""Where the local cluster keeps its files."""

from __future__ import annotations

import os
from pathlib import Path


def default_data() -> Path:
    """`$PILOTFISH_DATA`, else `pilotfish` in the user's data directory (XDG base directory specification)."""
    if own := os.environ.get("PILOTFISH_DATA"):
        return Path(own)
    base = os.environ.get("XDG_DATA_HOME", "")
    # The specification says that relative paths are to be ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "pilotfish"

"""Start a built-in program: `python -I [-S] run.py MODULE [ARGUMENT…]`.

The programs are started by path and not by `-m`, so that they need neither an environment variable nor site-packages.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
    if sys.flags.no_site:
        sys.modules["ssl"] = None  # type: ignore[assignment]  # asyncio goes without it, which saves a third of the memory
    del sys.argv[0]
    import_module(f"pilotfish.local.images.programs.{sys.argv[0]}").main()

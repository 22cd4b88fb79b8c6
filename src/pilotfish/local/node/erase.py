"""Delete directories that pods wrote to: `python -m pilotfish.local.node.erase PATH…`.

With a range of user ids an ordinary user's pods own files that this user cannot delete. In a user namespace with the
same range the user is root over them. To be used when a cluster's data directory is removed and its node has ended.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from pilotfish.local.node import namespaces


def erase(path: Path) -> None:
    """Delete a directory with everything in it; nothing happens if it is not there. Raises OSError."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except PermissionError:
        if os.geteuid() == 0:
            raise
        # A process of its own: entering a user namespace cannot be undone.
        command = [sys.executable, "-m", "pilotfish.local.node.erase", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PermissionError(f"cannot delete {path}: {done.stderr.strip()}") from None


def main() -> int:
    """Delete the paths of the command line as root of a user namespace."""
    try:
        if os.geteuid() != 0:
            namespaces.enter_user_namespace()
        for path in sys.argv[1:]:
            shutil.rmtree(path)
    except (OSError, namespaces.NamespaceError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Images: names mapped to commands on this machine, and the programs that are built in.

`resolve` is what the node calls for every container. The user's own file comes first, then what is built in.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pilotfish.local.images.image import Image

__all__ = ["resolve"]


def resolve(image: str, data: Path) -> Image | None:
    """What runs for the image reference `image`, or None when nobody mapped it.

    `data` is the data directory; its `images.yaml` is read again when it changed. Raises `image.ImageError` when that
    file cannot be used, or when the image is known but cannot run here; the text is fit for a pod's status.
    """
    # Imported late because every built-in program imports this package on its way, and must start fast.
    from pilotfish.local.images import builtin, userfile  # noqa: PLC0415

    return userfile.lookup(image, data) or builtin.lookup(image)

"""Istio's own word on what users write: see `oracle/main.go`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Object = dict[str, Any]
_BATCH = 2000


class Oracle:
    """Asks Istio's program in batches; one process for all."""

    def __init__(self, programs: Path, source: Path) -> None:
        self._command = [str(programs / "oracle"), str(source / "manifests/charts/base/files/crd-all.gen.yaml")]

    def ask(self, questions: Iterable[Object]) -> Iterator[Object]:
        """An answer for each question, in order; both are described in `oracle/main.go`."""
        lines = [json.dumps(question) for question in questions]
        for start in range(0, len(lines), _BATCH):
            batch = lines[start : start + _BATCH]
            text = "\n".join(batch) + "\n"
            done = subprocess.run(self._command, input=text, capture_output=True, text=True, check=True, timeout=300)
            answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            assert len(answers) == len(batch), done.stderr[-2000:]
            yield from answers

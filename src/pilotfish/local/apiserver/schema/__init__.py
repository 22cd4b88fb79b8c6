"""One compiled schema tree for built-in kinds and custom resources, and what is done with it.

`node.py` compiles, `decode.py` reads what a client sent, `defaults.py` fills in and prunes, `validation.py` judges.
"""

from __future__ import annotations

from pilotfish.local.apiserver.schema.decode import (
    decode_errors,
    find_duplicates,
    find_strict,
    find_unknown,
    normalise,
)
from pilotfish.local.apiserver.schema.defaults import apply_defaults, prune
from pilotfish.local.apiserver.schema.node import CustomDefinition, Schema, compile_definition, compile_schema
from pilotfish.local.apiserver.schema.validation import validate

__all__ = [
    "CustomDefinition",
    "Schema",
    "apply_defaults",
    "compile_definition",
    "compile_schema",
    "decode_errors",
    "find_duplicates",
    "find_strict",
    "find_unknown",
    "normalise",
    "prune",
    "validate",
]

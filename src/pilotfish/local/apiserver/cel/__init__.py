"""CEL: the rules of custom resources (`x-kubernetes-validations`) and the match conditions of webhooks.

Checked and evaluated by the C++ implementation of CEL (`cel-expr-python`); importing this package loads it.
`checking.py`, which is needed when a definition is written, loads protobuf as well and is imported by itself.
"""

from __future__ import annotations

from pilotfish.local.apiserver.cel.conditions import Condition, compile_condition
from pilotfish.local.apiserver.cel.environment import CelError
from pilotfish.local.apiserver.cel.rules import check_rules

__all__ = ["CelError", "Condition", "check_rules", "compile_condition"]

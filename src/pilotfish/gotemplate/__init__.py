"""Go's template language with the sprig functions: charts are written in it, and injection templates.

`Templates` reads templates and renders them; users of it add their own functions to `FUNCTIONS`. A template that uses
what is not here is refused when it is read, so that it cannot quietly mean something else.
"""

from pilotfish.gotemplate.engine import NOTHING, TemplateError, Templates
from pilotfish.gotemplate.functions import FUNCTIONS, merge_overwrite
from pilotfish.gotemplate.values import Record, StringMap, from_data, go_text, plain

__all__ = [
    "FUNCTIONS",
    "NOTHING",
    "Record",
    "StringMap",
    "TemplateError",
    "Templates",
    "from_data",
    "go_text",
    "merge_overwrite",
    "plain",
]

"""CustomResourceDefinitions: what makes one right, and what it then serves.

`definition.py` judges a definition, `structural.py` its schemas; `resources.py` turns it into resources,
`conversion.py` converts their objects, `names.py` settles who gets a name, `jsonpath.py` reads paths.
"""

from __future__ import annotations

from pilotfish.local.apiserver.crd.conversion import convert_objects
from pilotfish.local.apiserver.crd.definition import DefinitionStrategy
from pilotfish.local.apiserver.crd.names import Naming, names_conflict
from pilotfish.local.apiserver.crd.resources import definitions_of, resources_of, scale_paths

strategy = DefinitionStrategy()
"""The strategy of the kind CustomResourceDefinition itself."""

__all__ = [
    "Naming",
    "convert_objects",
    "definitions_of",
    "names_conflict",
    "resources_of",
    "scale_paths",
    "strategy",
]

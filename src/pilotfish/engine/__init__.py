"""Incremental computation with provenance. Knows nothing of meshes.

Four kinds of sources make up a graph held by a `Db`:

- `Input`: values put in from outside (`db.put`, `db.remove`). An empty key reads as None and is tracked too.
- `Facet`: a part of an input's values, for readers whom the rest does not concern.
- `Index`: which inputs have a property ("VirtualServices for host h"), kept by a function of each object alone.
- `query`: a plain function `def name(db, key…) -> value` of other sources. It must be pure, its keys hashable, its
  value comparable with `==` and never changed afterwards.

All are read alike: `source(db, key…)`. Reads are recorded. A change marks what depends on it (push), the next
read recomputes only what is dirty (pull) and stops where a result is equal to the one before (early cut-off). The
recorded reads are the provenance: `db.inputs(source, key…)`.

A query that raises has failed as a value: its readers see `QueryFailed`, which names the query, and through it
the inputs it had read; a reader that catches it goes on, and is computed again when the failure is cured.
"""

from pilotfish.engine.db import CycleError, Db, Facet, Fork, Index, Input, Query, QueryFailed, Source, query

__all__ = ["CycleError", "Db", "Facet", "Fork", "Index", "Input", "Query", "QueryFailed", "Source", "query"]

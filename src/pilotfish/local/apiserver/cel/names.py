"""How fields are named in CEL, whose identifiers are fewer than the names of JSON."""

from __future__ import annotations

import functools
import re

_RESERVED = {
    *("true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if"),
    *("import", "let", "loop", "package", "namespace", "return", "var", "void", "while"),
}
_ESCAPES = (("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__"))
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)


@functools.lru_cache(4096)
def escape(name: str) -> str | None:
    """How a field is named in CEL; None when it cannot be."""
    if name in _RESERVED:
        return f"__{name}__"
    for text, escaped in _ESCAPES:
        name = name.replace(text, escaped) if text != "__" else name.replace("__", "\0")
    name = name.replace("\0", "__underscores__")
    return name if _IDENTIFIER.fullmatch(name) else None

"""The functions of templates: Go's own, and sprig's and Helm's with the meaning they have there.

Left out of sprig: what makes secrets or certificates, asks the network, the clock or chance, or reads the environment.
A rendering depends on its data alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import zlib
from base64 import b32decode, b32encode, b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from html import escape
from typing import Any
from urllib.parse import quote_plus

from pilotfish.api.errors import DecodeError
from pilotfish.api.files import dump, load_one
from pilotfish.gotemplate.values import StringMap, equal, from_data, go_text, index, kind_of, ordering, plain, truth

Function = Callable[..., Any]

# ------------------------------------------------------------------------------ Go's own

_VERB = re.compile(r"%([-+# 0]*)(\d+|\*)?(?:\.(\d+))?([a-zA-Z%])")


def _printf(pattern: str, *values: Any) -> str:
    """The verbs %s %v %d %q %t %f %g %e %x %X %o %b %c %T %%."""
    rest = list(values)

    def one(match: re.Match[str]) -> str:
        flags, width, precision, verb = match.groups()
        if verb == "%":
            return "%"
        if not rest:
            return f"%!{verb}(MISSING)"
        value = rest.pop(0)
        places = f".{precision}" if precision else ""
        try:
            text = _VERBS[verb](value, flags, places)
        except KeyError:
            raise ValueError(f"there is no verb %{verb}") from None
        except (TypeError, ValueError):
            return f"%!{verb}({kind_of(value)}={go_text(value)})"
        return _padded(text, flags, int(width or 0))

    text = _VERB.sub(one, pattern)
    return text + "".join(f"%!(EXTRA {kind_of(value)}={go_text(value)})" for value in rest)


def _padded(text: str, flags: str, width: int) -> str:
    if "-" in flags:
        return text.ljust(width)
    return text.zfill(width) if "0" in flags else text.rjust(width)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise TypeError
    return int(value)


def _truth_value(value: Any) -> str:
    if not isinstance(value, bool):
        raise TypeError
    return go_text(value)


_VERBS: Mapping[str, Callable[[Any, str, str], str]] = {
    "s": lambda value, _flags, places: format(go_text(value, "%!s(<nil>)"), places),
    "v": lambda value, _flags, _places: go_text(value, "<nil>"),
    "q": lambda value, _flags, _places: go_quoted(go_text(value)),
    "t": lambda value, _flags, _places: _truth_value(value),
    "d": lambda value, flags, _places: ("+" if "+" in flags and _whole(value) >= 0 else "") + str(_whole(value)),
    "f": lambda value, flags, places: format(float(value), ("+" if "+" in flags else "") + (places or ".6") + "f"),
    "g": lambda value, _flags, places: format(float(value), places + "g") if places else go_text(float(value)),
    "e": lambda value, _flags, places: format(float(value), (places or ".6") + "e"),
    "x": lambda value, _flags, _places: value.encode().hex() if isinstance(value, str) else f"{_whole(value):x}",
    "X": lambda value, _flags, _places: (
        value.encode().hex() if isinstance(value, str) else f"{_whole(value):x}"
    ).upper(),
    "o": lambda value, _flags, _places: f"{_whole(value):o}",
    "b": lambda value, _flags, _places: f"{_whole(value):b}",
    "c": lambda value, _flags, _places: chr(_whole(value)),
    "T": lambda value, _flags, _places: kind_of(value),
}


def _length(value: Any) -> int:
    if isinstance(value, (str, list, tuple, Mapping)):
        return len(value.encode()) if isinstance(value, str) else len(value)
    raise ValueError(f"a {kind_of(value)} has no length")


def _slice(value: Any, *at: Any) -> Any:
    """`slice x 1 3` is x[1:3]."""
    begin, end = (int(at[0]) if at else 0), (int(at[1]) if len(at) > 1 else len(value))
    if not 0 <= begin <= end <= len(value):
        raise ValueError(f"{begin}:{end} is out of range: there are {len(value)} items")
    return value[begin:end]


GO: Mapping[str, Function] = {
    "call": lambda function, *values: function(*values),
    "eq": equal,
    "ge": ordering(lambda one, other: one >= other),
    "gt": ordering(lambda one, other: one > other),
    "html": lambda *values: escape("".join(map(go_text, values))),
    "index": index,
    "le": ordering(lambda one, other: one <= other),
    "len": _length,
    "lt": ordering(lambda one, other: one < other),
    "ne": lambda one, other: not equal(one, other),
    "not": lambda value: not truth(value),
    "print": lambda *values: "".join(map(go_text, values)),
    "printf": _printf,
    "println": lambda *values: " ".join(map(go_text, values)) + "\n",
    "urlquery": lambda *values: quote_plus("".join(map(go_text, values))),
}

# ------------------------------------------------------------------------------ text


def go_quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\x7f")


def _indent(width: Any, text: str) -> str:
    pad = " " * int(width)
    return pad + text.replace("\n", "\n" + pad)


def _texts(values: Any) -> list[str]:
    """Any value as a list of texts; nothing is left out."""
    items = values if isinstance(values, (list, tuple)) else [values]
    return [go_text(item) for item in items if item is not None]


def _substr(begin: Any, end: Any, text: str) -> str:
    begin, end = int(begin), int(end)
    if begin < 0:
        return text[:end]
    return text[begin:] if end < 0 or end > len(text) else text[begin:end]


def _trunc(width: Any, text: str) -> str:
    width = int(width)
    return text[width:] if width < 0 else text[:width]


def _abbrev(width: Any, text: str) -> str:
    width = int(width)
    return text if width < 4 or len(text) <= width else text[: width - 3] + "..."


def _words(text: str) -> list[str]:
    return re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+", text)


def _split_map(separator: str, text: str, most: int = -1) -> dict[str, Any]:
    parts = text.split(separator, most - 1) if most > 0 else text.split(separator)
    return {f"_{number}": part for number, part in enumerate(parts)}


def _wrap(width: Any, text: str, with_: str = "\n") -> str:
    lines, line = [], ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > int(width):
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return with_.join([*lines, line])


def _go_replacement(text: str) -> str:
    """`${1}` and `$name` of Go as Python's re writes them."""
    text = text.replace("\\", "\\\\")
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: rf"\g<{match[1] or match[2]}>", text)


def _regex_find(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[0] if match else ""


def _at_most(items: list[Any], count: Any) -> list[Any]:
    return items if int(count) < 0 else items[: int(count)]


def _regex_split(pattern: str, text: str, count: Any) -> list[str]:
    return re.split(pattern, text, maxsplit=max(int(count) - 1, 0)) if count else []


TEXT: Mapping[str, Function] = {
    "abbrev": _abbrev,
    "adler32sum": lambda text: str(zlib.adler32(text.encode())),
    "b32dec": lambda text: b32decode(text).decode(),
    "b32enc": lambda text: b32encode(text.encode()).decode(),
    "b64dec": lambda text: b64decode(text, validate=True).decode(),
    "b64enc": lambda text: b64encode(text.encode()).decode(),
    "camelcase": lambda text: "".join(word.capitalize() for word in _words(text)),
    "cat": lambda *values: " ".join(_texts(values)),
    "contains": lambda part, text: part in text,
    "hasPrefix": lambda part, text: text.startswith(part),
    "hasSuffix": lambda part, text: text.endswith(part),
    "indent": _indent,
    "initials": lambda text: "".join(word[0] for word in text.split()),
    "join": lambda separator, values: go_text(separator).join(_texts(values)),
    "kebabcase": lambda text: "-".join(word.lower() for word in _words(text)),
    "lower": lambda text: text.lower(),
    "nindent": lambda width, text: "\n" + _indent(width, text),
    "nospace": lambda text: "".join(text.split()),
    "plural": lambda one, many, count: one if count == 1 else many,
    "quote": lambda *values: " ".join(go_quoted(go_text(value)) for value in values if value is not None),
    "regexFind": _regex_find,
    "regexFindAll": lambda pattern, text, count: _at_most([match[0] for match in re.finditer(pattern, text)], count),
    "regexMatch": lambda pattern, text: re.search(pattern, text) is not None,
    "regexQuoteMeta": lambda text: re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", text),
    "regexReplaceAll": lambda pattern, text, new: re.sub(pattern, _go_replacement(new), text),
    "regexReplaceAllLiteral": lambda pattern, text, new: re.sub(pattern, new.replace("\\", "\\\\"), text),
    "regexSplit": _regex_split,
    "repeat": lambda count, text: text * int(count),
    "replace": lambda old, new, text: text.replace(old, new),
    "sha1sum": lambda text: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(),
    "sha256sum": lambda text: hashlib.sha256(text.encode()).hexdigest(),
    "sha512sum": lambda text: hashlib.sha512(text.encode()).hexdigest(),
    "snakecase": lambda text: "_".join(word.lower() for word in _words(text)),
    "sortAlpha": lambda values: sorted(_texts(values)),
    "split": _split_map,
    "splitList": lambda separator, text: text.split(separator),
    "splitn": lambda separator, count, text: _split_map(separator, text, int(count)),
    "squote": lambda *values: " ".join(f"'{go_text(value)}'" for value in values if value is not None),
    "substr": _substr,
    "swapcase": lambda text: text.swapcase(),
    "title": lambda text: re.sub(r"(^|\s)(\S)", lambda match: match[1] + match[2].upper(), text),
    "toString": go_text,
    "toStrings": _texts,
    "trim": lambda text: text.strip(),
    "trimAll": lambda characters, text: text.strip(characters),
    "trimPrefix": lambda prefix, text: text.removeprefix(prefix),
    "trimSuffix": lambda suffix, text: text.removesuffix(suffix),
    "trunc": _trunc,
    "untitle": lambda text: re.sub(r"(^|\s)(\S)", lambda match: match[1] + match[2].lower(), text),
    "upper": lambda text: text.upper(),
    "wrap": _wrap,
    "wrapWith": lambda width, with_, text: _wrap(width, text, with_),
}

# ------------------------------------------------------------------------------ numbers


def _float(value: Any) -> float:
    """Any value as a number; what is none is 0."""
    try:
        return float(value) if value is not None else 0.0
    except (TypeError, ValueError):
        return 0.0


def _integer(value: Any) -> int:
    """Any value as an integer, text with the prefixes of Go's numbers; what is none is 0."""
    if not isinstance(value, str):
        return int(_float(value))
    try:
        return int(value, 8) if re.fullmatch(r"[-+]?0[0-7]+", value) else int(value, 0)
    except ValueError:
        return 0


def _divide(one: Any, other: Any) -> int:
    if not _integer(other):
        raise ValueError("division by zero")
    return int(_integer(one) / _integer(other))


def _modulo(one: Any, other: Any) -> int:
    return _integer(one) - _divide(one, other) * _integer(other)


def _until(begin: Any, end: Any, step: Any) -> list[int]:
    begin, end, step = int(begin), int(end), int(step)
    return list(range(begin, end, step)) if step else []


def _seq(*numbers: Any) -> str:
    """As the command of that name."""
    begin, step, end = {1: (1, 0, 0), 2: (0, 0, 1), 3: (0, 1, 2)}[len(numbers)]
    first = 1 if len(numbers) == 1 else int(numbers[begin])
    last = int(numbers[end])
    by = int(numbers[step]) if len(numbers) == 3 else (1 if last >= first else -1)
    return " ".join(map(str, range(first, last + (1 if by > 0 else -1), by)))


NUMBERS: Mapping[str, Function] = {
    "add": lambda *values: sum(map(_integer, values)),
    "add1": lambda value: _integer(value) + 1,
    "addf": lambda *values: math.fsum(map(_float, values)),
    "atoi": _integer,
    "biggest": lambda *values: max(map(_integer, values)),
    "ceil": lambda value: float(math.ceil(_float(value))),
    "div": _divide,
    "float64": _float,
    "floor": lambda value: float(math.floor(_float(value))),
    "int": _integer,
    "int64": _integer,
    "max": lambda *values: max(map(_integer, values)),
    "maxf": lambda *values: max(map(_float, values)),
    "min": lambda *values: min(map(_integer, values)),
    "minf": lambda *values: min(map(_float, values)),
    "mod": _modulo,
    "mul": lambda *values: math.prod(map(_integer, values)),
    "mulf": lambda *values: math.prod(map(_float, values)),
    "round": lambda value, places=0: math.floor(_float(value) * 10 ** int(places) + 0.5) / 10 ** int(places),
    "seq": _seq,
    "sub": lambda one, other: _integer(one) - _integer(other),
    "toDecimal": lambda value: int(go_text(value), 8),
    "until": lambda count: _until(0, count, 1 if int(count) >= 0 else -1),
    "untilStep": _until,
}

# ------------------------------------------------------------------------------ lists


def _items(values: Any) -> list[Any]:
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"a {kind_of(values)} is no list")
    return list(values)


def _unique(values: Any) -> list[Any]:
    found: list[Any] = []
    for item in _items(values):
        if item not in found:
            found.append(item)
    return found


LISTS: Mapping[str, Function] = {
    "append": lambda values, item: [*_items(values or []), item],
    "chunk": lambda size, values: [values[at : at + int(size)] for at in range(0, len(values), int(size))],
    "compact": lambda values: [item for item in _items(values) if truth(item)],
    "concat": lambda *lists: [item for values in lists for item in _items(values)],
    "first": lambda values: values[0] if values else None,
    "has": lambda item, values: item in (values or ()),
    "initial": lambda values: _items(values)[:-1],
    "last": lambda values: values[-1] if values else None,
    "list": lambda *values: list(values),
    "prepend": lambda values, item: [item, *_items(values or [])],
    "rest": lambda values: _items(values)[1:],
    "reverse": lambda values: _items(values)[::-1],
    "slice": _slice,
    "tuple": lambda *values: list(values),
    "uniq": _unique,
    "without": lambda values, *items: [item for item in _items(values) if item not in items],
}

# ------------------------------------------------------------------------------ maps


def merge_overwrite(target: dict[str, Any], *sources: Mapping[str, Any] | None) -> dict[str, Any]:
    """Deep: maps are merged, everything else is replaced, also by what is empty. `target` is changed and returned."""
    for source in sources:
        for key, value in (source or {}).items():
            old = target.get(key)
            if isinstance(old, dict) and isinstance(value, Mapping):
                merge_overwrite(old, value)
            else:
                target[key] = deepcopy(value)
    return target


def _merge(target: dict[str, Any], *sources: Mapping[str, Any] | None) -> dict[str, Any]:
    """Deep; what the target has stays, unless it is empty."""
    for source in sources:
        for key, value in (source or {}).items():
            old = target.get(key)
            if isinstance(old, dict) and isinstance(value, Mapping):
                _merge(old, value)
            elif not truth(old):
                target[key] = deepcopy(value)
    return target


def _dict(*pairs: Any) -> dict[str, Any]:
    """Keys and values in turn; the last value may be missing."""
    if len(pairs) % 2:
        pairs = (*pairs, "")
    return {go_text(key): value for key, value in zip(pairs[::2], pairs[1::2], strict=True)}


def _set(target: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    target[key] = value
    return target


def _unset(target: dict[str, Any], key: str) -> dict[str, Any]:
    target.pop(key, None)
    return target


def _dig(*arguments: Any) -> Any:
    """`dig "a" "b" default map`."""
    *keys, default, found = arguments
    for key in keys:
        if not isinstance(found, Mapping) or key not in found:
            return default
        found = found[key]
    return found


def like(values: Mapping[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """A part of a map is a map of the same kind."""
    return StringMap(found) if isinstance(values, StringMap) else found


MAPS: Mapping[str, Function] = {
    "deepCopy": deepcopy,
    "deepEqual": lambda one, other: plain(one) == plain(other),
    "dict": _dict,
    "dig": _dig,
    "get": lambda values, key: values.get(key, ""),
    "hasKey": lambda values, key: key in values,
    "keys": lambda *maps: [key for values in maps for key in sorted(values)],
    "merge": _merge,
    "mergeOverwrite": merge_overwrite,
    "omit": lambda values, *keys: like(values, {key: item for key, item in values.items() if key not in keys}),
    "pick": lambda values, *keys: like(values, {key: item for key, item in values.items() if key in keys}),
    "pluck": lambda key, *maps: [values[key] for values in maps if key in values],
    "set": _set,
    "unset": _unset,
    "values": lambda *maps: [values[key] for values in maps for key in sorted(values)],
}

# ------------------------------------------------------------------------------ choices, kinds, encodings


def _default(default: Any, value: Any = None) -> Any:
    return value if truth(value) else default


def _fail(message: str) -> Any:
    raise ValueError(message)


def _required(message: str, value: Any) -> Any:
    if value is None or value == "":
        raise ValueError(message)
    return value


def _coalesce(*values: Any) -> Any:
    return next((value for value in values if truth(value)), None)


def _from_yaml(text: str) -> Any:
    """A mapping. What is none becomes one with the key Error, as in Helm."""
    try:
        value = load_one(text)
    except DecodeError as error:
        return {"Error": str(error)}
    if value is None:
        return {}
    return from_data(value) if isinstance(value, dict) else {"Error": f"no mapping: {text:.40}"}


def _from_yaml_array(text: str) -> Any:
    try:
        value = load_one(text)
    except DecodeError as error:
        return [str(error)]
    return from_data(value) if isinstance(value, list) else [f"no list: {text:.40}"]


def _json(value: Any, indent: int | None = None, *, escaped: bool = True) -> str:
    """As Go writes JSON: keys sorted, no spaces, and <, > and & escaped."""
    separators = (",", ": ") if indent else (",", ":")
    text = json.dumps(plain(value), indent=indent, sort_keys=True, ensure_ascii=False, separators=separators)
    return re.sub("[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text) if escaped else text


def _quiet(read: Function) -> Function:
    """Reading that gives nothing where the text is wrong; those named `must…` fail."""

    def attempt(text: str) -> Any:
        try:
            return read(text)
        except ValueError:
            return None

    return attempt


def _from_json(text: str) -> Any:
    return from_data(json.loads(text))


REST: Mapping[str, Function] = {
    "all": lambda *values: all(map(truth, values)),
    "any": lambda *values: any(map(truth, values)),
    "coalesce": _coalesce,
    "default": _default,
    "empty": lambda value: not truth(value),
    "fail": _fail,
    "fromJson": _quiet(_from_json),
    "fromYaml": _from_yaml,
    "fromYamlArray": _from_yaml_array,
    "kindIs": lambda kind, value: kind_of(value) == kind,
    "kindOf": kind_of,
    "mustFromJson": _from_json,
    "required": _required,
    "ternary": lambda yes, no, condition: yes if truth(condition) else no,
    "toJson": _json,
    "toPrettyJson": lambda value: _json(value, 2),
    "toRawJson": lambda value: _json(value, escaped=False),
    "toYaml": lambda value: dump(plain(value)).removesuffix("\n"),
    "typeIs": lambda kind, value: kind_of(value) == kind,
    "typeOf": kind_of,
}


def _with_must(functions: Mapping[str, Function], names: Iterable[str]) -> dict[str, Function]:
    return {**functions, **{f"must{name[0].upper()}{name[1:]}": functions[name] for name in names}}


_SPRIG = {**TEXT, **NUMBERS, **LISTS, **MAPS, **REST}
_MUST = (
    "append",
    "chunk",
    "compact",
    "deepCopy",
    "first",
    "has",
    "initial",
    "last",
    "merge",
    "mergeOverwrite",
    "prepend",
    "regexFind",
    "regexFindAll",
    "regexMatch",
    "regexReplaceAll",
    "regexReplaceAllLiteral",
    "regexSplit",
    "rest",
    "reverse",
    "slice",
    "toJson",
    "toPrettyJson",
    "toRawJson",
    "uniq",
    "without",
)

FUNCTIONS: Mapping[str, Function] = {**GO, **_with_must(_SPRIG, _MUST)}

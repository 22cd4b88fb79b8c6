"""Quantities such as `500m`, `1Gi` or `2e3`, as resource amounts are written."""

from __future__ import annotations

import re
from decimal import ROUND_UP, Decimal
from functools import lru_cache

_FORM = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(|[numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)")
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SUFFIX = {exponent: suffix for suffix, exponent in _DECIMAL.items()}
_NANO = Decimal("1e-9")


class QuantityError(ValueError):
    """The text is not a quantity."""


def _parse(text: str) -> tuple[Decimal, str]:
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise QuantityError(
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        )
    sign, digits, suffix = match.groups()
    number = Decimal(sign + digits)
    if suffix in _BINARY:
        return number * (1 << _BINARY[suffix]), "binary"
    if suffix in _DECIMAL:
        return number.scaleb(_DECIMAL[suffix]), "decimal"
    return number.scaleb(int(suffix[1:])), "exponent"


def parse(text: str) -> Decimal:
    """The amount. QuantityError when the text is not a quantity."""
    return _parse(text)[0]


@lru_cache(4096)
def canonical(text: str) -> str:
    """The form in which Kubernetes prints it: no fraction, the largest suffix that fits, the family it was given in."""
    number, family = _parse(text)
    number = number.quantize(_NANO, rounding=ROUND_UP) if number % _NANO else number
    if not number:
        return "0"
    if family == "binary" and abs(number) >= 1024 and number == number.to_integral_value():
        whole, suffix = int(number), ""
        for name in _BINARY:
            if whole % 1024:
                break
            whole, suffix = whole // 1024, name
        return f"{whole}{suffix}"
    exponent = int(number.normalize().as_tuple().exponent)
    exponent -= exponent % 3
    if family != "exponent":
        exponent = max(-9, min(18, exponent))
    digits = int(number.scaleb(-exponent))
    if family == "exponent":
        return f"{digits}e{exponent}" if exponent else str(digits)
    return f"{digits}{_SUFFIX[exponent]}"

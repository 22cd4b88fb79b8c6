"""The objects users write: typed, validated, with CRDs generated from the types. See `decode` and `KINDS`."""

from pilotfish.api.config import Config, decode
from pilotfish.api.decode import from_json, to_json
from pilotfish.api.errors import DecodeError, FieldError
from pilotfish.api.kinds import BY_API_VERSION, KINDS, Kind
from pilotfish.api.meta import Api, Duration, Source
from pilotfish.api.unimplemented import unimplemented, unimplemented_in

__all__ = [
    "BY_API_VERSION",
    "KINDS",
    "Api",
    "Config",
    "DecodeError",
    "Duration",
    "FieldError",
    "Kind",
    "Source",
    "decode",
    "from_json",
    "to_json",
    "unimplemented",
    "unimplemented_in",
]

"""The root of errors that are meant for people."""

from __future__ import annotations


class UserError(Exception):
    """An error whose text tells a user what is wrong, where, and what to do; the command line prints it as it is."""

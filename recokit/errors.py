"""The errors that recokit and pretrain raise: one small tree.

    RecokitError                  catch this one to catch them all
    ├── DataError                 the content of an input: a missing column, a NaN, a duplicate id, a wrong type
    ├── ConfigError               a setting: an unknown key, a value out of range, a choice that does not exist
    ├── FormatError               a file or folder that is damaged, truncated, or of another format
    │   └── ChecksumError         its bytes are not the bytes that were written
    ├── VersionError              versions that clash: a name that exists, a table of another version
    └── MissingDependencyError    an optional package is not installed (also an ImportError)

Every message says which thing, what came and what was expected.
"""

__all__ = [
    "ChecksumError",
    "ConfigError",
    "DataError",
    "FormatError",
    "MissingDependencyError",
    "RecokitError",
    "VersionError",
    "closest",
]

import difflib
from collections.abc import Iterable


class RecokitError(Exception):
    """Base of every error that recokit and pretrain raise on purpose."""


class DataError(RecokitError, ValueError):
    """The content of an input is not what it has to be."""


class ConfigError(RecokitError, ValueError):
    """A setting is unknown, out of range, or contradicts another."""


class FormatError(RecokitError):
    """A file or folder is damaged, truncated, or of a format this release does not read."""


class ChecksumError(FormatError):
    """The bytes of a file are not the bytes that were written."""


class VersionError(RecokitError):
    """Two versions clash: a name that exists already, or a table of another version than was asked for."""


class MissingDependencyError(RecokitError, ImportError):
    """An optional package is missing; the message holds the pip line that installs it.

    Args:
        package: The name to import, such as ``"hnswlib"``.
        extra: The extra of recokit that brings it, such as ``"hnsw"``.
        needed_for: What it is needed for, as the subject of a sentence.
        hint: One more sentence, for packages that need more than pip.
    """

    def __init__(self, package: str, *, extra: str, needed_for: str, hint: str = "") -> None:
        super().__init__(
            f"{needed_for} needs the package {package!r}, which cannot be imported here: "
            f"pip install 'recokit[{extra}]'" + (f" ({hint})" if hint else "")
        )


def closest(name: str, known: Iterable[str]) -> str:
    """End a message about an unknown name: the nearest known one, or all of them.

    >>> closest("transaltion", ["identity", "translation"])
    "did you mean 'translation'?"
    >>> closest("xyz", ["identity", "translation"])
    'known: identity, translation'
    >>> closest("xyz", [])
    'there is none'
    """
    choices = sorted(known)
    if not choices:
        return "there is none"
    near = difflib.get_close_matches(name, choices, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(choices)}"

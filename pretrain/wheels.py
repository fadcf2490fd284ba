"""Data sets that lie in packages: wheels of the Python registry, downloaded once and read from inside."""

__all__ = ["cached_wheel"]

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from recokit.errors import ChecksumError, DataError


def cached_wheel(requirement: str, name: str, sha256: str, cache: str | Path | None = None) -> Path:
    """Return the path of a wheel, which pip downloads, and does not install, if the cache has none.

    Args:
        requirement: Such as ``"recbole==1.2.1"``.
        name: The wheel's file.
        sha256: Its checksum.
        cache: Its folder; ``$RECOKIT_CACHE`` or ``~/.cache/recokit`` if not given.

    Raises:
        DataError: The wheel is not there and cannot be downloaded.
        ChecksumError: The wheel is not the one that was published.
    """
    folder = Path(cache) if cache else _default_cache()
    path = folder / name
    if not path.is_file():
        _download(requirement, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != sha256:
        raise ChecksumError(f"{path} has sha256 {digest}, expected {sha256}: delete it and try again")
    return path


def _default_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("RECOKIT_CACHE") or Path(home) / "recokit")


def _download(requirement: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--retries=1"]
    command += ["--timeout=20", "--dest", str(path.parent), requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if not path.is_file():
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        reason = lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with {result.returncode}"
        raise DataError(f"{requirement} cannot be downloaded and {path.parent} has none: {reason}")

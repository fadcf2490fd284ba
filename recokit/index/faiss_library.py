"""The library faiss: imported where it is needed, and its threads, which are the process's."""

__all__ = ["faiss_for", "faiss_threads"]

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from recokit.errors import MissingDependencyError


def faiss_for(what: str) -> ModuleType:
    """Import faiss for somebody's use.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingDependencyError("faiss", extra="faiss", needed_for=what) from error
    return faiss


@contextmanager
def faiss_threads(faiss: ModuleType, number: int) -> Iterator[None]:
    """Set faiss's threads, and set them back."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)

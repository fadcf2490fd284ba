"""The compiled kernels, by ctypes: where they are, what this machine can run, and the structures that they take.

They are built with the package where there is a C++ compiler; without one training takes the same steps in torch.
"""

__all__ = ["Contrast", "Penalty", "Pool", "Update", "has_bfloat16", "instructions", "large_pages", "library"]

import ctypes
import functools
import importlib.machinery
from pathlib import Path

_INT, _FLOAT, _POINTER = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


class _Rows(ctypes.Structure):
    _fields_ = [("matrix", _POINTER), ("rows", _POINTER)]


class Pool(ctypes.Structure):
    """``struct Pool`` of kernels.hpp."""

    _fields_ = [
        *((name, _INT) for name in ("anchor", "candidate", "smooth")),
        *((name, _FLOAT) for name in ("sharpness", "even", "rest")),
    ]


class Contrast(ctypes.Structure):
    """``struct Contrast`` of kernels.hpp."""

    _fields_ = [
        *((name, _INT) for name in ("size", "negatives", "dim", "relations", "parameters")),
        *((name, _Rows) for name in ("anchors", "own", "drawn")),
        ("pool", Pool),
        ("op", _INT),
        ("moves_candidates", _INT),
        *((name, _POINTER) for name in ("block", "shift", "which")),
        ("comparator", _INT),
        *((name, _POINTER) for name in ("own_bias", "drawn_bias", "anchor_bias", "log_expected")),
        ("scale", _FLOAT),
        *((name, _POINTER) for name in ("own_ids", "drawn_ids", "known_ends", "known_places", "questions")),
        ("loss", _INT),
        ("reduction", _INT),
        *((name, _FLOAT) for name in ("adversarial", "margin", "offset")),
        *((name, _POINTER) for name in ("weights", "losses", "grad_anchors", "grad_own", "grad_drawn")),
        *((name, _POINTER) for name in ("grad_block", "grad_shift")),
        *((name, _POINTER) for name in ("grad_anchor_bias", "grad_own_bias", "grad_drawn_bias")),
        *((name, _INT) for name in ("add", "half", "threads")),
    ]


class Update(ctypes.Structure):
    """``struct Update`` of kernels.hpp."""

    _fields_ = [
        ("table", _POINTER),
        ("state", _POINTER),
        ("dim", _INT),
        ("elements", _INT),
        ("rate", _FLOAT),
        ("max_norm", _FLOAT),
        ("parts", _INT),
        ("rows", _POINTER * 2),
        ("grads", _POINTER * 2),
        ("counts", _INT * 2),
        ("threads", _INT),
    ]


class Penalty(ctypes.Structure):
    """``struct Penalty`` of kernels.hpp."""

    _fields_ = [
        *((name, _POINTER) for name in ("table", "rows", "weights")),
        ("size", _INT),
        ("dim", _INT),
        ("l2", _FLOAT),
        ("n3", _FLOAT),
        ("complex_numbers", _INT),
        ("losses", _POINTER),
        ("grads", _POINTER),
        ("threads", _INT),
    ]


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels; None where they were not built, or for another release."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_kernels{suffix}")
        if path.is_file():
            try:
                found = ctypes.CDLL(str(path))
                contrast, update, penalty = map(ctypes.sizeof, (Contrast, Update, Penalty))
                found.recokit_sizes.restype = _INT
                agrees = found.recokit_sizes() == (contrast * 1000 + update) * 1000 + penalty
            except (OSError, AttributeError):
                return None
            if not agrees:
                return None
            found.recokit_instructions.restype = ctypes.c_char_p
            found.recokit_large_pages.argtypes = [_POINTER, ctypes.c_size_t]
            found.recokit_large_pages.restype = None
            found.recokit_penalise.restype = None
            for name in ("recokit_contrast", "recokit_update", "recokit_choose", "recokit_has_half"):
                getattr(found, name).restype = _INT
            return found
    return None


def instructions() -> list[str]:
    """Return the instruction sets that the kernels have for this machine, from the best; the first is the one used."""
    found = library()
    names: list[str] = []
    while found is not None and (name := found.recokit_instructions(_INT(len(names)))) is not None:
        names.append(name.decode())
    return names


def has_bfloat16() -> bool:
    """Whether products of bfloat16 with float32 sums are there."""
    found = library()
    return found is not None and bool(found.recokit_has_half())


def large_pages(address: int, size: int) -> None:
    """Ask for large pages under memory of ``size`` bytes, before it is first touched, where the system lends them."""
    found = library()
    if found is not None:
        found.recokit_large_pages(address, size)

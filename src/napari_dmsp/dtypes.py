"""Types of the pixels of results: one rule for all faces, and values made to fit. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DmspError


def output_dtype(source: np.dtype[Any], wanted: Any = None) -> np.dtype[Any]:
    """Return the type of restored pixels: the one rule of all faces.

    float32 by default, as in Python and the panels. "input", which files have by default, keeps
    integers of the source, and gives float32 for all else.
    """
    if isinstance(wanted, str) and wanted == "input":
        wanted = source if source.kind in "ui" else None
    try:
        dtype = np.dtype(np.float32 if wanted is None else wanted)
    except TypeError:
        raise DmspError(f"dtype={wanted!r} is none; give float32 or an integer type.") from None
    if dtype.kind not in "ui" and dtype != np.float32:
        raise DmspError(f"dtype={dtype} must be float32 or an integer type.")
    return dtype


def fit_dtype(values: NDArray[np.floating[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert to ``dtype``, rounded and clipped if that is an integer type."""
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    # In float64, for float32 cannot tell the largest 32-bit integers apart.
    whole = np.rint(values.astype(np.float64))
    # The largest integers of 32 and 64 bits are no floats: what is rounded up to one, too, is full.
    full = whole >= float(np.float32(limits.max))
    np.clip(whole, limits.min, limits.max, out=whole)
    with np.errstate(invalid="ignore"):
        fitted = whole.astype(dtype)
    fitted[full] = limits.max
    return fitted

"""Sources of pixels, and which of their axes are planes, colours, or are walked. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DmspError
from ..windows import Window

Pixels = NDArray[Any]
Plane = tuple[int, ...]
CHANNEL_NAMES = ("c", "channel", "channels")


class Source(Protocol):
    """Pixels that are read where they are needed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""

    def reader(self, window: Window) -> Callable[[], Pixels]:
        """Return a function that reads a window; it may be sent to another process."""


class Sink(Protocol):
    """Where restored pixels go; it may be sent to another process."""

    def write(self, window: Window, block: Pixels, error: Pixels | None = None) -> None:
        """Write a window of the result, and of its error where that is wanted."""


@dataclass(frozen=True, eq=False)
class ArraySource:
    """An array, or what has a shape and a dtype, and arrays for slices: zarr, data of layers."""

    # Pixels, with ``shape``, ``dtype`` and ``[]``.
    data: Any
    # The part of the data that is the source.
    window: Window

    @classmethod
    def of(cls, data: Any, window: Window | None = None) -> ArraySource:
        """Take all of an array, or the ``window`` of it."""
        whole = tuple(slice(0, int(n)) for n in data.shape)
        return cls(data, whole if window is None else window)

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(part.stop - part.start for part in self.window)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""
        return np.dtype(self.data.dtype)

    def reader(self, window: Window) -> Callable[[], Pixels]:
        """Return a function that reads a window."""
        inside = tuple(
            slice(base.start + part.start, base.start + part.stop)
            for base, part in zip(self.window, window, strict=True)
        )
        if isinstance(self.data, np.ndarray):
            # A view: no more is sent to another process than is read there.
            return partial(np.asarray, self.data[inside])
        return partial(_read, self.data, inside)


def _read(data: Any, window: Window) -> Pixels:
    return np.asarray(data[window])


@dataclass(frozen=True)
class Axes:
    """Which axes of an array are what."""

    # Lengths of all axes.
    shape: tuple[int, ...]
    # The axes of a plane.
    rows: int
    columns: int
    # The axis of one or three colours that are restored together.
    colours: int | None = None
    # Of the axes that are walked, the one whose steps show different things, such as the channels
    # of a microscope: each has a prior of its own.
    channels: int | None = None
    # The axis along which planes are restored together, as a volume; what is said of planes then
    # holds for volumes.
    depth: int | None = None

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        colours: int | None = None,
        names: Sequence[str] = (),
        space: int = 2,
    ) -> Axes:
        """Take the last two axes for rows and columns, but for that of ``colours``.

        The axis of colours may be counted from the end. One of the ``names`` may be "c" or
        "channel": each of its steps has a prior. With ``space=3`` for volumes, their depth is the
        axis called "z", or else the last one before the planes that is not called "c" or "t".

        Raises
        ------
        DmspError
            For an array without planes or volumes, and for colours that are not one or three.
        """
        ndim = len(shape)
        if colours is not None:
            if not -ndim <= colours < ndim:
                raise DmspError(f"channel_axis={colours} is not an axis of shape {tuple(shape)}.")
            colours %= ndim
            if shape[colours] not in (1, 3):
                raise DmspError(
                    f"the source has {shape[colours]} channels along axis {colours}; 1 or 3 can be "
                    "restored together: drop an alpha channel, and restore other channels one by "
                    "one."
                )
        plane = [axis for axis in range(ndim) if axis != colours][-2:]
        if len(plane) < 2 or 0 in shape:
            raise DmspError(
                f"a source of shape {tuple(shape)} has no planes; "
                "give one with at least two axes, none of them empty."
            )
        lead = [axis for axis in range(ndim) if axis not in (*plane, colours)]
        known = {axis: names[axis].lower() if names else "" for axis in lead}
        channels = next((axis for axis in lead if known[axis] in CHANNEL_NAMES), None)
        depth = None
        if space == 3:
            among = [axis for axis in lead if known[axis] not in (*CHANNEL_NAMES, "t")]
            if not among or colours is not None:
                raise DmspError(
                    f"the psf has three axes, a source of shape {tuple(shape)} no volumes; "
                    "give its focal plane only: focal_plane(psf), in the shell focal:FILE."
                )
            depth = next((axis for axis in lead if known[axis] == "z"), among[-1])
            if shape[depth] == 1 < max(shape[axis] for axis in among):
                raise DmspError(
                    f"the psf has three axes, the depth of a source of shape {tuple(shape)} is 1 "
                    f"along axis {depth}; the depth is the last axis before rows and columns."
                )
        axes = tuple(int(n) for n in shape)
        return cls(axes, plane[0], plane[1], colours, channels, depth)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a plane."""
        return self.shape[self.rows], self.shape[self.columns]

    @property
    def walked(self) -> list[int]:
        """The axes along which planes lie."""
        others = (self.rows, self.columns, self.colours, self.depth)
        return [axis for axis in range(len(self.shape)) if axis not in others]

    @cached_property
    def planes(self) -> list[Plane]:
        """Steps of the walked axes, one entry a plane."""
        return list(product(*(range(self.shape[axis]) for axis in self.walked)))

    def channel(self, plane: Plane) -> int:
        """Return the channel of a plane; 0 where there are none."""
        return 0 if self.channels is None else plane[self.walked.index(self.channels)]

    def window(self, plane: Plane, rows: slice, columns: slice) -> Window:
        """Return a part of a plane as one slice for each axis."""
        steps = dict(zip(self.walked, plane, strict=True))
        known = {self.rows: rows, self.columns: columns}
        return tuple(
            slice(steps[axis], steps[axis] + 1) if axis in steps else known.get(axis, slice(0, n))
            for axis, n in enumerate(self.shape)
        )

    def flatten(self, block: Pixels) -> Pixels:
        """Turn a window into a plane (h, w), or (h, w, colours), or a volume (d, h, w)."""
        ordered = block.transpose([*self.walked, *self.last])
        return ordered.reshape(ordered.shape[len(self.walked) :])

    def unflatten(self, plane: Pixels) -> Pixels:
        """Undo `flatten`; colours that the source does not have stay last."""
        order = [*self.walked, *self.last]
        block = plane.reshape((1,) * len(self.walked) + plane.shape)
        extra = list(range(len(order), block.ndim))
        return block.transpose([*np.argsort(order).tolist(), *extra])

    @property
    def space(self) -> int:
        """How many axes are restored together, colours aside."""
        return 2 if self.depth is None else 3

    @property
    def last(self) -> list[int]:
        """The axes of what is restored together, in the order that `flatten` gives."""
        axes = (self.depth, self.rows, self.columns, self.colours)
        return [axis for axis in axes if axis is not None]

    def resized(self, size: tuple[int, int], new_colours: int | None = None) -> tuple[int, ...]:
        """Return the shape of a result whose planes have this height and width.

        ``new_colours`` is the length of an axis of colours that is added at the end.
        """
        known = {self.rows: size[0], self.columns: size[1]}
        shape = tuple(known.get(axis, n) for axis, n in enumerate(self.shape))
        return shape if new_colours is None else (*shape, new_colours)


def say_plane(plane: Plane) -> str:
    """Name a plane in messages."""
    return f"plane {', '.join(map(str, plane))}" if plane else "the plane"


@contextmanager
def plane_named(plane: Plane) -> Iterator[None]:
    """Say which plane of a stack could not be restored."""
    try:
        yield
    except DmspError as error:
        if not plane:
            raise
        raise type(error)(f"{say_plane(plane)}: {error}") from error
    except Exception as error:
        if plane:
            error.add_note(f"In {say_plane(plane)}.")
        raise

"""How an unknown point spread function is looked for: levels, candidates, evaluations. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import DmspError

# Shortest side in pixels of an image in which a kernel can be found.
MIN_SIDE = 64
# Side in pixels of the largest kernel that is looked for where no size is given; of a usual one.
MAX_SIZE, USUAL_SIZE = 91, 31
# Larger images are searched in a window of this side in pixels, or of so many times the kernel's,
# up to half a megapixel.
WINDOW, WINDOW_SIZES, MAX_WINDOW = 384, 8, 704
# Between the levels of the pyramid.
FACTOR = math.sqrt(2)
# Evaluations of the denoiser for a kernel update.
EVALUATIONS = 4
# What part of the gradients enters the kernel, the strongest ones, for each update of a level. Few
# lead a wrong kernel to the right one but leave it wide, more make a nearly right one exact. Edges
# fill more of a small image; from `FOLLOW` levels above the finest on there is one candidate left.
COARSE_EDGES = 6 * (0.1,)
EDGES = 6 * (0.05,)
FINEST_EDGES = 6 * (0.05,) + 6 * (0.1,) + 4 * (0.2,)
FOLLOW = 2
# The same where the size is not known either: few gradients all the way, since more of them make
# large kernels shrink towards a point, and more updates, since the frame has to follow. The part is
# that of a window of `WINDOW` pixels a side; smaller ones give as many gradients.
SIZELESS_EDGES = 12 * (0.02,)
# Starts: one kernel of two pixels in each direction, on each of the coarsest levels.
BEGINS = 3
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
# How many candidates go on from a level, by its distance from the finest.
KEEP = {4: 4, 3: 3, 2: 2, 1: 1, 0: 1}
# Where the size is not known, kernels of two pixels start on every level from this one down, and so
# many go on from each.
LAST_BEGIN, SIZELESS_KEEP = 3, 4
# On the finest level, a kernel is made exact by whole restorations: rounds at most, and evaluations
# of each restoration.
EXACT_ROUNDS, EXACT_EVALUATIONS = 4, 12
# A sharp image keeps a kernel of one pixel, in a frame of this side, through so many updates.
PROBE_SIDE, PROBE_EDGES = 9, (0.05, 0.05)
PROBE_EVALUATIONS = len(PROBE_EDGES) * EVALUATIONS
# What an evaluation takes besides its pixels, in pixels, on a processor.
EXTRA_PIXELS = 15_000


@dataclass(frozen=True)
class Stage:
    """What is done on one level, which is so many levels from the finest."""

    distance: int
    # Greatest side of a kernel's frame in pixels of the level, and whether frames follow kernels.
    side: int
    follows: bool
    # Part of the gradients in each update.
    edges: tuple[float, ...]
    # Whether more candidates begin here, and how many go on; None is all, without a comparison.
    begins: bool
    keep: int | None
    # Whether a kernel may also go on as it came from the level before.
    rests: bool = False

    @property
    def scale(self) -> float:
        """Pixels of the level for one of the image."""
        return FACTOR**-self.distance


def make_stages(size: int, sizeless: bool) -> list[Stage]:
    """Plan the levels, from the coarsest to the finest."""
    sides, stages = level_sizes(size), []
    edges: tuple[float, ...]
    keep: int | None
    for index, side in enumerate(sides):
        distance = len(sides) - 1 - index
        edges, begins, keep = COARSE_EDGES, index < BEGINS, KEEP.get(distance)
        if sizeless:
            begins = distance >= LAST_BEGIN
            keep = KEEP.get(distance, SIZELESS_KEEP)
        if distance <= FOLLOW:
            edges = SIZELESS_EDGES if sizeless else EDGES if distance else FINEST_EDGES
        rests = sizeless and distance == 0
        stages.append(Stage(distance, side, sizeless, edges, begins, keep, rests))
    return stages


def count_evaluations(shape: Sequence[int], psf_size: int | None = None) -> int:
    """Count the evaluations of `blind.search_blind` at most, or raise as it does."""
    return sum(_counts(_planned(shape, psf_size)))


def search_work(shape: Sequence[int], psf_size: int | None = None) -> list[float]:
    """Return the pixels of every evaluation, as far as can be known before the search.

    Where the size is not known, those of the look whether the image is sharp come first. What an
    evaluation takes besides its pixels is among them, see `with_extra`.
    """
    stages = _planned(shape, psf_size)
    size = psf_size or min(USUAL_SIZE, stages[-1].side)
    window = min(*shape, MAX_WINDOW, max(WINDOW, WINDOW_SIZES * size))
    work: list[float] = []
    if psf_size is None:
        work += PROBE_EVALUATIONS * [with_extra((min(*shape, WINDOW) + PROBE_SIDE) ** 2)]
    for stage, count in zip(stages, _counts(stages), strict=True):
        work += count * [with_extra((stage.scale * (window + size)) ** 2)]
    return work


def with_extra(pixels: float) -> float:
    """Return the pixels of an evaluation with what it takes besides."""
    return pixels + EXTRA_PIXELS


def default_size(shape: Sequence[int]) -> int:
    """Return the side of the largest kernel that is looked for in an image of this shape."""
    return min(MAX_SIZE, (min(shape) // 4 - 1) // 2 * 2 + 1)


def level_sizes(size: int) -> list[int]:
    """Return the odd sides of the kernel's frame, from the coarsest level to the finest.

    There is one level more than it takes to come down to 3, and levels enough to compare the
    starts on a coarse one.
    """
    sizes = [size]
    while sizes[0] > 3 or len(sizes) <= max(KEEP):
        side = size / FACTOR ** len(sizes)
        sizes.insert(0, max(3, 2 * round((side - 1) / 2) + 1))
    return [3, *sizes]


def checked_size(psf_size: int | None, shape: Sequence[int]) -> int:
    """Return the greatest side of a kernel's frame, or say why there can be none."""
    size = psf_size if psf_size is not None else default_size(shape)
    if min(shape) < MIN_SIDE:
        raise DmspError(
            f"the image is {shape[0]} x {shape[1]} pixels; at least {MIN_SIDE} x {MIN_SIDE} are "
            "needed to find an unknown point spread function."
        )
    if size < 3 or size % 2 != 1 or size > min(shape) // 4:
        raise DmspError(
            f"psf_size={size} must be odd, at least 3, and at most a quarter of the image's "
            f"shorter side of {min(shape)} pixels."
        )
    return int(size)


def _planned(shape: Sequence[int], psf_size: int | None) -> list[Stage]:
    return make_stages(checked_size(psf_size, shape), psf_size is None)


def _counts(stages: Sequence[Stage]) -> list[int]:
    """Count the evaluations of each level."""
    counts, candidates = [], 0
    for stage in stages:
        candidates += stage.begins * len(DIRECTIONS)
        count = len(stage.edges) * EVALUATIONS * candidates
        if stage.keep is not None:
            count += (EVALUATIONS + 1) * (1 + stage.rests) * candidates
            candidates = min(candidates, stage.keep)
        counts.append(count)
    # The one that is left is made exact, compared with no blur, and shown.
    counts[-1] += EXACT_ROUNDS * (EXACT_EVALUATIONS + EVALUATIONS + 1) + 2 * EVALUATIONS + 1
    return counts

"""The public functions: arrays in, a `Restoration` out.

`prepare_deblur` and its like check everything and return a `Job`, whose `states` is the iterator
that scripts, the command line and the viewer share. `deblur` and its like drain it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from numpy.typing import ArrayLike

from .job import Restoration, run
from .prior import Denoiser, Prior
from .solvers import State
from .tasks import prepare_deblur, prepare_demosaic, prepare_superres
from .tiling import Tile


def deblur(
    image: ArrayLike,
    psf: ArrayLike | None = None,
    *,
    psf_size: int | None = None,
    noise_sigma: float | None = None,
    mask: ArrayLike | None = None,
    channel_axis: int | None = None,
    prior: str | Path | Denoiser | Prior | None = None,
    method: str = "annealed",
    iterations: int | None = None,
    background: float | None = None,
    seed: int = 0,
    device: str = "auto",
    tile: Tile = "auto",
    callback: Callable[[State], bool | None] | None = None,
) -> Restoration:
    """Deblur an image; the point spread function and the noise level may be unknown.

    Parameters
    ----------
    image : array_like
        (H, W), or colour with three channels along ``channel_axis``; any real dtype.
    psf : array_like, optional
        Point spread function (kh, kw) of any size up to the image's, in the orientation of
        ``scipy.signal.convolve2d``; normalised to sum 1. None estimates it from the image, which
        must be at least 64 x 64 pixels.
    psf_size : int, optional
        Where the PSF is unknown, an upper bound of its side in pixels, odd; by default 31, or a
        quarter of a smaller image.
    noise_sigma : float, optional
        Standard deviation of the noise in the image's units. None estimates it.
    mask : array_like of bool, optional
        True where a pixel is missing or unreliable, such as a dead one: it is not looked at, and
        restored from what surrounds it. Shape of the image, or (H, W).
    channel_axis : int, optional
        Axis of the colour channels; None for a grey image.
    prior : str, path or callable, optional
        See `load_prior`. By default "rgb" for colour and "gray" for grey images, or "microscopy"
        for grey images that are dark for the most part, as those of fluorescence are.
    method : {"annealed", "sgd"}
        The fast solver, or the paper's own descent.
    iterations : int, optional
        Evaluations of the denoiser once the PSF is known; by default 24, 36 for images that look
        like fluorescence and have no sharp PSF, or 300 for "sgd", and
        1000 for "sgd" with an unknown PSF.
    background : float, optional
        Intensity of black: subtracted first, added at the end. By default 0 for 8-bit images and
        the 0.1 percentile for others, dim 8-bit images among them.
    seed : int
        Seed of what is drawn: flips of the image and, for "sgd", injected noise.
    device : str
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    tile : int, "auto" or None
        Greatest side in pixels of what the prior takes at once, at least 192; None takes the whole
        image. Only memory and speed depend on it: tiles overlap and are blended, and noise and PSF
        are those of the whole image.
    callback : callable, optional
        Called with every `State`; returns True to stop and keep the estimate.

    Returns
    -------
    Restoration
        ``image`` has the shape and the units of the input, float32; ``psf`` is the one given or
        found.

    Raises
    ------
    DmspError
        For input that cannot be restored; the message says what to change.

    References
    ----------
    .. [1] Bigdeli, Jin, Favaro, Zwicker, "Deep mean-shift priors for image restoration",
       NIPS 2017, arXiv:1709.03749.

    Examples
    --------
    >>> from napari_dmsp import deblur
    >>> result = deblur(photo, psf, channel_axis=-1)  # doctest: +SKIP
    >>> result.image.shape == photo.shape  # doctest: +SKIP
    True
    """
    job = prepare_deblur(
        image,
        psf,
        psf_size=psf_size,
        noise_sigma=noise_sigma,
        mask=mask,
        channel_axis=channel_axis,
        prior=prior,
        method=method,
        iterations=iterations,
        background=background,
        seed=seed,
        device=device,
        tile=tile,
    )
    return run(job, callback)


def superres(
    image: ArrayLike,
    scale: float,
    *,
    psf: ArrayLike | None = None,
    noise_sigma: float | None = None,
    mask: ArrayLike | None = None,
    channel_axis: int | None = None,
    prior: str | Path | Denoiser | Prior | None = None,
    method: str = "annealed",
    iterations: int | None = None,
    background: float | None = None,
    seed: int = 0,
    device: str = "auto",
    tile: Tile = "auto",
    callback: Callable[[State], bool | None] | None = None,
) -> Restoration:
    """Raise the resolution of an image; the noise level may be unknown.

    Parameters
    ----------
    image : array_like
        (H, W), or colour with three channels along ``channel_axis``; any real dtype.
    scale : float
        Factor above 1 and up to 8, not necessarily an integer.
    psf : array_like, optional
        Point spread function (kh, kw) in pixels of the result. Where it is given, the image is
        taken for the samples of the blurred result at the centres of blocks of ``scale`` pixels,
        a whole number. By default, see the notes.
    iterations : int, optional
        Evaluations of the denoiser; by default 30, or 300 for "sgd".
    noise_sigma, mask, channel_axis, prior, method, background, seed, device, tile, callback
        As for `deblur`.

    Returns
    -------
    Restoration
        ``image`` is (round(H * scale), round(W * scale)), in the units of the input, float32. Both
        grids share their outer edges: row ``i`` of the H' rows of the result lies at
        ``(i + 0.5) * H / H' - 0.5`` of the input.

    Raises
    ------
    DmspError
        For input that cannot be restored; the message says what to change.

    Notes
    -----
    Without a PSF, the image is taken for an antialiased bicubic reduction of the result, see
    `napari_dmsp.core.operators.Resize`.

    References
    ----------
    .. [1] Bigdeli, Jin, Favaro, Zwicker, "Deep mean-shift priors for image restoration",
       NIPS 2017, arXiv:1709.03749.
    """
    job = prepare_superres(
        image,
        scale,
        psf=psf,
        noise_sigma=noise_sigma,
        mask=mask,
        channel_axis=channel_axis,
        prior=prior,
        method=method,
        iterations=iterations,
        background=background,
        seed=seed,
        device=device,
        tile=tile,
    )
    return run(job, callback)


def demosaic(
    mosaic: ArrayLike,
    pattern: str | ArrayLike = "RGGB",
    *,
    white: float | None = None,
    linear: bool | None = None,
    noise_sigma: float | None = None,
    mask: ArrayLike | None = None,
    prior: str | Path | Denoiser | Prior | None = None,
    method: str = "annealed",
    iterations: int | None = None,
    background: float | None = None,
    seed: int = 0,
    device: str = "auto",
    tile: Tile = "auto",
    callback: Callable[[State], bool | None] | None = None,
) -> Restoration:
    """Turn a raw mosaic into a colour image; the noise level may be unknown.

    Parameters
    ----------
    mosaic : array_like
        (H, W), one colour per pixel; any real dtype.
    pattern : str or array_like
        The colour filter array: "RGGB", "BGGR", "GRBG", "GBRG", "quad-RGGB" and so on (every filter
        over 2 x 2 pixels), "X-Trans"; or one period of it, as channel numbers (h, w) with -1 where
        there is no filter, or as weights (h, w, 3). It begins at the first pixel.
    white : float, optional
        Intensity of white. By default 255 for 8-bit images and the 99.9 percentile for others.
    linear : bool, optional
        Whether values are proportional to light, as those of raw frames; they are then restored
        under the curve of photographs. By default integers of more than 8 bits are linear, others
        not. Arrays of mixing weights are never encoded.
    noise_sigma, mask, prior, method, iterations, seed, device, tile, callback
        As for `deblur`.
    background : float, optional
        Intensity of black. By default 0 for 8-bit images and the 0.1 percentile for others.

    Returns
    -------
    Restoration
        ``image`` is (H, W, 3) in the units of the mosaic, float32, black included. Colours are
        those of the sensor: no white balance and no gamma are applied.

    Raises
    ------
    DmspError
        For input that cannot be restored; the message says what to change.

    References
    ----------
    .. [1] Bigdeli, Jin, Favaro, Zwicker, "Deep mean-shift priors for image restoration",
       NIPS 2017, arXiv:1709.03749.
    """
    job = prepare_demosaic(
        mosaic,
        pattern,
        white=white,
        linear=linear,
        noise_sigma=noise_sigma,
        mask=mask,
        prior=prior,
        method=method,
        iterations=iterations,
        background=background,
        seed=seed,
        device=device,
        tile=tile,
    )
    return run(job, callback)

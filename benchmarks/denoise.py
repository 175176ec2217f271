"""Denoising with the bundled priors on CBSD68 and BSD68, beside published figures.

python benchmarks/denoise.py --data DIR [--channels 3]
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from protocol import denoising_images, print_table, psnr

from napari_dmsp.core import load_prior

SIGMAS = (5, 15, 25, 50)
# PSNR in dB as published. Colour, CBSD68: the papers on DRUNet (DOI 10.1109/TPAMI.2021.3088914)
# and Restormer (DOI 10.1109/CVPR52688.2022.00564). Grey, BSD68: the paper on DnCNN
# (DOI 10.1109/TIP.2017.2662206).
PUBLISHED = {
    3: {
        "CBM3D": (None, 33.52, 30.71, 27.38),
        "DnCNN": (None, 33.90, 31.24, 27.95),
        "IRCNN": (None, 33.86, 31.16, 27.86),
        "FFDNet": (None, 33.87, 31.21, 27.96),
        "DRUNet": (None, 34.30, 31.69, 28.51),
        "Restormer": (None, 34.40, 31.79, 28.60),
    },
    1: {
        "BM3D": (None, 31.07, 28.57, 25.62),
        "DnCNN": (None, 31.73, 29.23, 26.23),
    },
}


def main(
    data: Annotated[Path, typer.Option(help="Folder with the benchmark images.")],
    channels: Annotated[list[int] | None, typer.Option(help="3, 1 or both.")] = None,
    prior: Annotated[str | None, typer.Option(help="Name or file of a prior.")] = None,
    subset: Annotated[int | None, typer.Option(help="Use every n-th image only.")] = None,
) -> None:
    """Noise without clipping, PSNR of the output rounded to 8 bits, mean over images."""
    for count in channels or [3, 1]:
        model = load_prior(prior or ("rgb" if count == 3 else "gray"))
        images = list(denoising_images(data, count))[::subset]
        means = []
        for sigma in SIGMAS:
            scores = []
            for seed, clean in enumerate(images):
                noise = np.random.default_rng(seed).normal(0, sigma, clean.shape)
                noisy = torch.from_numpy(((clean + noise) / 255).astype(np.float32))
                restored = model(noisy.permute(2, 0, 1)[None], sigma / 255)[0].permute(1, 2, 0)
                scores.append(psnr(restored.numpy() * 255, clean))
            means.append(np.mean(scores))
        header = ["", *(f"{s}" for s in SIGMAS)]
        rows = [[f"ours ({model.name})", *(f"{m:.2f}" for m in means)]]
        rows += [
            [name, *("-" if f is None else f"{f:.2f}" for f in figures)]
            for name, figures in PUBLISHED[count].items()
        ]
        title = "CBSD68, colour" if count == 3 else "BSD68, grey"
        print_table(f"{title}, {len(images)} images, PSNR in dB by sigma", header, rows)


if __name__ == "__main__":
    typer.run(main)

"""Figures quoted from publications, never measured here: PSNR in dB unless said otherwise."""

from __future__ import annotations

PAPER = "arXiv:1709.03749"
DPIR = "DOI 10.1109/TPAMI.2021.3088914"

# How many images the published means are over.
CASES = {"levin": 32, "berkeley": 50, "set5": 5, "set14": 14, "mcm18": 18, "panasonic": 100}

# Table 2, by noise level. NE: with an estimate of the noise level. NA: noise-adaptive.
# RTF-6 was trained for 2.55.
SIGMAS = (2.55, 5.1, 7.65, 10.2)
DEBLUR = {
    "levin": {
        "FD": (30.03, 28.40, 27.32, 26.52),
        "EPLL": (32.03, 29.79, 28.31, 27.20),
        "RTF-6": (32.36, 26.34, 21.43, 17.33),
        "CSF": (29.85, 28.13, 27.28, 26.70),
        "DAEP": (32.64, 30.07, 28.30, 27.15),
        "IRCNN": (30.86, 29.85, 28.83, 28.05),
        "EPLL + NE": (31.86, 29.77, 28.28, 27.16),
        "EPLL + NA": (32.16, 30.25, 28.96, 27.85),
        "TV-L2 + NA": (31.05, 29.14, 28.03, 27.16),
        "GradNet 7S": (31.43, 28.88, 27.55, 26.96),
        "Ours": (29.68, 29.45, 28.95, 28.29),
        "Ours + NA": (32.57, 30.21, 29.00, 28.23),
    },
    "berkeley": {
        "FD": (24.44, 23.24, 22.64, 22.07),
        "EPLL": (25.38, 23.53, 22.54, 21.91),
        "RTF-6": (25.70, 23.45, 19.83, 16.94),
        "CSF": (24.73, 23.61, 22.88, 22.44),
        "DAEP": (25.42, 23.67, 22.78, 22.21),
        "IRCNN": (25.60, 24.24, 23.42, 22.91),
        "EPLL + NE": (25.36, 23.53, 22.55, 21.90),
        "EPLL + NA": (25.57, 23.90, 22.91, 22.27),
        "TV-L2 + NA": (24.61, 23.65, 22.90, 22.34),
        "GradNet 7S": (25.57, 24.23, 23.46, 22.94),
        "Ours": (25.69, 24.45, 23.60, 22.99),
        "Ours + NA": (26.00, 24.47, 23.61, 22.97),
    },
}

# Table 3, RGB, by scale.
SCALES = (2, 3, 4, 5)
SUPERRES = {
    "set5": {
        "Bicubic": (31.80, 28.67, 26.73, 25.32),
        "SRCNN": (34.50, 30.84, 28.60, 26.12),
        "TNRD": (34.62, 31.08, 28.83, 26.88),
        "VDSR": (34.50, 31.39, 29.19, 25.91),
        "DnCNN-3": (35.20, 31.58, 29.30, 26.30),
        "DAEP": (35.23, 31.44, 29.01, 27.19),
        "IRCNN": (35.07, 31.26, 29.01, 27.13),
        "Ours": (35.16, 31.38, 29.16, 27.38),
    },
    "set14": {
        "Bicubic": (28.53, 25.92, 24.44, 23.46),
        "SRCNN": (30.52, 27.48, 25.76, 24.05),
        "TNRD": (30.53, 27.60, 25.92, 24.61),
        "VDSR": (30.72, 27.81, 26.16, 24.01),
        "DnCNN-3": (30.99, 27.93, 26.25, 24.26),
        "DAEP": (31.07, 27.93, 26.13, 24.88),
        "IRCNN": (30.79, 27.68, 25.96, 24.73),
        "Ours": (30.99, 27.90, 26.22, 25.01),
    },
}

# Table 4: noisy raw images of the Panasonic set, linear RGB. For reference, the set is not free.
PANASONIC = {
    "Matlab": 33.9,
    "RTF": 37.8,
    "Gharbi et al.": 38.4,
    "Gharbi et al., fine-tuned": 38.6,
    "SEM": 38.8,
    "Ours": 38.7,
}
# McM, RGGB without noise, from the paper on DPIR.
MCM = {"IRCNN": 37.44, "DPIR": 39.39}

# Figure 3, in words: how many of the 32 images have an error ratio below.
BELOW = {3.5: 32}

"""The Demosaic panel."""

from __future__ import annotations

from ..settings import Demosaic
from .panel import RunPanel


class DemosaicPanel(RunPanel):
    """Turns raw mosaics into colour images."""

    kind = Demosaic

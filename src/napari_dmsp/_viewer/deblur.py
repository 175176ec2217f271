"""The Deblur panel."""

from __future__ import annotations

from ..settings import Deblur
from .panel import RunPanel


class DeblurPanel(RunPanel):
    """Removes blur from planes of an image layer."""

    kind = Deblur

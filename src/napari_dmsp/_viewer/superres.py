"""The Super-resolution panel."""

from __future__ import annotations

from ..settings import Superres
from .panel import RunPanel


class SuperresPanel(RunPanel):
    """Raises the resolution of planes of an image layer."""

    kind = Superres

"""The dock widgets, one a task, over a shared panel."""

from .deblur import DeblurPanel
from .superres import SuperresPanel

__all__ = ["DeblurPanel", "SuperresPanel"]

"""The dock widgets, one a task, over a shared panel."""

from .deblur import DeblurPanel

__all__ = ["DeblurPanel"]

"""The dock widgets, one a task, over a shared panel; and one that trains priors."""

from .deblur import DeblurPanel
from .demosaic import DemosaicPanel
from .superres import SuperresPanel
from .train import TrainPanel

__all__ = ["DeblurPanel", "DemosaicPanel", "SuperresPanel", "TrainPanel"]

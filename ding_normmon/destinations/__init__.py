"""Where finished records go: destinations that need no framework."""

from ding_normmon.core.destination import Destination, RunDescription
from ding_normmon.destinations.tensorboard.destination import TensorBoard

__all__ = ['Destination', 'RunDescription', 'TensorBoard']

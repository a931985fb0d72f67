"""Where finished records go: destinations that need no framework."""

from ding_normmon.publish.destination import Destination, RunDescription
from ding_normmon.publish.tensorboard import TensorBoard

__all__ = ['Destination', 'RunDescription', 'TensorBoard']

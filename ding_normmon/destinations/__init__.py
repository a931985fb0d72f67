"""Destinations of finished records: TensorBoard and Weights & Biases."""

from ding_normmon.core.destination import Destination, RunDescription
from ding_normmon.destinations.tensorboard.destination import TensorBoard

__all__ = ['Destination', 'RunDescription', 'TensorBoard']

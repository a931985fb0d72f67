"""Outputs of the shared layers in a training forward pass, from hooks that exist only in measured steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ding_normmon.core.module_hook import ModuleHook
from ding_normmon.metrics.shared_layers import Layer

__all__ = ['LayerOutputs', 'Output']


class Output(NamedTuple):
    """What one call of a layer has returned, inside the step.

    Arguments:
        layer: the layer.
        path: its path, with the number of the call if it is not the first: ``encoder.1:2``.
        tensor: the output.
        version: how often the tensor had been changed in place by then.
    """

    layer: Layer
    path: str
    tensor: Tensor
    version: int


class LayerOutputs:
    """Listens to layers. A forward pass without gradient or in evaluation mode does not count."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._outputs: list[Output] = []
        self._calls: dict[str, int] = {}
        # The modules that are running and use a nonlinearity which others use too, the innermost last.
        self._running: list[nn.Module] = []
        self._listening = False

    def begin(self, layers: Sequence[Layer]) -> None:
        """Attach the hooks."""
        self._listening = True
        for module in {user: None for layer in layers for user in layer.users}:
            self._handles.append(module.register_forward_pre_hook(ModuleHook(self._enter)))
            self._handles.append(module.register_forward_hook(ModuleHook(self._leave), always_call=True))
        for layer in layers:
            self._handles.append(layer.module.register_forward_hook(ModuleHook(self._hook(layer))))

    def take(self) -> list[Output]:
        """Return what the layers have returned since the last call."""
        outputs, self._outputs = self._outputs, []
        self._calls.clear()
        return outputs

    def stop(self) -> None:
        """Drop the remaining outputs, and note nothing more in this step."""
        self._outputs.clear()
        self._listening = False

    def release(self) -> None:
        """Take off all hooks and drop every tensor."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.stop()
        self._calls.clear()
        self._running.clear()

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self._running.append(module)

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        # Modules that an exception has left in the list have ended as well.
        if module in self._running:
            while self._running.pop() is not module:
                pass

    def _hook(self, layer: Layer) -> Callable[[nn.Module, Any, Any], None]:
        def remember(module: nn.Module, inputs: Any, output: Any) -> None:
            if not self._is_meant(layer):
                return
            if isinstance(output, Tensor) and module.training and torch.is_grad_enabled() and self._listening:
                call = self._calls[layer.path] = self._calls.get(layer.path, -1) + 1
                path = f'{layer.path}:{call}' if call else layer.path
                self._outputs.append(Output(layer, path, output, output._version))

        return remember

    def _is_meant(self, layer: Layer) -> bool:
        """Return whether the module runs as this layer: the innermost of its users that run is this layer's."""
        return not layer.users or layer.within is next(
            (module for module in reversed(self._running) if module in layer.users), None
        )

"""A proxy that is trained beside the module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import distributed, nn

from litselect.scoring.loss_source import proxy_loss
from litselect.scoring.meta_gradients.private_streams import PrivateStreams

if TYPE_CHECKING:
    from litselect.scoring import ScoringPass
    from litselect.scoring.loss_source import LossFunction


class ProxyTraining:
    """Trains the proxy of a scoring pass on the batches that the module is trained on.

    Gradients are averaged over ranks, so that all have one proxy. It draws from a random stream of its own.

    Cost: one training step of the proxy a batch.

    Args:
        scoring: whose proxy and optimizer.
        loss_fn: of the callback.
        state: to continue from, once the device is known.
    """

    def __init__(self, scoring: ScoringPass, loss_fn: LossFunction | None, state: dict[str, Any] | None = None) -> None:
        self._proxy = cast("nn.Module", scoring.proxy)
        self._optimizer = cast("torch.optim.Optimizer", scoring.proxy_optimizer)
        self._loss_fn = loss_fn
        self._streams: PrivateStreams | None = None
        self._loaded = state

    def place(self, device: torch.device) -> None:
        """Training begins on `device`."""
        self._proxy.to(device)
        self._streams = PrivateStreams(torch.initial_seed(), device)
        if self._loaded is not None:
            self._proxy.load_state_dict(self._loaded["proxy"])
            self._optimizer.load_state_dict(self._loaded["optimizer"])
            if self._loaded["streams"] is not None:
                self._streams.states = self._loaded["streams"]
            self._loaded = None

    def step(self, batch: Any) -> None:
        """One step of the optimizer on the mean loss over `batch`."""
        proxy = self._proxy.train()
        with cast("PrivateStreams", self._streams), torch.enable_grad():
            cast("Any", proxy_loss(proxy, batch, self._loss_fn)).backward()
        if distributed.is_available() and distributed.is_initialized():
            for parameter in proxy.parameters():
                if parameter.grad is not None:
                    distributed.all_reduce(parameter.grad)
                    parameter.grad /= distributed.get_world_size()
        self._optimizer.step()
        self._optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """The proxy, its optimizer and its random stream."""
        if self._loaded is not None:
            return self._loaded
        streams = None if self._streams is None else self._streams.states
        return {"proxy": self._proxy.state_dict(), "optimizer": self._optimizer.state_dict(), "streams": streams}

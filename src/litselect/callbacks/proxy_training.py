"""A proxy that is trained beside the module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import distributed, nn

from litselect.callbacks.batch_sizes import fewest_rows
from litselect.callbacks.check_state import REMEDY
from litselect.callbacks.process_group import rank, world_size
from litselect.callbacks.rank_pool import all_ready
from litselect.scoring.batch_lender import BatchLender
from litselect.scoring.loss_source import proxy_loss
from litselect.scoring.meta_gradients.private_streams import PrivateStreams

if TYPE_CHECKING:
    from litselect.scoring import ScoringPass
    from litselect.scoring.loss_source import LossFunction


def share_proxy(proxy: nn.Module, device: torch.device) -> None:
    """Move a proxy to `device`, and let all ranks have that of rank 0. A collective."""
    proxy.to(device)
    if world_size() > 1:
        for tensor in (*proxy.parameters(), *proxy.buffers()):
            distributed.broadcast(tensor.detach(), 0)


class ProxyTraining:
    """Trains the proxy of a scoring pass on the batches that the module is trained on.

    Gradients are averaged over ranks, so that all have one proxy. It draws from a random stream of its own. A proxy
    that comes in eval mode is trained in train mode, and is put back at the end; one in train mode keeps the modes of
    its parts (frozen batch normalisation, say).

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
        self._parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        self._fewest = fewest_rows(self._proxy)
        self._lender = BatchLender()
        self._streams: PrivateStreams | None = None
        self._came_evaluating = False
        self._loaded = state

    def place(self, device: torch.device) -> None:
        """Training begins on `device`."""
        self._streams = PrivateStreams(torch.initial_seed(), device)
        self._came_evaluating = not self._proxy.training
        if self._came_evaluating:
            self._proxy.train()
        if self._loaded is not None:
            self._load(self._loaded)
            if self._loaded["streams"] is not None:
                self._streams.states = self._loaded["streams"]
            self._loaded = None

    def _load(self, state: dict[str, Any]) -> None:
        try:
            self._proxy.load_state_dict(state["proxy"])
            self._optimizer.load_state_dict(state["optimizer"])
        except Exception as error:
            raise ValueError(
                f"The checkpoint holds a proxy and its optimizer that {type(self._proxy).__name__} can't go on from "
                f"({type(error).__name__}: {error}). {REMEDY}"
            ) from error

    def step(self, batch: Any, rows: int) -> None:
        """One step of the optimizer on the mean loss over `batch`; none where a rank has too few rows, as one is."""
        ready = rows >= self._fewest
        if self._fewest > 1 and world_size() > 1:
            ready = all_ready(ready, self._parameters[0].device)
        if not ready:
            return
        with (
            cast("PrivateStreams", self._streams),
            torch.enable_grad(),
            self._lender.lent(batch, rows) as own,
        ):
            cast("Any", proxy_loss(self._proxy, own, self._loss_fn)).backward()
        if world_size() > 1:
            for parameter in self._parameters:
                if parameter.grad is not None:
                    distributed.all_reduce(parameter.grad)
                    parameter.grad /= world_size()
        self._optimizer.step()
        self._proxy.zero_grad()  # of what the optimizer does not hold as well

    def leave(self) -> None:
        """Training is over."""
        if self._came_evaluating:
            self._proxy.eval()

    def state_dict(self) -> dict[str, Any]:
        """The proxy, its optimizer and its random stream."""
        if rank():
            return {}  # all have the proxy of rank 0
        if self._loaded is not None:
            return self._loaded
        streams = None if self._streams is None else self._streams.states
        state = {"proxy": self._proxy.state_dict(), "optimizer": self._optimizer.state_dict(), "streams": streams}
        return _on_cpu(state)


def _on_cpu(value: Any) -> Any:
    """A nest of dicts, lists and tensors, the tensors on the CPU."""
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        items = [_on_cpu(item) for item in cast("list[Any]", value)]
        return items if isinstance(value, list) else tuple(items)
    return value.cpu() if isinstance(value, torch.Tensor) else value

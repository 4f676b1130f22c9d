"""Operations of a module, counted once for each shape of its examples."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from litselect.callbacks.batch_sizes import fewest_rows
from litselect.callbacks.loop_patch import restore
from litselect.callbacks.price import Price
from litselect.callbacks.prices import Prices
from litselect.callbacks.quiet import quiet
from litselect.scoring.batch_lender import BatchLender
from litselect.scoring.no_trace import NoTrace
from litselect.scoring.rows import columns_of, count_rows, take_rows

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

_TRAINING = 3  # operations of training a proxy, in forward passes of it: backward takes two


class Operations:
    """Counts what an example takes, by running a training step of a batch that leaves no trace.

    Matrix products, convolutions and attention are counted, a multiply-add as two operations; the rest, the optimizer
    and a rater's own network are not. Operations are taken to be proportional to the rows, and are counted on as many
    as are trained.

    Cost: one forward and backward pass, and another scoring pass where that is of a kind of its own, for each shape,
    and for each set of parameters that are trained.

    Args:
        module: the network.

    Raises:
        ValueError: if it optimizes manually, where a step can't be told from its effects.
    """

    def __init__(self, module: LightningModule) -> None:
        if not module.automatic_optimization:
            raise ValueError(
                "Operations are counted by running training_step without its effects, but "
                f"{type(module).__name__} optimizes manually. Give Budget(flops=...) prices=, in operations."
            )
        self._known: dict[Hashable, Prices] = {}
        self._seam: tuple[Any, str, Any] | None = None  # what was put into the loop

    def listen(
        self, trainer: Trainer, module: LightningModule, selection: Any, tell: Callable[[Prices | None], None]
    ) -> None:
        """Until `leave`, tell the prices of each batch, once all hooks have seen it and none has declined it."""
        loop: Any = trainer.fit_loop.epoch_loop.automatic_optimization
        run = loop.run

        def count_then_run(optimizer: Any, batch_idx: int, kwargs: dict[str, Any]) -> Any:
            tell(self.prices(trainer, module, kwargs["batch"], selection))
            return run(optimizer, batch_idx, kwargs)

        loop.run = count_then_run
        self._seam = loop, "run", count_then_run

    def leave(self) -> None:
        """Put the loop back. Harmless when called again."""
        if self._seam is not None:
            restore(*self._seam)
            self._seam = None

    def prices(self, trainer: Trainer, module: LightningModule, batch: Any, selection: Any) -> Prices | None:
        """The operations of each kind of work on examples shaped as those of `batch`.

        Args:
            trainer: in training.
            module: the network, unwrapped.
            batch: on its device, with at least one row.
            selection: the callback that selects, or None.

        Returns:
            The prices, or None where the step declined the batch, which then costs nothing.
        """
        n = count_rows(batch)
        shapes = [tuple(getattr(column, "shape", ()))[1:] for column in columns_of(batch, n)]
        trained = tuple(parameter.requires_grad for parameter in module.parameters())
        shape = (*shapes, trained, repr(getattr(selection, "scoring", None)))  # which scoring="auto" changes on the way
        if shape not in self._known:
            k = n if selection is None else max(selection.selector.count(n), min(fewest_rows(module), n))
            counted = _count(trainer, module, take_rows(batch, torch.arange(k), n) if k < n else batch, k, selection)
            if counted is None:  # the step declined this batch: the next one will tell
                return None
            self._known[shape] = counted
        return self._known[shape]


def _count(trainer: Trainer, module: LightningModule, batch: Any, n: int, selection: Any) -> Prices | None:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with (
        NoTrace(module, training=None),
        torch.enable_grad(),
        _counting(trainer, module) as counter,
        BatchLender().lent(batch, n) as own,
    ):
        output = _step(trainer, module, own)
        forward = counter.get_total_flops()
        if output is None:
            return None
        loss = cast("dict[str, Any]", output)["loss"] if isinstance(output, dict) else output
        _refuse_reentrant(module, loss)
        torch.autograd.grad(loss, parameters, allow_unused=True)
        training = counter.get_total_flops()
    if not training:
        raise ValueError(
            f"No matrix product, convolution or attention was counted in {type(module).__name__}.training_step, so a "
            "budget of operations would never be spent. Give Budget(flops=...) prices=, or use another unit."
        )
    score = forward if selection is None else _scoring(trainer, module, batch, n, selection, forward)
    kinds = {"train": training, "score": score, "proxy": _TRAINING * score}
    return Prices({kind: Price(((n, float(operations)),)) for kind, operations in kinds.items()})


def _refuse_reentrant(module: LightningModule, loss: Tensor) -> None:
    """Refuse checkpoints through which gradients of single tensors can't be taken: nothing behind them is counted."""
    waiting: list[Any] = [loss.grad_fn]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "CheckpointFunctionBackward":
            raise ValueError(
                f"Operations are counted without touching gradients, but {type(module).__name__} checkpoints "
                "activations with use_reentrant=True, which goes by them. Pass use_reentrant=False there, as torch "
                "recommends, or give Budget(flops=...) prices=, in operations."
            )
        waiting.extend(following for following, _ in node.next_functions)


def _scoring(trainer: Trainer, module: LightningModule, batch: Any, n: int, selection: Any, forward: int) -> int:
    """Operations of a scoring pass: those of the step's forward, unless it sees other images or another network."""
    scoring = selection.scoring
    if scoring.resolution is None and scoring.proxy is None:
        return forward
    with _counting(trainer, module) as counter:
        scoring.examine(module, batch, n, step=partial(_step, trainer, module), loss_fn=selection.loss_fn)
        return counter.get_total_flops()


@contextmanager
def _counting(trainer: Trainer, module: LightningModule) -> Generator[FlopCounterMode]:
    """Inside, operations are counted of what the module computes in the precision of training, and says to nobody."""
    with (
        quiet(trainer, module),
        trainer.precision_plugin.train_step_context(),
        torch.compiler.set_stance("force_eager"),
        FlopCounterMode(display=False) as counter,
    ):
        yield counter


def _step(trainer: Trainer, module: LightningModule, batch: Any) -> Any:
    """What ``training_step`` returns, called as Lightning would."""
    arguments = cast("Any", trainer.fit_loop.epoch_loop)._build_kwargs(OrderedDict(), batch, 0)
    return module.training_step(*arguments.values())

"""The forward pass that yields the scores."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from litselect.scoring.capture_check import CaptureCheck
from litselect.scoring.cheap_inputs import cheapened
from litselect.scoring.compiled_parts import compiled_parts
from litselect.scoring.loss_source import LossFunction, LossSource, loss_source, proxy_source
from litselect.scoring.no_trace import NoTrace, TraceMemory, device_of, modules_of
from litselect.scoring.rows import take_rows
from litselect.scoring.scores import Scores

if TYPE_CHECKING:
    from jaxtyping import Float


class ScoringPass:
    """One loss per candidate, from a forward pass that leaves no trace in the module.

    The losses come from the first of: the module's ``example_losses(batch)``; a ``loss_fn(module, batch)``; the
    unmodified training step, by capture (see `LossCapture`). Captured losses are checked once: other rows' content
    must not change a row's loss beyond a common factor.

    Cost: one forward pass over the candidates, about a third of a training step in the same precision. All that makes
    it cheaper can be combined. What each option costs and how well it ranks is measured in docs/speed.md.

    Args:
        mode: ``"eval"`` scores each example independently of the others; ``"train"`` with dropout and batch
            statistics, whose running averages are put back.
        precision: ``"bf16"`` runs the pass under bfloat16 autocast; ``None`` in the precision of training.
        memory_format: of images ``[N, C, H, W]`` in the pass, such as ``torch.channels_last``.
        resolution: what height and width of the images are multiplied by, in (0, 1): for networks that take images of
            any size, and batches with one tensor of images ``[N, C, H, W]``. Half of it costs a quarter.
        compile: run the module's children compiled, by ``torch.compile``: they must not compute the loss themselves,
            which would then not be seen. Costs seconds to minutes, once.
        proxy: another, smaller network whose losses are the scores: one with ``example_losses(batch)``, a
            LightningModule with a training step, or a classifier of batches ``(inputs, classes)``; `loss_fn` gets it
            in place of the module. It is moved to the module's device.
        proxy_optimizer: an optimizer of the proxy's parameters, where it is to be trained alongside, on the rows that
            the module is trained on. By default the proxy stays as it is.
        every: make a pass over every n-th batch only, another of the n in each epoch, and select the batches in between
            by the last known losses: for a callback, which then keeps a ledger.
        chunk: score so many rows at a time, for want of memory, or of a CPU's caches; halved whenever memory runs out.
        check: whether captured losses are checked.

    Raises:
        ValueError: if an option is none of these or out of range; with the first batch, if it holds no images where
            `memory_format` or `resolution` asks for them.
    """

    def __init__(
        self,
        mode: Literal["eval", "train"] = "eval",
        *,
        precision: Literal["bf16"] | None = None,
        memory_format: torch.memory_format | None = None,
        resolution: float | None = None,
        compile: bool = False,  # noqa: A002 - as torch and Lightning call it
        proxy: nn.Module | None = None,
        proxy_optimizer: torch.optim.Optimizer | None = None,
        every: int = 1,
        chunk: int | None = None,
        check: bool = True,
    ) -> None:
        if mode not in ("eval", "train"):
            raise ValueError(f'Expected mode to be "eval" or "train", but got {mode!r}.')
        if precision not in (None, "bf16"):
            raise ValueError(f'Expected precision to be None (that of training) or "bf16", but got {precision!r}.')
        if resolution is not None and not 0 < resolution < 1:
            raise ValueError(f"Expected resolution to be a factor in (0, 1), or None for all, but got {resolution!r}.")
        if not isinstance(cast("Any", every), int) or every < 1:
            raise ValueError(f"Expected every to be a number of batches >= 1, but got {every!r}. 1 scores each.")
        if chunk is not None and chunk < 1:
            raise ValueError(f"Expected chunk to be a number of rows >= 1, or None for all, but got {chunk!r}.")
        if proxy_optimizer is not None and proxy is None:
            raise ValueError("Expected a proxy for proxy_optimizer to train, but got none. Pass proxy=... with it.")
        if proxy_optimizer is not None:
            _check_optimizer(proxy, proxy_optimizer)
        self.mode = mode
        self.precision: Literal["bf16"] | None = precision
        self.memory_format = memory_format
        self.resolution = resolution
        self.compile = compile
        self.proxy, self.proxy_optimizer = proxy, proxy_optimizer
        self.every = every
        self.chunk = chunk
        self._halved = False
        self.check = check

    def __call__(self, module: nn.Module, batch: Any, n: int, **source: Any) -> Float[Tensor, " batch"] | None:
        """The losses alone: ``[N]`` float32. Arguments and errors are those of `examine`."""
        scores = self.examine(module, batch, n, **source)
        return None if scores is None else scores.losses

    def examine(
        self,
        module: nn.Module,
        batch: Any,
        n: int,
        *,
        step: Callable[[Any], Any] | None = None,
        loss_fn: LossFunction | None = None,
        gradients: bool = False,
        memory: TraceMemory | None = None,
    ) -> Scores | None:
        """Score `batch`.

        Args:
            module: the network, unwrapped.
            batch: N examples, on the module's device.
            n: N.
            step: the training step as a function of the batch, for capture.
            loss_fn: ``loss_fn(module, batch) -> Tensor[N]``, in place of capture.
            gradients: whether the step could touch gradients (manual optimization).
            memory: what the pass before, through the same module, left for this one to use again.

        Returns:
            The losses, and from capture also logits and targets where the step computes a cross-entropy; ``None`` where
            the training step returned ``None``.

        Raises:
            CaptureError: if there is no per-example loss to be had.
            ValueError: if ``example_losses`` or `loss_fn` returns anything but N numbers.
        """
        memory = TraceMemory() if memory is None else memory
        if self.proxy is None:
            runs, source = module, loss_source(module, step, loss_fn)
        else:
            runs, source, gradients = self._proxy_on(module), proxy_source(self.proxy, loss_fn), False

        def cheap(rows: Any, size: int) -> Scores | None:
            with memory.batches.lent(cheapened(rows, size, self.resolution, self.memory_format), size) as own:
                return source(own, size)

        while True:
            try:
                with self.without_trace(runs, gradients, memory):
                    if self.chunk is None or self.chunk >= n:
                        return cheap(batch, n)
                    return _in_chunks(cheap, batch, n, self.chunk)
            except torch.OutOfMemoryError:
                if min(n, self.chunk or n) == 1:
                    raise
            self._halve_chunk(n)  # not sooner: the error holds what the failed pass had in memory

    def _proxy_on(self, module: nn.Module) -> nn.Module:
        """The proxy, on the device of `module`."""
        proxy = cast("nn.Module", self.proxy)
        device = device_of(modules_of(module))
        return proxy if device_of(modules_of(proxy)) == device else proxy.to(device)

    def _halve_chunk(self, n: int) -> None:
        self.chunk = -(-min(n, self.chunk or n) // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not self._halved:
            self._halved = True
            warnings.warn(
                f"The scoring pass ran out of memory with {n} rows and goes on with chunks of {self.chunk} or fewer. "
                f"Pass ScoringPass(chunk={self.chunk}) to begin with them.",
                stacklevel=2,
            )

    def verify(self, module: nn.Module, batch: Any, n: int, losses: Float[Tensor, " batch"], **source: Any) -> bool:
        """Check that the captured `losses` are those of their own rows, and all of them, by replacing half of the rows.

        Not a permutation of the rows: noise that the step draws stays with its position and would look like a fault.

        Returns:
            Whether this settles it. Losses that are all alike (an output layer that starts from zero) and two rows
            tell nothing, fewer than eight rows little: then check another batch.

        Raises:
            CaptureError: if a row's loss changed with the content of other rows, or if a part of the step's loss that
                was not captured changed with the rows.
        """
        captured = not callable(getattr(module, "example_losses", None)) and source.get("loss_fn") is None
        if not self.check or not captured or self.proxy is not None:
            return True
        other = copy.copy(self)
        other.mode = "eval"
        before = other(module, batch, n, **source) if self.mode == "train" else losses
        if before is None:
            return False
        check = CaptureCheck(batch, n, before, 0.05 if self.precision == "bf16" else 0.02)
        settled = check.rows(lambda batch: other(module, batch, n, **source))
        gradients, memory = source.get("gradients", False), source.get("memory")
        check.whole(source["step"], min(n, other.chunk or n), lambda: other.without_trace(module, gradients, memory))
        return settled

    def without_trace(
        self, module: nn.Module, gradients: bool, memory: TraceMemory | None = None
    ) -> AbstractContextManager[Any]:
        """A context in which `module` can be run in this pass's mode and precision, and is then as it was."""
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            guard = NoTrace(module, training=self.mode == "train", gradients=gradients, memory=memory)
            modules = stack.enter_context(guard).modules
            if self.precision == "bf16":
                stack.enter_context(torch.autocast(device_of(modules).type, torch.bfloat16))
            if self.compile:
                _refuse_whole(module)
                stack.enter_context(compiled_parts(module, {} if memory is None else memory.compiled))
            elif is_compiled(module, modules):
                # Capture reads the step's own Python, which a compiled graph no longer runs.
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            return stack.pop_all()

    @property
    def is_plain(self) -> bool:
        """Whether it is what ``ScoringPass()`` makes, whether losses are checked or not."""
        return self.chunk is None and repr(self) == repr(ScoringPass())

    def __repr__(self) -> str:
        defaults = {"precision": None, "memory_format": None, "resolution": None, "compile": False, "every": 1}
        options = {name: getattr(self, name) for name, value in defaults.items() if getattr(self, name) != value}
        if self.proxy is not None:
            options["proxy"] = type(self.proxy).__name__
        return f"ScoringPass({', '.join([repr(self.mode), *(f'{name}={value!r}' for name, value in options.items())])})"


def _in_chunks(source: LossSource, batch: Any, n: int, size: int) -> Scores | None:
    """Score `size` rows at a time. The last chunk goes back to have as many: a sum is scaled by the rows it is over."""
    scores: list[Scores] = []
    for start in range(0, n, size):
        first = min(start, n - size)
        rows = torch.arange(first, first + size)
        part = source(take_rows(batch, rows, n), size)
        if part is None:
            return None
        scores.append(part.rows(start - first))
    return Scores.join(scores)


def _check_optimizer(proxy: nn.Module | None, optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer of anything but the proxy."""
    own = {id(parameter) for parameter in cast("Any", nn.Module() if proxy is None else proxy).parameters()}
    given = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not given <= own:
        raise ValueError(
            f"Expected proxy_optimizer to hold parameters of the proxy, but of the {len(given)} that it holds "
            f"{len(given - own)} are not those of {type(proxy).__name__}. Pass "
            "proxy_optimizer=torch.optim.SGD(proxy.parameters(), lr=...)."
        )


def _refuse_whole(module: nn.Module) -> None:
    if getattr(module, "_compiler_ctx", None) is not None:
        raise ValueError(
            "ScoringPass(compile=True) compiles the network but not the training step, in which losses are seen, but "
            f"{type(module).__name__} was compiled as a whole. Leave compile out, or compile the network inside it."
        )


def is_compiled(module: nn.Module, modules: list[nn.Module] | None = None) -> bool:
    """Whether any part was compiled: by Lightning, as a wrapper, or in place. `modules` are all parts, if known."""
    return getattr(module, "_compiler_ctx", None) is not None or any(
        "_orig_mod" in child._modules or child._compiled_call_impl is not None
        for child in cast("list[Any]", modules_of(module) if modules is None else modules)
    )

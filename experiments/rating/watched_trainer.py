"""A RaterTrainer that counts what it does and lets others look on."""

from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from experiments.callbacks.stopwatch import Stopwatch
from litselect.scoring import RaterTrainer


class WatchedTrainer(RaterTrainer):
    """Counts the operations of one meta-step, measures the seconds of all, and calls `watch` now and then.

    Args:
        arguments: of `RaterTrainer`.
        watch: is told the number of meta-steps so far; the clocks stand still meanwhile.
        every: meta-steps between two calls; the last meta-step is always followed by one.
        settings: of `RaterTrainer`.

    Attributes:
        flops: operations of a meta-step, the rater's included (matrix products and convolutions). Counted in the
            second one, when the estimator has been settled.
    """

    def __init__(self, *arguments: Any, watch: Callable[[int], None], every: int, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.watch, self.every, self.flops = watch, every, 0
        self.wall, self.processor = Stopwatch(perf_counter), Stopwatch(process_time)

    def _meta_step(self) -> None:
        self.wall.start()
        self.processor.start()
        if len(self.history) == min(1, self._meta_steps - 1):
            with FlopCounterMode(display=False) as counter:
                super()._meta_step()
            self.flops = counter.get_total_flops()
        else:
            super()._meta_step()
        self.wall.stop()
        self.processor.stop()
        done = len(self.history)
        if done % self.every == 0 or done == self._meta_steps:
            self.watch(done)

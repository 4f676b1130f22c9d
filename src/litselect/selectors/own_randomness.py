"""Randomness that belongs to a selector, and to nobody else."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


class OwnRandomness:
    """A random stream that draws nothing from the global one, and differs between ranks and places.

    Args:
        seed: of the stream; ``None`` derives it from ``torch.initial_seed()`` at the first draw.
        generator: a CPU generator to draw from, in place of `seed`.

    Raises:
        ValueError: if both are given, or `seed` is no whole number.
    """

    _stream: tuple[int, ...] = ()  # tells apart the random streams of selectors that share a seed

    def __init__(self, seed: int | None, generator: torch.Generator | None) -> None:
        if seed is not None and not isinstance(seed, Integral):  # pyright: ignore[reportUnnecessaryIsInstance] - users
            raise ValueError(f"Expected `seed` to be a whole number, or None for the run's own, but got {seed!r}.")
        if seed is not None and generator is not None:
            raise ValueError("Expected `seed` or `generator`, but got both. Seed the generator yourself, or drop it.")
        self.seed = seed
        self.rank = 0  # set before the first draw by whoever knows it, as is the seed that all ranks are to share
        self.default_seed: int | None = None
        self._given = generator
        self._place: tuple[int, ...] = ()
        self._generator = generator

    @property
    def generator(self) -> torch.Generator:
        """The selector's own random stream, on the CPU so that every device draws the same."""
        if self._generator is None:
            default = torch.initial_seed() if self.default_seed is None else self.default_seed
            given = self._own_seed()
            entropy = [int(default if given is None else given) % 2**63, self.rank, *self._stream, *self._place]
            words = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
            self._generator = torch.Generator().manual_seed(int(words[0]) >> 1)
        return self._generator

    def draw_for(self, *place: int) -> None:
        """Begin the random stream of `place`, whatever was drawn before; a generator that was given goes on.

        Args:
            *place: an epoch and a batch within it, say: then what is drawn for it does not depend on when it is drawn.
        """
        self._generator, self._place = self._given, (2**31, *place)  # which no other stream begins with

    def _own_seed(self) -> int | None:
        return self.seed

    def uniform(self, n: int, device: torch.device) -> Float[Tensor, " n"]:
        """`n` float64 draws from [0, 1) (float32 where the device has no float64)."""
        draws = torch.rand(n, generator=self.generator, dtype=torch.float64)
        dtype = torch.float32 if device.type == "mps" else torch.float64
        return draws.to(device, dtype, non_blocking=True)

    def shuffled(self, n: int, device: torch.device) -> Int[Tensor, " n"]:
        """The numbers below `n` in random order, int64."""
        return torch.randperm(n, generator=self.generator).to(device, non_blocking=True)

    def reset(self) -> None:
        """Forget what was seen: the next call is a first call. A generator that was given goes on where it is."""
        self._generator = self._given

    def state_dict(self) -> dict[str, Any]:
        """All state, as tensors and numbers that load with ``weights_only=True``."""
        return {} if self._generator is None else {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._generator = self._given
        if "generator" in state:  # otherwise nothing had been drawn yet
            self.generator.set_state(state["generator"].cpu())

"""numpy's global random stream, looked at cheaply."""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np

_RANDOM: Any = np.random
_WORDS: Final = 625 * 4  # bytes of a Mersenne twister: 624 words and the place among them


class NumpyStream:
    """Saves and restores the state of ``numpy.random``, which takes numpy 0.1 ms each way, only where it has moved.

    Whether it has is seen in the generator's memory, whose address numpy publishes. One thing is not there: the second
    of the two normal numbers that ``randn`` makes at a time. While one waits to be handed out, nothing is spared.
    """

    def __init__(self) -> None:
        self._generator: Any = None  # whose memory was last read
        self._words: bytes | None = None
        self._state: Any = None

    def save(self) -> None:
        """Note where the stream stands."""
        generator: Any = _RANDOM.get_bit_generator()
        words = _memory(generator)
        if generator is self._generator and not self._state["has_gauss"] and words is not None and words == self._words:
            return
        self._generator, self._words = generator, words
        self._state = np.random.get_state(legacy=False)  # noqa: NPY002 - the user's

    def restore(self) -> None:
        """Put the stream where `save` found it."""
        if _RANDOM.get_bit_generator() is not self._generator:
            _RANDOM.set_bit_generator(self._generator)
        elif not self._state["has_gauss"] and self._words is not None and self._words == _memory(self._generator):
            return
        np.random.set_state(self._state)  # noqa: NPY002 - the user's


def _memory(generator: Any) -> bytes | None:
    """The generator's state, where it is the one that numpy comes with."""
    if type(generator) is not np.random.MT19937:
        return None
    return ctypes.string_at(generator.ctypes.state_address, _WORDS)

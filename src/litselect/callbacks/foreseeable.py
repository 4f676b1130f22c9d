"""Samplers that can be read ahead of the training."""

from __future__ import annotations

from typing import Any, Final

from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

_AT_ONCE: Final = (DistributedSampler, RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler)
"""They draw for all of an epoch before its first batch (or, at its end, once more)."""


def foreseeable(sampler: Any) -> bool:
    """Whether nothing but the first and the last of a batch sampler's lists draws from a random stream.

    One that is of a class of its own may draw from a stream that others draw from, or look at the training.
    """
    if type(sampler) is not BatchSampler or type(sampler.sampler) not in _AT_ONCE:
        return False
    single = sampler.sampler
    if type(single) is RandomSampler:  # it draws as it goes where rows come twice
        return not single.replacement and single.num_samples <= len(single.data_source)
    return True

"""Counted operations against counting by hand."""

import torch
from torch import nn

from experiments import flops
from experiments.callbacks import Tally
from experiments.models import CnnSmall, Mlp


def test_mlp_by_hand() -> None:
    net = Mlp(channels=1, size=8, classes=10, width=32, depth=1, dropout=0.5)
    counted = flops.count(net, channels=1, size=8)
    first, last = 2 * 64 * 32, 2 * 32 * 10
    assert counted.forward == first + last
    # backward: weights of both layers, and the input of the second; nobody needs the images' gradient
    assert counted.training == (first + last) + first + 2 * last


def test_convolution_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(5 * 64, 2, bias=False))
    assert flops.count(net, channels=3, size=8).forward == 2 * 64 * 27 * 5 + 2 * 5 * 64 * 2


def test_counting_leaves_no_trace() -> None:
    net = CnnSmall(channels=3, size=32, classes=10, width=4).eval()
    state, random = {key: value.clone() for key, value in net.state_dict().items()}, torch.get_rng_state()
    assert flops.count(net, 3, 32).forward > 0
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not net.training
    assert all(parameter.grad is None for parameter in net.parameters())


def test_tally_is_charged_by_kind() -> None:
    assert flops.Flops(forward=2, training=6).of(Tally(seen=100, scored=50, trained=20, steps=3)) == 220

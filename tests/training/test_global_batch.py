"""What is said of a gradient that is not finite: the first weight on the way back, whole or sharded."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from harness.training.global_batch import not_finite


@pytest.fixture
def world_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def layers(bad: tuple[int, ...]) -> nn.Sequential:
    """Four layers without biases; the gradients of those in `bad` hold one value that is not finite. The first is frozen."""
    model = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(4)))
    for number, layer in enumerate(model):
        layer.weight.grad = torch.ones(3, 3) if number else None
        if number in bad:
            layer.weight.grad[1, 2] = (math.inf, math.nan)[number % 2]
    return model


def test_the_weight_nearest_the_loss_is_named() -> None:
    """Promise: of several weights it is the last that the model names, and frozen ones do not count."""
    assert not_finite(layers((1, 2))) == "on the way back 2.weight is the first weight whose gradient is not finite, of 2 of 3"


def test_a_sum_that_overflows_names_no_weight() -> None:
    """Promise: where every gradient is finite no weight is blamed."""
    assert not_finite(layers(())) == "no weight's own gradient here is infinite or undefined"


def test_sharded_gradients_are_looked_at_in_place(world_of_one: None) -> None:
    """Promise: of a sharded weight the part that is here is looked at, without asking another process."""
    model = layers((1,))
    mesh = init_device_mesh("cpu", (1,))
    for layer in [*model][1:]:
        gradient = distribute_tensor(layer.weight.grad, mesh, [Shard(0)])
        layer.weight = nn.Parameter(distribute_tensor(layer.weight.data, mesh, [Shard(0)]))
        layer.weight.grad = gradient
    assert not_finite(model) == "on the way back 1.weight is the first weight whose gradient is not finite, of 1 of 3"

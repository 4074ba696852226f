"""What work costs, as counted before it is done: against closed forms."""

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from taming_cli.runtime.cost import cost, flop_rate, read_rate

CPU = torch.device("cpu")


def test_operations_are_two_for_each_multiply_add() -> None:
    layer, x = nn.Linear(30, 50, bias=False), torch.randn(7, 30)
    assert cost(lambda: layer(x)).flops == 2 * 7 * 30 * 50
    conv, image = nn.Conv2d(3, 8, 3, padding=1), torch.randn(2, 3, 16, 12)
    assert cost(lambda: conv(image)).flops == 2 * 2 * 16 * 12 * 8 * 3 * 9


def test_what_is_kept_for_the_way_back_is_counted_once_and_without_weights() -> None:
    layers = nn.Sequential(nn.Linear(30, 50), nn.Tanh(), nn.Linear(50, 1))
    x = torch.randn(7, 30)
    assert cost(lambda: layers(x)).kept == 4 * (7 * 30 + 7 * 50)  # the input, and what tanh made


def test_what_is_only_pretended_costs_the_same() -> None:
    layers, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3)), torch.randn(1, 3, 20, 20)
    real = cost(lambda: layers(x).sum().backward())
    with FakeTensorMode():
        fake, y = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3)), torch.randn(1, 3, 20, 20)
        assert cost(lambda: fake(y).sum().backward()) == real


def test_a_machine_does_something_in_a_second() -> None:
    assert flop_rate(CPU, torch.float32, seconds=0.01) > 1e8
    assert read_rate(CPU, seconds=0.01) > 1e8

"""What work costs, as counted before it is done: against closed forms."""

import torch
from torch import nn

from taming_cli.runtime.cost import cost, fake_tensors, flop_rate, read_rate

CPU = torch.device("cpu")


def test_operations_are_two_for_each_multiply_add() -> None:
    layer, x = nn.Linear(30, 50, bias=False), torch.randn(7, 30)
    assert cost(lambda: layer(x)).flops == 2 * 7 * 30 * 50
    conv, image = nn.Conv2d(3, 8, 3, padding=1), torch.randn(2, 3, 16, 12)
    assert cost(lambda: conv(image)).flops == 2 * 2 * 16 * 12 * 8 * 3 * 9


def test_bytes_that_are_read_and_written_are_counted() -> None:
    x, y = torch.randn(10, 20), torch.randn(20, 30)
    assert cost(lambda: x @ y).moved == 4 * (10 * 20 + 20 * 30 + 10 * 30)
    assert cost(lambda: x.view(-1).t()).moved == 0
    assert cost(lambda: x.add_(1)).moved == 4 * 2 * 200


def test_bytes_are_counted_while_they_are_held() -> None:
    x = torch.randn(100)

    def chain() -> None:
        y = x + 1
        for _ in range(5):
            y = y.view(10, 10).mul(2).view(-1)  # the last and the next at once; views are what they show
            y.add_(1)

    assert cost(chain).peak == 2 * 4 * 100


def test_what_waits_for_the_way_back_is_held() -> None:
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(30, 30, bias=False), nn.Tanh()) for _ in range(4)))
    x = torch.randn(70, 30)
    with torch.no_grad():
        assert cost(lambda: layers(x)).peak == 3 * 4 * 70 * 30  # what a pair of layers is given, and what both make
    assert cost(lambda: layers(x)).peak == (4 + 1) * 4 * 70 * 30  # what each tanh made, and the product before the last


def test_what_is_only_pretended_costs_the_same() -> None:
    layers, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3)), torch.randn(1, 3, 20, 20)
    real = cost(lambda: layers(x).sum().backward())
    with fake_tensors():
        fake, y = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3)), torch.randn(1, 3, 20, 20)
        assert cost(lambda: fake(y).sum().backward()) == real


def test_a_machine_does_something_in_a_second() -> None:
    assert flop_rate(CPU, torch.float32, seconds=0.01) > 1e8
    assert read_rate(CPU, seconds=0.01) > 1e8

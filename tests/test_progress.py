"""What a training says on the way: means over the steps since the last word."""

import math

import pytest
import torch

from taming_cli.runtime.progress import Means


def test_means_are_over_the_steps_in_which_a_term_was_there() -> None:
    means = Means()
    means.add({"l1": torch.tensor(1.0)}, 4)
    means.add({"l1": torch.tensor(3.0), "critic": torch.tensor(5.0)}, 4)
    assert means.take() == {"l1": 2.0, "critic": 5.0}


def test_taking_them_begins_anew() -> None:
    means = Means()
    means.add({"l1": torch.tensor(1.0)}, 4)
    means.take()
    assert means.take() == {}
    means.add({"l1": torch.tensor(7.0)}, 4)
    assert means.take() == {"l1": 7.0}


def test_the_rate_is_images_per_second_since_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    means = Means()
    means.add({}, 6)
    means.add({}, 6)
    now[0] += 4.0
    means.take()
    assert means.images_per_second == 3.0
    means.add({}, 8)
    now[0] += 1.0
    means.take()
    assert means.images_per_second == 8.0


def test_terms_are_not_waited_for_and_not_changed() -> None:
    term = torch.tensor(2.0, dtype=torch.bfloat16)
    means = Means()
    means.add({"l1": term}, 1)
    means.add({"l1": term}, 1)
    assert means.take()["l1"] == 2.0
    assert term.item() == 2.0


def test_a_term_that_is_not_finite_stays_visible() -> None:
    means = Means()
    means.add({"l1": torch.tensor(math.nan)}, 1)
    means.add({"l1": torch.tensor(1.0)}, 1)
    assert math.isnan(means.take()["l1"])

"""The pace of a training: budget, learning rate, means of the log, and what `on_step` receives."""

import json
import math
from pathlib import Path

import pytest
import torch

from taming_cli.codec.train import fit
from taming_cli.config.codec import DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.size import Size
from taming_cli.errors import UsageError
from taming_cli.runtime.pacing import Budget, Progress, StepMeans, cosine, warm_up
from taming_cli.runtime.run.folder import Place
from tests.test_cli import picture
from tests.toys import CODEC


def test_a_budget_is_spent_by_steps_by_minutes_or_by_the_first_of_both() -> None:
    assert Budget(steps=10, minutes=0.0).spent(5, 1e9) == 0.5
    assert Budget(steps=0, minutes=2.0).spent(10**9, 30.0) == 0.25
    both = Budget(steps=10, minutes=1.0)
    assert both.spent(5, 6.0) == 0.5
    assert both.spent(1, 30.0) == 0.5
    assert both.spent(0, 0.0) == 0.0
    assert both.spent(10, 0.0) == 1.0
    assert both.spent(3, 61.0) > 1.0


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="--steps or --minutes"):
        Budget(steps=0, minutes=0.0)


def test_warm_up_is_linear_and_never_zero() -> None:
    assert [warm_up(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warm_up(0, 0) == 1.0


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_cosine_goes_from_1_to_its_end_symmetrically(final: float) -> None:
    assert cosine(0.0, final) == pytest.approx(1.0)
    assert cosine(1.0, final) == pytest.approx(final)
    assert cosine(0.5, final) == pytest.approx((1 + final) / 2)
    assert cosine(0.25, final) == pytest.approx(final + (1 - final) * (2 + math.sqrt(2)) / 4)
    assert cosine(0.3, final) + cosine(0.7, final) == pytest.approx(1 + final)


def test_cosine_stays_at_its_ends_beyond_them() -> None:
    assert cosine(1.7, 0.1) == pytest.approx(0.1)
    assert cosine(-0.5, 0.1) == pytest.approx(1.0)


def test_means_are_over_the_steps_in_which_a_term_was_there() -> None:
    means = StepMeans()
    means.add({"l1": torch.tensor(1.0)}, 4)
    means.add({"l1": torch.tensor(3.0), "discriminator": torch.tensor(5.0)}, 4)
    assert means.take() == {"l1": 2.0, "discriminator": 5.0}


def test_taking_them_begins_anew() -> None:
    means = StepMeans()
    means.add({"l1": torch.tensor(1.0)}, 4)
    means.take()
    assert means.take() == {}
    means.add({"l1": torch.tensor(7.0)}, 4)
    assert means.take() == {"l1": 7.0}


def test_means_include_the_steps_of_an_earlier_session() -> None:
    terms: dict[str, list[torch.Tensor]] = {}
    StepMeans(terms).add({"l1": torch.tensor(1.0)}, 4)
    means = StepMeans(terms)
    means.add({"l1": torch.tensor(3.0)}, 4)
    assert means.take() == {"l1": 2.0}
    assert terms == {}


def test_the_rate_is_images_per_second_since_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    means = StepMeans()
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
    means = StepMeans()
    means.add({"l1": term}, 1)
    means.add({"l1": term}, 1)
    assert means.take()["l1"] == 2.0
    assert term.item() == 2.0


def test_a_term_that_is_not_finite_stays_visible() -> None:
    means = StepMeans()
    means.add({"l1": torch.tensor(math.nan)}, 1)
    means.add({"l1": torch.tensor(1.0)}, 1)
    assert math.isnan(means.take()["l1"])


def test_a_training_reports_each_step_and_the_codes_in_use_at_each_tenth(tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / "in" / f"{number}.png", (60 * number, 90, 10))
    told: list[Progress] = []
    train = CodecTrainConfig(
        steps=20,
        minutes=0,
        size=Size(32, 32),
        batch_size=2,
        perceptual="none",
        disc_weight=0,
        device="cpu",
        precision="fp32",
        val_every=1.0,
    )
    discriminator = DiscriminatorConfig(disc_ndf=4)
    done = fit(
        [tmp_path / "in"],
        codec=CODEC,
        discriminator=discriminator,
        train=train,
        place=Place(out=tmp_path / "run"),
        on_step=told.append,
    )
    steps = [progress for progress in told if not progress.validation]
    assert [progress.step for progress in steps] == list(range(1, 21))
    assert [progress.step for progress in steps if progress.values] == [10, 20]
    lines = [json.loads(line) for line in (done.run / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if line["kind"] == "train"]
    assert [line["codes_used"] for line in logged] == [steps[9].values["codes_used"], steps[19].values["codes_used"]]
    used = logged[-1]["codes_used"] * CODEC.codebook_size
    assert used == pytest.approx(round(used))
    assert 1 <= logged[-1]["codebook_perplexity"] <= used + 1e-6

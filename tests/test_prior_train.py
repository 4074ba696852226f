"""Training: batches as a function of their position, exact resume, what is refused, and that it learns."""

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from taming_cli.config.fields import from_dict
from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.config.sampling import DecodingConfig
from taming_cli.config.size import Size
from taming_cli.data.tokens.header import RULE, ConditionHeader, TokenHeader
from taming_cli.data.tokens.writer import TokenJob
from taming_cli.errors import BadFileError, Interrupted, NonFiniteLossError, UsageError
from taming_cli.prior import state as prior_state
from taming_cli.prior import train as training
from taming_cli.prior.batches import TokenSet, fixed_windows, train_batch
from taming_cli.prior.draw import draw
from taming_cli.prior.layout import NOT_GIVEN
from taming_cli.prior.model import new_network, prior_file, prior_from
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.predictions import TokenBatch
from taming_cli.prior.state import PriorState, prior_step
from taming_cli.prior.train import fit
from taming_cli.report.record import read_run
from taming_cli.runtime.checkpoint import ModelFile, load_model, load_trainer
from taming_cli.runtime.cost import cost
from taming_cli.runtime.pacing import Progress
from taming_cli.runtime.run.folder import Place, read_settings
from taming_cli.runtime.run.metrics import METRICS, read_metrics
from taming_cli.runtime.run.sheets import Layout, layout_of

CODES = 8
PRIOR = PriorConfig(arch="modern", n_layer=1, n_head=2, n_embd=16, window=Size(4, 4))
TRAIN = PriorTrainConfig(
    steps=30, minutes=0.0, batch_size=8, warmup=2, samples=0, device="cpu", precision="fp32", val_every=0.5, seed=3
)
CODEC = ModelFile(
    format="taming-codec",
    config={"codec": {"ch": 32}},
    about={"codec_sha256": "c" * 64},
    tensors={"decoder.weight": torch.arange(3.0)},
)


def tokens(
    path: Path, *, count: int = 60, labelled: bool = True, size: tuple[int, int] = (4, 4), **changes: Any
) -> Path:
    """Two classes, `even` and `odd`, each with two codes of that parity, in two views, of which one is reversed."""
    rng = np.random.default_rng(count)
    label = rng.integers(0, 2, count)
    codes = (2 * rng.integers(0, 2, (count, 1, *size)) + label[:, None, None, None]) % CODES
    header: dict[str, Any] = {
        "codec_sha256": "c" * 64,
        "codec_path": "vq.safetensors",
        "codebook_size": CODES,
        "downsample_factor": 4,
        "preprocess": {},
        "created_by": "test",
        "views": 2,
        "height": size[0],
        "width": size[1],
    }
    made = TokenHeader(**{**header, **changes})
    with TokenJob(path, header=made, plan={}, total=count, shard_size=count) as job:
        (shard,) = job.pending()
        job.write(
            shard,
            codes=np.concatenate((codes, codes[..., ::-1]), axis=1),
            names=[f"{('even', 'odd')[k]}/{path.stem}-{n}.png" for n, k in enumerate(label)],
            labels=[("even", "odd")[k] if labelled else None for k in label],
            conditions={kind: np.repeat(codes % 3, 2, axis=1) for kind in made.conditions},
            skipped=[],
        )
        job.finish()
    return path


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return tokens(tmp_path / "t.h5")


@pytest.fixture
def train_in(tmp_path: Path, token_file: Path) -> Callable[..., training.TrainedPrior]:
    def run(name: str, *, train: PriorTrainConfig = TRAIN, **options: Any) -> training.TrainedPrior:
        place = Place(name=name, root=tmp_path / "runs")
        return fit([token_file], **{"prior": PRIOR, "train": train, "codec": CODEC, "place": place, **options})

    return run


def stop_at(step: int) -> Callable[[Progress], None]:
    def on_step(progress: Progress) -> None:
        if progress.step == step and not progress.validation:
            os.kill(os.getpid(), signal.SIGINT)

    return on_step


def same_tensors(a: Path, b: Path) -> bool:
    one, other = load_model(a).tensors, load_model(b).tensors
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("arch", ["modern", "any-order", "pixelsnail"])
def test_it_learns_the_classes_and_how_unlike_the_cells_are(train_in: Callable[..., Any], arch: Any) -> None:
    train = replace(TRAIN, steps=250, learning_rate=1e-2, dropout=0.0, ema=0.9)
    done = train_in("learn", train=train, prior=replace(PRIOR, arch=arch))
    assert done.validation["val_nats_per_token"] == pytest.approx(
        np.log(2), abs=0.06
    )  # one bit per cell, given a class
    gpt = prior_from(load_model(done.best, "taming-prior"), "best")
    assert gpt.config.conditions[0].vocabulary == 2
    classes = torch.arange(20)[:, None] % 2
    drawn = draw(gpt, size=(4, 4), samples=range(20), seed=0, decoding=DecodingConfig(), conditions={"class": classes})
    assert ((drawn % 2).flatten(1) == classes).double().mean() > 0.97


@pytest.mark.parametrize("arch", ["modern", "any-order", "pixelsnail"])
def test_a_stopped_and_resumed_training_ends_bit_for_bit_like_an_undisturbed_one(
    train_in: Callable[..., Any], arch: Any
) -> None:
    train, prior = replace(TRAIN, dropout=0.2, pkeep=0.8, condition_dropout=0.3), replace(PRIOR, arch=arch)
    whole = train_in("whole", train=train, prior=prior)
    for step in (10, 20):
        with pytest.raises(Interrupted, match=f"after step {step}, everything is saved"):
            train_in("parts", train=train, prior=prior, on_step=stop_at(step))
    parts = train_in("parts", train=train, prior=prior)
    assert same_tensors(whole.last, parts.last)
    assert same_tensors(whole.best, parts.best)
    assert whole.validation == parts.validation
    assert [line["step"] for line in read_metrics(parts.run / METRICS).lines] == [10, 15, 20, 30, 30]


def test_a_kill_after_the_trainer_file_is_mended(train_in: Callable[..., Any], tmp_path: Path) -> None:
    done = train_in("killed")
    assert load_model(done.best).about["step"] == done.step  # else this test would not see the best one mended
    for name in ("last", "best"):
        shutil.copy(done.run / "checkpoints" / f"{name}.safetensors", tmp_path / name)
    done.last.unlink()
    done.best.unlink()
    again = train_in("killed")
    assert again.step == done.step
    assert same_tensors(again.last, tmp_path / "last")
    assert same_tensors(again.best, tmp_path / "best")


def test_steps_raise_the_budget_of_a_finished_run(train_in: Callable[..., Any]) -> None:
    train_in("more")
    assert train_in("more", train=replace(TRAIN, steps=40)).step == 40


def test_other_tokens_under_the_same_name_are_refused(train_in: Callable[..., Any], token_file: Path) -> None:
    train_in("tokens")
    token_file.unlink()
    tokens(token_file, count=61)
    with pytest.raises(UsageError, match="trained on other tokens than the files hold now"):
        train_in("tokens")


def test_patience_ends_it(train_in: Callable[..., Any]) -> None:
    stale = replace(TRAIN, steps=100, val_every=0.05, learning_rate=0.0, patience=2, ema=0.0)
    done = train_in("patience", train=stale)
    assert done.step < 30
    assert done.notes == ("stopped after 2 validations without improvement",)
    assert train_in("patience", train=stale).step == done.step


def test_a_loss_that_is_not_finite_stops_before_the_update(
    train_in: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real, seen = prior_step, []

    def poisoned(state: PriorState, *rest: Any) -> dict[str, Tensor]:
        if state.step == 12:
            with torch.no_grad():
                state.gpt.ln_f.weight[0] = torch.nan  # type: ignore[index, operator, union-attr]
            seen.append(state)
        return real(state, *rest)

    monkeypatch.setattr(training, "prior_step", poisoned)
    with pytest.raises(NonFiniteLossError, match=r"step 13: nats_per_token is nan; .*--learning-rate"):
        train_in("nan")
    assert seen[0].step == 12
    assert not any(p.isnan().any() for name, p in seen[0].gpt.named_parameters() if name != "ln_f.weight")
    assert not any(p.isnan().any() for p in seen[0].average.parameters())


def test_weights_that_are_not_finite_are_never_saved(
    train_in: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def poisons_at_30(state: PriorState, *rest: Any) -> dict[str, Tensor]:
        terms = prior_step(state, *rest)
        if state.step == 30:
            with torch.no_grad():
                state.gpt.ln_f.weight[0] = torch.inf  # type: ignore[index, operator, union-attr]
        return terms

    monkeypatch.setattr(training, "prior_step", poisons_at_30)
    with pytest.raises(NonFiniteLossError, match=r"gpt\.ln_f\.weight is not finite after step 30; nothing was saved"):
        train_in("poisoned")
    folder = tmp_path / "runs" / "train-prior" / "poisoned"
    assert load_trainer(folder / "trainer.pt")["step"] == 15
    assert load_model(folder / "checkpoints" / "last.safetensors").about["step"] == 15


@pytest.mark.parametrize("arch", ["modern", "any-order"])
def test_samples_are_drawn_with_render(train_in: Callable[..., Any], arch: Any) -> None:
    shapes = []

    def render(codes: Tensor, given: Any) -> Tensor:
        shapes.append(tuple(codes.shape))
        return torch.zeros(len(codes), 3, 8, 8, dtype=torch.uint8)

    done = train_in("samples", train=replace(TRAIN, samples=5), render=render, prior=replace(PRIOR, arch=arch))
    assert shapes == [(5, 4, 4)] * 2
    assert len(list((done.run / "samples").glob("*.png"))) == 2


def test_a_sheet_records_the_class_of_each_sample_and_maps_are_drawn_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    condition = {"lowres": ConditionHeader(codec_sha256=f"{RULE}lowres", codebook_size=4096)}
    path, asked, maps = tokens(tmp_path / "t.h5", conditions=condition), [], []

    def drawn_for(*args: Any, **given: Any) -> Tensor:
        asked.append(given["conditions"])
        return draw(*args, **given)

    monkeypatch.setattr(training, "draw", drawn_for)

    def render_map(codes: Tensor) -> Tensor:
        maps.append(codes)
        return torch.zeros(len(codes), 3, 5, 5, dtype=torch.uint8)

    done = fit(
        [path],
        prior=PRIOR,
        train=replace(TRAIN, samples=7, held=0.2),
        codec=CODEC,
        place=Place(out=tmp_path / "run"),
        render=lambda codes, given: torch.zeros(len(codes), 3, 8, 8, dtype=torch.uint8),
        render_conditions={"lowres": render_map, "depth": render_map},
    )
    record = read_run(done.run)
    layout = layout_of(record.sheets[-1])
    classes = asked[-1]["class"][:, 0].tolist()
    assert layout == Layout(3, 7, tuple(("even", "odd")[index] for index in classes))
    assert classes == sorted(classes)
    assert len(set(classes)) == 2
    assert torch.equal(asked[0]["lowres"], asked[-1]["lowres"])
    (drawn,) = maps
    assert torch.equal(drawn, asked[-1]["lowres"])
    assert list(record.conditions) == ["lowres"]
    assert layout_of(record.conditions["lowres"]) == Layout(3, 7)


def test_the_model_file_carries_codec_and_labels(train_in: Callable[..., Any]) -> None:
    done = train_in("file")
    model = load_model(done.last, "taming-prior")
    assert model.about["label_names"] == ["even", "odd"]
    assert model.about["codec_sha256"] == "c" * 64
    assert model.about["grid"] == "4x4"
    assert model.config["codec"] == {"ch": 32}
    assert torch.equal(model.tensors["codec.decoder.weight"], torch.arange(3.0))
    nested = prior_file(prior_from(model, "it"), model, {})
    assert nested.tensors.keys() == model.tensors.keys()


@pytest.mark.parametrize(("arch", "suggested"), [("modern", None), ("any-order", {"temperature": "0.7:1"})])
def test_a_prior_for_any_order_suggests_a_rising_temperature(
    arch: Any, suggested: Any, train_in: Callable[..., Any]
) -> None:
    done = train_in(arch, prior=replace(PRIOR, arch=arch), train=replace(TRAIN, steps=1))
    assert load_model(done.last).about.get("sampling") == suggested


@pytest.mark.parametrize("arch", ["modern", "published", "any-order", "pixelsnail"])
def test_a_model_file_gives_the_same_network_back(arch: Any) -> None:
    torch.manual_seed(1)
    gpt = new_network(replace(PRIOR, arch=arch)).eval()
    back = prior_from(prior_file(gpt, CODEC, {}), "it")
    codes, grid = torch.randint(CODES, (2, 16)), torch.ones(2, 4, 4, dtype=torch.int64)
    batch = TokenBatch(codes, codes, {}, grid, grid)
    assert torch.equal(gpt.predictions(batch).features, back.predictions(batch).features)
    broken = prior_file(gpt, CODEC, {})
    head = "head.weight_v" if arch == "pixelsnail" else "head.weight"
    del broken.tensors[f"prior.{head}"]  # type: ignore[attr-defined]
    with pytest.raises(BadFileError, match=r"it does not hold the prior .*head.weight"):
        prior_from(broken, "it")


def test_init_starts_from_a_prior_and_its_training_may_go_on_elsewhere(train_in: Callable[..., Any]) -> None:
    first = train_in("first")
    again = train_in("second", train=replace(TRAIN, init=str(first.last), learning_rate=0.0, ema=0.0))
    assert same_tensors(first.last, again.last)
    raster_to_any = train_in("any", train=replace(TRAIN, init=str(first.last)), prior=replace(PRIOR, arch="any-order"))
    assert prior_from(load_model(raster_to_any.last), "it").config.arch == "any-order"
    with pytest.raises(UsageError, match="has arch any-order, not modern; leave that setting out"):
        train_in("back", train=replace(TRAIN, init=str(raster_to_any.last)))
    with pytest.raises(UsageError, match="has n_layer 1, not 2; leave that setting out"):
        train_in("third", train=replace(TRAIN, init=str(first.last)), prior=replace(PRIOR, n_layer=2))


def test_snapshots_keep_the_model_of_each_validation(train_in: Callable[..., Any]) -> None:
    done = train_in("kept", train=replace(TRAIN, snapshots=True))
    kept = sorted(done.run.glob("checkpoints/step_*.safetensors"))
    assert [load_model(path).about["step"] for path in kept] == [15, 30]
    assert same_tensors(kept[-1], done.last)


def test_a_run_continues_from_another_folder_and_without_its_init_file(
    train_in: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(train_in("first").last, tmp_path / "init.safetensors")
    monkeypatch.chdir(tmp_path)
    done = train_in("tuned", train=replace(TRAIN, init="init.safetensors"))
    Path("init.safetensors").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    recorded = from_dict(PriorTrainConfig, read_settings(done.run)["config"]["train"], "config.json")
    assert train_in("tuned", train=replace(recorded, steps=TRAIN.steps + 1)).step == TRAIN.steps + 1


def test_other_codecs_are_refused(tmp_path: Path, train_in: Callable[..., Any], token_file: Path) -> None:
    with pytest.raises(UsageError, match=r"another codec than the one given; give the one with hash cccccccccccc"):
        train_in("codec", codec=replace(CODEC, about={"codec_sha256": "d" * 64}))
    other = tokens(tmp_path / "other.h5", codec_sha256="d" * 64)
    with pytest.raises(UsageError, match=r"other.h5 was made with another codec \(dddddddddddd\) than .*t.h5"):
        TokenSet([token_file, other])


def numbered(path: Path) -> tuple[TokenSet, np.ndarray]:
    """60 samples on 5 x 7 grids with a depth map, and all their codes."""
    condition = {"depth": ConditionHeader(codec_sha256="e" * 64, codebook_size=3)}
    data = TokenSet([tokens(path, size=(5, 7), conditions=condition)])
    return data, data.files[0].codes(slice(None))


def test_batches_are_a_function_of_position_and_cover_each_epoch_once(tmp_path: Path) -> None:
    data, _ = numbered(tmp_path / "n.h5")
    prior = replace(PRIOR, codebook_size=CODES, conditions=data.specs())
    train, rows = replace(TRAIN, pkeep=0.5, condition_dropout=0.5, batch_size=6), np.arange(10, 28)
    whole = [train_batch(data, rows, prior, replace(train, batch_size=36), 0)]
    parts = [train_batch(data, rows, prior, train, position) for position in range(0, 36, 6)]
    for name in ("targets", "inputs"):
        assert torch.equal(getattr(whole[0], name), torch.cat([getattr(part, name) for part in parts]))
    for kind in ("class", "depth"):
        assert torch.equal(whole[0].conditions[kind], torch.cat([part.conditions[kind] for part in parts]))


def test_every_epoch_shows_each_sample_once_in_another_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = numbered(tmp_path / "n.h5")
    asked: list[int] = []
    real = TokenSet.windows
    monkeypatch.setattr(TokenSet, "windows", lambda self, rows, *rest: asked.extend(rows) or real(self, rows, *rest))
    prior, rows = replace(PRIOR, codebook_size=CODES), np.arange(10, 28)
    for position in range(0, 36, 6):
        train_batch(data, rows, prior, replace(TRAIN, batch_size=6), position)
    assert sorted(asked[:18]) == sorted(asked[18:]) == list(range(10, 28))
    assert asked[:18] != asked[18:]


def test_windows_are_crops_of_one_view_with_their_conditions(tmp_path: Path) -> None:
    data, codes = numbered(tmp_path / "n.h5")
    depth = data.files[0].condition("depth", slice(None))
    prior = replace(PRIOR, window=Size(4, 3), conditions=data.specs())
    places = set()
    rows = np.repeat(np.arange(60), 20)
    found = data.windows(rows, torch.randint(2**32, (len(rows), 3)), prior, (3, 4))
    for n, row in enumerate(rows[:200]):
        fits = [
            (view, top, left)
            for view in range(2)
            for top in range(3)
            for left in range(4)
            if (codes[row, view, top : top + 3, left : left + 4] == found.codes[n].numpy()).all()
            and (depth[row, view, top : top + 3, left : left + 4] == found.conditions["depth"][n].numpy()).all()
        ]
        assert fits
        places.update(fits if len(fits) == 1 else [])
        assert found.conditions["class"][n].item() == data.files[0].labels[row]
    assert len(places) == 24


def test_pkeep_and_condition_dropout_have_their_rates(tmp_path: Path) -> None:
    data, _ = numbered(tmp_path / "n.h5")
    prior = replace(PRIOR, codebook_size=CODES, conditions=data.specs())
    train = replace(TRAIN, pkeep=0.7, condition_dropout=0.25, batch_size=2000)
    batch = train_batch(data, np.arange(60), prior, train, 0)
    changed = (batch.inputs != batch.targets).double().mean().item()
    assert changed == pytest.approx(0.3 * (1 - 1 / CODES), abs=0.02)  # a random code may be the same one
    missing = {kind: (codes == NOT_GIVEN).flatten(1) for kind, codes in batch.conditions.items()}
    assert set(missing) == {"class", "depth"}
    dropped = {kind: cells.all(1) for kind, cells in missing.items()}
    assert all(torch.equal(cells.any(1), dropped[kind]) for kind, cells in missing.items())
    both, neither = dropped["class"] & dropped["depth"], ~(dropped["class"] | dropped["depth"])
    alone = 0.75 * 0.25 * 0.75  # not with the other, and alone
    assert (dropped["class"] & ~both).double().mean().item() == pytest.approx(alone, abs=0.04)
    assert (dropped["depth"] & ~both).double().mean().item() == pytest.approx(alone, abs=0.04)
    assert neither.double().mean().item() == pytest.approx(0.75**3, abs=0.04)


def test_of_a_single_condition_the_rate_is_the_one_requested(tmp_path: Path) -> None:
    data, _ = numbered(tmp_path / "n.h5")
    prior = replace(PRIOR, codebook_size=CODES, conditions=tuple(s for s in data.specs() if s.kind == "class"))
    train = replace(TRAIN, condition_dropout=0.25, batch_size=2000)
    dropped = train_batch(data, np.arange(60), prior, train, 0).conditions["class"][:, 0] == NOT_GIVEN
    assert dropped.double().mean().item() == pytest.approx(0.25, abs=0.04)


def test_a_big_token_file_is_read_as_needed_and_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = numbered(tmp_path / "n.h5")
    monkeypatch.setattr("taming_cli.prior.batches.MEMORY", 0)
    lazily = TokenSet([tmp_path / "n.h5"])
    assert not lazily._kept
    prior = replace(PRIOR, codebook_size=CODES, conditions=data.specs())
    one, other = (train_batch(each, np.arange(60), prior, TRAIN, 40) for each in (data, lazily))
    assert torch.equal(one.targets, other.targets)
    assert torch.equal(one.conditions["depth"], other.conditions["depth"])


def test_files_join_under_common_labels_and_the_smaller_window(tmp_path: Path) -> None:
    a, b = tokens(tmp_path / "a.h5", count=20, size=(4, 6)), tokens(tmp_path / "b.h5", count=30, size=(5, 3))
    data = TokenSet([a, b])
    assert (len(data), data.smallest, data.label_names) == (50, Size(3, 4), ("even", "odd"))
    prior = replace(PRIOR, window=data.smallest, conditions=data.specs())
    rows = np.array([3, 19, 20, 49])
    found = fixed_windows(data, rows, prior)
    for n, (file, local) in enumerate([(0, 3), (0, 19), (1, 0), (1, 29)]):
        assert found.conditions["class"][n].item() == data.files[file].labels[local]
        assert (found.codes[n] % 2 == found.conditions["class"][n]).all()


def test_held_out_side_follows_from_the_name_alone(tmp_path: Path) -> None:
    small, large = (TokenSet([tokens(tmp_path / f"{n}" / "x.h5", count=n)]) for n in (40, 400))
    names = [{data.files[0].names()[row] for row in data.split(0.1)[1]} for data in (small, large)]
    both = set(small.files[0].names()) & set(large.files[0].names())
    assert names[0] & both == names[1] & both
    rows, held = large.split(0.1)
    assert sorted([*rows, *held]) == list(range(400))
    assert 20 <= len(held) <= 60


def test_with_one_picture_nothing_is_held_out_and_that_is_reported(tmp_path: Path) -> None:
    path = tokens(tmp_path / "one.h5", count=1)
    place = Place(out=tmp_path / "run")
    done = fit([path], prior=PRIOR, train=replace(TRAIN, steps=2), codec=CODEC, place=place)
    assert done.best == done.last
    assert "no validation" in done.notes[0]
    with pytest.raises(UsageError, match="patience is 3"):
        fit([path], prior=PRIOR, train=replace(TRAIN, patience=3), codec=CODEC, place=Place(out=tmp_path / "run2"))


def test_unlabelled_tokens_make_an_unconditional_prior(tmp_path: Path) -> None:
    path = tokens(tmp_path / "u.h5", labelled=False)
    done = fit([path], prior=PRIOR, train=replace(TRAIN, steps=2), codec=CODEC, place=Place(out=tmp_path / "run"))
    config = from_dict(PriorConfig, load_model(done.last).config["prior"], "it")
    assert (config.conditions, config.codebook_size) == ((), CODES)


def test_the_trainer_file_is_plain(train_in: Callable[..., Any]) -> None:
    done = train_in("plain")
    assert load_trainer(done.run / "trainer.pt")["step"] == 30


@pytest.mark.parametrize("arch", ["modern", "published", "any-order", "pixelsnail"])
def test_parts_of_logits_parts_of_steps_and_activations_made_again_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: Any
) -> None:
    data = TokenSet([tokens(tmp_path / "t.h5")])
    rows, _ = data.split(0.05)
    config = replace(PRIOR, arch=arch, codebook_size=CODES, conditions=data.specs(), n_layer=2)
    plain = replace(TRAIN, dropout=0.0, clip=0.0)
    found = []
    for train, logits in (
        (plain, 2**24),
        (plain, 7 * CODES),
        (replace(plain, accumulate=3), 2**24),
        (replace(plain, gradient_checkpointing=True), 2**24),
    ):
        monkeypatch.setattr(prior_state, "LOGITS", logits)
        torch.manual_seed(1)
        state = prior_state.start(new_network(config), train, torch.device("cpu"), torch.float32)
        terms = prior_step(state, train_batch(data, rows, config, train, 0), train, 1e-3)
        found.append((terms, {name: parameter.grad for name, parameter in state.gpt.named_parameters()}))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's compiler reads it
def test_compiled_blocks_change_nothing_but_rounding(tmp_path: Path) -> None:
    data = TokenSet([tokens(tmp_path / "t.h5")])
    rows, _ = data.split(0.05)
    config = replace(PRIOR, arch="any-order", codebook_size=CODES, conditions=data.specs())
    found = []
    for train in (replace(TRAIN, dropout=0.0), replace(TRAIN, dropout=0.0, compile=True)):
        torch.manual_seed(1)
        state = prior_state.start(new_network(config), train, torch.device("cpu"), torch.float32)
        terms = prior_step(state, train_batch(data, rows, config, train, 0), train, 1e-3)
        found.append((terms, dict(state.gpt.state_dict())))
        assert (state.gpt.blocks[0]._compiled_call_impl is not None) == train.compile
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UsageError, match="needs a C"):
        prior_state.start(new_network(PRIOR), replace(TRAIN, compile=True), torch.device("cpu"), torch.float32)


def test_little_is_kept_where_logits_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(PRIOR, codebook_size=4096)
    gpt, codes = GPT(config), torch.zeros(8, 16, dtype=torch.int64)
    batch = TokenBatch(codes, codes, {})
    kept = []
    for logits in (2**24, 2**14):
        monkeypatch.setattr(prior_state, "LOGITS", logits)
        kept.append(cost(lambda: prior_state.nats(gpt, batch, torch.float32).backward()).peak)
    assert kept[0] > 2 * 4 * codes.numel() * 4096
    assert kept[1] < 0.5 * kept[0]

"""A decoder trained on perturbed codes: which codes are replaced and by what, the loss, and what a training records."""

import copy
import re
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from taming_cli.codec.perturb import Perturbation, near_entries
from taming_cli.codec.quantizers import nearest
from taming_cli.codec.quantizers.nearest import closest
from taming_cli.codec.quantizers.scalar import LFQ
from taming_cli.codec.setup import held_out
from taming_cli.codec.state import CodecState, start
from taming_cli.codec.step import Phase, StepReport, codec_step
from taming_cli.codec.train import TrainedCodec, fit
from taming_cli.codec.vqgan import VQGAN, codec_file
from taming_cli.config.codec import CodecConfig
from taming_cli.config.prior import ConditionSpec, PriorConfig
from taming_cli.config.size import Size
from taming_cli.data.batches import eval_batches
from taming_cli.data.images import to_float, to_uint8
from taming_cli.errors import Interrupted, UsageError
from taming_cli.metrics import psnr
from taming_cli.prior.any_order.blue_noise import Ranks
from taming_cli.prior.any_order.forwards import context_of, forwards
from taming_cli.prior.any_order.plan import GroupPlan
from taming_cli.prior.any_order.stages import stages
from taming_cli.prior.layout import prefix
from taming_cli.prior.model import new_network, prior_file
from taming_cli.prior.networks.any_order import AnyOrder
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.networks.pixelsnail import PixelSNAIL
from taming_cli.prior.raster.order import cells as cells_in_order
from taming_cli.prior.redraw import redraw
from taming_cli.runtime.checkpoint import load_model, read_header, save_model
from taming_cli.runtime.distributed import World
from taming_cli.runtime.run.folder import Place, read_settings
from tests import toys
from tests.test_cli import taming
from tests.test_codec_train import DISCRIMINATOR, TRAIN, assert_same_end, contents, differing, lines, stop_at

DECODER = replace(
    TRAIN,
    train="decoder",
    init="codec.safetensors",
    perturb=0.8,
    size=Size(16, 16),
    batch_size=4,
    steps=4,
    val_every=0.5,
    disc_weight=0.0,
    ema=0.0,
)
TOY = PriorConfig(arch="modern", n_layer=1, n_head=2, n_embd=16, window=Size(8, 8), codebook_size=64)
FLAGS = shlex.split(
    "--train decoder --size 16x16 --steps 2 --minutes 0 --batch-size 2 --perceptual none --disc-weight 0 "
    "--precision fp32 --device cpu --workers 0 --held 0.3 --val-every 1"
)


def grids(count: int = 3, size: tuple[int, int] = (4, 4), codes: int = 11, seed: int = 0) -> Tensor:
    return torch.randint(codes, (count, *size), generator=torch.Generator().manual_seed(seed))


def uniforms(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def to_nothing(codes: Tensor, mask: Tensor, uniform: Tensor) -> Tensor:
    """Marks the replaced cells."""
    return torch.where(mask, -1, codes)


# --- which codes are replaced, and by what ----------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [2**23, 1000], ids=["at once", "in parts"])
def test_the_closest_entries_are_those_of_a_full_search_without_the_entry_itself(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "_DISTANCES", at_once)
    codebook = torch.randn(130, 3, generator=torch.Generator().manual_seed(0))
    distance = torch.cdist(codebook.double(), codebook.double()).fill_diagonal_(torch.inf)
    assert torch.equal(closest(codebook, 5), distance.argsort(dim=1)[:, :5])
    codebook[7] = codebook[100]  # an entry that occurs twice has its twin as the closest one
    found = closest(codebook, 5)
    assert (found[7, 0], found[100, 0]) == (100, 7)


def test_a_replaced_code_is_each_of_the_near_ones_equally_often() -> None:
    codebook = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    near = closest(codebook, 4)  # a 64th of 200, rounded up
    codes = torch.full((1, 100, 100), 17)
    mask = torch.zeros(1, 100, 100, dtype=torch.bool)
    mask[:, :, :80] = True
    replaced = near_entries(codebook)(codes, mask, uniforms((1, 100, 100)))
    assert bool((replaced[:, :, 80:] == 17).all())
    counts = Counter(replaced[:, :, :80].flatten().tolist())
    assert counts.keys() == set(near[17].tolist())
    assert min(counts.values()) > 1800


@pytest.mark.parametrize(("size", "count"), [(2, 1), (64, 1), (65, 2), (1024, 16), (2000, 20)])
def test_the_number_of_near_entries_grows_with_the_codebook(
    size: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taming_cli.codec.perturb.MOST_NEAR", 20)
    codebook = torch.arange(float(size))[:, None] ** 1.5  # the entries before the first ones are their own neighbours
    codes, everywhere = torch.zeros(1, 32, 64, dtype=torch.int64), torch.ones(1, 32, 64, dtype=torch.bool)
    noise = torch.arange(32 * 64).view(1, 32, 64) / (32 * 64)
    replaced = near_entries(codebook)(codes, everywhere, noise)
    assert replaced.unique().tolist() == list(range(1, count + 1))


def test_on_a_fixed_grid_the_near_entries_differ_in_few_channels() -> None:
    codes, everywhere = grids(1, (32, 32), 1024), torch.ones(1, 32, 32, dtype=torch.bool)
    codebook = LFQ(10).codebook
    replaced = near_entries(codebook)(codes, everywhere, uniforms((1, 32, 32)))
    flipped = (codebook[codes] != codebook[replaced]).sum(-1)
    assert set(flipped.flatten().tolist()) == {1, 2}  # 10 of the 16 near ones at the first distance, 6 at the second
    assert (flipped == 1).float().mean() == pytest.approx(10 / 16, abs=0.05)


def test_the_share_of_replaced_cells_is_uniform_between_zero_and_the_given_one() -> None:
    perturb = Perturbation(share=0.6, seed=3, redraw=to_nothing)
    replaced = (perturb(torch.zeros(3000, 8, 8, dtype=torch.int64), 0) == -1).float()
    shares = replaced.mean((1, 2))
    assert shares.mean() == pytest.approx(0.3, abs=0.015)
    # that of the uniform distribution, and of 64 draws at each rate
    assert shares.var() == pytest.approx(0.6**2 / 12 + (0.3 - 0.6**2 / 3) / 64, rel=0.1)
    assert (shares == 0).float().mean() == pytest.approx(1 / 0.6 / 65, abs=0.01)
    assert replaced.mean(0).std() < 0.02  # each cell as often


def test_the_noise_of_a_draw_does_not_depend_on_which_cells_are_replaced() -> None:
    given: list[Tensor] = []
    perturb = Perturbation(
        share=0.5, seed=3, redraw=lambda codes, mask, uniform: given.extend((mask, uniform)) or codes
    )
    perturb(torch.zeros(500, 8, 8, dtype=torch.int64), 0)
    mask, uniform = given
    for part in (uniform[mask], uniform[~mask]):
        assert part.mean() == pytest.approx(0.5, abs=0.02)
        assert part.var() == pytest.approx(1 / 12, abs=0.01)


def test_a_pictures_noise_depends_on_seed_and_position_alone() -> None:
    perturb = Perturbation(share=1.0, seed=3, redraw=near_entries(torch.randn(64, 4)))
    codes = grids(6, (8, 8), 64)
    whole = perturb(codes, 10)
    assert torch.equal(torch.cat([perturb(codes[:2], 10), perturb(codes[2:], 12)]), whole)
    for other in (perturb(codes, 11), replace(perturb, seed=4)(codes, 10)):
        assert 0.2 < (other != whole).float().mean() < 0.9


# --- draws from a prior -----------------------------------------------------------------------------------------------


def network(config: PriorConfig) -> Any:
    """Random weights that matter, in float64."""
    torch.manual_seed(0)
    made = new_network(config)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return made.double().eval().requires_grad_(False)


def drawn(logits: Tensor, uniform: float) -> int:
    """The inverse of the cumulative distribution at the noise."""
    probabilities = np.exp(logits.numpy() - logits.numpy().max())
    return int(np.searchsorted(np.cumsum(probabilities / probabilities.sum()), uniform, side="right"))


@pytest.mark.parametrize(
    "config",
    [
        PriorConfig(arch="modern", n_layer=2, n_head=2, n_embd=16, window=Size(5, 4), codebook_size=11),
        PriorConfig(
            arch="published", order="z-curve", n_layer=1, n_head=2, n_embd=16, window=Size(4, 4), codebook_size=11
        ),
        PriorConfig(
            arch="modern",
            n_layer=1,
            n_head=2,
            n_embd=16,
            window=Size(4, 3),
            codebook_size=11,
            conditions=(ConditionSpec(kind="class", vocabulary=3),),
        ),
    ],
    ids=["raster", "z-curve", "class"],
)
def test_a_raster_prior_draws_each_cell_given_the_true_codes_before_it(
    config: PriorConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpt = network(config)
    assert isinstance(gpt, GPT)
    shape = (3, config.window.height, config.window.width)
    codes, uniform, mask = grids(3, shape[1:]), uniforms(shape), uniforms(shape, 1) < 0.6
    monkeypatch.setattr("taming_cli.prior.redraw.LOGITS", 7 * 11)  # in parts of seven cells
    found = redraw(gpt, codes, mask, uniform)
    expected = codes.clone()
    for sample in range(3):
        order = cells_in_order(config).tolist()
        for number, cell in enumerate(order):
            row, column = divmod(cell, shape[2])
            if not mask[sample, row, column]:
                continue
            before = codes[sample].flatten()[order[:number]]
            logits = gpt(prefix(config, {}, 1, codes.device), torch.cat([before, torch.zeros(1).long()])[None])[0, -1]
            expected[sample, row, column] = drawn(logits, float(uniform[sample, row, column]))
    assert torch.equal(found, expected)
    assert (found != codes).float().mean() > 0.3


def test_a_pixelsnail_draws_in_the_same_way() -> None:
    config = PriorConfig(
        arch="pixelsnail", n_layer=2, n_head=2, n_embd=8, window=Size(4, 6), codebook_size=7, res_blocks=1, kernel=3
    )
    net = network(config)
    assert isinstance(net, PixelSNAIL)
    codes, uniform, mask = grids(2, (6, 4), 7), uniforms((2, 6, 4)), uniforms((2, 6, 4), 1) < 0.6
    expected = codes.clone()
    for sample, row, column in mask.nonzero().tolist():
        number, before = 4 * row + column, codes[sample].flatten().clone()
        before[number:] = 0
        logits = net(before.view(1, 6, 4), {})[0, number]
        expected[sample, row, column] = drawn(logits, float(uniform[sample, row, column]))
    assert torch.equal(redraw(net, codes, mask, uniform), expected)


def test_a_prior_for_any_order_draws_the_replaced_cells_given_all_others() -> None:
    """Against what sampling computes for one group of cells, with all others known."""
    config = PriorConfig(arch="any-order", n_layer=2, n_head=2, n_embd=16, window=Size(8, 8), codebook_size=11, reach=2)
    net = network(config)
    assert isinstance(net, AnyOrder)
    codes, uniform, mask = grids(4, (5, 7)), uniforms((4, 5, 7)), uniforms((4, 5, 7), 1) < 0.5
    mask[2], mask[3] = False, True  # nothing is replaced, and everything
    expected = codes.clone()
    for sample in range(4):
        plan = GroupPlan(mask[sample].numpy().astype(np.int64), Ranks(5, 7).levels)
        known = torch.where(mask[sample], 0, codes[sample])[None]
        (stage,) = stages(plan, config, guided=False)
        for group in forwards(net, context_of(net, {}, 1, (5, 7)), known, stage):
            for row, column, logits in zip(group.rows.tolist(), group.columns.tolist(), group.logits[0], strict=True):
                expected[sample, row, column] = drawn(logits, float(uniform[sample, row, column]))
    assert torch.equal(redraw(net, codes, mask, uniform), expected)
    assert torch.equal(expected[2], codes[2])
    assert (expected[:2] != codes[:2])[mask[:2]].float().mean() > 0.5


# --- a step -----------------------------------------------------------------------------------------------------------


def decoder_state(codec: CodecConfig = toys.CODEC, **settings: Any) -> CodecState:
    return start(toys.toy_codec(codec), DISCRIMINATOR, DECODER, torch.device("cpu"), torch.float32, **settings)


def images(count: int = 4) -> Tensor:
    return to_float(toys.pictures(16, 16, count))


def perturbation(state: CodecState) -> Perturbation:
    return Perturbation(share=1.0, seed=3, redraw=near_entries(state.codec.quantizers[0].codebook))


def step_of(state: CodecState, x: Tensor, *, accumulate: int = 1, adversarial: float = 0.0, **given: Any) -> StepReport:
    config = replace(DECODER, accumulate=accumulate, l1_weight=0.7, l2_weight=0.3, disc_weight=0.5, clip=0.0)
    now = Phase(discriminator=bool(adversarial), adversarial=adversarial)
    return codec_step(state, x, perceptual=None, config=config, now=now, learning_rate=1e-2, **given)


@pytest.mark.parametrize("codebook", ["nearest", "gumbel"])
def test_the_loss_is_that_of_a_decoder_that_reads_the_replaced_codes(codebook: Any) -> None:
    state = decoder_state(replace(toys.CODEC, codebook=codebook))
    state.images_seen = 40
    twin, discriminator, x = copy.deepcopy(state.codec), copy.deepcopy(state.discriminator), images()
    perturb = perturbation(state)
    report = step_of(state, x, adversarial=0.5, perturb=perturb)

    true = twin.encode(x)
    replaced = perturb(true, 40)
    assert 0.2 < (replaced != true).float().mean() < 0.8
    x_rec = twin.decoder(twin.post_quant_conv(twin.quantize.lookup(replaced)))
    rec = 0.7 * (x - x_rec).abs().mean() + 0.3 * (x - x_rec).square().mean()
    gen = -discriminator(x_rec).mean()
    last = twin.decoder.conv_out.weight
    norms = [torch.autograd.grad(term, last, retain_graph=True)[0].norm() for term in (rec, gen)]
    (rec + 0.25 * (norms[0] / (norms[1] + 1e-4)).detach() * gen).backward()
    torch.testing.assert_close(report.terms["l1"], (x - x_rec).abs().mean().detach())
    assert torch.equal(report.codes, true)
    for (name, ours), theirs in zip(state.codec.named_parameters(), twin.parameters(), strict=True):
        if name.startswith(("decoder.", "post_quant_conv.")):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6, msg=name)
        else:
            assert ours.grad is None


def test_parts_and_processes_perturb_a_batch_as_one() -> None:
    x, seen = images(), list[Tensor]()

    def watched(codes: Tensor, mask: Tensor, uniform: Tensor) -> Tensor:
        seen.append(torch.stack([mask.float(), uniform], 1))
        return codes

    def noise(x: Tensor, *, accumulate: int = 1, world: World | None = None) -> Tensor:
        seen.clear()
        state = decoder_state()
        if world is not None:
            state.world = world
        step_of(state, x, accumulate=accumulate, perturb=Perturbation(share=1.0, seed=3, redraw=watched))
        return torch.cat(seen)

    whole = noise(x)
    assert len(whole.flatten(1).unique(dim=0)) == 4
    assert torch.equal(noise(x, accumulate=3), whole)
    assert torch.equal(torch.cat([noise(x[:2], world=Alone(0, 2)), noise(x[2:], world=Alone(1, 2))]), whole)


class Alone(World):
    """One of two processes, which takes its own values for those of both."""

    def mean(self, tensor: Tensor) -> Tensor:
        return tensor

    def total(self, tensor: Tensor) -> Tensor:
        return tensor


def test_parts_have_the_loss_of_the_whole() -> None:
    found = []
    for accumulate in (1, 2):
        state = decoder_state()
        report = step_of(state, images(), accumulate=accumulate, perturb=perturbation(state))
        found.append((report.terms["l1"], report.terms["gradient"]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


# --- a training -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pictures`, `codec.safetensors`, and priors of that codec by name: `raster`, `any-order` and some that do not
    fit."""
    root = tmp_path_factory.mktemp("perturb")
    (root / "pictures").mkdir()
    for number, picture in enumerate(toys.pictures(20, 24, 10)):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(root / f"pictures/{number}.png")
    codec = codec_file(toys.toy_codec(), {})
    save_model(root / "codec.safetensors", codec)
    other = replace(codec, about={**codec.about, "codec_sha256": "0" * 64})
    classes = replace(TOY, conditions=(ConditionSpec(kind="class", vocabulary=3),))
    for name, config, of, about in (
        ("raster", TOY, codec, {}),
        ("any-order", replace(TOY, arch="any-order", window=Size(4, 4)), codec, {}),
        ("dropout", classes, codec, {"condition_dropout": 0.1}),
        ("class", classes, codec, {"condition_dropout": 0.0}),
        ("small", replace(TOY, window=Size(4, 4)), codec, {}),
        ("other", TOY, other, {}),
        ("top", replace(TOY, level="top"), codec, {}),
    ):
        torch.manual_seed(1)
        facts = {"downsample_factor": 2, "label_names": [], **about}
        save_model(root / f"{name}.safetensors", prior_file(new_network(config), of, facts))
    return root


@pytest.fixture
def run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrainedCodec]:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("taming_cli.runtime.pacing.LOG_EVERY", 1)

    def train_as(name: str, **given: Any) -> TrainedCodec:
        train = replace(DECODER, **given.pop("train", {}))
        place = Place(name=name, root=tmp_path / "runs")
        return fit([Path("pictures")], codec=toys.CODEC, discriminator=DISCRIMINATOR, train=train, place=place, **given)

    return train_as


def test_only_the_decoder_changes_and_the_run_records_the_perturbation(
    run: Callable[..., TrainedCodec], folder: Path
) -> None:
    done = run("near")
    before, after = load_model(folder / "codec.safetensors"), load_model(done.last)
    assert {name.split(".")[0] for name in differing(before.tensors, after.tensors)} == {"decoder", "post_quant_conv"}
    assert VQGAN.load(done.last).sha256() == after.about["codec_sha256"] == before.about["codec_sha256"]
    assert after.about["perturb"] == {"share": 0.8, "prior": None, "prior_sha256": None}
    assert read_settings(done.run)["config"]["train"]["perturb"] == 0.8
    plain = run("plain", train={"perturb": 0.0})
    assert differing(load_model(plain.last).tensors, after.tensors)
    assert "perturb" not in load_model(plain.last).about
    assert "perturbed_psnr" not in plain.validation


def test_the_validation_is_of_true_codes_and_of_perturbed_ones(run: Callable[..., TrainedCodec]) -> None:
    still = {"learning_rate": 0.0, "steps": 1, "val_every": 1.0}
    plain, done = run("plain", train={"perturb": 0.0, **still}), run("perturbed", train=still)
    assert done.validation["psnr"] == plain.validation["psnr"]
    codec = VQGAN.load(done.last)
    (pictures,) = eval_batches(held_out(done.run), size=Size(16, 16), batch_size=8, workers=0)
    perturb = Perturbation(share=0.8, seed=DECODER.seed, redraw=near_entries(codec.quantizers[0].codebook))
    x_rec = codec.decode(perturb(codec.encode(to_float(pictures.images)), 0)).clamp(-1, 1)
    expected = psnr(pictures.images, to_uint8(x_rec), data_range=255).mean()
    assert done.validation["perturbed_psnr"] == pytest.approx(float(expected))
    assert done.validation["perturbed_psnr"] != done.validation["psnr"]


def test_a_stopped_and_resumed_training_ends_like_an_undisturbed_one(run: Callable[..., TrainedCodec]) -> None:
    whole = run("whole")
    for step in (1, 3):
        with pytest.raises(Interrupted):
            run("parts", on_step=stop_at(step))
    assert_same_end(whole, run("parts"))
    assert [line["l1"] for line in lines(whole.run)] == [line["l1"] for line in lines(whole.run.parent / "parts")]


@pytest.mark.parametrize("prior", ["raster", "any-order", "dropout"])
def test_the_command_trains_on_draws_of_a_prior(
    prior: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taming_cli.runtime.pacing.LOG_EVERY", 1)
    line = ["train-vqgan", folder / "pictures", *FLAGS, "--init", folder / "codec.safetensors", "--perturb", 0.8]
    assert taming(*line, "--out", tmp_path / "near", "-q").code == 0
    line += ["--prior", folder / f"{prior}.safetensors"]
    assert taming(*line, "--out", tmp_path / "run", "-q").code == 0
    models = [read_header(tmp_path / name / "checkpoints/last.safetensors") for name in ("near", "run")]
    assert models[0].about["codec_sha256"] == models[1].about["codec_sha256"]
    record = models[1].about["perturb"]
    assert (record["share"], Path(record["prior"]).name) == (0.8, f"{prior}.safetensors")
    assert len(record["prior_sha256"]) == 64
    assert lines(tmp_path / "near")[-1]["l1"] != lines(tmp_path / "run")[-1]["l1"]
    more = taming("train-vqgan", "--resume", "--out", tmp_path / "run", "--steps", 3, "--json")
    assert more.json["step"] == 3


def test_a_prior_may_move_but_not_change_within_a_run(folder: Path, tmp_path: Path) -> None:
    prior = tmp_path / "prior.safetensors"
    prior.write_bytes((folder / "raster.safetensors").read_bytes())
    line = ["train-vqgan", folder / "pictures", *FLAGS, "--init", folder / "codec.safetensors", "--perturb", 0.8]
    line += ["--out", tmp_path / "run"]
    assert taming(*line, "--prior", prior, "-q").code == 0
    assert taming(*line, "--prior", folder / "raster.safetensors", "-q").code == 0
    before = contents(tmp_path / "run")
    refusal = taming(*line, "--prior", folder / "any-order.safetensors").refusal
    assert "was trained with another prior than --prior" in refusal
    assert contents(tmp_path / "run") == before


def test_a_dry_run_includes_the_cost_of_the_prior(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rate in ("flop_rate", "read_rate"):
        monkeypatch.setattr(f"taming_cli.runtime.cost.{rate}", lambda *_: 1e9)
    line = ["train-vqgan", folder / "pictures", *FLAGS, "--init", folder / "codec.safetensors", "--dry-run", "--json"]
    plain = taming(*line, "--perturb", 0.8).json
    drawn = taming(*line, "--perturb", 0.8, "--prior", folder / "any-order.safetensors").json
    assert drawn["flops_per_step"] > plain["flops_per_step"]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--perturb 0.5 --train all", "perturb is 0.5, .*; use --train decoder"),
        ("--prior raster.safetensors", "but perturb is 0, .*; use --perturb"),
        ("--perturb 1.5", "perturb is 1.5; .*at most 1"),
        ("--perturb -0.5", "at least 0"),
        ("--perturb 0.5 --prior codec.safetensors", "codec.safetensors is a codec; a prior is needed"),
        ("--perturb 0.5 --prior none.safetensors", "none.safetensors"),
        ("--perturb 0.5 --prior other.safetensors", "a prior of another codec than .*codec.safetensors"),
        ("--perturb 0.5 --prior class.safetensors", r"needs its condition \(class\)"),
        ("--perturb 0.5 --prior small.safetensors", "a window of 4x4 codes, .* 8x8; use --size 8x8"),
        ("--perturb 0.5 --prior top.safetensors", "draws the top one of two levels"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    line: str, message: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    given = ["train-vqgan", "pictures", *FLAGS, "--init", "codec.safetensors", "--out", tmp_path / "run"]
    for more in ([], ["--dry-run"]):
        refusal = taming(*given, *line.split(), *more).refusal
        assert re.search(message, refusal), refusal
    assert not (tmp_path / "run").exists()


def test_two_levels_of_codes_are_refused(run: Callable[..., TrainedCodec], folder: Path) -> None:
    levels = CodecConfig(network="vq-vae-2", ch=8, n_res_channel=4)
    save_model(folder / "levels.safetensors", codec_file(VQGAN(levels), {}))
    with pytest.raises(UsageError, match=r"perturb is 0.8, .* two levels of codes"):
        fit(
            [Path("pictures")],
            codec=levels,
            discriminator=DISCRIMINATOR,
            train=replace(DECODER, init="levels.safetensors"),
        )


def test_a_prior_without_its_draws_is_refused(run: Callable[..., TrainedCodec]) -> None:
    with pytest.raises(UsageError, match="as redraw"):
        run("forgotten", train={"perturb_prior": "raster.safetensors"})

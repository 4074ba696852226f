"""When a training goes on: never from nothing over a trained run, never on other data, always on the same data."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from taming_cli.codec.vqgan import codec_file
from taming_cli.runtime.checkpoint import load_trainer, read_header, save_model
from taming_cli.runtime.run.folder import read_settings
from tests import toys
from tests.processes import ranks
from tests.test_cli import Said, taming

COMMON = shlex.split("--steps 2 --minutes 0 --precision fp32 --device cpu --val-every 0.5 --seed 1")
CODEC = COMMON + shlex.split(
    "--ch 32 --ch-mult 1 --num-res-blocks 1 --z-channels 4 --resolution 32 --codebook-size 16 --codebook-dim 4 "
    "--disc-ndf 4 --size 32x32 --batch-size 2 --perceptual none --workers 0 --held 0.3"
)
PRIOR = COMMON + shlex.split("--n-layer 1 --n-head 2 --n-embd 16 --batch-size 2 --samples 1 --held 0.3")
BOTH = pytest.mark.parametrize("what", ["train-vqgan", "train-prior"])


class Place(NamedTuple):
    """Pictures, a token file and its codec in the folder `data`; in `root` the runs that were trained on them."""

    root: Path
    data: Path

    @property
    def pictures(self) -> Path:
        return self.data / "pictures"

    @property
    def tokens(self) -> Path:
        return self.data / "t.h5"

    def inputs(self, what: str) -> Path:
        return self.pictures if what == "train-vqgan" else self.tokens

    def run(self, what: str) -> Path:
        return self.root / "run with spaces" / what

    def train(self, what: str, *more: object, inputs: Path | None = None, resume: bool = False) -> Said:
        """The training of that name, with `--out` its run; or its `--resume`, with the inputs that it records."""
        line: list[object] = [what] if resume and inputs is None else [what, inputs or self.inputs(what)]
        line += ["--resume"] if resume else CODEC if what == "train-vqgan" else PRIOR
        line += ["--codec", self.data / "vq.safetensors"] if what == "train-prior" else []
        return taming(*line, "--out", self.run(what), "-q", *more)


def picture(path: Path, seed: int) -> None:
    """A small picture whose file size does not depend on what it shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (36, 40, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("trained")
    place = Place(root, root)
    for number in range(6):
        picture(place.pictures / ("a", "b")[number % 2] / f"{number}.bmp", number)
    save_model(root / "vq.safetensors", codec_file(toys.toy_codec(), {"size": "32x32"}))
    tokenize(place)
    for what in ("train-vqgan", "train-prior"):
        assert place.train(what).code == 0
    return place


def tokenize(place: Place) -> None:
    place.tokens.unlink(missing_ok=True)
    line = ["--ckpt", place.data / "vq.safetensors", "-o", place.tokens, "--device", "cpu", "-q"]
    assert taming("tokenize", place.pictures, *line).code == 0


@pytest.fixture
def place(trained: Place, tmp_path: Path) -> Place:
    """Copies of the runs; the data lie where they lay."""
    shutil.copytree(trained.root / "run with spaces", tmp_path / "run with spaces")
    return Place(tmp_path, trained.data)


@pytest.fixture
def moved(trained: Place, tmp_path: Path) -> Place:
    """A copy of all of it: the data are the same, and lie elsewhere."""
    shutil.copytree(trained.root, tmp_path / "moved")
    return Place(tmp_path / "moved", tmp_path / "moved")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lose_trainer(run: Path) -> None:
    (run / "trainer.pt").unlink()


def lose_trainer_and_models(run: Path) -> None:
    (run / "trainer.pt").unlink()
    shutil.rmtree(run / "checkpoints")


def lose_all_but_the_log(run: Path) -> None:
    lose_trainer_and_models(run)
    shutil.rmtree(run / "samples")
    (run / "report.html").unlink()


# --- a trained run without its trainer file ---------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("how", [lose_trainer, lose_trainer_and_models, lose_all_but_the_log])
@pytest.mark.parametrize("more", [[], ["--dry-run"], "resume"], ids=str)
def test_a_trained_run_without_its_trainer_file_is_refused_and_left_as_it_is(
    what: str, how: Callable[[Path], None], more: list[str] | str, place: Place
) -> None:
    run = place.run(what)
    how(run)
    before = contents(run)
    said = place.train(what, resume=True) if more == "resume" else place.train(what, *more)
    assert said.code == 2
    assert f"{run} holds a trained run, but its trainer.pt is gone" in said.refusal
    if how is lose_trainer:
        assert f"--init '{run}/checkpoints/last.safetensors'" in said.refusal
    assert contents(run) == before


def test_what_the_refusal_suggests_works(place: Place) -> None:
    run = place.run("train-vqgan")
    lose_trainer(run)
    suggested = shlex.split(
        place.train("train-vqgan").refusal.partition("its model: ")[2].partition(" with another")[0]
    )
    assert place.train("train-vqgan", *suggested, "--out", place.root / "anew").code == 0
    assert read_header(place.root / "anew" / "checkpoints" / "last.safetensors").about["step"] == 2


def test_the_best_or_a_kept_model_is_named_where_the_last_is_gone(place: Place) -> None:
    run = place.run("train-prior")
    lose_trainer(run)
    models = run / "checkpoints"
    shutil.copy(models / "best.safetensors", models / "step_0000001.safetensors")
    for name in ("best", "step_0000001"):
        (models / "last.safetensors").unlink(missing_ok=True)
        assert f"{models}/{name}.safetensors" in place.train("train-prior").refusal
        (models / f"{name}.safetensors").unlink()


def cut(run: Path, other: Path) -> None:
    data = (run / "trainer.pt").read_bytes()
    (run / "trainer.pt").write_bytes(data[: len(data) // 2])


def empty(run: Path, other: Path) -> None:
    (run / "trainer.pt").write_bytes(b"")


def of_the_other_training(run: Path, other: Path) -> None:
    shutil.copy(other / "trainer.pt", run / "trainer.pt")


def of_another_network(run: Path, other: Path) -> None:
    state = load_trainer(run / "trainer.pt")
    network = state["codec" if "codec" in state else "gpt"]
    network[next(iter(network))] = torch.zeros(7)
    torch.save(state, run / "trainer.pt")


@BOTH
@pytest.mark.parametrize("how", [cut, empty, of_the_other_training, of_another_network])
def test_a_damaged_or_foreign_trainer_file_is_one_line_and_changes_nothing(
    what: str, how: Callable[[Path, Path], None], place: Place
) -> None:
    run = place.run(what)
    how(run, place.run("train-prior" if what == "train-vqgan" else "train-vqgan"))
    before = contents(run)
    said = place.train(what, "--steps", 4)
    assert said.code == 1
    assert f"trainer file {run / 'trainer.pt'}" in said.refusal
    assert f"--init '{run}/checkpoints/last.safetensors'" in said.refusal
    assert contents(run) == before


def test_several_processes_print_a_refusal_once(place: Place) -> None:
    run = place.run("train-vqgan")
    lose_trainer(run)
    before = contents(run)
    ended = ranks("train-vqgan", place.pictures, *CODEC, "--out", run)
    assert [process.returncode for process in ended] == [2, 2]
    assert [process.stdout for process in ended] == ["", ""]
    assert "trainer.pt is gone" in ended[0].stderr
    assert ended[1].stderr == ""
    assert contents(run) == before


# --- the same data elsewhere, other data at the same place ------------------------------------------------------------


@BOTH
def test_the_same_data_elsewhere_go_on_and_the_recorded_inputs_follow(what: str, moved: Place) -> None:
    run, inputs = moved.run(what), moved.inputs(what)
    assert read_settings(run)["inputs"] != [str(inputs)]
    assert moved.train(what, "--steps", 3).code == 0
    assert read_settings(run)["inputs"] == [str(inputs)]
    about = read_header(run / "checkpoints" / "last.safetensors").about
    assert about["step"] == 3
    assert about["images" if what == "train-vqgan" else "tokens"] == [str(inputs)]


@BOTH
def test_resume_reports_that_the_recorded_inputs_are_gone_and_takes_them_from_elsewhere(
    what: str, moved: Place
) -> None:
    inputs, elsewhere = moved.inputs(what), moved.root / "elsewhere" / moved.inputs(what).name
    assert moved.train(what).code == 0
    elsewhere.parent.mkdir()
    inputs.rename(elsewhere)
    assert f"was trained on {inputs}, which does not exist" in moved.train(what, resume=True).refusal
    assert moved.train(what, "--steps", 3, resume=True, inputs=elsewhere).code == 0
    assert read_settings(moved.run(what))["inputs"] == [str(elsewhere)]


def add(place: Place) -> None:
    picture(place.pictures / "a" / "new.bmp", 90)


def remove(place: Place) -> None:
    (place.pictures / "a" / "0.bmp").unlink()


def replace(place: Place) -> None:
    remove(place)
    add(place)


def change(place: Place) -> None:
    """Other content of the same size under the same name."""
    picture(place.pictures / "a" / "0.bmp", 91)


def recorded_here(place: Place, what: str) -> None:
    """As if the data had always lain here."""
    settings = place.run(what) / "config.json"
    said = json.loads(settings.read_text())
    settings.write_text(json.dumps({**said, "inputs": [str(place.inputs(what))]}))


CHANGES = pytest.mark.parametrize(
    ("how", "counts"),
    [(add, "1 added, 0 gone"), (remove, "0 added, 1 gone"), (replace, "1 added, 1 gone"), (change, "1 changed")],
)


@BOTH
@CHANGES
def test_other_data_at_the_same_place_are_counted_and_refused(
    what: str, how: Callable[[Place], None], counts: str, moved: Place
) -> None:
    recorded_here(moved, what)
    how(moved)
    tokenize(moved)
    before = contents(moved.run(what))
    for more in ([], ["--dry-run"], ["--steps", 5]):
        said = moved.train(what, *more)
        assert said.code == 2
        assert counts in said.refusal
        assert str(moved.inputs(what)) in said.refusal
        assert "--init" in said.refusal
        assert contents(moved.run(what)) == before


@BOTH
def test_data_that_a_run_of_an_earlier_version_recorded_by_their_hash_alone(what: str, moved: Place) -> None:
    run = moved.run(what)
    recorded_here(moved, what)
    (run / "inputs.npz").unlink(missing_ok=True)
    add(moved)
    tokenize(moved)
    before = contents(run)
    refusal = moved.train(what).refusal
    assert "--init" in refusal
    assert "added" not in refusal
    assert contents(run) == before
    (moved.pictures / "a" / "new.bmp").unlink()
    tokenize(moved)
    assert moved.train(what, "--steps", 3).code == 0
    assert read_settings(run)["inputs"] == [str(moved.inputs(what))]
    add(moved)  # and now they can be counted
    tokenize(moved)
    assert "1 added, 0 gone" in moved.train(what).refusal


def test_the_same_pictures_under_another_name_are_the_same(moved: Place) -> None:
    renamed = moved.pictures.rename(moved.root / "photos")
    (renamed / "a").rename(renamed / "A")
    assert moved.train("train-vqgan", inputs=renamed).code == 0


def test_the_same_pictures_in_another_order_are_not(moved: Place) -> None:
    a, b, out = moved.pictures / "a", moved.pictures / "b", ["--out", moved.root / "two"]
    assert moved.train("train-vqgan", b, *out, inputs=a).code == 0
    assert "the same ones in another order" in moved.train("train-vqgan", a, *out, inputs=b).refusal


def test_held_out_pictures_are_known_wherever_they_lie(moved: Place) -> None:
    val = moved.root / "val"
    for number in range(2):
        picture(val / f"{number}.bmp", 50 + number)
    out = ["--out", moved.root / "apart"]
    assert moved.train("train-vqgan", "--val", val, *out).code == 0
    elsewhere = val.rename(moved.root / "held")
    assert moved.train("train-vqgan", "--val", elsewhere, *out, "--steps", 3).code == 0
    assert read_settings(moved.root / "apart")["config"]["train"]["val"] == str(elsewhere)
    picture(elsewhere / "more.bmp", 60)
    refusal = moved.train("train-vqgan", "--val", elsewhere, *out).refusal
    assert f"1 added, 0 gone in --val {elsewhere}" in refusal
    assert "has val" in moved.train("train-vqgan", *out).refusal


def test_a_colour_table_is_known_by_what_it_says(moved: Place) -> None:
    maps, table = moved.root / "maps", moved.root / "colours.txt"
    for number in range(4):
        values = np.where(np.arange(40) < 10 + number, 0, 255).astype(np.uint8)
        path = maps / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.repeat(np.broadcast_to(values, (36, 40))[..., None], 3, axis=2)).save(path)
    table.write_text("#000000 ground\n#ffffff sky\n")
    line = ["--kind", "segmentation", "--out", moved.root / "seg", "--colours"]
    assert moved.train("train-vqgan", *line, table, inputs=maps).code == 0
    elsewhere = table.rename(moved.root / "table.txt")
    assert moved.train("train-vqgan", *line, elsewhere, "--steps", 3, inputs=maps).code == 0
    elsewhere.write_text("#ffffff ground\n#000000 sky\n")
    assert "another colour table" in moved.train("train-vqgan", *line, elsewhere, inputs=maps).refusal


@BOTH
def test_the_model_to_start_from_is_known_wherever_it_lies(what: str, moved: Place) -> None:
    first = shutil.copy(moved.run(what) / "checkpoints" / "last.safetensors", moved.root / "first.safetensors")
    out = ["--out", moved.root / "second"]
    assert moved.train(what, "--init", first, *out).code == 0
    elsewhere = Path(first).rename(moved.root / "start.safetensors")
    assert moved.train(what, "--init", elsewhere, *out, "--steps", 3).code == 0
    assert read_settings(moved.root / "second")["config"]["train"]["init"] == str(elsewhere)
    assert moved.train(what, "--steps", 4).code == 0
    other = moved.run(what) / "checkpoints" / "last.safetensors"
    assert "has init" in moved.train(what, "--init", other, *out).refusal


# --- a run that has never been saved ----------------------------------------------------------------------------------


@BOTH
def test_a_run_that_failed_before_its_first_save_does_not_block_its_place(
    what: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ["--out", place.root / "failed"]
    with monkeypatch.context() as patch:
        patch.setattr("torch.optim.Adam.step" if what == "train-vqgan" else "torch.optim.AdamW.step", fails)
        assert place.train(what, *out, "--seed", 7).code == 1
    assert not (place.root / "failed" / "trainer.pt").exists()
    assert place.train(what, *out, "--seed", 8, "--batch-size", 1).code == 0
    assert read_settings(place.root / "failed")["config"]["train"]["seed"] == 8


def fails(*_: object, **__: object) -> None:
    raise MemoryError


def test_nor_does_one_that_lacked_weights_or_memory_or_was_killed_in_its_first_moment(place: Place) -> None:
    out = ["--out", place.root / "failed"]
    missing = ["--perceptual", "lpips-vgg", "--offline", "--weights", place.root / "none"]
    assert place.train("train-vqgan", *out, *missing).code == 1
    (place.root / "failed").mkdir(exist_ok=True)
    (place.root / "failed" / ".lock").touch()
    (place.root / "failed" / ".config.json.77.tmp").touch()
    assert place.train("train-vqgan", *out).code == 0


def test_resume_alone_takes_the_newest_run_that_was_saved(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.root)
    line = ["train-vqgan", place.pictures, *CODEC, "-q"]
    assert taming(*line).code == 0
    with monkeypatch.context() as patch:
        patch.setattr("torch.optim.Adam.step", fails)
        assert taming(*line).code == 1
    assert Path("runs/train-vqgan/002/config.json").exists()
    said = taming("train-vqgan", "--resume", "--steps", 3, "--json", "-q")
    assert said.json["run"] == "runs/train-vqgan/001"
    assert said.json["step"] == 3

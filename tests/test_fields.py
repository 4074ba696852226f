"""Config fields: declared once; parsed, checked, turned to JSON and back."""

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from taming_cli.config.codec import CodecConfig, DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.fields import check, flag_name, from_dict, kinds, one_of, option, parse, to_dict
from taming_cli.config.prior import ConditionSpec, PriorConfig, PriorTrainConfig
from taming_cli.config.ramp import Ramp
from taming_cli.config.sampling import SampleConfig
from taming_cli.config.size import Size
from taming_cli.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """Inner settings."""

    depth: int = option(1, "How deep.", low=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Tree:
    """One field of every kind."""

    whole: int = option(3, "A whole number.", low=1, high=9, flag="-w")
    real: float = option(0.5, "A number.", low=0, high=1)
    on: bool = option(False, "A switch.")
    word: Literal["oak", "elm", "none"] = option("oak", "A choice.")
    text: str | None = option(None, "Any text.")
    size: Size | None = option(None, "A size.")
    many: tuple[int, ...] = option((1, 2), "Several.", low=1)
    ramp: float | Ramp = option(1.0, "A number that may change.", low=0.1, high=5)
    leaves: tuple[Leaf, ...] = option((), "Inner ones.", hidden=True)

    def __post_init__(self) -> None:
        check(self)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("whole", "7", 7),
        ("real", "1e-1", 0.1),
        ("real", "1", 1.0),
        ("on", "yes", True),
        ("on", "TRUE", True),
        ("on", "0", False),
        ("on", "off", False),
        ("word", "elm", "elm"),
        ("word", "none", "none"),
        ("text", "a, b", "a, b"),
        ("text", "None", None),
        ("size", "64x32", Size(64, 32)),
        ("size", "none", None),
        ("many", "4,5, 6", (4, 5, 6)),
        ("many", "4", (4,)),
        ("many", "", ()),
        ("ramp", "0.5", 0.5),
        ("ramp", "0.5 : 1e0", Ramp(0.5, 1.0)),
    ],
)
def test_text_becomes_the_fields_value(name: str, text: str, value: Any) -> None:
    got = parse(Tree, name, text, "--flag")
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [("whole", "1.5"), ("whole", "many"), ("real", "x"), ("on", "2"), ("on", ""), ("many", "1,b"), ("ramp", "1:2:3")],
)
def test_text_that_is_no_value_is_refused_naming_its_origin(name: str, text: str) -> None:
    with pytest.raises(UsageError, match="--flag"):
        parse(Tree, name, text, "--flag")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"whole": 0}, "whole is 0; it must be at least 1"),
        ({"whole": 10}, "whole is 10; it must be at most 9"),
        ({"whole": 1.0}, "whole is 1.0; it must be a whole number"),
        ({"whole": True}, "whole is True; it must be a whole number"),
        ({"real": "0.1"}, "real is '0.1'; it must be a number"),
        ({"real": float("nan")}, "real is nan; it must be finite"),
        ({"on": 1}, "on is 1; it must be true or false"),
        ({"word": "oka"}, "word is 'oka'; did you mean 'oak'[?] valid: oak, elm, none"),
        ({"text": 4}, "text is 4; it must be text"),
        ({"size": "64x32"}, "size is '64x32'; it must be WIDTHxHEIGHT"),
        ({"many": [1]}, r"many is \[1\]; give a list"),
        ({"many": (1, 0)}, "many is 0; it must be at least 1"),
        ({"ramp": Ramp(1.0, 9.0)}, "ramp is 9.0; it must be at most 5"),
        ({"ramp": 0.01}, "ramp is 0.01; it must be at least 0.1"),
        ({"ramp": "1:2"}, "ramp is '1:2'; it must be a number"),
        ({"whole": None}, "whole is None; it must be a whole number"),
    ],
)
def test_a_value_outside_type_choices_or_limits_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}$"):
        Tree(**values)


def test_limits_are_inclusive() -> None:
    assert (Tree(whole=1).whole, Tree(whole=9).whole, Tree(real=0).real, Tree(real=1.0).real) == (1, 9, 0, 1.0)


def test_flags_follow_the_names_unless_they_have_their_own() -> None:
    flags = {field.name: flag_name(field) for field in dataclasses.fields(Tree)}
    assert (flags["whole"], flags["real"]) == ("-w", "--real")
    (rate,) = [field for field in dataclasses.fields(CodecTrainConfig) if field.name == "learning_rate"]
    assert flag_name(rate) == "--learning-rate"


def test_the_types_of_a_class_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Pair:
        one: int = option(1, "One.")
        other: float = option(2.0, "The other.")

        def __post_init__(self) -> None:
            check(self)

    read: list[type] = []
    true = typing.get_type_hints
    monkeypatch.setattr(typing, "get_type_hints", lambda config: (read.append(config), true(config))[1])
    for _ in range(3):
        Pair()
    assert read == [Pair]


def test_kinds_take_types_apart() -> None:
    found = kinds(Tree)
    assert found["many"].base is int
    assert found["many"].many
    assert found["size"].base is Size
    assert found["size"].optional
    assert found["word"].choices == ("oak", "elm", "none")


@pytest.mark.parametrize(
    "config",
    [
        Tree(whole=4, text="x", size=Size(3, 4), many=(), leaves=(Leaf(depth=2), Leaf())),
        CodecConfig(ch=64, ch_mult=(1, 2)),
        DiscriminatorConfig(disc_loss="vanilla"),
        CodecTrainConfig(steps=4, val="here", size=Size(64, 32)),
        PriorConfig(conditions=(ConditionSpec(kind="class", vocabulary=9), ConditionSpec(kind="depth", form="grid"))),
        PriorTrainConfig(steps=3),
        SampleConfig(size=Size(8, 8), class_name="dog"),
        SampleConfig(temperature=Ramp(0.7, 1.0), guidance=2),
    ],
    ids=lambda config: type(config).__name__,
)
def test_to_dict_and_from_dict_are_inverses_through_json(config: Any) -> None:
    import json

    assert from_dict(type(config), json.loads(json.dumps(to_dict(config))), "here") == config


def test_an_unknown_key_is_refused_with_the_nearest_one_and_its_origin() -> None:
    with pytest.raises(UsageError, match=r"^here: unknown key 'wohle'; did you mean 'whole'[?]"):
        from_dict(Tree, {"wohle": 1}, "here")
    with pytest.raises(UsageError, match="unknown key 'dept'"):
        from_dict(Tree, {"leaves": [{"dept": 1}]}, "here")


def test_a_bad_value_names_its_origin() -> None:
    with pytest.raises(UsageError, match=r"^here: whole is 0"):
        from_dict(Tree, {"whole": 0}, "here")


def test_one_of_names_the_nearest_only_where_one_is_near() -> None:
    assert one_of(["alpha", "beta"], "alhpa") == "did you mean 'alpha'? valid: alpha, beta"
    assert one_of(["alpha", "beta"], "zzz") == "valid: alpha, beta"


@pytest.mark.parametrize(
    "config", [CodecConfig, DiscriminatorConfig, CodecTrainConfig, PriorConfig, PriorTrainConfig, SampleConfig]
)
def test_every_setting_has_a_default_that_passes_its_own_checks_and_a_help_text(config: type[Any]) -> None:
    config()
    for field in dataclasses.fields(config):
        assert field.metadata["help"].endswith("."), field.name


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: CodecConfig(ch=48, norm_groups=32), "multiple of norm_groups"),
        (lambda: CodecConfig(ch_mult=()), "ch_mult"),
        (lambda: CodecConfig(decoder_ch=36), "decoder_ch is 36; .* must be a multiple of norm_groups, 8"),
        (lambda: CodecConfig(network="vq-vae-2", decoder_ch=64), "decoder_ch is 64; .* must be left out"),
        (lambda: CodecConfig(network="vq-vae-2", patch_size=2), "patch_size is 2; .* must be left out"),
        (lambda: CodecConfig(network="vq-vae-2", shortcut=True), "shortcut is True; .* must be left out"),
        (lambda: CodecTrainConfig(steps=0, minutes=0.0), "--steps or --minutes"),
        (lambda: CodecTrainConfig(betas=(0.9,)), "0.5,0.9"),
        (lambda: CodecTrainConfig(crop_scale=(0.9, 0.4)), "crop_scale"),
        (lambda: CodecTrainConfig(disc_weight=0.0, lecam_weight=0.1), "lecam_weight is 0.1, .* no discriminator"),
        (
            lambda: CodecTrainConfig(perceptual="none", logits_weight=0.1),
            "logits_weight is 0.1, but perceptual is 'none'",
        ),
        (lambda: CodecTrainConfig(disc_weight=0.0, disc_augment=("cutout",)), "disc_augment is cutout, .* no discrim"),
        (lambda: CodecTrainConfig(disc_augment=("color",)), "disc_augment is 'color'; did you mean 'colour'"),
        (lambda: PriorTrainConfig(steps=0, minutes=0.0), "--steps or --minutes"),
        (lambda: PriorConfig(n_embd=10, n_head=4), "n_head"),
        (lambda: PriorConfig(conditions=(ConditionSpec(), ConditionSpec())), "each kind"),
        (lambda: SampleConfig(n=0), "n is 0"),
        (lambda: SampleConfig(temperature=0.0), "temperature"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(build: Any, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        build()


def test_the_grid_of_codes_follows_from_the_size_and_f() -> None:
    config = CodecConfig(ch_mult=(1, 1, 2))
    assert config.downsample_factor == 4
    assert config.latent(Size(64, 32)) == Size(16, 8)
    with pytest.raises(UsageError, match="the nearest multiple is 64x32"):
        config.latent(Size(65, 31))

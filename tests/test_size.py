"""Sizes as people write them."""

import pytest

from taming_cli.config.size import Size
from taming_cli.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("256x128", Size(256, 128)),
        ("256X128", Size(256, 128)),
        (" 256 × 128 ", Size(256, 128)),  # noqa: RUF001 - the sign itself
        ("64", Size(64, 64)),
        ("1x9999999", Size(1, 9999999)),
    ],
)
def test_width_comes_first_and_one_number_is_a_square(text: str, size: Size) -> None:
    assert Size.parse(text) == size


@pytest.mark.parametrize("size", [Size(1, 1), Size(1280, 832)])
def test_text_and_size_are_inverses(size: Size) -> None:
    assert Size.parse(str(size)) == size


@pytest.mark.parametrize(
    "text", ["", "x", "12by4", "12x", "x4", "1.5x2", "-3x4", "3x-4", "3x4x5", "12345678x1", "٣x٣٣a"]
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="256x256"):
        Size.parse(text)


@pytest.mark.parametrize("text", ["0x4", "4x0", "0"])
def test_no_side_may_be_zero(text: str) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        Size.parse(text)

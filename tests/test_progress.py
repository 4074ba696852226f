"""The bar that shows how far a command is."""

import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from taming_cli.cli.console import Output
from taming_cli.cli.formatting import duration, figure
from taming_cli.cli.progress import Bar, Pace, fitting
from taming_cli.cli.training import progress_printer, words
from taming_cli.runtime.pacing import Progress

# --- the bar ----------------------------------------------------------------------------------------------------------


class Clock:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    return clock


@pytest.fixture
def plain(clock: Clock) -> Callable[..., Bar]:
    """A bar where stderr is no terminal."""

    def make(what: str = "training", total: float | None = 1.0, unit: str | None = None) -> Bar:
        return Output().bar(what, total, unit)

    return make


@pytest.fixture
def terminal(clock: Clock) -> Callable[..., Bar]:
    """A bar on a terminal, which is drawn by `drawn` alone."""

    def make(what: str = "training", total: float | None = 1.0, unit: str | None = None) -> Bar:
        output = Output()
        output.errors = Console(file=io.StringIO(), force_terminal=True, color_system=None, legacy_windows=False)
        return Bar(output.errors, output.note, what, total, unit, live=True, verbose=False)

    return make


def drawn(bar: Bar, columns: int) -> str:
    """What a terminal of this width shows of the bar."""
    console = bar.console
    assert isinstance(console.file, io.StringIO)
    console.file.seek(0)
    console.file.truncate()
    console.width = columns
    console.print(bar._line)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()).removesuffix("\n")


FIGURES = {
    "l1": 0.19951,
    "codes_used": 0.71875,
    "codebook_perplexity": 46.59,
    "perceptual": 0.12345,
    "discriminator": 0.9,
}


def step(number: int, spent: float, values: dict[str, float] | None = None, rate: float = 7.2) -> Progress:
    return Progress(step=number, spent=spent, seconds=0.0, images_per_second=rate, values=values or {})


@pytest.mark.parametrize("columns", [1, 12, 24, 40, 60, 79, 80, 81, 100, 120, 200])
def test_the_bar_is_one_line_of_whatever_width(columns: int, terminal: Callable[..., Bar], clock: Clock) -> None:
    bar = terminal()
    tell = progress_printer(bar)
    for number in range(1, 40):
        clock.now += 90
        tell(step(1000 * number, number / 50, FIGURES if number % 2 else None))
        line = drawn(bar, columns)
        assert "\n" not in line
        assert len(line) <= max(columns - 2, 0) or len(line) <= len("training ")
        words_shown = line.split("  ")
        if columns >= 80:  # no word is cut
            assert all(word.strip() in " ".join(bar.state()) for word in words_shown[1:])


def test_eighty_columns_show_time_left_step_loss_codes_and_rate(terminal: Callable[..., Bar], clock: Clock) -> None:
    bar = terminal()
    tell = progress_printer(bar)
    assert drawn(bar, 80).rstrip().endswith("0%  starting")
    tell(step(10, 0.10, FIGURES))
    clock.now += 60
    tell(step(20, 0.20))
    assert re.fullmatch(r"training ━+ +20%  8:00 left  step 20  L1 0\.200  codes 72%  7\.20 images/s", drawn(bar, 80))
    assert drawn(bar, 140).endswith("images/s  perplexity 46.6  perceptual 0.123  discriminator 0.900")
    places = set()
    for spent in (0.25, 0.5, 0.75):  # without colours too, nothing moves but the bar
        tell(step(30, spent))
        places.add(drawn(bar, 80).index(f"{100 * spent:.0f}%"))
    assert len(places) == 1


def test_a_prior_shows_nats_per_token_and_the_rate(terminal: Callable[..., Bar]) -> None:
    bar = terminal()
    progress_printer(bar)(step(10, 0.1, {"nats_per_token": 4.5678, "gradient": 1.0}, rate=123.4))
    assert drawn(bar, 80).endswith("10%  step 10  4.57 nats/token  123 images/s")


def test_a_validation_leaves_a_line(plain: Callable[..., Bar], capsys: pytest.CaptureFixture[str]) -> None:
    bar = plain()
    found = Progress(step=5, spent=0.1, seconds=1, images_per_second=1, values={"psnr": 17.68}, validation=True)
    progress_printer(bar)(found)
    assert capsys.readouterr().err == "step 5: held-out  PSNR 17.7 dB\n"
    assert bar.done == 0


def test_items_have_a_count_and_a_rate_of_their_own(terminal: Callable[..., Bar], clock: Clock) -> None:
    bar = terminal("tokenizing", 1200, "pictures")
    bar.update(400)  # of which 400 were there already
    for done in (440, 480):
        clock.now += 2
        bar.update(done)
    assert bar.state() == [" 40%", "0:36 left", "480/1200 pictures", "20.0 pictures/s"]


def test_what_is_left_follows_the_pace_of_the_last_minute(clock: Clock) -> None:
    pace = Pace()
    for second in range(200):  # a slow second half
        pace.note(clock.now + second, min(second, 100) + max(0, second - 100) / 10)
    assert pace.rate() == pytest.approx(0.1)
    assert pace.left(clock.now + 199, 119.9) == pytest.approx(100)
    assert pace.left(clock.now + 229, 119.9) == pytest.approx(70)  # it counts down in between
    assert pace.left(clock.now + 999, 119.9) == 0


def test_the_next_set_of_pictures_begins_anew(clock: Clock) -> None:
    pace = Pace()
    for second, done in enumerate((10, 20, 30, 1, 2, 3)):
        pace.note(clock.now + second, done)
    assert pace.rate() == pytest.approx(1)


def test_no_pace_is_printed_before_there_is_one(terminal: Callable[..., Bar], clock: Clock) -> None:
    bar = terminal("decoding", None, "pictures")
    assert bar.state() == []
    bar.update(3, total=12)
    assert bar.state() == [" 25%", "3/12 pictures"]


def test_weights_that_come_are_shown_in_the_bar(terminal: Callable[..., Bar], clock: Clock) -> None:
    bar = terminal()
    bar.fetching(0, 553_000_000)
    clock.now += 2
    bar.fetching(100_000_000, 553_000_000)
    assert bar.state() == ["  0%", "weights 100/553 MB", "50.0 MB/s", "0:09 left"]
    bar.fetching(553_000_000, 553_000_000)
    assert bar.state() == ["  0%"]
    bar.fetching(7_000_000, None)
    assert bar.state()[1] == "weights 7 MB"


def test_elsewhere_there_is_a_plain_line_every_five_seconds(
    plain: Callable[..., Bar], clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with plain("tokenizing", 100, "pictures") as bar:
        for done in range(100):
            clock.now += 0.25
            bar.update(done)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert lines[0] == "tokenizing: 19%  0:20 left  19/100 pictures  4.00 pictures/s"


@pytest.mark.parametrize("muted", [False, True])
def test_where_quiet_there_is_none(muted: bool, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(quiet=not muted)
    if muted:
        output.mute()
    with output.bar("tokenizing", 100, "pictures") as bar:
        for done in range(100):
            clock.now += 1
            bar.update(done)
        bar.line("a line")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("terminal", "kind", "quiet", "live"),
    [
        (True, "xterm", False, True),
        (True, "dumb", False, False),
        (True, "xterm", True, False),
        (False, "xterm", False, False),
    ],
)
def test_a_bar_moves_on_a_terminal_that_can_show_it(
    terminal: bool, kind: str, quiet: bool, live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", kind)
    output = Output(json=False, quiet=quiet)
    output.errors = Console(file=io.StringIO(), force_terminal=terminal)
    assert output.live is live


def test_as_many_words_as_fit_the_most_important_first() -> None:
    assert fitting(["one", "three", "five"], 15) == ("one", "three")
    assert fitting(["one", "three", "five"], 16) == ("one", "three", "five")
    assert fitting(["longer than that"], 3) == ("longer than that",)
    assert fitting([], 3) == ()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.2, "0.200"),
        (13.24, "13.2"),
        (99.94, "99.9"),
        (99.96, "100"),
        (12345.6, "12346"),
        (0.0, "0.00"),
        (-0.5, "-0.500"),
    ],
)
def test_a_figure_has_three_digits_always(value: float, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(75.9, "1:15"), (3700, "1:01:40"), (100_000, "1d 3:46"), (0, "0:00")])
def test_a_duration_is_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_shares_are_said_in_percent_and_unknown_figures_stand_in_the_log_alone() -> None:
    assert words({"gradient": 3.0, "accuracy": 0.987, "codes_used": 1.0}) == ["99% correct", "codes 100%"]

"""Merged token files equal those written by one job; files that do not belong together are refused by name."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from taming_cli.config.shard import Shard
from taming_cli.data.tokens.file import TokenFile
from taming_cli.data.tokens.header import TokenHeader
from taming_cli.data.tokens.merge import Finished, merge
from taming_cli.errors import BadFileError, UsageError
from tests.test_token_writer import HEADER, assert_equal_datasets, fill, job_at, run


def test_merged_files_equal_the_one_made_in_one_go(tmp_path: Path) -> None:
    run(tmp_path / "reference.h5")
    slices = [(0, 3), (3, 30), (30, 50)]  # the first knows three of the labels only
    paths = [tmp_path / f"{start}.h5" for start, _ in slices]
    for path, (start, stop) in zip(paths, slices, strict=True):
        run(path, first=start, total=stop - start, plan={"slice": start})
    finished = merge(paths, tmp_path / "merged.h5")
    assert finished == Finished(tmp_path / "merged.h5", 48, (("4.png", "truncated"), ("20.png", "100% foreign")))
    assert_equal_datasets(tmp_path / "merged.h5", tmp_path / "reference.h5")
    assert TokenFile(finished.path).header == HEADER
    assert not (tmp_path / "merged.h5.parts").exists()


@pytest.mark.parametrize(
    ("header", "difference"),
    [
        (replace(HEADER, codec_sha256="e" * 64), "codec_sha256"),
        (replace(HEADER, views=1), "views: 1 there, 2 here"),
        (replace(HEADER, height=8), "height: 8 there, 4 here"),
        (replace(HEADER, preprocess={"size": [64, 64]}), r"preprocess.size: \[64, 64\] there, \[32, 24\] here"),
        (replace(HEADER, conditions={}), r"conditions.segmentation: nothing there"),
    ],
)
def test_merge_names_the_file_that_does_not_fit_and_in_what(
    tmp_path: Path, header: TokenHeader, difference: str
) -> None:
    run(tmp_path / "a.h5", total=3)
    run(tmp_path / "b.h5", first=3, header=header, total=3)
    with pytest.raises(BadFileError, match=rf"b\.h5: does not fit .*a\.h5 \({difference}"):
        merge([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "merged.h5")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_merge_refuses_a_name_in_two_files(tmp_path: Path) -> None:
    run(tmp_path / "a.h5", total=10)
    run(tmp_path / "b.h5", first=9, total=10)
    with pytest.raises(BadFileError, match=r"b\.h5: holds '9__%\.png', as does .*a\.h5"):
        merge([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "merged.h5")
    with pytest.raises(BadFileError, match=r"a\.h5: holds '0%\.png', as does .*a\.h5"):
        merge([tmp_path / "a.h5", tmp_path / "a.h5"], tmp_path / "merged.h5")


def test_merge_names_a_damaged_file_and_leaves_no_target(tmp_path: Path) -> None:
    run(tmp_path / "a.h5", total=10)
    run(tmp_path / "b.h5", first=10, total=10)
    with h5py.File(tmp_path / "b.h5") as file:
        place = file["codes"].id.get_chunk_info(0).byte_offset + 50
    content = bytearray((tmp_path / "b.h5").read_bytes())
    content[place] ^= 4
    (tmp_path / "b.h5").write_bytes(content)
    with pytest.raises(BadFileError, match=r"b\.h5: damaged: samples 0 to 9 of /codes cannot be read"):
        merge([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "merged.h5")
    (tmp_path / "b.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(BadFileError, match=r"b\.h5: "):
        merge([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "merged.h5")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.h5", "b.h5"]


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """The three parts of one work."""
    paths = [tmp_path / f"{index}-of-3.h5" for index in (1, 2, 3)]
    for index, path in enumerate(paths, 1):
        run(path, part=Shard(index, 3))
    return paths


@pytest.mark.parametrize("count", [2, 3, 7])
def test_merged_parts_equal_the_one_made_in_one_go(tmp_path: Path, count: int) -> None:
    run(tmp_path / "reference.h5")
    paths = [tmp_path / f"{index}.h5" for index in range(1, count + 1)]
    for index, path in enumerate(paths, 1):
        assert run(path, part=Shard(index, count)).count > 0
    finished = merge(paths[::-1], tmp_path / "merged.h5")  # the order is theirs, not ours
    assert finished == Finished(tmp_path / "merged.h5", 48, (("4.png", "truncated"), ("20.png", "100% foreign")))
    assert_equal_datasets(tmp_path / "merged.h5", tmp_path / "reference.h5")
    attributes = []
    for name in ("merged.h5", "reference.h5"):
        with h5py.File(tmp_path / name) as file:
            attributes.append(dict(file.attrs))
    assert attributes[0] == attributes[1]
    assert job_at(tmp_path / "merged.h5").done  # so the whole job has nothing to do any more


def test_a_part_of_which_nothing_can_be_read_is_a_part_all_the_same(tmp_path: Path) -> None:
    lost = tmp_path / "lost.h5"
    with job_at(lost, total=3, part=Shard(2, 3), plan={"few": 1}) as job:
        (shard,) = job.pending()
        none = np.empty((0, *HEADER.row), np.int64)
        skipped = [("1.png", "truncated")]
        job.write(shard, codes=none, names=[], labels=[], conditions={"segmentation": none}, skipped=skipped)
        assert job.finish() == Finished(lost, 0, tuple(skipped))
    for index in (1, 3):
        run(tmp_path / f"few{index}.h5", total=3, part=Shard(index, 3), plan={"few": 1})
    finished = merge([tmp_path / "few1.h5", lost, tmp_path / "few3.h5"], tmp_path / "few.h5")
    assert (finished.count, finished.skipped) == (2, (("1.png", "truncated"),))


def test_a_part_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    part = Shard(2, 2)
    with job_at(tmp_path / "b.h5", part=part) as job:
        assert [(shard.start, shard.stop) for shard in job.pending()] == [(25, 41), (41, 50)]
        fill(job, job.pending()[0])
    with pytest.raises(UsageError, match="part: "), job_at(tmp_path / "b.h5", part=Shard(1, 2)):
        pass
    with job_at(tmp_path / "b.h5", part=part) as job:
        assert [shard.start for shard in job.pending()] == [41]


def test_merge_names_a_part_that_is_missing_doubled_foreign_short_or_no_part(tmp_path: Path, three: list[Path]) -> None:
    one, two, last = three
    run(tmp_path / "foreign.h5", part=Shard(2, 3), plan={"items": "others"})
    run(tmp_path / "four.h5", part=Shard(2, 4))
    run(tmp_path / "whole.h5")
    with h5py.File(two) as file, h5py.File(tmp_path / "short.h5", "w") as short:
        for name in file:
            file.copy(name, short)
        for name, value in file.attrs.items():
            short.attrs.create(name, value, dtype=file.attrs.get_id(name).dtype)
        for name in ("codes", "names", "labels", "conditions/segmentation"):
            rows = file[name][:-1]
            del short[name]
            short.create_dataset(name, data=rows, dtype=file[name].dtype, chunks=True, fletcher32=True)
        for name, value in file["conditions/segmentation"].attrs.items():
            short["conditions/segmentation"].attrs[name] = value
    cut = tmp_path / "cut.h5"
    cut.write_bytes(two.read_bytes()[:-100])
    for paths, words in (
        ([one, last], "part 2/3 is missing; write it with --shard 2/3"),
        ([one, two, two, last], r"2-of-3\.h5: is part 2/3, as is .*2-of-3\.h5; leave one of them out"),
        ([one, tmp_path / "foreign.h5", last], r"foreign\.h5: is part 2/3 of another job than .*1-of-3\.h5"),
        ([one, tmp_path / "four.h5", last], r"four\.h5: is part 2/4 of another job than .*1-of-3\.h5, part 1/3"),
        ([one, tmp_path / "whole.h5", last], r"whole\.h5: is not a part of a job, unlike .*1-of-3\.h5;"),
        ([tmp_path / "whole.h5", last], r"whole\.h5: is not a part of a job, unlike .*3-of-3\.h5;"),
        ([one, tmp_path / "short.h5", last], r"short\.h5: holds 15 of the 17 items of part 2/3; write it again"),
        ([one, cut, last], r"cut\.h5: "),
    ):
        with pytest.raises(BadFileError, match=words):
            merge(paths, tmp_path / "merged.h5")
        assert not (tmp_path / "merged.h5").exists()
    with pytest.raises(UsageError, match="empty"):
        job_at(tmp_path / "x.h5", total=2, part=Shard(1, 3))


def test_merge_overwrites_neither_a_file_nor_an_unfinished_job(tmp_path: Path) -> None:
    run(tmp_path / "a.h5", total=10)
    content = (tmp_path / "a.h5").read_bytes()
    with pytest.raises(UsageError, match="exists; give another -o"):
        merge([tmp_path / "a.h5"], tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_bytes() == content
    with job_at(tmp_path / "b.h5") as job:
        fill(job, job.pending()[0])
    with pytest.raises(UsageError, match="a job is writing it"):
        merge([tmp_path / "a.h5"], tmp_path / "b.h5")
    with job_at(tmp_path / "b.h5") as job:
        assert [shard.index for shard in job.pending()] == [1, 2, 3]
    with pytest.raises(UsageError, match="no token files"):
        merge([], tmp_path / "c.h5")


def test_merge_removes_what_one_left_that_was_killed_once_its_file_was_there(tmp_path: Path) -> None:
    run(tmp_path / "part.h5")
    merge([tmp_path / "part.h5"], tmp_path / "merged.h5")
    parts = tmp_path / "merged.h5.parts"
    parts.mkdir()
    (parts / "lock").touch()
    with pytest.raises(UsageError, match="exists; give another -o"):
        merge([tmp_path / "part.h5"], tmp_path / "merged.h5")
    assert not parts.exists()
    parts.mkdir()
    (parts / "shard-00000.h5").touch()  # of an unfinished job
    with pytest.raises(UsageError, match="exists; give another -o"):
        merge([tmp_path / "part.h5"], tmp_path / "merged.h5")
    assert (parts / "shard-00000.h5").exists()


def test_the_removed_folder_stays_away_after_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[Path, bool]] = []
    parts = tmp_path / "merged.h5.parts"
    monkeypatch.setattr("taming_cli.data.tokens.parts.sync_folder", lambda path: synced.append((path, parts.exists())))
    run(tmp_path / "part.h5")
    merge([tmp_path / "part.h5"], tmp_path / "merged.h5")
    assert synced[-1] == (tmp_path, False)

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import StorageError
from agent.core.model import LeaseKey
from agent.edges.segments.files import SUFFIX
from agent.edges.segments.log import SEGMENT_BYTES, SEGMENT_RECORDS, SPAN_S, SegmentLog
from agent.edges.segments.records import MAGIC, Packing, encode, packed, scan
from agent.edges.transcripts import FileTranscripts, read_transcript
from tests.disks import small_disk


def key(task_id: str = "t1", attempt: int = 1) -> LeaseKey:
    return LeaseKey(task_id=task_id, attempt=attempt, fence=7)


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"*{SUFFIX}"))


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that no packing makes smaller."""
    return random.Random(seed).randbytes(size)


async def filled(directory: Path, count: int = 5, *, size: int = 3000) -> list[LeaseKey]:
    """Keeps `count` transcripts one after the other and leaves their directory as a power cut would."""
    transcripts = FileTranscripts(directory.with_name("live"))
    keys = [key(f"t{number}") for number in range(count)]
    for number, one in enumerate(keys):
        await transcripts.keep(one, noise(size, number), 1000)
    shutil.copytree(directory.with_name("live"), directory)
    await transcripts.close()
    return keys


async def test_what_was_kept_is_read_back_whole_and_private(tmp_path: Path):
    transcripts = FileTranscripts(tmp_path / "state" / "transcripts")
    for number, content in enumerate((b"", b"leaves", noise(300_000), b"x" * 300_000)):
        await transcripts.keep(key(f"t{number}"), content, until=1234.5)
        assert await transcripts.read(key(f"t{number}")) == content
        assert read_transcript(tmp_path / "state" / "transcripts", key(f"t{number}")) == content
    assert await transcripts.read(key("t0", attempt=2)) is None
    (path,) = segments(tmp_path / "state" / "transcripts")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    await transcripts.close()


@pytest.mark.parametrize("how", ["closed", "killed"])
async def test_a_restart_finds_everything_and_goes_on_in_another_file(tmp_path: Path, how: str):
    keys = await filled(tmp_path / "t")
    directory = tmp_path / ("live" if how == "closed" else "t")
    again = FileTranscripts(directory)
    assert [await again.read(one) for one in keys] == [noise(3000, number) for number in range(5)]
    await again.keep(key("more"), b"m", 1000)
    assert len(segments(directory)) == 2
    assert await again.read(key("more")) == b"m"
    assert await again.sweep(1000) == 6
    assert segments(directory) == []
    assert again.room().used_bytes == 0
    await again.close()


async def test_a_torn_end_is_cut_off_wherever_it_was_torn(tmp_path: Path):
    keys = await filled(tmp_path / "t", 3, size=300)
    (path,) = segments(tmp_path / "t")
    whole = path.read_bytes()
    last = list(scan(whole))[-1]
    for torn_at in range(last.at, last.end, 7):
        path.write_bytes(whole[:torn_at] + bytes(500))
        again = FileTranscripts(tmp_path / "t")
        assert [await again.read(one) for one in keys] == [noise(300, 0), noise(300, 1), None]
        (left,) = segments(tmp_path / "t")
        assert left.stat().st_size < last.at + 200
        await again.close()


async def test_damage_costs_the_transcript_it_is_in_and_no_other(tmp_path: Path):
    keys = await filled(tmp_path / "t", 6)
    (path,) = segments(tmp_path / "t")
    whole = path.read_bytes()
    for at in range(0, list(scan(whole))[-1].end, 611):
        hit = next(number for number, head in enumerate(scan(whole)) if head.at <= at < head.end)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        again = FileTranscripts(tmp_path / "t")
        found = [await again.read(one) for one in keys]
        assert found == [None if number == hit else noise(3000, number) for number in range(6)]
        await again.close()


async def test_damage_that_comes_later_is_told_not_handed_out(tmp_path: Path):
    await filled(tmp_path / "t", 2)
    (path,) = segments(tmp_path / "live")
    raw = bytearray(path.read_bytes())
    raw[200] ^= 1
    path.write_bytes(raw)
    again = FileTranscripts(tmp_path / "live")
    with pytest.raises(StorageError, match="damaged"):
        await again.read(key("t0"))
    with pytest.raises(StorageError, match="damaged"):
        read_transcript(tmp_path / "live", key("t0"))
    assert await again.read(key("t1")) == noise(3000, 1)
    await again.close()


@pytest.mark.parametrize("cut", [1, 4, 30, 60])
async def test_an_index_that_is_damaged_is_made_again(tmp_path: Path, cut: int):
    keys = await filled(tmp_path / "t")
    (path,) = segments(tmp_path / "live")
    raw = bytearray(path.read_bytes())
    raw[-cut] ^= 1
    path.write_bytes(raw)
    again = FileTranscripts(tmp_path / "live")
    assert None not in [await again.read(one) for one in keys]
    await again.close()
    assert path.read_bytes()[-cut:] != raw[-cut:]


async def test_a_file_of_nothing_whole_goes_away(tmp_path: Path):
    tmp_path.joinpath(f"000000000007{SUFFIX}").write_bytes(MAGIC * 1000)
    tmp_path.joinpath(f"000000000008{SUFFIX}").write_bytes(b"")
    transcripts = FileTranscripts(tmp_path)
    assert segments(tmp_path) == []
    await transcripts.keep(key(), b"x", 10)
    assert [path.stem for path in segments(tmp_path)] == ["000000000009"]
    await transcripts.close()


async def test_a_sweep_deletes_segments_past_their_time_and_nothing_else(tmp_path: Path):
    transcripts = FileTranscripts(tmp_path)
    (tmp_path / "note.txt").write_text("the owner's")
    (tmp_path / "000000001235-t1-1-7.leaves").write_text("of an older agent")
    for number in range(4):
        await transcripts.keep(key(f"t{number}"), noise(100), 1000 + number * SPAN_S * 0.6)
    assert len(segments(tmp_path)) == 2
    used_bytes = transcripts.room().used_bytes
    assert await transcripts.sweep(1000 + SPAN_S * 0.6 - 1) == 0
    assert await transcripts.sweep(1000 + SPAN_S * 0.6) == 2
    assert await transcripts.read(key("t0")) is None
    assert await transcripts.read(key("t2")) == noise(100)
    assert transcripts.room().used_bytes < used_bytes
    assert await transcripts.sweep(10**9) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000001235-t1-1-7.leaves", "note.txt"]
    assert transcripts.room().used_bytes == 0
    await transcripts.close()


async def test_segments_end_when_they_are_large(tmp_path: Path):
    transcripts = FileTranscripts(tmp_path)
    for number in range(3):
        await transcripts.keep(key(f"t{number}"), noise(SEGMENT_BYTES // 2 + 1), 1000)
    assert len(segments(tmp_path)) == 2
    assert await transcripts.read(key("t1")) == noise(SEGMENT_BYTES // 2 + 1)
    await transcripts.close()
    on_disk = sum(path.stat().st_size for path in segments(tmp_path))
    assert on_disk == transcripts.room().used_bytes


def test_segments_end_when_they_have_many_records(tmp_path: Path):
    def tiny(task_id: str) -> tuple[LeaseKey, int, bytes]:
        return key(task_id), 1000, encode(key(task_id), 1000, 1, Packing.PLAIN, b"x")

    log = SegmentLog(tmp_path)
    for start in range(0, SEGMENT_RECORDS, 512):
        log.append([tiny(f"t{number}") for number in range(start, min(start + 512, SEGMENT_RECORDS))])
    assert len(segments(tmp_path)) == 1
    log.append([tiny("one more")])
    assert len(segments(tmp_path)) == 2
    assert log.find(key("t7")) == log.find(key("one more")) == b"x"
    log.close()


async def test_a_segment_that_cannot_be_deleted_saves_no_other(tmp_path: Path):
    log = SegmentLog(tmp_path)
    for number in range(3):
        log.append([(key(f"t{number}"), 10 + number * 2 * SPAN_S, _record(key(f"t{number}"), b"x"))])
    stuck = segments(tmp_path)[0]
    stuck.unlink()
    stuck.mkdir()
    with pytest.raises(OSError, match="directory"):
        log.sweep(10 * SPAN_S)
    assert segments(tmp_path) == [stuck]
    stuck.rmdir()
    assert log.sweep(10 * SPAN_S) == 1


async def test_keeping_the_same_again_replaces_it(tmp_path: Path):
    transcripts = FileTranscripts(tmp_path)
    for content in (b"first", b"second", b"third"):
        await transcripts.keep(key(), content, 50)
    assert await transcripts.read(key()) == b"third"
    await transcripts.close()
    again = FileTranscripts(tmp_path)
    assert await again.read(key()) == b"third"
    await again.close()


async def test_over_the_quota_nothing_is_written_until_a_sweep_makes_room(tmp_path: Path):
    transcripts = FileTranscripts(tmp_path, quota_bytes=5000)
    await transcripts.keep(key("a"), noise(3000), 10)
    outcomes = await asyncio.gather(
        *(transcripts.keep(key(f"b{size}"), noise(size), 10) for size in (3000, 1000, 2500)), return_exceptions=True
    )
    assert [outcome.full if isinstance(outcome, StorageError) else None for outcome in outcomes] == [True, None, True]
    assert await transcripts.read(key("b1000")) == noise(1000)
    assert await transcripts.read(key("b3000")) is None
    assert transcripts.room().used_bytes < transcripts.room().quota_bytes == 5000
    assert await transcripts.sweep(10) == 2
    await transcripts.keep(key("b3000"), noise(3000), 20)
    await transcripts.close()


async def test_the_quota_counts_what_an_earlier_life_kept(tmp_path: Path):
    await filled(tmp_path / "t", 3)
    again = FileTranscripts(tmp_path / "t", quota_bytes=10_000)
    with pytest.raises(StorageError, match="quota"):
        await again.keep(key("more"), noise(3000), 60)
    await again.close()


async def test_a_long_transcript_is_packed(tmp_path: Path):
    transcripts = FileTranscripts(tmp_path)
    await transcripts.keep(key(), b"token" * 100_000, 50)
    assert transcripts.room().used_bytes < 50_000
    assert await transcripts.read(key()) == b"token" * 100_000
    await transcripts.close()


@pytest.mark.parametrize("task_id", ["../../etc/passwd", "", ".", "a/b", "x" * 30_000, "a\x00b", "\ud800", "a\n"])
async def test_any_task_id_can_be_kept_and_found(tmp_path: Path, task_id: str):
    transcripts = FileTranscripts(tmp_path / "transcripts")
    await transcripts.keep(key(task_id), b"x", 50)
    assert await transcripts.read(key(task_id)) == b"x"
    await transcripts.close()
    again = FileTranscripts(tmp_path / "transcripts")
    assert await again.read(key(task_id)) == b"x"
    assert [path.name for path in tmp_path.iterdir()] == ["transcripts"]
    await again.close()


@pytest.mark.parametrize("until", [-5.0, 0.0, 1e300])
async def test_any_time_can_be_kept(tmp_path: Path, until: float):
    transcripts = FileTranscripts(tmp_path)
    await transcripts.keep(key(), b"x", until)
    assert await transcripts.read(key()) == b"x"
    await transcripts.close()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small", "64k") as place:
        yield place


async def test_a_full_disk_is_told_as_such_and_what_fits_is_kept(tiny_disk: Path):
    transcripts = FileTranscripts(tiny_disk)
    large, small = await asyncio.gather(
        transcripts.keep(key("large"), noise(100_000), 50),
        transcripts.keep(key("small"), noise(1000), 50),
        return_exceptions=True,
    )
    assert isinstance(large, StorageError)
    assert large.full
    assert small is None
    assert await transcripts.read(key("small")) == noise(1000)
    assert shutil.disk_usage(tiny_disk).free > 40_000  # nothing is taken ahead where there is little
    await transcripts.close()


async def test_an_agent_starts_on_a_disk_that_is_full(tiny_disk: Path, tmp_path: Path):
    await filled(tmp_path / "t", 3)
    (path,) = segments(tmp_path / "t")
    (tiny_disk / path.name).write_bytes(path.read_bytes()[: list(scan(path.read_bytes()))[-1].end])
    with (tiny_disk / "ballast").open("wb", buffering=0) as ballast:
        while ballast.write(bytes(4096)) == 4096 and shutil.disk_usage(tiny_disk).free:
            pass
    transcripts = FileTranscripts(tiny_disk)
    assert await transcripts.read(key("t2")) == noise(3000, 2)
    with pytest.raises(StorageError) as refused:
        await transcripts.keep(key("more"), noise(9000), 50)
    assert refused.value.full
    (tiny_disk / "ballast").unlink()
    await transcripts.keep(key("more"), noise(9000), 50)
    await transcripts.close()


def test_a_place_that_is_no_directory_is_told_in_words(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be kept"):
        FileTranscripts(tmp_path / "file")
    with pytest.raises(StorageError, match="cannot be read"):
        read_transcript(tmp_path / "file", key())


def test_where_no_agent_ran_there_is_no_transcript(tmp_path: Path):
    assert read_transcript(tmp_path / "transcripts", key()) is None
    assert list(tmp_path.iterdir()) == []


async def test_a_directory_has_one_writer(tmp_path: Path):
    transcripts = FileTranscripts(tmp_path)
    await transcripts.keep(key(), b"x", 50)
    with pytest.raises(StorageError, match="in use by another process"):
        FileTranscripts(tmp_path)
    assert await transcripts.read(key()) == b"x"
    await transcripts.close()


# --------------------------------------------------------------------------- the format


def _record(of: LeaseKey, content: bytes, until: float = 50) -> bytes:
    packing, stored = packed(content)
    return encode(of, until, len(content), packing, stored)


KEYS = st.builds(LeaseKey, task_id=st.text(max_size=20), attempt=st.integers(0, 2**53 - 1), fence=st.integers(0, 9))


@given(st.lists(st.tuples(KEYS, st.binary(max_size=200)), max_size=8), st.binary(max_size=60))
def test_a_scan_finds_every_record_whatever_lies_between(records, junk):
    raw = b"".join(junk + _record(of, content) for of, content in records)
    assert [head.key for head in scan(raw)] == [of for of, _ in records]


@given(st.binary(max_size=300))
def test_a_scan_of_anything_ends(raw: bytes):
    list(scan(MAGIC + raw + MAGIC))


def test_the_bytes_of_a_record_are_these():
    """Other programs, and later versions, read them."""
    record = encode(LeaseKey(task_id="t-1", attempt=2, fence=3), 1_700_000_000.2, 5, Packing.PLAIN, b"hello")
    assert record.hex() == (
        "72656331" + "31ccac0e" + "01f1536500000000" + "0200000000000000" + "0300000000000000" + "0500000000000000"
        "0500000000000000" + "86a61036" + "03000000" + "00" + "742d31" + "68656c6c6f"
    )

"""Files of strangers: shards and images that are damaged on purpose end in an image or in words, within limits."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from beit.core.errors import DataError
from beit.data.sources import open_images
from beit.data.sources.shards import EncodedSample, TruncatedShard
from fixtures_attacks import SAMPLES, attack, header, member, number_field, padded, pax, picture, record
from fixtures_streams import colour, number_of


def read_stream(path: Path) -> tuple[list[int], list[str]]:
    """Numbers of the images that can be used for training with classes 0 and 1, and what is said of the others."""
    stream: Any = open_images(path, labelled=True, classes=["0", "1"])
    good, said = [], []
    for sample in stream.shards.read(0):
        if isinstance(sample, TruncatedShard):
            said.append(sample.reason)
            continue
        try:
            number = number_of(stream.read(sample))
            stream.target(sample)
            good.append(number)
        except DataError as error:
            said.append(str(error))
    return good, said


# --- shards ------------------------------------------------------------------------------------------------------


def shard(tmp_path: Path, bad: bytes, name: str = "x.tar") -> Path:
    """A shard of the samples 0, 1 (which is replaced by `bad`) and 2."""
    parts = [[member(f"{n}.png", colour(n)), member(f"{n}.cls", b"1")] for n in range(3)]
    parts[1] = [bad]
    data = b"".join(block for part in parts for block in part) + bytes(1024)
    path = tmp_path / name
    path.write_bytes(gzip.compress(data, 1) if name.endswith("gz") else data)
    return path


@pytest.mark.parametrize("size", [2**62, -1, -513, 2**40, 10**15, -(2**70)])
@pytest.mark.parametrize("kind", [b"0", b"x", b"L", b"g"])
def test_a_size_that_cannot_be_leaves_out_its_member_alone(tmp_path, size, kind):
    bad = header(b"1.png", size, kind, number_field(size)) + padded(colour(1)) + member("1.cls", b"1")
    good, said = read_stream(shard(tmp_path, bad))
    assert good == [0, 2]
    if kind == b"0":
        assert said == [f"{tmp_path}/x.tar: 1.png: damaged and left out (its header states {size:,} bytes)."]


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (record(b"size", "²".encode()), "states '²' bytes"),
        (record(b"size", b"-1"), "states '-1' bytes"),
        (record(b"size", b"9" * 5000), "states '99999999999999999999…99999999999999999999' bytes"),
        (record(b"size", str(2**62).encode()), f"states {2**62:,} bytes"),
        (b"9" * 5000 + b" a=b\n", "makes no sense"),
        (b"\xc2\xb2 a=b\n", "makes no sense"),
        (b"0 a=b\n", "makes no sense"),
        (b"6 a=b\n" * 170_000 + b"x", "makes no sense"),
    ],
)
def test_an_extended_header_that_makes_no_sense_leaves_out_its_member(tmp_path, records, reason):
    good, said = read_stream(shard(tmp_path, pax(records) + member("1.png", colour(1)) + member("1.cls", b"1")))
    assert good == [0, 2]
    assert len(said) == 1
    assert f"{tmp_path}/x.tar: 1.png: damaged and left out" in said[0]
    assert reason in said[0]


@pytest.mark.parametrize(
    ("suffix", "label", "reason"),
    [
        ("cls", b"7" * 5000, "more than 18 digits"),
        ("json", b'{"label": ' + b"7" * 5000 + b"}", "JSON"),
        ("json", b'{"label": ' + b"7" * 4000 + b"}", "more than 18 digits"),
        ("json", b"[" * 200_000, "JSON"),
        ("json", b"{", "JSON"),
        ("cls", b"x" * (1 << 21), "2,097,152 bytes"),
    ],
)
def test_a_label_that_cannot_be_read_leaves_out_its_sample(tmp_path, suffix, label, reason):
    path = shard(tmp_path, member("1.png", colour(1)) + member(f"1.{suffix}", label))
    good, said = read_stream(path)
    assert good == [0, 2]
    assert len(said) == 1
    assert f"{path}: 1.png: its label is damaged (.{suffix}: " in said[0]
    assert reason in said[0]
    unlabelled: Any = open_images(path)  # without labels, nothing is wrong with it
    assert [number_of(unlabelled.read(sample)) for sample in unlabelled.shards.read(0)] == [0, 1, 2]


def test_after_a_header_that_makes_no_sense_the_next_one_counts(tmp_path):
    good, said = read_stream(shard(tmp_path, b"\x01" * 512 + padded(colour(1))))
    assert good == [0, 2]
    assert said == [f"{tmp_path}/x.tar: damaged, 1,024 bytes from byte 2,048 on are left out (invalid header)."]
    path = shard(tmp_path, b"\x01" * 512)
    shards: Any = open_images(path).shards
    kept = [found.key for found in shards.read(0, 1) if isinstance(found, EncodedSample)]
    assert kept == ["2"]  # the numbers of samples do not change with where reading begins


def test_a_shard_of_damage_alone_ends(tmp_path):
    (tmp_path / "x.tar").write_bytes(header(b"1.png", -1) * 5000)
    good, said = read_stream(tmp_path / "x.tar")
    assert (good, len(said)) == ([], 1001)
    assert any("the rest of it is left out (more than 1,000 members are damaged)" in reason for reason in said)


def test_an_image_far_larger_than_its_packed_shard_is_left_out(tmp_path):
    bomb = (
        b"".join(member(f"b{n}.png", bytes(30 << 20)) for n in range(4))
        + header(b"c.png", 260 << 20)
        + bytes(260 << 20)
    )
    path = shard(tmp_path, bomb, "x.tar.gz")
    samples = list(open_images(path).shards.read(0))  # type: ignore[union-attr]
    assert [sample.key for sample in samples] == ["0", "b0", "b1", "b2", "b3", "c", "2"]
    assert [bool(sample.damage) for sample in samples] == [False, False, False, True, True, True, False]
    assert "it unpacks to 31,457,280 bytes" in samples[3].damage
    assert "wanted at most 268,435,456" in samples[5].damage


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_pipes_and_devices_are_no_shards(tmp_path):
    os.mkfifo(tmp_path / "pipe.tar")
    os.symlink("/dev/zero", tmp_path / "zero.tar")
    os.symlink("gone", tmp_path / "broken.tar")
    for name in ("pipe.tar", "zero.tar", "broken.tar", "*.tar"):
        with pytest.raises(DataError, match="is not a file, but a folder, a pipe, a device or a broken link"):
            open_images(tmp_path / name)


def test_names_of_strangers_are_escaped(tmp_path):
    path = shard(tmp_path, member("1\x1b[31m\n.png", b"no image") + member("1\x1b[31m\n.cls", b"1"))
    good, said = read_stream(path)
    assert good == [0, 2]
    assert said == [f"{path}: 1\\x1b[31m\\n.png: not an image that Pillow can read."]


# --- many inputs -------------------------------------------------------------------------------------------------


def check_shards(first: int, count: int, tmp_path: Path) -> None:
    for found in attack("shard", first, count, tmp_path):
        expected = [number for number in range(SAMPLES) if number != found["bad"]]
        assert set(expected) <= set(found["good"]), found  # a damage costs its own sample and no other
        assert found["said"] or len(found["good"]) == SAMPLES, found
        assert all("Traceback" not in text and text.isprintable() for text in found["said"]), found
    for found in attack("any shard", first, count, tmp_path):
        assert all("Traceback" not in text and text.isprintable() for text in found["said"]), found


def test_hostile_shards(tmp_path):
    check_shards(0, 45, tmp_path)


@pytest.mark.slow
def test_a_thousand_hostile_shards(tmp_path):
    check_shards(1000, 500, tmp_path)


def test_the_pictures_of_the_generator_are_good():
    from beit.data.decode import decode_image

    assert decode_image(picture(9), "x").getpixel((0, 0)) == (9, 50, 7)

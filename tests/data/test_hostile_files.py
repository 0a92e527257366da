"""Files of strangers: shards and images that are damaged on purpose end in an image or in words, within limits."""

from __future__ import annotations

import gzip
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beit import BeitImageProcessor
from beit.core.errors import DataError, InputError
from beit.core.text import as_utf8, harmless, printable
from beit.data.decode import FORMATS, decode_image, read_image
from beit.data.sources import open_images
from beit.data.sources.images import FolderImages
from beit.data.sources.paths import list_images
from beit.data.sources.shards import EncodedSample, TruncatedShard
from beit.inference.batches import batches_of
from fixtures_attacks import SAMPLES, attack, header, member, number_field, padded, pax, picture, png_chunk, record
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


# --- images ------------------------------------------------------------------------------------------------------


RAW = {"do_resize": False, "do_center_crop": False, "do_rescale": False, "do_normalize": False}


def both_ways(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """An image file as the commands read it, and as the image processor does: (3, H, W) in 0..255."""
    read = np.moveaxis(np.asarray(read_image(path)), 2, 0)
    return read.astype(np.float64), BeitImageProcessor(**RAW)(path, return_tensors="np").pixel_values[0]


@pytest.mark.parametrize("white", [1, 255])
@pytest.mark.parametrize("overshoot", [1, 1.01])
def test_floats_in_files_are_read_the_same_way_by_all(tmp_path, white, overshoot):
    grey = np.random.default_rng(0).random((36, 40)).astype(np.float32)
    grey[0, :2] = -0.005, overshoot
    Image.fromarray(grey * white).save(tmp_path / "x.tif")
    read, processed = both_ways(tmp_path / "x.tif")
    np.testing.assert_allclose(processed, np.stack([grey.clip(0, 1) * 255] * 3), rtol=1e-5)
    np.testing.assert_allclose(read, processed, atol=0.5 + 1e-5)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.float32([[0, 4095]]), "floats from 0 to 4095; wanted 0 to 1, or 0 to 255"),
        (np.float32([[-3, 1]]), "floats from -3 to 1"),
        (np.float32([[0, np.nan]]), "floats from nan to nan"),
        (np.int32([[0, 200_000]]), "integers from 0 to 200000; wanted 0 to 65535"),
        (np.int32([[-1, 9]]), "integers from -1 to 9"),
    ],
)
def test_numbers_without_a_known_white_are_refused_by_all(tmp_path, values, reason):
    path = tmp_path / "x.tif"
    Image.fromarray(values).save(path)
    with pytest.raises(DataError, match=f"x.tif: {reason}"):
        read_image(path)
    with pytest.raises(InputError, match=reason):
        BeitImageProcessor()(path)


def test_a_damaged_exif_block_is_no_damage_of_the_image(tmp_path):
    png = picture(9)
    (tmp_path / "x.png").write_bytes(png[:33] + png_chunk(b"eXIf", b"\0\x08\0\x02\x01\x12\0\x03") + png[33:])
    read, processed = both_ways(tmp_path / "x.png")
    np.testing.assert_array_equal(read, processed)
    assert read[:, 0, 0].tolist() == [9, 50, 7]


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"%PDF-1.4\n"])
def test_what_would_start_another_program_is_no_image(tmp_path, content, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr("PIL.EpsImagePlugin.has_ghostscript", lambda: True)
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.jpg: not an image that Pillow can read\.$"):
        read_image(tmp_path / "x.jpg")
    with pytest.raises(InputError, match="not an image that Pillow can read"):
        BeitImageProcessor()(tmp_path / "x.jpg")


def test_what_pillow_opens_is_an_image(tmp_path):
    Image.init()
    names = []
    for form, suffixes in FORMATS.items():
        for suffix in suffixes if form in Image.SAVE else ():
            if suffix != ".pfm":  # floats
                Image.new("RGB", (20, 20), (200, 10, 60)).save(tmp_path / f"{suffix[1:]}{suffix}", form)
                names.append(f"{suffix[1:]}{suffix}")
    images = FolderImages(tmp_path)
    assert [Path(path).name for path in images.paths] == sorted(names)
    assert len(names) > 20
    for index in range(len(images)):
        np.testing.assert_allclose(np.asarray(images.read(index))[10, 10], (200, 10, 60), atol=12)


def test_an_image_that_needs_a_plugin_says_which(tmp_path, monkeypatch):
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(
        DataError, match=r"not an image that Pillow can read as it is installed.*pip install pillow-heif"
    ):
        read_image(tmp_path / "x.heic")


def test_a_strip_is_refused_by_the_pixels_that_it_would_become(tmp_path):
    Image.new("L", (1, 1_000_000)).save(tmp_path / "b.png")
    Image.new("L", (30, 40)).save(tmp_path / "a.png")
    processor = BeitImageProcessor(size={"shortest_edge": 224})
    with pytest.raises(InputError, match=r"1 x 1,000,000 pixels would have 50,176,000,000 pixels"):
        processor(tmp_path / "b.png")
    bad = []
    found = list(batches_of(FolderImages(tmp_path), processor, 8, lambda index, reason: bad.append((index, reason))))
    assert [numbers for numbers, _ in found] == [[0]]  # the other images of the folder are answered
    assert bad[0][0] == 1
    assert f"{tmp_path}/b.png: an image of 1 x 1,000,000 pixels" in bad[0][1]


# --- folders and names -------------------------------------------------------------------------------------------


def test_folders_deeper_than_calls_are_listed(tmp_path):
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
        Path("x.png").touch()
    finally:
        os.chdir(here)
    found = list(list_images(tmp_path))
    subprocess.run(["rm", "-r", str(tmp_path / "d")], check=True)  # deeper than Python can remove
    assert found == [str(tmp_path / ("d/" * 1200) / "x.png")]


def test_folders_that_link_to_each_other_end(tmp_path, caplog):
    """Among twelve folders, each with links to all others, there are a billion paths."""
    for name in range(12):
        (tmp_path / str(name)).mkdir()
        (tmp_path / f"{name}/x.png").touch()
        for other in range(12):
            (tmp_path / f"{name}/to{other}").symlink_to(tmp_path / str(other))
    found = list_images(tmp_path)
    assert len(set(found)) == len(found)
    assert {f"{tmp_path}/{name}/x.png" for name in range(12)} <= set(found)
    assert len(found) <= 12 * (1 + 16)
    assert "is left out: it is a link to a folder around it" in caplog.text
    assert "… and " in caplog.text


def test_each_folder_that_is_left_out_is_named(tmp_path, caplog):
    (tmp_path / "a\x1b[31m").mkdir()
    (tmp_path / "a\x1b[31m/me").symlink_to(tmp_path)
    (tmp_path / "x.png").touch()
    assert len(list_images(tmp_path)) == 1
    assert caplog.messages == [f"{tmp_path}/a\\x1b[31m/me is left out: it is a link to a folder around it"]


def test_printable_names():
    assert printable("café 猫.png") == "café 猫.png"
    assert printable("a\x1b[31m\n\u202e\x9b" + os.fsdecode(b"\xff")) == "a\\x1b[31m\\n\\u202e\\x9b\\xff"
    assert printable("x" * 1000, 10) == "xxxxx…xxxxx"
    assert harmless("a\n\tb\r\x1b") == "a\n\tb\\r\\x1b"
    assert as_utf8("é\n" + os.fsdecode(b"\xff")) == "é\n\\xff"


# --- many inputs -------------------------------------------------------------------------------------------------


def check_images(first: int, count: int, tmp_path: Path) -> None:
    for found in attack("image", first, count, tmp_path):
        assert all("Traceback" not in text and text.isprintable() for text in found["said"]), found
        assert ("read" in found) == ("processed" in found), found  # one reader
        assert len(found["said"]) == 2 - 2 * ("read" in found) or "would have" in found["said"][0], found
        if "read" in found:
            assert found["same bytes"], found
            assert abs(found["read"] - found["processed"]) < 0.51, found


def test_hostile_images(tmp_path):
    check_images(0, 60, tmp_path)


@pytest.mark.slow
def test_a_thousand_hostile_images(tmp_path):
    check_images(1000, 1000, tmp_path)


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
    assert decode_image(picture(9), "x").getpixel((0, 0)) == (9, 50, 7)


def test_files_that_are_left_out_are_named_by_their_suffixes(tmp_path, caplog):
    (tmp_path / "a").mkdir()
    for name in ("0.jpg", "a/1.raw", "a/2.RAW", "3.psd", "notes.txt", "a/Thumbs.db", ".hidden.raw", "README"):
        (tmp_path / name).write_bytes(b"")
    assert [os.path.basename(path) for path in list_images(tmp_path)] == ["0.jpg"]
    assert "files of unknown suffixes are left out: 2 .raw, " in caplog.text
    assert "1 .psd" in caplog.text
    assert "1 without a suffix" in caplog.text
    assert ".txt" not in caplog.text

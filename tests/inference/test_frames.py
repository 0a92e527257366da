"""Films as images: the right frames, one at a time, whatever is damaged or claimed."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beit.core.errors import ConfigError, DataError
from beit.inference.files import ImageFiles
from beit.inference.frames import FrameFiles, parse_frames, read_named

COUNT = 7


def film(path: Path, count: int = COUNT, side: int = 24) -> Path:
    """Frame i is of one colour, in which red is 30 * i."""
    frames = [Image.fromarray(np.full((side, side, 3), (30 * i, 0, 100), np.uint8)) for i in range(count)]
    lossless = {"lossless": True} if path.suffix == ".webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **lossless)
    return path


def numbers(images: FrameFiles) -> list[int]:
    return [round(images.read(index).getpixel((5, 5))[0] / 30) for index in range(len(images))]  # type: ignore[index]


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize(("every", "wanted"), [(1, list(range(COUNT))), (3, [0, 3, 6]), (100, [0])])
def test_every_nth_frame(tmp_path: Path, suffix: str, every: int, wanted: list[int]) -> None:
    if suffix == ".avif" and "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow writes no AVIF")
    path = film(tmp_path / f"film{suffix}")
    Image.new("RGB", (8, 8), (60, 0, 0)).save(tmp_path / "still.png")
    images = FrameFiles([path, tmp_path / "still.png", path], every)
    assert numbers(images) == [*wanted, 2, *wanted]
    names = [f"{path}#{frame}" for frame in wanted]
    assert [images.name(index) for index in range(len(images))] == [*names, str(tmp_path / "still.png"), *names]
    backwards = images.subset(np.arange(len(wanted))[::-1])
    assert numbers(backwards) == wanted[::-1]
    assert backwards.name(0) == names[-1]
    assert images._image is None  # no file stays open
    assert read_named(names[-1]).getpixel((5, 5)) == images.read(len(wanted) - 1).getpixel((5, 5))
    images.close()


def test_the_first_frame_alone_and_what_it_leaves_out(tmp_path: Path) -> None:
    images = ImageFiles([film(tmp_path / "film.gif"), film(tmp_path / "pages.tif", 3), film(tmp_path / "one.gif", 1)])
    assert [images.read(index).getpixel((5, 5)) for index in range(3)] == [(0, 0, 100)] * 3
    assert (images.frames_left_out, images.films) == (COUNT - 1 + 2, 2)


def test_a_frame_that_is_not_there(tmp_path: Path) -> None:
    path = film(tmp_path / "film.gif")
    with pytest.raises(DataError, match="has no frame 7"):
        read_named(f"{path}#7")
    with pytest.raises(DataError, match="no such file"):
        read_named(str(tmp_path / "gone.gif#1"))
    odd = tmp_path / "odd.png#1"
    Image.new("RGB", (3, 3)).save(odd, format="PNG")
    assert read_named(str(odd)).size == (3, 3)


def test_files_that_cannot_be_read_are_one_image(tmp_path: Path) -> None:
    (tmp_path / "bad.gif").write_bytes(b"GIF89a")
    images = FrameFiles([tmp_path / "bad.gif", tmp_path / "gone.gif"])
    assert len(images) == 2
    for index, says in enumerate(("bad.gif: ", "gone.gif: no such file")):
        with pytest.raises(DataError, match=says):
            images.read(index)


def test_a_film_that_is_cut_short(tmp_path: Path) -> None:
    """Frames before the damage are read; those after it say why they are not."""
    path = tmp_path / "film.png"
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8)) for _ in range(COUNT)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    images = FrameFiles([path, film(tmp_path / "after.gif")])
    reasons = []
    for index in range(COUNT):
        try:
            images.read(index)
        except DataError as error:
            reasons.append(str(error))
    assert 2 <= len(reasons) < COUNT
    assert f"{path}#{COUNT - len(reasons)}: damaged or unreadable" in reasons[0]
    assert all("a frame before it is damaged" in reason for reason in reasons[1:])
    assert images.read(COUNT + 2).getpixel((5, 5))[0] == 60  # type: ignore[index]
    images.close()


def test_a_damaged_page_is_one_page(tmp_path: Path) -> None:
    path = tmp_path / "pages.tif"
    rng = np.random.default_rng(0)
    pages = [Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8)) for _ in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:], compression="tiff_lzw")
    data = bytearray(path.read_bytes())
    with Image.open(path) as image:
        image.seek(1)
        start, size = image.tag_v2[273][0], image.tag_v2[279][0]  # type: ignore[attr-defined]
    data[start : start + size] = b"\xff" * size
    path.write_bytes(data)
    images = FrameFiles([path])
    assert images.read(0).size == (24, 24)
    with pytest.raises(DataError, match=r"pages\.tif#1: damaged"):
        images.read(1)
    assert images.read(2).size == (24, 24)


def test_a_page_that_is_a_bomb(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "pages.tif"
    Image.new("L", (8, 8)).save(path, save_all=True, append_images=[Image.new("L", (60, 60))])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    images = FrameFiles([path])
    assert images.read(0).size == (8, 8)
    with pytest.raises(DataError, match="refused, it may be a decompression bomb"):
        images.read(1)


def test_more_frames_than_bytes(tmp_path: Path) -> None:
    path = film(tmp_path / "film.png")
    data = path.read_bytes()
    at = data.index(b"acTL")
    chunk = b"acTL" + struct.pack(">II", 2_000_000_000, 0)
    path.write_bytes(data[:at] + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[at + 16 :])
    images = FrameFiles([path])
    assert len(images) == 1
    with pytest.raises(DataError, match="claims 2,000,000,000 frames"):
        images.read(0)
    still = ImageFiles([path])
    assert still.read(0).size == (24, 24)
    assert still.films == 0


def test_which_frames() -> None:
    assert [parse_frames(text) for text in ("first", "all", "1", "12")] == [0, 1, 1, 12]
    for text in ("0", "-1", "x", "", "1.5", "²"):
        with pytest.raises(ConfigError, match="choose first, all, or a number"):
            parse_frames(text)

"""Hostile tar shards and images from a seed, and a child process with limits that reads them.

As a script: `python tests/fixtures_attacks.py KIND FIRST COUNT FOLDER` reads the inputs `FIRST` … and prints one JSON line for
each: what was read, what was said, and how it ended.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SAMPLES = 6
SECONDS, ADDRESSES, MEMORY = 20, 6 << 30, 2 << 30  # the limits: per input, of the process, of what it really uses


def picture(number: int, form: str = "PNG", side: int = 12) -> bytes:
    """A small image file whose colour tells its number."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (number, 50, 7)).save(buffer, form)
    return buffer.getvalue()


# --- tar shards --------------------------------------------------------------------------------------------------


def header(name: bytes, size: int, kind: bytes = b"0", size_field: bytes | None = None) -> bytes:
    """A tar header with a right checksum, whatever it states."""
    field = size_field if size_field is not None else number_field(size)
    block = bytearray(name[:100].ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + field + b"0" * 11 + b"\0")
    block += b" " * 8 + kind + bytes(100) + b"ustar\x0000" + bytes(512 - 265)
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def number_field(number: int) -> bytes:
    """A size as tar writes it: octal, or base 256 where that is too short, or for negative numbers."""
    if 0 <= number < 8**11:
        return b"%011o\0" % number
    return (number % 256**12 | (0x80 << 88 if number >= 0 else 0)).to_bytes(12, "big")


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def member(name: str, data: bytes) -> bytes:
    return header(name.encode(), len(data)) + padded(data)


def pax(records: bytes) -> bytes:
    """An extended header with these records, right or wrong."""
    return header(b"pax", len(records), b"x") + padded(records)


def record(keyword: bytes, value: bytes) -> bytes:
    """One right record."""
    rest = b" " + keyword + b"=" + value + b"\n"
    length = len(rest)
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return b"%d" % length + rest


def bad_member(kind: int, rng: np.random.Generator, name: str) -> bytes:
    """Bytes in place of an image's member that are damaged in one of many ways."""
    data = picture(9)
    plain = member(name, data)
    sizes = (2**62, -1, -513, 2**33, -(2**40), 2**95 - 1, 10**15)
    size = sizes[int(rng.integers(len(sizes)))]
    choices: list[Callable[[], bytes]] = [
        lambda: header(name.encode(), size) + padded(data),
        lambda: pax(record(b"size", "²".encode())) + plain,
        lambda: pax(record(b"size", str(size).encode())) + plain,
        lambda: pax(record(b"size", b"9" * int(rng.integers(20, 6000)))) + plain,
        lambda: pax(b"9" * int(rng.integers(1, 6000)) + b" size=1\n") + plain,
        lambda: pax(b"6 a=b\n" * 150_000 + b"x") + plain,
        lambda: pax(rng.bytes(int(rng.integers(1, 3000)))) + plain,
        lambda: header(b"long", size, b"L") + padded(b"x") + plain,
        lambda: header(b"long", size, b"x") + padded(b"6 a=b\n") + plain,
        lambda: rng.bytes(512) + padded(data),
        lambda: member(name, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"),
        lambda: member(name, b""),
        lambda: member(name, rng.bytes(int(rng.integers(1, 3000)))),
        lambda: member(name, data[: int(rng.integers(1, len(data)))]),
    ]
    return choices[kind % len(choices)]()


def bad_label(kind: int, rng: np.random.Generator, name: str) -> bytes:
    """A member beside a good image whose label cannot be used."""
    depth = int(rng.integers(2_000, 300_000))
    choices: list[tuple[str, bytes]] = [
        ("cls", b"7" * int(rng.integers(20, 6000))),
        ("json", b"[" * depth),
        ("json", b'{"a":' * depth),
        ("json", b'{"label": ' + b"7" * 5000 + b"}"),
        ("json", b'{"label": "' + b"x" * 5000 + b'"}'),
        ("cls", b"x" * ((1 << 20) + 1)),
        ("json", rng.bytes(300)),
    ]
    suffix, data = choices[kind % len(choices)]
    return member(f"{name}.{suffix}", data)


def tar_with_one_bad_sample(seed: int) -> tuple[bytes, int]:
    """(a shard of labelled images of which one is damaged, the number of that one)."""
    rng = np.random.default_rng(seed)
    bad = int(rng.integers(0, SAMPLES))
    parts = []
    for number in range(SAMPLES):
        good, label = member(f"{number}.png", picture(number)), member(f"{number}.cls", b"1")
        if number != bad:
            parts += [good, label]
        elif rng.random() < 0.7:
            parts += [bad_member(seed // 2, rng, f"{number}.png"), label]
        else:
            parts += [good, bad_label(seed // 2, rng, str(number))]
    return b"".join(parts) + bytes(1024), bad


def tar_of_anything(seed: int) -> tuple[bytes, str]:
    """(a shard that is damaged anywhere, its suffix): other types, flipped bytes, cut, packed."""
    rng = np.random.default_rng((seed, 1))
    data = bytearray(tar_with_one_bad_sample(seed)[0])
    for _ in range(int(rng.integers(0, 4))):
        place = int(rng.integers(0, len(data) // 512)) * 512
        if rng.random() < 0.5:  # a header of another type, whose checksum is right
            data[place + 156 : place + 157] = rng.choice([b"1", b"5", b"7", b"S", b"g", b"L", b"x", b"V", b"\xff"])
            data[place + 148 : place + 156] = b" " * 8
            data[place + 148 : place + 156] = b"%06o\0 " % sum(data[place : place + 512])
        else:
            data[place + int(rng.integers(512))] = int(rng.integers(256))
    if rng.random() < 0.3:
        del data[int(rng.integers(len(data))) :]
    if rng.random() < 0.7:
        return bytes(data), ".tar"
    packed = bytearray(gzip.compress(bytes(data)))
    for place in rng.integers(0, max(len(packed), 1), int(rng.integers(0, 3))):
        packed[place] = int(rng.integers(256))
    return bytes(packed) + rng.bytes(int(rng.integers(0, 40))), ".tar.gz"


def _read_shard(path: Path) -> dict[str, Any]:
    from beit.core.errors import DataError, InputError
    from beit.data.sources.opening import open_images
    from beit.data.sources.shards import TruncatedShard

    stream: Any = open_images(path, labelled=True, classes=["0", "1"])
    good, said = [], []
    for sample in stream.shards.read(0):
        if isinstance(sample, TruncatedShard):
            said.append(sample.reason)
            continue
        try:
            image = stream.read(sample)
            stream.target(sample)
            good.append(image.getpixel((0, 0))[0])
        except (DataError, InputError) as error:
            said.append(str(error))
    return {"good": good, "said": said}


def _shard(seed: int, folder: Path) -> dict[str, Any]:
    data, bad = tar_with_one_bad_sample(seed)
    path = folder / "one.tar"
    path.write_bytes(data)
    return {"bad": bad, **_read_shard(path)}


def _any_shard(seed: int, folder: Path) -> dict[str, Any]:
    data, suffix = tar_of_anything(seed)
    path = folder / f"any{suffix}"
    path.write_bytes(data)
    return _read_shard(path)


# --- images ------------------------------------------------------------------------------------------------------


def any_image(rng: np.random.Generator) -> tuple[bytes, str]:
    """(a whole image file of any mode and format, its suffix)."""
    Image.init()
    height, width = (int(side) for side in rng.integers(1, 40, 2))
    grey = rng.integers(0, 256, (height, width)).astype(np.uint8)
    colours = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    scale = float(rng.choice([1, 1.01, 200, 255, 4095, np.nan, -3]))
    numbers = rng.choice([1, 300, 70_000, -5])
    choices: list[tuple[Image.Image, str]] = [
        *((Image.fromarray(colours), form) for form in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA")),
        (
            Image.fromarray(colours),
            str(rng.choice([form for form in ("AVIF", "JPEG2000", "MPO") if form in Image.SAVE])),
        ),
        (Image.fromarray(colours).convert("P"), "PNG"),
        (Image.fromarray(grey).convert("1"), "TIFF"),
        (Image.fromarray(colours).convert("CMYK"), "JPEG"),
        (Image.fromarray(colours).convert("RGBA"), "PNG"),
        (Image.fromarray(grey.astype(np.uint16) * 257), str(rng.choice(["PNG", "TIFF"]))),
        (Image.fromarray((grey / 255 * scale).astype(np.float32)), "TIFF"),
        (Image.fromarray(grey.astype(np.int32) * np.int32(numbers)), "TIFF"),
    ]
    image, form = choices[int(rng.integers(len(choices)))]
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(0, 12))
    image.save(
        buffer, form, **({"exif": exif} if form in ("PNG", "JPEG", "WEBP", "TIFF") and rng.random() < 0.3 else {})
    )
    return buffer.getvalue(), f".{form.lower()}".replace("jpeg2000", "jp2").replace("mpo", "jpg")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def hostile_image(seed: int) -> tuple[bytes, str]:
    """(an image file that is damaged in one of many ways, its suffix)."""
    rng = np.random.default_rng((seed, 2))
    whole, suffix = any_image(rng)
    data = bytearray(whole)
    png = picture(9)
    side = int(rng.choice([2**31 - 1, 2**20, 60_000, 0]))
    kind = seed % 10
    if kind == 0:
        return whole, suffix
    if kind == 1:
        return bytes(data[: int(rng.integers(0, len(data)))]), suffix
    if kind in (2, 3, 4):
        for place in rng.integers(0, min(len(data), 80 if kind == 2 else len(data)), int(rng.integers(1, 6))):
            data[place] = int(rng.integers(256))
        return bytes(data), suffix
    if kind == 5:  # a header of another size
        start = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, int(rng.choice([side, 1])), 8, 2, 0, 0, 0))
        return png[:8] + start + png[33:], ".png"
    if kind == 6:  # metadata that make no sense
        name = bytes(rng.choice([b"eXIf", b"iCCP", b"tRNS", b"pHYs", b"zTXt", b"acTL", b"gAMA"]))
        return png[:33] + png_chunk(name, rng.bytes(int(rng.integers(0, 40)))) + png[33:], ".png"
    if kind == 7:  # other languages than pixels
        scripts = (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
            b"%PDF-1.4\n",
            b"<svg/>",
        )
        return bytes(rng.choice(np.array(scripts, dtype=object))), ".jpg"
    if kind == 8:  # a strip, which would become a giant where its shorter side is enlarged
        return _strip(int(rng.integers(10, 10**6))), ".png"
    return whole + rng.bytes(int(rng.integers(1, 3000))), suffix


def _strip(length: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (length, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def _image(seed: int, folder: Path) -> dict[str, Any]:
    """What the commands and the image processor make of one file: a picture each, or words each."""
    from beit import BeitImageProcessor
    from beit.core.errors import DataError, InputError
    from beit.data.decode import decode_image, read_image

    data, suffix = hostile_image(seed)
    path = folder / f"x{suffix}"
    path.write_bytes(data)
    raw = BeitImageProcessor(do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False)
    resized = BeitImageProcessor(size={"shortest_edge": 24}, crop_size=16)
    result: dict[str, Any] = {"said": []}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about odd metadata
        try:
            image = read_image(path)
            result["read"] = float(np.asarray(image).mean(dtype=np.float64))
            result["same bytes"] = bool(np.array_equal(decode_image(data, "x"), image))
        except DataError as error:
            result["said"].append(str(error))
        try:
            result["processed"] = float(raw(path, return_tensors="np").pixel_values.mean(dtype=np.float64))
            resized(path)
        except InputError as error:
            result["said"].append(str(error))
    return result


KINDS: dict[str, Callable[[int, Path], dict[str, Any]]] = {"shard": _shard, "any shard": _any_shard, "image": _image}


# --- the child process -------------------------------------------------------------------------------------------


def attack(kind: str, first: int, count: int, folder: Path) -> list[dict[str, Any]]:
    """Read inputs of a kind in a child process with limits of time and memory; what came of each.

    Raises:
        AssertionError: the child ended by a signal, took more than the limits, or met an error that is none of ours.
    """
    command = [sys.executable, __file__, kind, str(first), str(count), str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"input {first + len(found)}: status {done.returncode}\n{done.stderr[-2000:]}"
    assert len(found) == count
    return found


def peak_memory() -> int:
    """The most bytes that this process had in memory; 0 where the system does not say. (`ru_maxrss` counts its parent's too.)"""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def _main(kind: str, first: int, count: int, folder: Path) -> Iterator[dict[str, Any]]:
    from beit.core.errors import BeitError

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    for seed in range(first, first + count):
        signal.alarm(SECONDS)  # ends the process: an endless loop is no error that a handler could catch
        start = time.monotonic()
        try:
            found = KINDS[kind](seed, folder)
        except BeitError as error:
            found = {"error": type(error).__name__, "said": [str(error)]}
        assert peak_memory() < MEMORY, f"{peak_memory():,} bytes"
        yield {"seed": seed, "seconds": round(time.monotonic() - start, 3), **found}


if __name__ == "__main__":
    for line in _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])):
        print(json.dumps(line), flush=True)

"""Damage images of every format, and count how often `sdk.images` is right, refuses, is wrong, crashes or hangs.

    python benchmarks/fuzz_images.py [--count 100000] [--seed 0] [--processes 2] [--keep FOLDER]

Each image is read in a child process that may use 2 GB. It is right if Pillow, used plainly, finds the same pixels in
the file, in the file without its metadata, or in the file from before the damage. It is refused if there was an
`ImageError`, and noisy if anything was written to stderr or warned about, whatever the outcome.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import warnings
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from sdk.decoding.containers import strip
from sdk.errors import ImageError
from sdk.images import Input, Resize, crop, pixels, resize

OUTCOMES = ("tried", "refused", "right", "wrong", "crashed", "hung", "noisy")
PATIENCE = 30
"""Seconds for one image, on a busy machine."""
MEMORY = 2 * 2**30
PART = 2000
INPUT = Input(height=24, width=24, resize=Resize(mode="cover", size=(28, 28), filter="bilinear"))
TURN = Image.Transpose.ROTATE_270
"""The turn that orientation 6 asks for. All intact images that say an orientation say this one."""
EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, help="a folder for the images that were not right or refused")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        _read_part(arguments.seed, *map(int, arguments.part.split(":")))
        return
    parts = [range(first, min(first + PART, arguments.count)) for first in range(0, arguments.count, PART)]
    counts: Counter[tuple[str, str]] = Counter()
    with ThreadPoolExecutor(arguments.processes) as pool:
        for found in pool.map(lambda part: _watched(arguments.seed, part, arguments.keep), parts):
            counts += found
    kinds = sorted({kind for kind, _ in counts})
    table = {kind: {outcome: counts[kind, outcome] for outcome in OUTCOMES} for kind in kinds}
    table["all"] = {outcome: sum(row[outcome] for row in table.values()) for outcome in OUTCOMES}
    print(json.dumps(table) if arguments.json else _lines(table))


def _lines(table: dict[str, dict[str, int]]) -> str:
    head = f"{'':<22}" + "".join(f"{outcome:>9}" for outcome in OUTCOMES)
    rows = (f"{kind:<22}" + "".join(f"{count:>9,}" for count in row.values()) for kind, row in table.items())
    return "\n".join([head, *rows])


def _watched(seed: int, part: range, keep: Path | None) -> Counter[tuple[str, str]]:
    """Count the outcomes of a part. A child that dies or stands still is replaced, behind the image that it had."""
    counts: Counter[tuple[str, str]] = Counter()
    start = part.start
    while start < part.stop:
        command = [sys.executable, __file__, "--seed", str(seed), "--part", f"{start}:{part.stop}"]
        with (
            tempfile.TemporaryFile() as noise,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=noise) as child,
        ):
            assert child.stdout is not None
            outcome = "crashed"
            while True:
                watch = threading.Timer(PATIENCE, child.kill)
                watch.start()
                line = child.stdout.readline().decode()
                watch.cancel()
                if not line:
                    outcome = "hung" if watch.finished.is_set() and child.wait() == -9 else "crashed"
                    break
                index, kind, *found = line.split()
                start = int(index) + 1
                for name in ("tried", *found):
                    counts[kind, name] += 1
                if {"wrong", "noisy"} & set(found):
                    _keep(keep, seed, int(index), "-".join(found))
            if start < part.stop:
                kind, _ = damaged(seed, start)
                counts[kind, "tried"] += 1
                counts[kind, outcome] += 1
                _keep(keep, seed, start, outcome)
                start += 1
    return counts


def _keep(folder: Path | None, seed: int, index: int, outcome: str) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        kind, data = damaged(seed, index)
        (folder / f"{seed}-{index}-{kind}-{outcome}").write_bytes(data)


def _read_part(seed: int, start: int, stop: int) -> None:
    """Read the images of a part and print a line about each. This is what a child does."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for index in range(start, stop):
        kind, data = damaged(seed, index)
        print(index, kind, *outcome_of(kind, data), flush=True)


def outcome_of(kind: str, data: bytes) -> list[str]:
    """Return whether an image is read right, wrong or refused, and whether a library made noise meanwhile."""
    before = os.fstat(2).st_size
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found = pixels(data, INPUT)
        except ImageError as fault:
            outcome = "wrong" if "\n" in str(fault) else "refused"
        else:
            outcome = ""
    noise = ["noisy"] if warned or os.fstat(2).st_size != before else []
    return [outcome or ("right" if _agrees(found, kind, data) else "wrong"), *noise]


def _agrees(found: np.ndarray, kind: str, data: bytes) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        right = _plainly(dict(INTACT)[kind])
        for content in (data, strip(data).data):  # Pillow may give up because of the metadata alone
            with suppress(Exception):
                right += _plainly(content)
    return any(np.abs(found.astype(int) - pixels).max() <= 2 for pixels in right)


def _plainly(data: bytes) -> list[np.ndarray]:
    """Return the pixels that Pillow finds in a file without our help: turned as it says, not at all, and as was intact.

    Where EXIF is damaged, Pillow gives up at the first odd tag, so that it may miss the orientation behind.
    """
    image = Image.open(io.BytesIO(data))
    image.load()
    rows = []
    for turn in (ImageOps.exif_transpose, Image.Image.copy, lambda image: image.transpose(TURN)):
        try:
            upright = turn(image)
        except Exception:  # damaged EXIF
            continue
        if upright.mode.startswith("I"):
            upright = Image.fromarray((np.asarray(upright).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
        elif upright.has_transparency_data:
            layer = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        rows.append(np.asarray(crop(resize(upright.convert("RGB"), INPUT.resize), (INPUT.height, INPUT.width))))
    return rows


def damaged(seed: int, index: int) -> tuple[str, bytes]:
    """Return the kind and the bytes of a damaged image; the same numbers give the same image."""
    draw = random.Random(f"{seed} {index}")
    kind, data = draw.choice(INTACT)
    content = bytearray(data)
    for _ in range(draw.choice((0, 1, 1, 1, 2, 3, 5, 10))):
        _damage(content, draw)
    if kind.startswith("png") and draw.random() < 0.7:
        _repair_checksums(content)
    return kind, bytes(content)


def _damage(content: bytearray, draw: random.Random) -> None:
    """Change something, mostly near the start, where the header is."""
    place = draw.randrange(min(len(content), draw.choice((16, 64, 300, 10**9)))) if content else 0
    end = min(len(content), place + draw.choice((1, 2, 4, 12, 50)))
    match draw.randrange(8):
        case 0:
            content[place:end] = draw.randbytes(end - place)
        case 1 | 2:
            size, order = draw.choice((1, 2, 4)), draw.choice("<>")
            number = draw.choice((*EDGES, len(content))) & (256**size - 1)
            content[place : place + size] = struct.pack(f"{order}{'_BH_L'[size]}", number)
        case 3:
            del content[place:end]
        case 4:
            content[place:place] = content[place:end] * draw.choice((1, 2, 50))
        case 5:
            del content[place:]
        case 6 if place < len(content):
            content[place] ^= 1 << draw.randrange(8)
        case _:
            other = draw.choice(INTACT)[1]
            start = draw.randrange(len(other))
            content[place:end] = other[start : start + draw.choice((1, 4, 12, 100))]


def _repair_checksums(content: bytearray) -> None:
    """Write the right checksum after each chunk of a PNG, so that the damage gets past it."""
    position = 8
    while position + 12 <= len(content):
        end = position + 8 + int.from_bytes(content[position : position + 4], "big")
        if end + 4 > len(content):
            break
        content[end : end + 4] = struct.pack(">L", zlib.crc32(content[position + 4 : end]))
        position = end + 4


def intact() -> list[tuple[str, bytes]]:
    """Return (kind, bytes) of small images of every format: their modes, compressions, animations and metadata."""
    draw = np.random.default_rng(0)
    noise = Image.fromarray(draw.integers(0, 256, (9, 13, 4), np.uint8))
    whole = noise.resize((52, 36), Image.Resampling.BICUBIC)
    modes = {mode: whole.convert(mode) for mode in ("RGB", "RGBA", "L", "LA", "CMYK", "1")}
    modes["P"] = modes["RGB"].quantize(32)
    modes["I;16"] = Image.fromarray(np.asarray(modes["L"]).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x0110] = 6, "waves", "camera" * 20
    more = {"save_all": True, "append_images": [modes["RGB"].rotate(90), modes["RGB"].rotate(180)]}
    ways: list[tuple[str, str, str, dict[str, object]]] = [
        ("jpeg", "JPEG", "RGB", {"quality": 90, "exif": exif}),
        ("jpeg-progressive", "JPEG", "RGB", {"progressive": True, "comment": b"waves"}),
        ("jpeg-grey", "JPEG", "L", {}),
        ("jpeg-cmyk", "JPEG", "CMYK", {}),
        ("mpo", "MPO", "RGB", more),
        *(
            (f"png-{mode.lower().replace(';', '-')}", "PNG", mode, {})
            for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")
        ),
        ("png-p-transparent", "PNG", "P", {"transparency": 3}),
        ("png-exif", "PNG", "RGB", {"exif": exif}),
        ("apng", "PNG", "RGB", more),
        ("webp", "WEBP", "RGB", {"quality": 90, "exif": exif}),
        ("webp-lossless", "WEBP", "RGBA", {"lossless": True}),
        ("webp-animated", "WEBP", "RGB", {**more, "lossless": True}),
        *((f"bmp-{mode.lower()}", "BMP", mode, {}) for mode in ("RGB", "RGBA", "L", "P", "1")),
        ("gif", "GIF", "P", {"comment": b"waves" * 60}),
        ("gif-transparent", "GIF", "P", {"transparency": 3, "interlace": 1}),
        ("gif-animated", "GIF", "RGB", more),
        *(
            (f"tiff-{mode.lower().replace(';', '-')}", "TIFF", mode, {})
            for mode in ("RGB", "RGBA", "L", "P", "CMYK", "1", "I;16")
        ),
        *(
            (f"tiff-{name}", "TIFF", "RGB", dict[str, object](compression=name))
            for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        ),
        ("tiff-group4", "TIFF", "1", {"compression": "group4"}),
        ("tiff-exif", "TIFF", "RGB", {"exif": exif, "compression": "tiff_lzw"}),
        ("tiff-animated", "TIFF", "RGB", more),
        ("tiff-big", "TIFF", "RGB", {"big_tiff": True}),
        *((f"ppm-{mode.lower().replace(';', '-')}", "PPM", mode, {}) for mode in ("RGB", "L", "1", "I;16")),
    ]
    found = [(kind, _encoded(modes[mode], format, options)) for kind, format, mode, options in ways]
    small = modes["RGB"].resize((26, 18))
    plain = " ".join(map(str, np.asarray(small).ravel().tolist()))
    found.append(("ppm-plain", f"P3\n# waves\n26 18\n255\n{plain}\n".encode()))
    found.append(("bmp-rle", _run_lengths(modes["L"])))
    return found


def _encoded(image: Image.Image, format: str, options: dict[str, object]) -> bytes:
    file = io.BytesIO()
    image, options = deepcopy((image, options))  # saving leaves traces in images
    image.save(file, format, **options)
    return file.getvalue()


def _run_lengths(image: Image.Image) -> bytes:
    """Return a grey image as a BMP of runs, which Pillow reads and does not write."""
    plain = _encoded(image, "BMP", {})
    rows = np.asarray(image)[::-1].tolist()
    runs = b"".join(b"".join(bytes((1, grey)) for grey in row) + b"\0\0" for row in rows) + b"\0\1"
    (start,) = struct.unpack_from("<L", plain, 10)
    return plain[:30] + struct.pack("<LL", 1, len(runs)) + plain[38:start] + runs


INTACT = intact()

if __name__ == "__main__":
    main()

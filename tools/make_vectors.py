"""Make spec/vectors: images with the pixels that a model takes from them, for readers in any language.

    python tools/make_vectors.py spec/vectors

The images are drawn by this program. The same version of Pillow gives the same bytes.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import ExifTags, Image
from safetensors.numpy import save_file

from sdk.images import Input, Resize, pixels

INPUTS = {
    "cover": Input(height=32, width=32, resize=Resize(mode="cover", size=(36, 36), filter="bicubic")),
    "squash": Input(height=24, width=40, resize=Resize(mode="squash", size=(24, 40), filter="bilinear"), crop="none"),
    "oblong": Input(height=40, width=28, resize=Resize(mode="cover", size=(41, 31), filter="lanczos")),
    "box": Input(height=20, width=20, resize=Resize(mode="cover", size=(20, 20), filter="box")),
    "nearest": Input(height=20, width=20, resize=Resize(mode="cover", size=(20, 20), filter="nearest")),
}
Array = NDArray[np.uint8]


def drawing(width: int, height: int, channels: int = 3) -> Array:
    """Return a drawing [height, width, channels] with gradients, sharp edges, fine lines and a little noise."""
    random = np.random.default_rng((width, height, channels))
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    image = np.stack([127 + 100 * np.sin(3 * x + 4 * y + phase) for phase in range(channels)], -1)
    for _ in range(12):
        centre, radius, colour = random.random(2), 0.03 + 0.15 * random.random(), random.integers(0, 256, channels)
        image[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2] = colour
    image[np.abs(np.sin(40 * (x - y))) < 0.1] = 20
    return (image + random.normal(0, 2, image.shape)).clip(0, 255).astype(np.uint8)


def png(image: NDArray[np.integer], kind: int, depth: int = 8, **chunks: bytes) -> bytes:
    """Return a PNG of an image [height, width] or [height, width, channels].

    Args:
        kind: PNG's colour type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha.
        depth: the bits of a channel.
        chunks: further chunks by their names, which stand before the image.
    """
    height, width = image.shape[:2]
    rows = image.reshape(height, -1)
    if depth < 8:
        bits = (rows[..., None] >> np.arange(depth - 1, -1, -1, dtype=np.uint8)) & 1
        rows = np.packbits(bits.reshape(height, -1), axis=1)
    packed = b"".join(b"\0" + row.astype(f">u{max(depth // 8, 1)}").tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = {"IHDR": header, **chunks, "IDAT": zlib.compress(packed, 9), "IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + (tagged := name.encode() + data) + struct.pack(">I", zlib.crc32(tagged))
        for name, data in parts.items()
    )


def jpeg(image: Array, mode: str = "RGB", turn: int | None = None, **options: int) -> bytes:
    """Return a JPEG of an image, with EXIF's orientation if there is a `turn`."""
    file, exif = io.BytesIO(), Image.Exif()
    if turn is not None:
        exif[ExifTags.Base.Orientation] = turn
    Image.frombytes(mode, image.shape[1::-1], image.tobytes()).save(
        file, "JPEG", exif=exif, **{"quality": 90, **options}
    )
    return file.getvalue()


def images() -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of every image."""
    for width, height in (
        (32, 32),
        (37, 53),
        (53, 37),
        (36, 36),
        (1, 1),
        (1, 40),
        (40, 1),
        (2, 301),
        (301, 2),
        (213, 320),
    ):
        yield f"rgb-{width}x{height}.png", png(drawing(width, height), 2)
    yield "grey.png", png(drawing(61, 45, 1), 0)
    yield "grey-1-bit.png", png(drawing(33, 65, 1) >> 7, 0, 1)
    yield "grey-4-bits.png", png(drawing(47, 39, 1) >> 4, 0, 4)
    yield "grey-alpha.png", png(drawing(50, 40, 2), 4)
    yield "rgba.png", png(drawing(64, 48, 4), 6)
    clear = drawing(40, 44, 4)
    clear[10:, :, 3] = 0
    yield "rgba-clear.png", png(clear, 6)
    key = drawing(44, 40)
    key[5:20, 5:20] = (200, 10, 30)
    yield "rgb-one-colour-clear.png", png(key, 2, tRNS=struct.pack(">HHH", 200, 10, 30))
    colours = np.random.default_rng(0).integers(0, 256, (16, 3), np.uint8).tobytes()
    indices = drawing(45, 60, 1) >> 4
    yield "palette.png", png(indices, 3, 8, PLTE=colours)
    yield "palette-4-bits.png", png(indices, 3, 4, PLTE=colours)
    yield "palette-alpha.png", png(indices, 3, 8, PLTE=colours, tRNS=bytes(range(0, 256, 17)))
    deep = drawing(52, 41, 4).astype(np.uint16) * 256 + 77
    yield "grey-16-bits.png", png(deep[..., 0], 0, 16)
    yield "rgb-16-bits.png", png(deep[..., :3], 2, 16)
    yield "rgba-16-bits.png", png(deep, 6, 16)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    yield "turn-6.png", png(drawing(57, 38), 2, eXIf=exif.tobytes()[6:])
    yield "small.jpg", jpeg(drawing(20, 15))
    yield "odd.jpg", jpeg(drawing(97, 71))
    yield "whole-colours.jpg", jpeg(drawing(80, 60), subsampling=0)
    yield "progressive.jpg", jpeg(drawing(75, 90), progressive=1)
    yield "grey.jpg", jpeg(drawing(66, 55, 1), "L")
    yield "cmyk.jpg", jpeg(drawing(60, 50, 4), "CMYK")
    for turn in range(1, 9):
        yield f"turn-{turn}.jpg", jpeg(drawing(59, 42), turn=turn)
    yield "large.jpg", jpeg(drawing(2400, 1800), quality=60)
    yield "large-turn-6.jpg", jpeg(drawing(1999, 1501), turn=6, quality=60)


def main(folder: Path) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    expected: dict[str, Array] = {}
    for name, content in images():
        (folder / "images" / name).write_bytes(content)
        expected |= {f"{how}/{name}": pixels(content, input) for how, input in INPUTS.items()}
    save_file(expected, folder / "pixels.safetensors")
    about = {"pillow": PIL.__version__, "inputs": msgspec.to_builtins(INPUTS)}
    (folder / "vectors.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

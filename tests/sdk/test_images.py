"""An image is the same pixels however it arrives, and what is no image is an `ImageError` that names it."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from PIL import Image

from patterns import patterns
from published import photographs
from sdk.errors import ImageError
from sdk.images import FORMATS, Input, Preprocessing, Resize, crop, pixels, read, resize, source_name

IMAGE = patterns(1, seed=5, size=48)[0][:32]  # 32 high, 48 wide: turned images differ
UPRIGHT = Image.fromarray(IMAGE)
WHOLE = Input(height=32, width=48, resize=Resize(mode="squash", size=(32, 48)), crop="none")


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


class TestSources:
    def test_every_source_gives_the_same_pixels(self, tmp_path):
        data = encoded(UPRIGHT)
        path = tmp_path / "näher dran.png"
        path.write_bytes(data)
        sources = (path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), UPRIGHT, IMAGE)
        for source in sources:
            found = pixels(source, WHOLE)
            assert found.dtype == np.uint8
            assert found.flags.c_contiguous
            np.testing.assert_array_equal(found, IMAGE)

    def test_an_open_file_is_read(self, tmp_path):
        (tmp_path / "a.png").write_bytes(encoded(UPRIGHT))
        with (tmp_path / "a.png").open("rb") as file:
            np.testing.assert_array_equal(pixels(file, WHOLE), IMAGE)
            assert source_name(file) == str(tmp_path / "a.png")

    def test_a_source_is_not_changed(self):
        image, array = UPRIGHT.copy(), IMAGE.copy()
        pixels(image, Preprocessing.square(16).input)
        pixels(array, Preprocessing.square(16).input)
        np.testing.assert_array_equal(np.asarray(image), IMAGE)
        np.testing.assert_array_equal(array, IMAGE)

    def test_views_of_arrays_are_read_right(self):
        mirrored = IMAGE[:, ::-1]
        np.testing.assert_array_equal(pixels(mirrored, WHOLE), mirrored)
        assert pixels(mirrored, WHOLE).flags.c_contiguous

    def test_grey_arrays_and_arrays_with_alpha(self):
        grey = IMAGE[:, :, 0]
        for array in (grey, grey[:, :, None]):
            np.testing.assert_array_equal(pixels(array, WHOLE), np.repeat(grey[:, :, None], 3, 2))
        opaque = np.dstack([IMAGE, np.full((32, 48), 255, np.uint8)])
        np.testing.assert_array_equal(pixels(opaque, WHOLE), IMAGE)

    def test_names(self, tmp_path):
        assert source_name("a/b.jpg") == "a/b.jpg"
        assert source_name(tmp_path / "c.png") == str(tmp_path / "c.png")
        assert source_name(b"1234") == "<4 bytes>"
        assert source_name(IMAGE) == "<array 32x48x3>"
        assert source_name(UPRIGHT) == "<image 48x32>"


class TestLargeJpegs:
    """Decoded at a fraction they are what they are when decoded whole."""

    @pytest.mark.parametrize("size", [(1200, 900), (1029, 1027), (901, 2053)])
    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    @pytest.mark.parametrize("orientation", [1, 3, 6, 7])
    @pytest.mark.parametrize(
        "input", [Preprocessing.square(112).input, replace(WHOLE, resize=Resize("squash", (32, 48), "bilinear"))]
    )
    def test_they_are_the_same_image(self, size, mode, orientation, input):
        with Image.open(photographs()[3][0]) as photo:
            large = photo.convert(mode).resize(size, Image.Resampling.BICUBIC)
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(large, "JPEG", quality=92, exif=exif)
        whole = np.asarray(crop(resize(read(data), input.resize), (input.height, input.width)))
        off = np.abs(pixels(data, input).astype(int) - whole)
        assert off.mean() < 1
        assert off.max() <= 20

    @pytest.mark.parametrize(
        ("format", "options"),
        [("MPO", {"save_all": True, "append_images": [UPRIGHT]}), ("JPEG", {"progressive": True})],
    )
    def test_as_phones_and_the_web_store_them(self, format, options):
        input = Preprocessing.square(16).input
        data = encoded(UPRIGHT.resize((480, 320), Image.Resampling.BICUBIC), format, **options)
        whole = np.asarray(crop(resize(read(data), input.resize), (16, 16)))
        assert np.abs(pixels(data, input).astype(int) - whole).mean() < 1

    def test_what_a_fraction_would_change_is_decoded_whole(self):
        data = encoded(UPRIGHT.resize((480, 320), Image.Resampling.BICUBIC), "JPEG")
        nearest = replace(WHOLE, resize=Resize("squash", (32, 48), "nearest"))
        for input in (nearest, Preprocessing.square(161).input):  # 320 is less than twice 161
            whole = np.asarray(crop(resize(read(data), input.resize), (input.height, input.width)))
            np.testing.assert_array_equal(pixels(data, input), whole)

    def test_an_image_of_the_caller_s_is_left_as_it_is(self):
        image = Image.open(io.BytesIO(encoded(UPRIGHT.resize((480, 320)), "JPEG")))
        pixels(image, WHOLE)
        assert image.size == (480, 320)


class TestKindsOfImages:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("as_image", [False, True])
    def test_exif_orientation_is_undone(self, orientation, as_image):
        stored = {  # what a camera stores so that a viewer, turning it as told, shows IMAGE
            1: IMAGE,
            2: IMAGE[:, ::-1],
            3: IMAGE[::-1, ::-1],
            4: IMAGE[::-1],
            5: IMAGE.transpose(1, 0, 2),
            6: np.rot90(IMAGE, 1),
            7: IMAGE[::-1, ::-1].transpose(1, 0, 2),
            8: np.rot90(IMAGE, -1),
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        source = encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
        np.testing.assert_array_equal(pixels(Image.open(io.BytesIO(source)) if as_image else source, WHOLE), IMAGE)

    def test_grey(self):
        grey = UPRIGHT.convert("L")
        np.testing.assert_array_equal(pixels(encoded(grey), WHOLE), np.asarray(grey.convert("RGB")))

    def test_black_and_white(self):
        found = pixels(encoded(UPRIGHT.convert("1")), WHOLE)
        assert set(np.unique(found)) == {0, 255}

    def test_sixteen_bits_keep_their_upper_byte(self):
        deep = (IMAGE[:, :, 0].astype(np.uint16) << 8) + 77
        found = pixels(encoded(Image.fromarray(deep)), WHOLE)
        np.testing.assert_array_equal(found, np.repeat(IMAGE[:, :, :1], 3, 2))

    def test_palette(self):
        palette = UPRIGHT.quantize(16)
        np.testing.assert_array_equal(pixels(encoded(palette), WHOLE), np.asarray(palette.convert("RGB")))

    @pytest.mark.parametrize("format", ["PNG", "GIF"])
    def test_palette_with_a_transparent_colour_lies_on_white(self, format):
        image = Image.new("P", (48, 32), 1)
        image.putpalette([10, 20, 30, 200, 100, 50])
        image.paste(0, (0, 0, 24, 32))
        found = pixels(encoded(image, format, transparency=0), WHOLE)
        assert (found[:, :24] == 255).all()
        assert (found[:, 24:] == (200, 100, 50)).all()

    def test_alpha_lies_on_white(self):
        half = np.dstack([IMAGE, np.full((32, 48), 128, np.uint8)])
        expected = IMAGE * (128 / 255) + 255 * (127 / 255)
        for source in (half, encoded(Image.fromarray(half)), encoded(Image.fromarray(half), "WEBP", lossless=True)):
            np.testing.assert_allclose(pixels(source, WHOLE), expected, atol=1)

    def test_grey_with_alpha_lies_on_white(self):
        image = Image.merge("LA", (UPRIGHT.convert("L"), Image.new("L", UPRIGHT.size, 0)))
        assert (pixels(encoded(image), WHOLE) == 255).all()

    def test_cmyk(self):
        source = encoded(UPRIGHT.convert("CMYK"), "TIFF")
        np.testing.assert_allclose(pixels(source, WHOLE), IMAGE, atol=1)
        assert pixels(encoded(UPRIGHT.convert("CMYK"), "JPEG", quality=95), WHOLE).shape == (32, 48, 3)

    @pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
    def test_of_an_animation_the_first_frame_is_taken(self, format):
        frames = [Image.new("RGB", (48, 32), colour) for colour in ("red", "lime", "blue")]
        lossless = {"lossless": True} if format == "WEBP" else {}
        source = encoded(frames[0], format, save_all=True, append_images=frames[1:], **lossless)
        assert (pixels(source, WHOLE) == (255, 0, 0)).all()

    def test_formats_that_run_programs_or_are_rarely_images_are_not_read(self):
        assert not {"EPS", "PDF", "PSD"} & set(FORMATS)
        with pytest.raises(ImageError, match="in no supported image format"):
            read(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")


class TestRefusals:
    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("/nowhere/at/all.jpg", r"^/nowhere/at/all.jpg: no such file; check the path$"),
            (b"", r"^<0 bytes>: empty; check or remove the file$"),
            (b"GIF89a", r"^<6 bytes>: not a readable image"),
            (b"certainly no image", r"^<18 bytes>: not a readable image \(its content is in no supported image format"),
            (io.StringIO("text"), r"not a readable image"),
            (7, r"^int is not an image; give a path, bytes"),
            (None, r"^NoneType is not an image"),
            (np.zeros((4, 4, 3)), r"^<array 4x4x3>: float64 pixels; give uint8"),
            (np.zeros((4, 4, 2), np.uint8), r"has the shape \[height, width\] or \[height, width, 1, 3 or 4\]"),
            (np.zeros((2, 4, 4, 3), np.uint8), r"an array has the shape \[height, width\]"),
            (np.zeros((0, 4, 3), np.uint8), r"an array has the shape \[height, width\]"),
            (Image.new("F", (4, 4)), r"floating-point pixels have no agreed range"),
        ],
        ids=lambda value: value if isinstance(value, str) else type(value).__name__,
    )
    def test_what_is_no_image(self, source, message):
        with pytest.raises(ImageError, match=message):
            pixels(source, WHOLE)

    def test_a_folder(self, tmp_path):
        with pytest.raises(ImageError, match="a folder, not an image; name the images in it"):
            read(tmp_path)

    @pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
    def test_a_truncated_file_is_named(self, tmp_path, format):
        path = tmp_path / "half"
        data = encoded(UPRIGHT, format)
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(ImageError, match=rf"{path}: not a readable image \(.+\); check or remove the file"):
            read(path)

    def test_a_header_that_promises_billions_of_pixels(self):
        def chunk(kind: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

        for edge in (9500, 12_000, 60_000):  # beyond our limit, Pillow's warning, Pillow's error
            header = chunk(b"IHDR", struct.pack(">IIBBBBB", edge, edge, 8, 2, 0, 0, 0))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with pytest.raises(ImageError):
                    read(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))

    def test_a_file_that_is_too_large_is_not_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr("sdk.decoding.sources.MAX_BYTES", 100)
        path = tmp_path / "large.png"
        path.write_bytes(encoded(UPRIGHT))
        for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
            with pytest.raises(ImageError, match="larger than"):
                read(source)

    @settings(max_examples=150, deadline=None)
    @given(data=st.data(), format=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM"]))
    def test_damaged_files_are_read_or_refused_and_nothing_else(self, data, format):
        content = bytearray(encoded(UPRIGHT, format))
        for _ in range(data.draw(st.integers(0, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        content = content[: data.draw(st.integers(0, len(content)))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about metadata
            try:
                found = pixels(bytes(content), WHOLE)
            except ImageError as fault:
                found = str(fault)
        assert "\n" not in found if isinstance(found, str) else found.shape == (32, 48, 3)

    def test_decoding_leaves_the_app_s_warning_filters_alone(self):
        before = list(warnings.filters)
        pixels(encoded(UPRIGHT), WHOLE)
        assert list(warnings.filters) == before


class TestSizes:
    def test_squash_and_cover(self):
        assert resize(UPRIGHT, Resize(mode="squash", size=(10, 20))).size == (20, 10)
        assert resize(UPRIGHT, Resize(mode="cover", size=(16, 16))).size == (24, 16)
        assert resize(UPRIGHT.transpose(Image.Transpose.ROTATE_90), Resize(mode="cover", size=(16, 16))).size == (
            16,
            24,
        )

    def test_cover_always_covers(self):
        for width, height in ((1, 1), (1, 300), (299, 3), (31, 32), (333, 77)):
            covered = resize(Image.new("RGB", (width, height)), Resize(mode="cover", size=(28, 30)))
            assert covered.width >= 30
            assert covered.height >= 28
            assert covered.width == 30 or covered.height == 28

    def test_the_middle_is_kept(self):
        cropped = np.asarray(crop(UPRIGHT, (16, 24)))
        np.testing.assert_array_equal(cropped, IMAGE[8:24, 12:36])

    def test_the_pixels_are_those_of_torchvision(self):
        from torchvision.transforms import v2

        usual = v2.Compose([v2.Resize(28), v2.CenterCrop(24)])  # bilinear with antialiasing, on the PIL image
        input = Input(height=24, width=24, resize=Resize(mode="cover", size=(28, 28), filter="bilinear"))
        for turned in (UPRIGHT, UPRIGHT.transpose(Image.Transpose.ROTATE_90), UPRIGHT.crop((0, 0, 37, 31))):
            np.testing.assert_array_equal(pixels(turned, input), np.asarray(usual(turned)))

    @pytest.mark.parametrize(
        "options",
        [
            {"height": 0, "width": 8, "resize": Resize(mode="squash", size=(8, 8))},
            {"height": 8, "width": 8, "resize": Resize(mode="squash", size=(8, 9000))},
            {"height": 8, "width": 8, "resize": Resize(mode="cover", size=(8, 8)), "crop": "none"},
            {"height": 8, "width": 8, "resize": Resize(mode="cover", size=(7, 8))},
        ],
    )
    def test_inputs_that_make_no_sense_are_refused(self, options):
        with pytest.raises(ValueError, match=r"pixels|crop"):
            Input(**options)

    def test_the_usual_preprocessing(self):
        usual = Preprocessing.square(224, crop_fraction=0.875)
        assert (usual.input.height, usual.input.width, usual.input.resize.size) == (224, 224, (256, 256))

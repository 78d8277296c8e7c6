"""Decoding, resizing and the cache on disk."""

from __future__ import annotations

import io
import multiprocessing
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from peftlab.errors import DataError, OptionError
from peftlab.tasks._images import LAYOUT, prepare_images, resize_and_crop, to_rgb
from peftlab.tasks.contract import Preprocessing
from peftlab.tasks.data.contract import Examples, Part, join
from tests.tasks.builders import pixels

SMALL = Preprocessing(image_size=8)


def examples(count: int = 10, decode: Callable | None = None) -> Examples:
    images = pixels(count)
    part = Part(
        split="train",
        labels=np.arange(count) % 2,
        decode=decode or (lambda i: images[i]),
        where=lambda i: f"row {i}",
    )
    return join([part], ["a", "b"], where="here")


def prepared(cache: Path, source: Examples | None = None, preprocessing: Preprocessing = SMALL, data: str = "data"):
    source = source or examples()
    return prepare_images(source, np.arange(len(source.labels)), preprocessing, data, cache, skip_corrupt=False)


@settings(deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 32),
    st.sampled_from([1.0, 0.95, 0.9, 0.875]),
    st.sampled_from(["bilinear", "bicubic"]),
)
def test_resize_and_crop_equal_torchvisions(width, height, size, crop, interpolation):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    theirs = transforms.Compose(
        [
            transforms.Resize(round(size / crop), interpolation=transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(size),
        ]
    )(image)
    ours = resize_and_crop(image, Preprocessing(image_size=size, crop=crop, interpolation=interpolation))
    assert np.array_equal(ours, np.asarray(theirs))


def test_all_modes_become_rgb():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    for image in (grey, grey[:, :, None], expected, Image.fromarray(grey), Image.fromarray(expected).convert("RGBA")):
        assert np.array_equal(np.asarray(to_rgb(image)), expected)
    deep = Image.fromarray(grey.astype(np.uint16) * 256 + 7)
    assert deep.mode.startswith("I")
    assert np.array_equal(np.asarray(to_rgb(deep)), expected)
    assert np.asarray(to_rgb(Image.new("CMYK", (2, 2), (0, 0, 0, 0)))).tolist() == [[[255] * 3] * 2] * 2
    assert np.asarray(to_rgb(Image.fromarray(grey > 30))).tolist() == np.where(expected > 30, 255, 0).tolist()


def reopened(image: Image.Image, form: str) -> Image.Image:
    file = io.BytesIO()
    image.save(file, form)
    return Image.open(io.BytesIO(file.getvalue()))


def tiff(values: bytes, width: int, bits: int, sample_format: int, order: str = "<") -> Image.Image:
    """One uncompressed row (TIFF 6.0, sections 2 to 4 and 19)."""
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, 1), (273, 8 + 2 + 10 * 12 + 4), (277, 1), (278, 1)]
    tags += [(279, len(values)), (339, sample_format)]
    entries = b"".join(
        struct.pack(order + "HHI", tag, 4, 1) + struct.pack(order + "I", value)
        if tag in (273, 279)
        else struct.pack(order + "HHIHH", tag, 3, 1, value, 0)
        for tag, value in tags
    )
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return Image.open(io.BytesIO(head + struct.pack(order + "H", len(tags)) + entries + bytes(4) + values))


DARK, BRIGHT = np.array([[0, 30, 255]], np.uint16), np.array([[0, 30 * 256 + 7, 65535]], np.uint16)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_sixteen_bits_are_sixteen_bits_however_dark_the_picture(form: str) -> None:
    options = {"dark": (DARK, [0, 0, 0]), "bright": (BRIGHT, [0, 30, 255])}
    for values, expected in options.values():
        image = reopened(Image.fromarray(values), form)
        assert image.mode.startswith("I") and np.asarray(to_rgb(image))[0, :, 0].tolist() == expected
    assert to_rgb(Image.fromarray(DARK)).getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize("order", ["<", ">"])
def test_of_tiff_the_depth_that_the_file_tells_counts(order: str) -> None:
    def words(*values: int) -> bytes:
        return struct.pack(f"{order}{len(values)}H", *values)

    for bits, sample_format, values, expected in (
        (16, 1, words(200, 256, 65535), [0, 1, 255]),
        (16, 2, words(100, 128, 32767, 65535), [0, 1, 255, 0]),  # with a sign: the last is -1
    ):
        image = tiff(values, len(expected), bits, sample_format, order)
        assert np.asarray(to_rgb(image))[0, :, 0].tolist() == expected
    twelve = tiff(bytes([0x00, 0xF0, 0x10, 0xFF, 0xF0, 0x00]), 4, 12, 1)  # 15, 16, 4095, 0
    assert np.asarray(to_rgb(twelve))[0, :, 0].tolist() == [0, 1, 255, 0]


def test_whole_numbers_of_32_bits_are_not_guessed(tmp_path: Path) -> None:
    deep = Image.fromarray(np.array([[0, 255]], np.int32))
    with pytest.raises(DataError, match=r"row 0 .*32 bits do not say how bright white is; save it with 8 or 16"):
        prepared(tmp_path, examples(decode=lambda i: reopened(deep, "TIFF")))


def test_photographs_are_turned_upright():
    image = Image.fromarray(pixels(1)[0][:6])
    turned = image.copy()
    turned.getexif()[0x0112] = 6  # "rotate by 90 degrees to view" (Exif 2.3, tag Orientation)
    assert to_rgb(image).size == (12, 6) and to_rgb(turned).size == (6, 12)


@pytest.mark.parametrize(
    ("change", "where"),
    [({"image_size": 0}, "image_size"), ({"crop": 0.0}, "crop"), ({"interpolation": "cubic"}, "interpolation")],
)
def test_senseless_preprocessing(tmp_path, change, where):
    with pytest.raises(OptionError) as caught:
        prepared(tmp_path, preprocessing=Preprocessing(**{"image_size": 8, **change}))
    assert caught.value.where == where


def test_decoded_once(tmp_path):
    calls: list[int] = []
    images = pixels(10)

    def decode(i: int) -> np.ndarray:
        calls.append(i)
        return images[i]

    source = examples(decode=decode)
    first = prepared(tmp_path, source)
    assert calls == list(range(10))
    second = prepared(tmp_path, source)
    assert calls == list(range(10))
    assert isinstance(second.pixels, np.memmap) and np.array_equal(first.pixels, second.pixels)
    assert not list(tmp_path.rglob("*.tmp"))


def test_another_size_crop_interpolation_or_content_is_another_entry(tmp_path):
    for preprocessing in (
        SMALL,
        Preprocessing(image_size=9),
        Preprocessing(image_size=8, crop=0.5),
        Preprocessing(image_size=8, interpolation="bilinear"),
    ):
        prepared(tmp_path, preprocessing=preprocessing)
    prepared(tmp_path, data="other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("peftlab.tasks._images.LAYOUT", LAYOUT - 1)  # made when dark pictures of 16 bits were read as 8
        prepared(tmp_path)
    prepared(tmp_path, preprocessing=Preprocessing(image_size=8, mean=(0, 0, 0)))  # normalised later: the same pixels
    assert len(list((tmp_path / "images").glob("*.digests.npy"))) == 6


@pytest.mark.parametrize("damage", ["truncate", "empty", "garbage", "remove"])
@pytest.mark.parametrize("which", ["pixels", "digests"])
def test_a_damaged_entry_is_made_anew(tmp_path, damage, which):
    whole = np.array(prepared(tmp_path).pixels)
    path = next(p for p in (tmp_path / "images").iterdir() if ("digests" in p.name) == (which == "digests"))
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes({"truncate": content[:-1], "empty": b"", "garbage": b"\x00" * len(content)}[damage])
    assert np.array_equal(prepared(tmp_path).pixels, whole)
    assert path.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_a_typed_error(tmp_path):
    (tmp_path / "images").write_text("a file where the folder should be")
    with pytest.raises(DataError, match="cannot be written"):
        prepared(tmp_path)


def _limited(cache: str, queue) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # writes beyond it fail as on a full disk
    try:
        prepared(Path(cache))
    except DataError as error:
        queue.put(str(error))


def test_a_disk_that_takes_no_more_is_a_typed_error_and_leaves_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_limited, args=(str(tmp_path), queue))
    worker.start()
    text = queue.get(timeout=60)
    worker.join()
    assert "cannot be written" in text and "MiB" in text
    assert not list((tmp_path / "images").iterdir())


def _work(cache: str, queue) -> None:
    result = prepared(Path(cache), examples(60))
    queue.put(int(result.pixels.astype(np.int64).sum()))


def test_several_processes_at_once_agree(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_work, args=(str(tmp_path), queue)) for _ in range(4)]
    for worker in workers:
        worker.start()
    sums = {queue.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert sums == {int(prepared(tmp_path, examples(60)).pixels.astype(np.int64).sum())}
    assert len(list((tmp_path / "images").iterdir())) == 2


def test_running_out_of_memory_is_not_a_corrupt_image(tmp_path):
    def decode(i: int):
        raise MemoryError

    with pytest.raises(MemoryError):
        prepared(tmp_path, examples(decode=decode))
    assert not list(tmp_path.rglob("*.npy"))


def test_digests_tell_copies_from_look_alikes(tmp_path):
    images = pixels(4)
    images[2] = images[0]
    images[3] = images[1]
    images[3, 0, 0, 0] ^= 1  # lost at 1 pixel, but another image
    found = prepared(tmp_path, examples(4, decode=lambda i: images[i]), Preprocessing(image_size=1)).digests
    assert found[0] == found[2] and found[1] != found[3] and len(set(found.tolist())) == 3

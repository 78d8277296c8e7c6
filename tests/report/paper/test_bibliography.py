"""References: complete, and each key one source."""

from __future__ import annotations

import re

import pytest

from peftlab.analysis.literature import literature
from peftlab.errors import RecordError
from peftlab.registry import PACKAGES, components
from peftlab.report.paper.bibliography import REQUIRED, cite, collect, entries, standard

LORA = (
    "@inproceedings{hu2022lora,\n title = {{LoRA}: Low-Rank},\n author = {Hu, Edward J. and Shen, Yelong},\n "
    "booktitle = {ICLR}, year = {2022}\n}"
)


def test_an_entry_is_read() -> None:
    (entry,) = entries(f"% a comment\n{LORA}")
    assert (entry.kind, entry.key) == ("inproceedings", "hu2022lora")
    assert entry.fields == {
        "title": "{LoRA}: Low-Rank",
        "author": "Hu, Edward J. and Shen, Yelong",
        "booktitle": "ICLR",
        "year": "2022",
    }
    assert [*entries(entry.text())] == [entry]


@pytest.mark.parametrize("kind", PACKAGES)
def test_every_component_cites_completely(kind: str) -> None:
    for name, cls in components(kind).items():
        for entry in entries(cls.citation):
            assert not entry.problems(), (name, entry.key)
            assert REQUIRED[entry.kind] <= entry.fields.keys()


def test_every_source_of_the_literature_is_cited_completely_or_not_at_all() -> None:
    """Figures whose first source nobody names are not given one."""
    told = literature()[1]
    assert {key for key, text in told.items() if not text.startswith("@")} == {"secondary"}
    found = collect(text for text in told.values() if text.startswith("@"))
    assert set(found) == set(told) - {"secondary"}


def test_all_components_together_have_one_source_per_key() -> None:
    texts = [cls.citation for kind in PACKAGES for cls in components(kind).values() if cls.citation]
    found = collect(texts, standard())
    assert set(standard()) < set(found) and "hu2022lora" in found
    assert list(found) == sorted(found)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (LORA.replace("booktitle = {ICLR}, ", ""), "booktitle is missing"),
        (LORA.replace("{2022}", "{soon}"), "no year"),
        (LORA.replace("@inproceedings", "@thing"), "no kind of entry"),
        (LORA[:-3], "not closed"),
        (LORA.replace("{ICLR}", '"ICLR"'), "field"),
        (LORA + LORA.replace("Low-Rank", "Other"), "share one key"),
    ],
)
def test_what_an_editor_would_send_back(text: str, what: str) -> None:
    with pytest.raises(RecordError, match=what):
        collect([text])


def test_a_mention_becomes_a_citation() -> None:
    text, citation = cite("h = W0 x (Hu et al. 2021, section 4.1).", LORA)
    assert (text, citation) == ("h = W0 x\0.", r"\citep[section 4.1]{hu2022lora}")
    assert cite("No mention.", LORA) == ("No mention.", r"\citep{hu2022lora}")
    assert cite("No source.", "") == ("No source.", "")


def test_an_eprint_is_told() -> None:
    (entry,) = entries("@misc{a, author = {A}, title = {T}, year = {2020}, eprint = {1610.01644}}")
    assert re.search(r"note = \{arXiv:1610\.01644\}", entry.text())

"""All cases, in the order in which a person would read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.bad_input import arm_cases, command_cases, data_cases, frame_cases, model_cases, yaml_cases
from tests.bad_input.case import Case

SECTIONS: Mapping[str, Sequence[Case]] = {
    "YAML": yaml_cases.CASES,
    "The frame of a study": frame_cases.CASES,
    "Arms": arm_cases.CASES,
    "--set": command_cases.OVERRIDES,
    "Verbs and options": command_cases.VERBS,
    "Damaged results": command_cases.RESULTS,
    "Images": data_cases.IMAGES,
    "Texts": data_cases.TEXTS,
    "Backbones": model_cases.BACKBONES,
    "Imports": model_cases.IMPORTS,
    "Export and predict": model_cases.EXPORTS,
}

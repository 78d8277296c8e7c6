"""Components, found by being there: one file in a folder is one component.

A component is a frozen dataclass. Its fields are its options (name, type, default and meaning in one place), its class
variables say what it is called and where it comes from, its methods are its behaviour. There is no list to edit.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from peftlab import mistakes
from peftlab.errors import OptionError, PeftlabError, nearest

#: kind of component -> package whose files are the components of that kind
PACKAGES: dict[str, str] = {
    "backbone": "peftlab.backbones",
    "task": "peftlab.tasks",
    "data": "peftlab.tasks.data",
    "text": "peftlab.tasks.text",
    "adapter": "peftlab.adapters",
    "allocator": "peftlab.allocators",
    "importance": "peftlab.allocators.importance",
    "quantizer": "peftlab.quantizers",
    "probe": "peftlab.probes",
    "tracker": "peftlab.trackers",
    "figure": "peftlab.report.figures",
}

#: kinds that an arm of a study names
OF_ARMS = ("adapter", "allocator", "quantizer")

#: ``citation`` of a component of our own design, which no paper has proposed in this form
OWN = """@misc{peftlab,
  title = {{peftlab}: which parameter-efficient fine-tuning method suits your model, data and hardware},
  author = {{The peftlab engineers}}, year = {2026}
}"""

_STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)


class Component:
    """Base of every component.

    Class variables:
        name: the word used in study files; unique within its kind.
        citation: BibTeX entry of the source; empty for what has none.
        methods: what the field calls this component with some of its options, or beside others: name -> keys of an arm. Who
            writes such a name for a component is told them, and not the component whose name is spelt most like it.
        summary: taken from the first line of the docstring.
    """

    name: ClassVar[str]
    citation: ClassVar[str] = ""
    methods: ClassVar[Mapping[str, str]] = {}

    def options(self) -> dict[str, Any]:
        """Options with their defaults filled in, JSON-ready (what goes into the run's hash)."""
        if not dataclasses.is_dataclass(self):
            return {}
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.init}

    def spec(self, key: str = "name") -> dict[str, Any]:
        """The full, explicit form of this component in a study file."""
        return {key: self.name, **self.options()}

    @classmethod
    def summary(cls) -> str:
        return (inspect.getdoc(cls) or "").split("\n", 1)[0]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return value


@cache
def components(kind: str) -> dict[str, type[Component]]:
    """All components of a kind, by name. Imports every file of the kind's package (so it may import torch)."""
    package = importlib.import_module(PACKAGES[kind])
    found: dict[str, type[Component]] = {}
    for info in pkgutil.iter_modules(package.__path__):
        if info.ispkg or info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for cls in vars(module).values():
            if not (isinstance(cls, type) and issubclass(cls, Component) and cls.__module__ == module.__name__):
                continue
            if inspect.isabstract(cls) or "name" not in vars(cls):
                continue
            if cls.name in found:
                raise PeftlabError(f"two {kind}s are called {cls.name!r}", where=module.__name__)
            found[cls.name] = cls
    return dict(sorted(found.items()))


def component(kind: str, name: str, *, where: str = "") -> type[Component]:
    """The class of one component.

    Raises:
        OptionError: no such component; says how the method of that name is written, or names the nearest component.
    """
    known = components(kind)
    if name not in known:
        raise OptionError(f"unknown {kind} {name!r}", where=where or kind, remedy=_method(kind, name) or nearest(name, known))
    return known[name]


def _method(kind: str, name: str) -> str:
    """How an arm says what the field calls ``name``; capitals, hyphens and blanks do not matter."""
    wanted = _letters(name)
    for cls in (cls for each in OF_ARMS if kind in OF_ARMS for cls in components(each).values()):
        for method, keys in cls.methods.items():
            if wanted == _letters(method):
                return f"{method} is written {{{keys}}}"
    return ""


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def create(kind: str, spec: str | Mapping[str, Any], *, key: str = "name", where: str = "") -> Any:
    """A configured component from its form in a study file: ``lora`` or ``{name: lora, rank: 8}``.

    Raises:
        OptionError: unknown component, unknown option (with the nearest known one), value of the wrong type or range.
    """
    where = where or kind
    options = {} if isinstance(spec, str) else {k: v for k, v in spec.items() if k != key}
    name = spec if isinstance(spec, str) else spec.get(key)
    if not isinstance(name, str):
        article = "an" if kind[0] in "aeiou" else "a"
        remedy = f"write {{{key}: NAME, option: value}}; NAME is one of {', '.join(components(kind))}"
        raise OptionError(f"{article} {kind} needs a {key!r}", where=where, remedy=remedy)
    cls = component(kind, name, where=where)
    fields = {f.name for f in dataclasses.fields(cls) if f.init} if dataclasses.is_dataclass(cls) else set()
    for option in options:
        if option not in fields:
            remedy = _cut(options, option) or (nearest(str(option), fields) if fields else f"{name!r} takes no options")
            raise OptionError(f"{kind} {name!r} has no option {option!r}", where=f"{where}.{option}", remedy=remedy)
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        if field.init and field.name not in options and field.default is field.default_factory is dataclasses.MISSING:
            raise OptionError(f"{kind} {name!r} needs {field.name!r}", where=where, remedy=f"add `{field.name}:`")
    values = {option: _checked(cls, option, _tuples(value), where) for option, value in options.items()}
    try:
        return cls(**values)
    except OptionError as error:
        error.where = f"{where}.{error.where}" if error.where else where
        raise


def _cut(options: Mapping[str, Any], option: str) -> str:
    """What to write where an "option" is the end of the text before it, ``{targets: q,v}``; empty where it is none."""
    names = [*options]
    before = names[names.index(option) - 1] if option in names[1:] else ""
    if options[option] is not None or not isinstance(options.get(before), str):
        return ""
    return f"between braces a comma ends a value; write {before}: '{options[before]},{option}'"


def _checked(cls: type[Component], option: str, value: Any, where: str) -> Any:
    """The value, if it is strictly of the option's declared type."""
    hint = _hints(cls)[option]
    try:
        return TypeAdapter(hint, config=_STRICT).validate_python(value)
    except ValidationError as error:
        what, remedy = mistakes.of_value(_of(error, value))
        raise OptionError(what, where=f"{where}.{option}", remedy=f"{remedy}; see `peftlab list {cls.name}`") from error


def _of(error: ValidationError, value: Any) -> Iterator[dict[str, Any]]:
    """What pydantic says of the whole value where it says that, else of a part of it."""
    found = error.errors()
    whole = [entry for entry in found if entry["input"] is value]
    return ({**entry} for entry in whole or found)


@cache
def _hints(cls: type[Component]) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _tuples(value: Any) -> Any:
    """YAML sequences as tuples, so that frozen components are hashable."""
    if isinstance(value, list | tuple):
        return tuple(_tuples(v) for v in value)
    if isinstance(value, Mapping):
        return {k: _tuples(v) for k, v in value.items()}
    return value

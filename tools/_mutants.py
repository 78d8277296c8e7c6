"""The mutants of a source file: small changes that a test should notice, by the operators of cosmic-ray and two of our own.

A *place* is where something can be changed (an operator, a number, a condition, a statement), a *mutant* one way to change it.
Left out are places saying nothing about behaviour: docstrings, annotations, text and what stands in it (of errors, too),
`__all__`, `name` and `citation`, imports, decorators. Left out,
too, are changes that cannot run (shifts, set operators on numbers, `is`
between numbers): they die of a TypeError, and would only flatter the score. Wants cosmic-ray (`tools/mutation.py` installs it).
"""

from __future__ import annotations

import ast
import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import parso
from cosmic_ray.ast import ast_nodes
from cosmic_ray.mutating import MutationVisitor
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.provider import OperatorProvider

ARITHMETIC = ("Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow")
BITS = ("BitOr", "BitAnd", "BitXor")
ORDER = ("Eq", "NotEq", "Lt", "LtE", "Gt", "GtE")
BINARY_PARENTS = ("arith_expr", "term", "power", "expr", "xor_expr", "and_expr")
LEFT_OUT = ("VariableReplacer", "VariableInserter", "RemoveDecorator")
SILENT_NAMES = ("__all__", "name", "citation", "title", "remedy")
Span = tuple[tuple[int, int], tuple[int, int]]


class RemoveStatement(Operator):
    """A call whose result nobody takes, or an assignment to an attribute or an item, is left out."""

    def mutation_positions(self, node: Any) -> Iterator[Span]:
        if node.type != "expr_stmt" and node.type != "atom_expr" and node.type != "power":
            return
        if node.parent is None or node.parent.type != "simple_stmt":
            return
        if node.type == "expr_stmt" and node.children[0].type not in ("atom_expr", "power"):
            return  # without a plain name the rest would only be a NameError
        if node.get_code(include_prefix=False).count("\n") == 0:
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        return parso.python.tree.Keyword("pass", node.start_pos, node.get_first_leaf().prefix)

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class TurnAugmented(Operator):
    """``+=`` becomes ``-=``, ``*=`` becomes ``/=``, and back."""

    turned = {"+=": "-=", "-=": "+=", "*=": "/=", "/=": "*=", "//=": "*=", "|=": "&=", "&=": "|="}

    def mutation_positions(self, node: Any) -> Iterator[Span]:
        if node.type == "operator" and node.value in self.turned:
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.value = self.turned[node.value]
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


def operators() -> dict[str, Operator]:
    """Name -> operator, of those that change behaviour and can run."""
    provided = OperatorProvider()
    found: dict[str, Operator] = {}
    for name in provided:
        parts = name.split("_")
        family = parts[0]
        if name in LEFT_OUT:
            continue
        if family == "ReplaceBinaryOperator" and not any(set(parts[1:]) <= set(group) for group in (ARITHMETIC, BITS)):
            continue
        if family == "ReplaceComparisonOperator" and not any(set(parts[1:]) <= set(g) for g in (ORDER, ("Is", "IsNot"))):
            continue
        if family == "ReplaceUnaryOperator" and "Delete" not in parts:
            continue
        found[name] = provided[name]()
    return found | {"RemoveStatement": RemoveStatement(), "TurnAugmented": TurnAugmented()}


@dataclasses.dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one file. ``line`` counts from 1."""

    file: str
    operator: str
    occurrence: int
    line: int
    column: int

    @property
    def place(self) -> tuple[str, int, int, str]:
        return self.file, self.line, self.column, self.operator.split("_")[0]

    def apply(self, source: str) -> str:
        """The changed source, with as many lines as before."""
        changed = MutationVisitor.mutate_code(source, operators()[self.operator], self.occurrence)
        if changed is None:
            raise ValueError(f"{self} is not to be found in the source")
        return changed


def silent_spans(tree: ast.Module) -> list[Span]:
    """(line, column) from and to of what says nothing about behaviour."""
    found: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom):
            found.append(node)
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found += [*node.exc.args, *(keyword.value for keyword in node.exc.keywords)]
        elif isinstance(node, ast.AnnAssign | ast.arg) and node.annotation:
            found.append(node.annotation)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found += [*([node.returns] if node.returns else []), *node.decorator_list]
        if isinstance(node, ast.ClassDef):
            found += node.decorator_list
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            found.append(node)
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        silent = any(isinstance(target, ast.Name) and target.id in SILENT_NAMES for target in targets)
        if silent or (isinstance(node, ast.Assign) and aliases(node.value)):
            found.append(node)
    return [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in found]  # type: ignore[attr-defined]


def aliases(value: ast.expr) -> bool:
    """Whether an assigned value is a type (``Numbers = int | float``, ``Table = dict[str, int]``)."""
    types = {"int", "float", "str", "bool", "bytes", "None", "dict", "list", "tuple", "set", "Callable", "Sequence", "Mapping"}
    return isinstance(value, ast.BinOp | ast.Subscript) and ast.unparse(value).split("[")[0].split(" |")[0] in types


def paths(tree: ast.Module) -> list[Span]:
    """Slashes that join paths, and plus signs that join text: what else stands there cannot run."""
    joined = any(isinstance(node, ast.ImportFrom) and node.module == "pathlib" for node in ast.walk(tree))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp):
            sides = (node.left, node.right)
            numbers = any(isinstance(side, ast.Constant) and isinstance(side.value, int | float) for side in sides)
            text = any(isinstance(s, ast.JoinedStr) or (isinstance(s, ast.Constant) and isinstance(s.value, str)) for s in sides)
            if text or (joined and isinstance(node.op, ast.Div) and not numbers):
                left, right = sides
                found.append(((left.end_lineno, left.end_col_offset), (right.lineno, right.col_offset)))
    return found  # type: ignore[return-value]


def mutants_of(file: str, source: str) -> list[Mutant]:
    """All mutants of a file that compile, in the order of its lines."""
    silent = silent_spans(ast.parse(source)) + paths(ast.parse(source))
    nodes = list(ast_nodes(parso.parse(source)))
    found = []
    for name, operator in operators().items():
        occurrence = -1
        for node in nodes:
            for start, end in operator.mutation_positions(node):
                occurrence += 1
                if name.startswith("ReplaceBinary") and node.parent.type not in BINARY_PARENTS:
                    continue
                if any(a <= start and end <= b for a, b in silent):
                    continue
                found.append(Mutant(file, name, occurrence, *start))
    return sorted(found, key=lambda mutant: (mutant.line, mutant.column, mutant.operator, mutant.occurrence))


def runs(mutant: Mutant, source: str) -> bool:
    """Whether the change compiles, keeps the number of lines, and changes what is compiled."""
    changed = mutant.apply(source)
    try:
        tree = ast.parse(changed)
    except SyntaxError:
        return False
    return changed.count("\n") == source.count("\n") and ast.dump(tree) != ast.dump(ast.parse(source))


def sample(sources: dict[str, str], count: int | None, seed: int) -> tuple[list[Mutant], int]:
    """``count`` mutants spread over the files by their number of places, one at a place; and how many places there are.

    Without a ``count`` one at every place: where what was drawn does not run, another is drawn until none is left.
    """
    random_numbers = random.Random(seed)
    places: dict[str, list[list[Mutant]]] = {}
    for file, source in sorted(sources.items()):
        grouped: dict[tuple, list[Mutant]] = {}
        for mutant in mutants_of(file, source):
            grouped.setdefault(mutant.place, []).append(mutant)
        places[file] = list(grouped.values())
        random_numbers.shuffle(places[file])
    total = sum(map(len, places.values()))
    queue = sorted(((rank + 0.5) / len(found), file, rank) for file, found in places.items() for rank in range(len(found)))
    chosen: list[Mutant] = []
    for _, file, rank in queue:
        if len(chosen) == count:
            break
        here = places[file][rank]
        drawn = [random_numbers.choice(here)] if count is not None else random_numbers.sample(here, len(here))
        chosen += [mutant for mutant in drawn if runs(mutant, sources[file])][:1]
    return chosen, total


def found_again(entry: dict[str, Any], root: Path) -> list[Mutant]:
    """The mutant of an earlier report, wherever its line is now; none where the line is gone.

    Of lines that read alike (``continue``) the nearest to where it was.
    """
    source = (root / entry["file"]).read_text(encoding="utf-8")
    lines = source.splitlines()
    alike = [
        mutant
        for mutant in mutants_of(entry["file"], source)
        if mutant.operator == entry["operator"]
        and any(line.strip() == entry["before"] for line in lines[mutant.line - 1 : mutant.line + 4])
        and changed_lines(mutant, root) == (entry["before"], entry["after"])
    ]
    return sorted(alike, key=lambda mutant: abs(mutant.line - entry["line"]))[:1]


def changed_lines(mutant: Mutant, root: Path) -> tuple[str, str]:
    """The line before and after, without indentation."""
    source = (root / mutant.file).read_text(encoding="utf-8")
    before, after = source.splitlines(), mutant.apply(source).splitlines()
    at = next(index for index, (a, b) in enumerate(zip(before, after, strict=True)) if a != b)
    return before[at].strip(), after[at].strip()

"""Hash of the code that can change what a rule makes, so that Snakemake runs it again with it.

What counts are the definitions (functions, classes, constants) that a script uses, directly or
through others, as Python sees them when it computes. Comments, docstrings, type hints, layout and
whatever else stands in the same files do not count.

A registry is a constant that names code by texts like "models.methods.gan:Pix2Pix": what it names
counts, all of it or the entries that are chosen, and not what else stands there.
"""

import ast
import hashlib
import re
from collections import deque
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "workflow" / "scripts"
PACKAGES = ("pipeline", "models")

WITHOUT_EFFECT = frozenset(
    {
        "pipeline.storage.errors",  # says what is wrong
        "pipeline.storage.files",  # writes files whole or not at all
        "pipeline.storage.system_errors",
        "pipeline.storage.versions",  # says with what it was made
        "pipeline.jobs.job",  # logs
        "pipeline.jobs.launch",  # decides who computes, not what
        "pipeline.tomography.agreement",  # refuses, or doubts
        "models.channels",  # those of a model are among its rules' parameters
        "models.checkpoints",  # gives back what was written, or refuses
        "models.loader",  # reads ahead what was asked for, in the order that was asked for
        "models.training.logger",  # reports
        "models.training.record",
        "models.training.resume",  # goes on where the run stopped
        "models.training.run_folder",
    }
)
"""Modules that cannot change a result, only whether, when and with which words there is one."""

WHOLE = "*"
"""In place of a name: all that a module defines."""

ON_IMPORT = ""
"""In place of a name: what a module does when it is imported, beside defining names."""


class Definition(NamedTuple):
    """A name in a module."""

    module: str
    name: str


REFERENCE = re.compile(rf"({'|'.join(PACKAGES)})(\.\w+)+:\w+", re.ASCII)
"""An entry of a registry: a module and a name in it."""


@cache
def code_hash(script: str, *chosen: str, without: str = "") -> str:
    """Hash (16 hex digits) a script and all that it uses of this project.

    Parameters
    ----------
    script : str
        Of ``workflow/scripts``, as "train.py".
    *chosen : str
        Entries of registries that it uses, as "models.methods.gan:Pix2Pix"; if none, all.
    without : str
        Module of which the rule's parameters say all that counts.
    """
    found: dict[Definition, str] = {}
    waiting = [Definition(script, WHOLE), *map(_referred, chosen)]
    while waiting:
        definition = waiting.pop()
        if definition in found or definition.module == without:
            continue
        found[definition], used, named = _module(definition.module).look_up(definition.name)
        waiting += used
        if not chosen:
            waiting += map(_referred, named)
    text = "\n".join(f"{place.module}:{place.name} {found[place]}" for place in sorted(found))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _referred(entry: str) -> Definition:
    module, _, name = entry.partition(":")
    return Definition(module, name)


# --- modules -----------------------------------------------------------------------------------


def _file(module: str) -> Path | None:
    """Find the file of a script or of a module of this project; None for all other modules."""
    if module.endswith(".py"):
        return SCRIPTS / module
    if module.split(".")[0] not in PACKAGES:
        return None
    place = ROOT.joinpath(*module.split("."))
    candidates = (place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


@cache
def _module(name: str) -> "_Module":
    path = _file(name)
    if path is None:
        raise ValueError(f"{name} is no module of this project")
    return _Module(name, ast.parse(path.read_text(encoding="utf-8")))


class _Module:
    """The statements of a module by the names that they define."""

    def __init__(self, name: str, tree: ast.Module):
        self.name = name
        # Also those inside functions, which import what is slow to import.
        self._imports = dict(_imports(tree))
        self._statements: dict[str, list[ast.stmt]] = {ON_IMPORT: []}
        self._known: dict[str, tuple[str, list[Definition], list[str]]] = {}
        for statement in tree.body:
            if isinstance(statement, ast.Import | ast.ImportFrom) or _has_no_effect(statement):
                continue
            for target in _bound([statement]) or {ON_IMPORT}:
                self._statements.setdefault(target, []).append(statement)

    def look_up(self, name: str) -> tuple[str, list[Definition], list[str]]:
        """Give a name's text, the definitions that it uses, and a registry's entries."""
        if name not in self._known:  # most are used by many rules
            self._known[name] = self._read(name)
        return self._known[name]

    def _read(self, name: str) -> tuple[str, list[Definition], list[str]]:
        if self.name in WITHOUT_EFFECT:
            return "", [], []
        if name in self._imports and name not in self._statements:
            return *self._elsewhere(name, None), []
        if name in self._statements:
            statements = self._statements[name]
        else:  # all, or a name that is made in a way which cannot be seen here
            statements = [found for several in self._statements.values() for found in several]
        texts: list[str] = []
        used, named = [Definition(self.name, ON_IMPORT)], []
        for statement in statements:
            if entries := sorted(_references(statement)):
                named += entries
                continue
            texts.append(_text(statement))
            for base, attribute in sorted(set(_names(statement)), key=str):
                if base in self._statements:
                    used.append(Definition(self.name, base))
                elif base in self._imports:
                    text, definitions = self._elsewhere(base, attribute)
                    texts.append(text)
                    used += definitions
        return " ".join(texts), used, named

    def _elsewhere(self, name: str, attribute: str | None) -> tuple[str, list[Definition]]:
        """The same for a name that is imported, or an attribute of it."""
        module, symbol = self._imports[name]
        inner = f"{module}.{symbol}" if symbol else module
        if _file(inner):
            return "", [Definition(inner, attribute or WHOLE)]
        if symbol and _file(module):
            return "", [Definition(module, symbol)]
        return f"{name}={inner}", []


def _references(statement: ast.stmt) -> Iterator[str]:
    """Give the entries of a registry; nothing of any other statement."""
    if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(statement.value, ast.Dict):
        for node in statement.value.values:
            if isinstance(node, ast.Constant) and REFERENCE.fullmatch(str(node.value)):
                yield str(node.value)


BODIES = ("body", "handlers", "orelse", "finalbody", "cases")
"""Fields of syntax nodes that hold statements, or what holds them."""


def _imports(tree: ast.Module) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """Give each imported name, its module and what it is there (None: the module itself)."""
    waiting: deque[ast.AST] = deque([tree])
    while waiting:
        node = waiting.popleft()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name.split(".")[0], (alias.name, None)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield alias.asname or alias.name, (node.module, alias.name)
        else:  # no statement is within an expression
            waiting.extend(part for body in BODIES for part in getattr(node, body, ()))


# --- names -------------------------------------------------------------------------------------

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
HINTS = ("annotation", "returns", "type_params", "type_comment")
"""Fields of syntax nodes that hold type hints."""
IDLE = frozenset({*HINTS, "ctx", "kind"})
"""These, and fields that say nothing which the nodes around them do not."""


def _bound(body: list[Any]) -> set[str]:
    """Names that some statements bind in their own scope."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            found.add(node.name)
        if not isinstance(node, (*FUNCTIONS, *COMPREHENSIONS, ast.ClassDef)):
            waiting.extend(ast.iter_child_nodes(node))
    return found


def _names(node: ast.AST, local: frozenset[str] = frozenset()) -> Iterator[tuple[str, str | None]]:
    """Names from outside that a node uses, and of which of their attributes it is, if of one."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        if node.value.id not in local:
            yield node.value.id, node.attr
    elif isinstance(node, ast.Name):
        if node.id not in local:
            yield node.id, None
    elif isinstance(node, ast.Raise):
        pass
    elif isinstance(node, FUNCTIONS):
        outer = [*getattr(node, "decorator_list", []), *node.args.defaults, *node.args.kw_defaults]
        body = node.body if isinstance(node.body, list) else [node.body]
        arguments = {n.arg for n in ast.walk(node.args) if isinstance(n, ast.arg)}
        for part in filter(None, outer):
            yield from _names(part, local)
        local = local | arguments | _bound(body)
        for part in body:
            yield from _names(part, local)
    elif not _has_no_effect(node):
        if isinstance(node, COMPREHENSIONS):
            local |= _bound([clause.target for clause in node.generators])
        for name, value in ast.iter_fields(node):
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.AST) and name not in HINTS:
                    yield from _names(part, local)


# --- text --------------------------------------------------------------------------------------


def _has_no_effect(node: ast.AST) -> bool:
    """Whether a statement is a text, a declaration, or only there for type checkers."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return False


def _text(node: Any, in_class: bool = False) -> str:
    """Write a syntax tree without hints and idle texts, alike in all Python versions."""
    if isinstance(node, list):
        kept = (part for part in node if not (isinstance(part, ast.AST) and _has_no_effect(part)))
        return f"[{','.join(_text(part, in_class) for part in kept)}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.AnnAssign):
        return _annotated(node, in_class)
    if isinstance(node, ast.Raise):
        return "Raise()"  # with which words, changes no result
    is_class = isinstance(node, ast.ClassDef)
    fields = []
    for name in node._fields:
        value = None if name in IDLE else getattr(node, name, None)
        if value is not None and value != []:
            fields.append(f"{name}={_text(value, is_class)}")
    return f"{type(node).__name__}({','.join(fields)})"


def _annotated(node: ast.AnnAssign, in_class: bool) -> str:
    """Write ``name: hint = value``, in a class perhaps a field, whose place matters."""
    field = in_class and "ClassVar" not in ast.dump(node.annotation)
    if node.value is None:
        return f"Field({_text(node.target)})" if field else ""
    if field:
        return f"Field({_text(node.target)},{_text(node.value)})"
    return f"Assign(targets=[{_text(node.target)}],value={_text(node.value)})"

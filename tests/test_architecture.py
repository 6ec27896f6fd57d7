"""Who may import whom, read from the source with ``ast``; nothing of the package is imported here.

Each rule is a function from one module to the sentences it breaks, so that the last tests can show that it notices.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "extensions_lib"

ENGINE = "lycopatch.engine"
TABLES = tuple(f"{ENGINE}.{name}" for name in ("algorithms", "dialects", "families"))
FOUNDATIONS = tuple(f"{ENGINE}.{name}" for name in ("types", "wording", "errors", "report", "linalg"))
HOST_API = "lycopatch.hosts.a1111.host_api"
ENGINE_PACKAGES = sys.stdlib_module_names | {"torch", "safetensors"}

PURE_CALLS = frozenset(
    "bool bytes dataclass dict enumerate field float frozenset getLogger int len list map max min namedtuple range "
    "set slice sorted str sum tuple zip "
    "compile finfo iinfo join fromkeys keys items values split union casefold lower upper replace format maketrans "
    "property staticmethod classmethod lru_cache cache cached_property wraps contextmanager runtime_checkable overload "
    "total_ordering singledispatch attrgetter itemgetter partial auto unique dtype device "
    "abstractmethod final override getfilesystemencoding setter register cast".split()
)
"""What a module may call while it is imported: it computes a constant and touches nothing else."""


@dataclass(frozen=True)
class Module:
    """One source file: its dotted ``name`` and its syntax tree."""

    name: str
    tree: ast.Module

    @property
    def is_main(self) -> bool:
        return self.name.endswith("__main__")


def parse(name: str, source: str) -> Module:
    return Module(name, ast.parse(source))


def all_modules() -> list[Module]:
    found: list[Module] = []
    for path in sorted((SOURCE / "lycopatch").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(parse(name, path.read_text(encoding="utf-8")))
    return found


def within(name: str, *packages: str) -> bool:
    """True when ``name`` is one of ``packages`` or lies inside one."""
    return any(name == package or name.startswith(package + ".") for package in packages)


def imported(module: Module) -> Iterator[str]:
    """The dotted name of everything the module imports, at the top, in a function or by ``import_module``."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            base = node.module or ""
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def called(node: ast.Call) -> str:
    """The last name of what is called: ``compile`` for ``re.compile(…)``, ``dict`` for ``dict[str, int]()``."""
    function = node.func.value if isinstance(node.func, ast.Subscript) else node.func
    if isinstance(function, ast.Call):
        return called(function)
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def table_of(name: str) -> str | None:
    return next((table for table in TABLES if within(name, table)), None)


# --- the rules -------------------------------------------------------------------------------------------------------


def foreign_imports_of_the_engine(module: Module) -> Iterator[str]:
    """The engine knows the standard library, torch, safetensors and itself."""
    if not within(module.name, ENGINE):
        return
    for name in imported(module):
        ours = within(name, ENGINE) or name == "lycopatch"
        if not ours and name.split(".")[0] not in ENGINE_PACKAGES:
            yield f"imports {name}, which the engine must not know"


def imports_between_tables(module: Module) -> Iterator[str]:
    """Algorithms, dialects and families never import each other."""
    own = table_of(module.name)
    for name in imported(module):
        other = table_of(name)
        if own and other and own != other:
            yield f"imports {name}: the three tables do not know each other"


def upward_imports_of_the_foundations(module: Module) -> Iterator[str]:
    """types, errors, report and linalg import no other part of the engine."""
    if not within(module.name, *FOUNDATIONS):
        return
    for name in imported(module):
        if within(name, ENGINE) and name != ENGINE and not within(name, *FOUNDATIONS):
            yield f"imports {name}: everything stands on this module, so it stands on nothing"


def tables_that_look_up(module: Module) -> Iterator[str]:
    """A table states facts; it imports nothing of the engine but the foundations and itself."""
    own = table_of(module.name)
    for name in imported(module) if own else ():
        if within(name, ENGINE) and name != ENGINE and not within(name, own or "", *TABLES, *FOUNDATIONS):
            yield f"imports {name}: a table is used by the engine and does not use it"


def strangers_at_the_webui(module: Module) -> Iterator[str]:
    """``modules.*`` is the WebUI; one file speaks with it."""
    for name in imported(module):
        if within(name, "modules") and module.name != HOST_API:
            yield f"imports {name}; only hosts/a1111/host_api.py may"


def relative_imports(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.level > 0:
            yield f"line {node.lineno}: a relative import; write lycopatch.… in full"


def missing_docstring(module: Module) -> Iterator[str]:
    """An empty ``__init__`` has nothing to explain; every other module says what it is for."""
    if module.tree.body and ast.get_docstring(module.tree) is None:
        yield "has no docstring"


def prints_in_the_engine(module: Module) -> Iterator[str]:
    if not within(module.name, ENGINE, "lycopatch.hosts", "lycopatch.ui"):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield f"line {node.lineno}: print(); use logging"


def global_state(module: Module) -> Iterator[str]:
    """No ``global``, no empty container waiting at module level to be filled."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Global):
            yield f"line {node.lineno}: global {', '.join(node.names)}"
    for node in module.tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and is_empty_container(node.value):
            yield f"line {node.lineno}: an empty container at module level is state"


def is_empty_container(value: ast.expr | None) -> bool:
    match value:
        case ast.List(elts=[]) | ast.Dict(keys=[]):
            return True
        case ast.Call(args=[], keywords=[]):
            return called(value) in ("dict", "list", "set", "OrderedDict", "WeakKeyDictionary", "WeakValueDictionary")
        case ast.Call():
            return called(value) in ("defaultdict", "deque")
        case _:
            return False


def work_at_import(module: Module) -> Iterator[str]:
    """Importing defines; it opens, reads, computes and registers nothing."""
    if module.is_main:
        return
    own = {node.name for node in ast.walk(module.tree) if isinstance(node, ast.FunctionDef)}
    ours = {
        alias.asname or alias.name
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lycopatch")
        for alias in node.names
    }
    for statement in module.tree.body:
        yield from _work(statement, own | ours)


def _work(statement: ast.stmt, known: set[str]) -> Iterator[str]:
    """What ``statement`` does when its module is imported, beyond defining names."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            for decorator in statement.decorator_list:
                yield from _calls(decorator, known)
        case ast.ClassDef():
            for part in [*statement.decorator_list, *statement.bases]:
                yield from _calls(part, known)
            for inner in statement.body:
                yield from _work(inner, known)
        case ast.Expr(value=ast.Constant()) | ast.Import() | ast.ImportFrom() | ast.Pass():
            pass
        case ast.Assign() | ast.AnnAssign() if statement.value is not None:
            yield from _calls(statement.value, known)
        case ast.AnnAssign():
            pass
        case ast.If() | ast.Try():
            # A choice between imports (TYPE_CHECKING, an optional package) is a definition.
            handlers = statement.handlers if isinstance(statement, ast.Try) else []
            bodies = [statement.body, statement.orelse, *(handler.body for handler in handlers)]
            for inner in (node for body in bodies for node in body):
                yield from _work(inner, known)
        case _:
            yield f"line {statement.lineno}: runs while the module is imported: {ast.unparse(statement)[:60]}"


def _calls(expression: ast.expr, known: set[str]) -> Iterator[str]:
    if isinstance(expression, ast.Lambda):
        return
    if isinstance(expression, ast.Call):
        name = called(expression)
        if name not in PURE_CALLS and name not in known and not name.lstrip("_")[:1].isupper():
            yield f"line {expression.lineno}: calls {ast.unparse(expression.func)}() while the module is imported"
    for child in ast.iter_child_nodes(expression):
        if isinstance(child, ast.expr):
            yield from _calls(child, known)
        elif isinstance(child, ast.keyword):
            yield from _calls(child.value, known)
        elif isinstance(child, ast.comprehension):
            yield from _calls(child.iter, known)


RULES: tuple[Callable[[Module], Iterator[str]], ...] = (
    foreign_imports_of_the_engine,
    imports_between_tables,
    upward_imports_of_the_foundations,
    tables_that_look_up,
    strangers_at_the_webui,
    relative_imports,
    missing_docstring,
    prints_in_the_engine,
    global_state,
    work_at_import,
)

# --- the tests -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    found = all_modules()
    assert len(found) > 20, f"the package is not where it should be: {SOURCE}"
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_module_breaks_the_rule(rule: Callable[[Module], Iterator[str]], modules: list[Module]) -> None:
    broken = [f"{module.name} {sentence}" for module in modules for sentence in rule(module)]
    assert not broken, "\n".join(broken)


def test_the_modules_of_the_engine_do_not_import_in_a_circle(modules: list[Module]) -> None:
    names = {module.name for module in modules if within(module.name, ENGINE)}
    edges = {module.name: needed(module, names) for module in modules if module.name in names}
    assert circle(edges) is None, " → ".join(circle(edges) or ())


def needed(module: Module, names: set[str]) -> set[str]:
    """Which of ``names`` the module needs; ``from package import module`` needs the module, not its package."""
    found: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = (f"{node.module}.{alias.name}" for alias in node.names)
            found.update(name if name in names else node.module for name in whole)
    return (found & names) - {module.name}


def circle(edges: dict[str, set[str]]) -> list[str] | None:
    """One circle of ``edges``, first name repeated at the end; None when there is none."""
    done: set[str] = set()

    def follow(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        for other in sorted(edges.get(name, ())):
            found = follow(other, [*path, name])
            if found:
                return found
        done.add(name)
        return None

    return next((found for name in sorted(edges) if (found := follow(name, []))), None)


@pytest.mark.parametrize("table", TABLES)
def test_a_forgotten_table_entry_is_named(table: str, modules: list[Module]) -> None:
    rows = listed(next(module for module in modules if module.name == table))
    defined = [
        (module.name, entry) for module in modules if table_of(module.name) == table for entry in entries(module)
    ]
    forgotten = [
        f"{name} defines {entry}, but {table}/__init__.py does not list it"
        for name, entry in defined
        if not {entry, f"{name.rpartition('.')[2]}.{entry}"} & rows
    ]
    assert defined, f"no entry was found in {table}: its form has changed, and this test has to follow"
    assert not forgotten, "\n".join(forgotten)


def entries(module: Module) -> list[str]:
    """The table entries a module defines: classes with a SIGNATURE, constants made by ``Dialect(…)``/``Family(…)``."""
    found: list[str] = []
    for node in module.tree.body:
        if isinstance(node, ast.ClassDef) and any("SIGNATURE" in targets(inner) for inner in node.body):
            found.append(node.name)
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if isinstance(value, ast.Call) and called(value) in ("Dialect", "Family"):
            found.extend(targets(node))
    return found


def targets(node: ast.stmt) -> list[str]:
    """The names a statement gives a value to (a bare annotation gives none)."""
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def listed(table: Module) -> set[str]:
    """The rows of the tuples in a table's ``__init__``, as they are written: ``LoRA``, ``kohya.DIALECT``."""
    values = [node.value for node in table.tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    return {ast.unparse(row) for value in values if isinstance(value, ast.Tuple) for row in value.elts}


PLANTED = [
    (foreign_imports_of_the_engine, "lycopatch.engine.session", "import numpy"),
    (foreign_imports_of_the_engine, "lycopatch.engine.session", "def f():\n    from lycopatch.hosts.memory import x"),
    (imports_between_tables, "lycopatch.engine.dialects.kohya", "from lycopatch.engine.algorithms.lora import LoRA"),
    (imports_between_tables, "lycopatch.engine.families.sd1", "from lycopatch.engine import dialects"),
    (upward_imports_of_the_foundations, "lycopatch.engine.linalg", "import lycopatch.engine.patching"),
    (tables_that_look_up, "lycopatch.engine.families.sd1", "from lycopatch.engine.session import activate"),
    (strangers_at_the_webui, "lycopatch.hosts.a1111.entry", "from modules import shared"),
    (strangers_at_the_webui, "lycopatch.ui.tab", "import importlib\nimportlib.import_module('modules.shared')"),
    (relative_imports, "lycopatch.engine.session", "from .planning import plan"),
    (missing_docstring, "lycopatch.engine.session", "x = 1"),
    (prints_in_the_engine, "lycopatch.engine.session", "def f():\n    print(1)"),
    (global_state, "lycopatch.engine.session", "def f():\n    global x\n    x = 1"),
    (global_state, "lycopatch.engine.session", "CACHE: dict[str, int] = {}"),
    (global_state, "lycopatch.engine.session", "CACHE = []"),
    (global_state, "lycopatch.engine.session", "CACHE = set()"),
    (work_at_import, "lycopatch.engine.session", "register()"),
    (work_at_import, "lycopatch.engine.session", "EYE = torch.eye(3)"),
    (work_at_import, "lycopatch.engine.session", "class A:\n    x = open('file')"),
    (work_at_import, "lycopatch.engine.session", "for i in range(3):\n    pass"),
]


@pytest.mark.parametrize(("rule", "name", "source"), PLANTED)
def test_a_planted_breach_is_noticed(rule: Callable[[Module], Iterator[str]], name: str, source: str) -> None:
    assert list(rule(parse(name, source)))


def test_a_planted_circle_is_noticed() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_a_planted_table_entry_is_found() -> None:
    source = (
        "class Base:\n    SIGNATURE: object\nclass A(Base):\n    SIGNATURE = 1\nSD1: Family = Family('sd1')\nX = f()"
    )
    assert entries(parse("lycopatch.engine.families.x", source)) == ["A", "SD1"]
    assert listed(parse("lycopatch.engine.families", "FAMILIES: tuple[Family, ...] = (A, sd1.SD1)")) == {"A", "sd1.SD1"}

"""The shape of the repository: what the standard library's `selectors` demands, and which way imports run."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "litselect"


# ---------------------------------------------------------------------- `selectors` is a module of the standard library


def importable(folder: Path) -> Iterator[str]:
    """Names that a script in `folder` could import from it."""
    for path in folder.iterdir():
        if path.suffix == ".py":
            yield path.stem
        elif path.is_dir() and (path / "__init__.py").exists():
            yield path.name


def shadows(root: Path) -> list[str]:
    """Ways in which the repository at `root` hides a module of the standard library, or could come to."""
    package, tests = root / "src" / "litselect", root / "tests"
    stdlib = sys.stdlib_module_names
    found = [
        f"{folder.name}/{name}" for folder in (root, root / "src") for name in importable(folder) if name in stdlib
    ]
    # A script's own folder comes first on its path, and this folder holds `selectors`.
    found += [str(path.relative_to(root)) for path in package.glob("*.py") if path.name != "__init__.py"]
    found += [str(path.relative_to(root)) for path in tests.rglob("__init__.py")]
    if not (package / "__init__.py").exists():
        found.append("src/litselect/__init__.py is missing")  # then doctest takes our `selectors` for a top-level one
    return sorted(found)


def test_nothing_shadows_the_standard_library() -> None:
    assert shadows(ROOT) == []


def test_the_standard_library_finds_its_selectors_from_the_root() -> None:
    code = "import selectors, subprocess, asyncio; selectors.DefaultSelector; subprocess.Popen"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("src/litselect/train.py", ["src/litselect/train.py"]),
        ("tests/selectors/__init__.py", ["tests/selectors/__init__.py"]),
        ("selectors/__init__.py", ["ROOT/selectors"]),
        ("src/selectors/__init__.py", ["src/selectors"]),
        ("select.py", ["ROOT/select"]),
        ("selectors/README.md", []),
    ],
)
def test_the_guard_sees_the_trap(tmp_path: Path, path: str, found: list[str]) -> None:
    for name in ("src/litselect/__init__.py", "tests/test_x.py", path):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert shadows(tmp_path) == [name.replace("ROOT", tmp_path.name) for name in found]


def test_the_trap_is_real(tmp_path: Path) -> None:
    """A script beside a folder named `selectors` breaks the standard library."""
    (tmp_path / "selectors").mkdir()
    (tmp_path / "selectors" / "__init__.py").touch()
    (tmp_path / "train.py").write_text("import subprocess; subprocess.Popen")
    run = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True, check=False, timeout=60)
    assert run.returncode != 0


# ---------------------------------------------------------------------- one way

MAY_IMPORT = {
    "litselect": set(),
    "litselect.schedules": {"litselect.schedules"},
    "litselect.selectors": {"litselect.selectors"},
    "litselect.scoring": {"litselect.scoring", "litselect.selectors"},
    "litselect.callbacks": {"litselect.callbacks", "litselect.schedules", "litselect.scoring", "litselect.selectors"},
    "experiments": {
        "experiments",
        "litselect",
        "litselect.callbacks",
        "litselect.schedules",
        "litselect.scoring",
        "litselect.selectors",
    },
}
LIGHT = ("litselect", "litselect.schedules", "litselect.selectors", "litselect.scoring")
TRAINERS = {"lightning", "pytorch_lightning", "lightning_fabric"}


def imports(path: Path) -> Iterator[str]:
    """The absolute names of the modules that a file imports, wherever in it, for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(module: str) -> str | None:
    """The part of the project to which a module belongs: the longest name that it begins with."""
    parts = [part for part in MAY_IMPORT if module == part or module.startswith(f"{part}.")]
    return max(parts, key=len, default=None)


def sources() -> list[tuple[str, Path]]:
    """All files with the part they belong to."""
    found = [(".".join(path.relative_to(ROOT / "src").parent.parts), path) for path in PACKAGE.rglob("*.py")]
    found += [("experiments", path) for path in (ROOT / "experiments").rglob("*.py")]
    return [(part_of(name) or name, path) for name, path in found]


def test_imports_run_one_way() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for part, path in sources()
        for module in imports(path)
        if (target := part_of(module)) is not None
        and target not in MAY_IMPORT[part]
        and not (target == "litselect" and module.count("."))  # `from litselect.x import y` names litselect.x, too
    ]
    assert wrong == []
    assert {part for part, _ in sources()} >= MAY_IMPORT.keys() - {"experiments"}


def test_only_callbacks_and_experiments_know_a_trainer() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for part, path in sources()
        if part in LIGHT
        for module in imports(path)
        if module.partition(".")[0] in TRAINERS
    ]
    assert wrong == []


def test_the_library_prints_nothing() -> None:
    calls = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for part, path in sources()
        if part.startswith("litselect")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert calls == []


def test_files_stay_small() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for _, path in sources()}
    assert [name for name, length in lengths.items() if length > 300] == []


def test_the_package_is_typed_and_shows_its_parts() -> None:
    visible = {path.name for path in PACKAGE.iterdir() if not path.name.startswith(("_", "."))}
    assert visible == {"callbacks", "schedules", "scoring", "selectors", "py.typed"}

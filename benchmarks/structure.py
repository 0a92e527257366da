"""Figures of the source's structure: what docs/architecture.md shows before and after.

    python benchmarks/structure.py            # this checkout
    python benchmarks/structure.py OTHER/src  # another one

Counts from the source alone; nothing of `beit` is imported. It needs grimp, which import-linter brings.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tokenize
from collections.abc import Callable, Iterable
from pathlib import Path

FRAMEWORKS = ("torch", "jax", "flax", "optax", "orbax")


def graph_of(source: Path) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """(module → modules of beit that it imports, module → frameworks that it imports), lazy imports counted.

    The first counts imports for type checkers too: they tie files together for a reader. The second does not: they load
    nothing.
    """
    sys.path.insert(0, str(source))
    import grimp

    def direct(wanted: Callable[[str], bool], **options: bool) -> dict[str, set[str]]:
        graph = grimp.build_graph("beit", include_external_packages=True, cache_dir=None, **options)
        own = [module for module in graph.modules if _of_beit(module)]
        return {module: set(filter(wanted, graph.find_modules_directly_imported_by(module))) for module in own}

    return direct(_of_beit), direct(FRAMEWORKS.__contains__, exclude_type_checking_imports=True)


def _of_beit(module: str) -> bool:
    return module == "beit" or module.startswith("beit.")


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or by way of others (Tarjan's strongly connected components)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for target in imports[module]:
            if target not in number:
                visit(target)
                lowest[module] = min(lowest[module], lowest[target])
            elif target in stack:
                lowest[module] = min(lowest[module], number[target])
        if lowest[module] == number[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(imports):
        if module not in number:
            visit(module)
    return found


def lines_of(files: Iterable[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)


def comments_per_100_lines(files: Iterable[Path]) -> float:
    """Comments outside docstrings, per 100 lines that are neither empty nor docstring."""
    comments = code = 0
    for path in files:
        text = path.read_text(encoding="utf-8")
        quoted: set[int] = set()
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                quoted |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        code += sum(1 for i, line in enumerate(text.splitlines(), 1) if line.strip() and i not in quoted)
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        comments += sum(token.type == tokenize.COMMENT for token in tokens)
    return 100 * comments / code


def config_fields(source: Path) -> int:
    """Lines of `BeitConfig` up to its first method: the fields, with what they mean."""
    tree = ast.parse((source / "beit/config.py").read_text(encoding="utf-8"))
    [config] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "BeitConfig"]
    first = next(node for node in config.body if isinstance(node, ast.FunctionDef))
    return first.lineno - config.lineno


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", type=Path, default=Path(__file__).parents[1] / "src")
    source = parser.parse_args().source.resolve()
    files = sorted((source / "beit").rglob("*.py"))
    imports, frameworks = graph_of(source)
    groups = circles(imports)
    top = {path.name for path in (source / "beit").iterdir()} - {"__pycache__", "__init__.py", "py.typed"}
    model = [
        path for path in files if path.parts[-3:] == ("models", "torch", "beit.py") or path.name == "pytorch_beit.py"
    ]
    outside = sorted(
        module for module, used in frameworks.items() if used and not {"torch", "flax"} & set(module.split("."))
    )
    longest = max(files, key=lambda path: lines_of([path]))
    print(f"files                                   {len(files)}")
    print(f"lines                                   {lines_of(files)}")
    print(f"entries at the top of src/beit          {len(top)}")
    print(f"circles of imports                      {len(groups)} {[len(group) for group in groups]}")
    for group in groups:
        print("   " + ", ".join(group))
    print(f"lines of the PyTorch model's file       {lines_of(model)}")
    print(f"lines of BeitConfig's fields            {config_fields(source)}")
    print(f"longest file                            {lines_of([longest])} {longest.relative_to(source)}")
    print(f"files over 400 lines                    {sum(lines_of([path]) > 400 for path in files)}")
    print(f"comments per 100 lines of code          {comments_per_100_lines(files):.1f}")
    print(f"modules with a framework elsewhere      {len(outside)}")
    for module in outside:
        print(f"   {module}: {', '.join(sorted(frameworks[module]))}")


if __name__ == "__main__":
    main()

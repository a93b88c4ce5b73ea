"""Writes docs/reference/ from the code: settings, commands, errors, scopes.

Run it after changing any of them: ``python docs/generate_reference.py``. A test compares the
committed pages with what the code gives.
"""

from __future__ import annotations

import ast
import importlib
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "reference"
if str(ROOT) not in sys.path:  # when run as a file
    sys.path.insert(0, str(ROOT))

HEAD = "<!-- Written by docs/generate_reference.py; do not edit. -->\n"


def cell(text: str) -> str:
    """One line that a Markdown table can hold."""
    return " ".join(text.split()).replace("|", "\\|")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def type_name(kind: Any) -> str:
    """The type of a setting in words: ``str``, ``path``, ``float or none``."""
    if kind is type(None):
        return "none"
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(type_name(part) for part in get_args(kind))
    names = {"SecretStr": "secret", "Path": "path"}
    name = str(kind.__name__)
    return names.get(name, name)


def settings_page() -> str:
    """Every setting with its variable, type, default and description."""
    from app.settings import Settings

    rows = []
    for name, field in Settings.model_fields.items():
        default = "none" if field.default is None else f"`{field.default}`"
        variable = f"`OSTIARY_{name.upper()}`"
        rows.append((variable, type_name(field.annotation), default, field.description or "–"))
    return (
        HEAD + "# Settings\n\n"
        "A setting is read from the environment variable below, else from `ostiary.toml` in the\n"
        "working directory (the name in lower case, without `OSTIARY_`), else it has its default.\n"
        "Example: `OSTIARY_PORT=9000`, or the line `port = 9000`.\n\n"
        + table(("variable", "type", "default", "meaning"), rows)
        + "\nTwo more variables are read by the command line only: `OSTIARY_API_KEY` (the key it\n"
        "uses; empty: `admin.key` in the data directory) and `OSTIARY_URL` (the gateway it calls;\n"
        "empty: the one of these settings). `OSTIARY_BENCH_DATA` names a folder of judged data\n"
        "for the benchmarks.\n"
    )


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command below ``command`` with its full name."""
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        yield from commands(child, f"{path} {name}")


def cli_page() -> str:
    """Every command with its arguments and options."""
    from typer.main import get_command

    from app.cli import cli

    parts = [
        HEAD,
        "# Commands\n\n`ostiary COMMAND --help` prints the same.\n",
    ]
    for name, command in commands(get_command(cli), "ostiary"):
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option"]
        usage = [name, *(["[OPTIONS]"] if options else [])]
        for argument in arguments:
            shown = argument.name.upper() + ("..." if argument.nargs == -1 else "")
            usage.append(shown if argument.required else f"[{shown}]")
        parts.append(f"\n## {name}\n\n{(command.help or '').strip()}\n\n")
        parts.append("```text\n" + " ".join(usage) + "\n```\n")
        rows = [_parameter_row(p, argument=True) for p in arguments if p.help]
        rows += [_parameter_row(p, argument=False) for p in options]
        if rows:
            parts.append("\n" + table(("parameter", "default", "meaning"), rows))
    return "".join(parts)


def _parameter_row(parameter: Any, *, argument: bool) -> tuple[str, str, str]:
    if argument:
        shown = f"`{parameter.name.upper()}`"
    else:
        shown = ", ".join(f"`{o}`" for o in [*parameter.opts, *parameter.secondary_opts])
    if parameter.required:
        default = "required"
    elif parameter.default is None or parameter.default == []:
        default = "none"
    else:
        default = f"`{parameter.default}`"
    return shown, default, parameter.help or "–"


def modules() -> list[str]:
    """Every module of the application."""
    paths = (p.relative_to(ROOT).with_suffix("") for p in (ROOT / "app").rglob("*.py"))
    return sorted(".".join(p.parts).removesuffix(".__init__") for p in paths)


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Every module's name and syntax; nothing is imported."""
    for name in modules():
        path = ROOT / Path(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def error_classes() -> list[type[Any]]:
    """Every error class of the application that has a wire shape, by status and name."""
    bases: dict[str, tuple[str, set[str]]] = {}  # class -> module, names of its bases
    for module, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                names = {getattr(b, "id", getattr(b, "attr", "")) for b in node.bases}
                bases[node.name] = (module, names)
    known, before = {"OstiaryError"}, 0
    while len(known) > before:
        before = len(known)
        known |= {name for name, (_, parents) in bases.items() if parents & known}
    found = [getattr(importlib.import_module(bases[name][0]), name) for name in known]
    return sorted(found, key=lambda k: (k.status, k.__name__))


def code_uses() -> list[tuple[str, str, str]]:
    """(code, where, raised as) of every code that is given where an error is raised."""
    found: set[tuple[str, str, str]] = set()
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                found |= {(code, name, kind) for code, kind in _codes_of(node)}
    return sorted(found)


def _codes_of(call: ast.Call) -> Iterator[tuple[str, str]]:
    kind = getattr(call.func, "id", getattr(call.func, "attr", ""))
    for keyword in call.keywords:
        if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
            yield str(keyword.value.value), kind
    if kind == "DocumentError" and call.args and isinstance(call.args[0], ast.Constant):
        yield str(call.args[0].value), kind


def errors_page() -> str:
    """Error classes, and the codes that single places give."""
    classes = [
        (f"`{k.__name__}`", str(k.status), f"`{k.type}`", f"`{k.code}`") for k in error_classes()
    ]
    places: dict[tuple[str, str], list[str]] = {}
    for code, where, kind in code_uses():
        places.setdefault((code, kind), []).append(f"`{where}`")
    uses = [(f"`{c}`", f"`{k}`", ", ".join(where)) for (c, k), where in places.items()]
    return (
        HEAD + "# Errors\n\n"
        "Every error has one shape:\n\n"
        "```json\n"
        '{"error": {"message": "…", "type": "…", "param": null, "code": "…", "request_id": "…"}}\n'
        "```\n\n"
        "The message says what to do. A program should look at `code`. A document that cannot be\n"
        "read fails its file, not the call: the message is then in the file's `last_error`.\n\n"
        "## Kinds\n\n"
        + table(("class", "status", "type", "code unless a place below gives another"), classes)
        + "\n## Codes of single places\n\n"
        + table(("code", "raised as", "in"), uses)
    )


def scopes_page() -> str:
    """Every governed route with its scope and what it screens, then the open ones."""
    from fastapi.routing import iter_route_contexts

    from app.gateway.corridor import GovernedRoute
    from app.main import create_app

    governed, free = [], []
    for found in iter_route_contexts(create_app().routes):
        route: Any = found.original_route
        methods = ", ".join(sorted(getattr(route, "methods", None) or ())) or "GET"
        path = f"`{route.path}`"
        if isinstance(route, GovernedRoute):
            screens = ", ".join(d for d in ("input", "output") if d in route.required.screens)
            scope = f"`{route.required.name}`"
            governed.append((methods, path, scope, screens or "–"))
        else:
            free.append((methods, path))
    return (
        HEAD + "# Scopes\n\n"
        "Each route names one scope. A key has it exactly, by its family (`files:*`), or by `*`.\n"
        "`screens` tells which texts the guardrails must have seen before the route may answer.\n\n"
        + table(("method", "path", "scope", "screens"), governed)
        + "\n## Without a credential\n\n"
        + table(("method", "path"), free)
    )


PAGES = {
    "settings.md": settings_page,
    "cli.md": cli_page,
    "errors.md": errors_page,
    "scopes.md": scopes_page,
}


def main() -> None:
    """Write every page."""
    OUT.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (OUT / name).write_text(make(), encoding="utf-8")
        print(f"docs/reference/{name}")


if __name__ == "__main__":
    main()

"""Pages of docs/reference that are written from code: ``cd tests && ../.venv/bin/python -m support.reference_pages``.

They say what there is; pages written by hand say what it means and what may be relied on.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from typer.main import get_command

from controlplane.http.api.openapi import document
from woodfrog.cli.main import app
from woodfrog.protocol import events as protocol

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
_HOW = "This page is written from the code by `python -m support.reference_pages` in `tests`; a test fails when it is out of date."


def commands() -> str:
    """Every verb of ``woodfrog``, with its arguments and options."""
    head = (
        f"# Every verb and option of `woodfrog`\n\n{_HOW}\n[The command `woodfrog`](cli.md) says what they mean, "
        "which exit codes there are and what may be relied on.\n"
    )
    return "\n".join([head, *_verbs(get_command(app), "woodfrog")])


def _verbs(command: Any, name: str) -> Iterator[str]:
    for word, verb in sorted(getattr(command, "commands", {}).items()):
        if hasattr(verb, "commands"):
            yield from _verbs(verb, f"{name} {word}")
        elif not verb.hidden:
            yield _verb(verb, f"{name} {word}")


def _verb(verb: Any, name: str) -> str:
    arguments = [param for param in verb.params if param.param_type_name == "argument"]
    options = [
        param for param in verb.params if param.param_type_name == "option" and not getattr(param, "hidden", False)
    ]
    words = " ".join([name, "[OPTIONS]", *(_argument(param) for param in arguments)])
    about = "\n\n".join(" ".join(part.split()) for part in (verb.help or "").split("\n\n"))
    text = f"## `{name}`\n\n```\n{words}\n```\n\n{about}\n"
    if options:
        rows = [f"| {_names(each)} | {_default(each)} | {_cell(each.help)} |" for each in options]
        text += "\n" + "\n".join(["| option | default | meaning |", "|---|---|---|", *rows]) + "\n"
    return text


def _argument(param: Any) -> str:
    name = (param.metavar or param.name.upper()).removesuffix("...")
    name = f"[{name.removeprefix('[').removesuffix(']')}]" if not param.required else name
    return name if param.nargs == 1 else f"{name}..."


def _names(param: Any) -> str:
    names = ", ".join(f"`{each}`" for each in sorted([*param.opts, *param.secondary_opts], key=len))
    return f"**{names}**" if param.required else names


def _default(param: Any) -> str:
    if isinstance(param.show_default, str):
        return _cell(param.show_default)
    default = getattr(param.default, "value", param.default)
    default = f"{default:g}" if isinstance(default, float) else default
    shown = not callable(default) and default not in {None, False, True} and not isinstance(default, (tuple, list))
    return f"`{default}`" if shown else ""


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def paths() -> str:
    """Every path of the HTTP API, with its parameters and the fields of its answers."""
    described = json.loads(document(acts=True))
    head = (
        f"# Every path of the HTTP API\n\n{_HOW}\n[The HTTP API](http-api.md) says how to authenticate, who sees what, and "
        "what pages and streams are. `GET /api/v1/openapi.json` gives the same as OpenAPI 3.1.\n"
    )
    operations = [
        _operation(method, path, operation)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    ]
    forms = [
        _form(name, form) for name, form in sorted(described["components"]["schemas"].items()) if "properties" in form
    ]
    return "\n".join([head, *operations, "## Objects\n", *forms])


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    text = f"## `{method.upper()} {path}`\n\n{operation['summary']}\n"
    rows = [
        f"| `{each['name']}` | {each['in']} | {_type(each['schema'])} | {_cell(each['description'])} |"
        for each in operation["parameters"]
    ]
    if rows:
        text += "\n" + "\n".join(["| parameter | in | type | meaning |", "|---|---|---|---|", *rows]) + "\n"
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body:
        text += f"\nBody: {_type(body)}.\n"
    (answer,) = operation["responses"]["200"]["content"].items()
    return f"{text}\nAnswer: {_type(answer[1]['schema']) if answer[0] == 'application/json' else f'`{answer[0]}`'}.\n"


def _fields(form: dict[str, Any], before: str = "") -> Iterator[str]:
    for field, schema in form["properties"].items():
        yield f"| `{before}{field}` | {_type(schema)} | {_cell(schema.get('description'))} |"
        inner = schema.get("items", schema)
        if "properties" in inner:
            yield from _fields(inner, f"{before}{field}{'[]' if 'items' in schema else ''}.")


def _form(name: str, form: dict[str, Any]) -> str:
    rows = list(_fields(form))
    about = f"{_cell(form['description'])}\n\n" if form.get("description") else ""
    return f"### `{name}`\n\n{about}" + "\n".join(["| field | type | meaning |", "|---|---|---|", *rows]) + "\n"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[`{name}`](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    kind = schema.get("type", "anything")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def events() -> str:
    """Every type of event, with its fields as JSON."""
    head = (
        f"# Every event\n\n{_HOW}\nAn event is what the column `data` of the view [`events`](sql.md) holds, and the payload of a message of [AUDIT](audit.md). "
        "Its field `type` names it. Fields that have their default are left out; readers ignore fields that they do not know.\n"
    )
    classes = {
        node.name: node
        for path in Path(protocol.__file__).parent.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    }
    kinds = sorted(get_args(protocol.Event), key=_tag)
    return "\n".join([head, *(_event(kind, classes) for kind in kinds)])


def _event(kind: type, classes: dict[str, ast.ClassDef]) -> str:
    fields = [
        row for each in reversed(kind.__mro__) if each.__name__ in classes for row in _members(classes[each.__name__])
    ]
    table = "\n".join(["| field | type | default | meaning |", "|---|---|---|---|", *fields])
    return f"## `{_tag(kind)}`\n\n{_prose(ast.get_docstring(classes[kind.__name__]))}\n\n{table}\n"


def _tag(kind: Any) -> str:
    return str(kind.__struct_config__.tag)


def _members(declared: ast.ClassDef) -> Iterator[str]:
    for member, after in pairwise([*declared.body, ast.Pass()]):
        if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
            about = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            default = f"`{ast.unparse(member.value)}`" if member.value is not None else ""
            kind = ast.unparse(member.annotation).replace("|", "\\|")
            yield f"| `{member.target.id}` | `{kind}` | {default} | {_cell(_prose(str(about)))} |"


def _prose(text: str | None) -> str:
    """A docstring as Markdown."""
    return " ".join((text or "").replace("``", "`").split())


PAGES = {"commands.md": commands, "http-api-paths.md": paths, "events.md": events}

if __name__ == "__main__":
    for name, written in PAGES.items():
        (REFERENCE / name).write_text(written())

"""What comments in the source say of the fields of structs.

docs/settings.md and the OpenAPI document repeat them, so that a field is described in one place.
"""

import ast
import functools
import inspect
import io
import textwrap
import tokenize
from types import ModuleType

import msgspec

DIRECTIVES = ("type:", "noqa", "fmt:")  # comments for tools


def field_comments(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Field → the comment beside it or above it, for this class and its bases; "" if it has none.
    Empty where the source is missing."""
    found: dict[str, str] = {}
    for owner in reversed(struct.__mro__):
        module = inspect.getmodule(owner)
        if "__annotations__" in vars(owner) and module is not None:
            found |= _comments(module).get(owner.__qualname__, {})
    return found


@functools.cache
def _comments(module: ModuleType) -> dict[str, dict[str, str]]:
    try:
        return comments_in(inspect.getsource(module))
    except (OSError, TypeError):
        return {}


def comments_in(source: str) -> dict[str, dict[str, str]]:
    """Class → its own fields' comments."""
    lines = source.splitlines()

    def comment(field: ast.AnnAssign) -> str:
        first = at = field.lineno - 1
        while lines[first - 1].lstrip().startswith("#"):
            first -= 1
        beside = _comments_of(lines[at : field.end_lineno])
        texts = [text.lstrip("# ") for text in (*lines[first:at], *beside)]
        return " ".join(text for text in texts if not text.startswith(DIRECTIVES))

    return {
        node.name: {
            field.target.id: comment(field)
            for field in node.body
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        }
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
    }


def _comments_of(statement: list[str]) -> list[str]:
    """Those among its lines. Only these lines are read token by token, which is slow."""
    if not any("#" in line for line in statement):
        return []
    text = textwrap.dedent("\n".join(statement))
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT]

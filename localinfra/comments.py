"""What comments in the source say of the fields of structs.

docs/settings.md and the OpenAPI document repeat them, so that a field is described in one place.
"""

import ast
import functools
import inspect
import io
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
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }

    def comment(node: ast.stmt) -> str:
        first = node.lineno
        while lines[first - 2].lstrip().startswith("#"):
            first -= 1
        places = range(first, (node.end_lineno or node.lineno) + 1)
        texts = [comments[line] for line in places if line in comments]
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

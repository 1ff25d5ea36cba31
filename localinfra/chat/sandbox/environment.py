"""Compiles and runs chat templates, which come inside GGUF files and are untrusted.

Owns the Jinja environment. A template can use plain values and the functions listed here and in
`filters.py`, within the limits of `meter.py`. Nothing else exists for it, because many of Jinja's
features and Python's methods turn a small input into a huge output.
"""

import functools
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from io import StringIO
from itertools import islice
from sys import getsizeof
from types import BuiltinMethodType
from typing import Any, NamedTuple, NoReturn

from jinja2 import Template, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, LoopControlExtension
from jinja2.idtracking import VAR_LOAD_RESOLVE
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import SandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace

from localinfra.chat.sandbox import filters
from localinfra.chat.sandbox.meter import Buffer, Deadline, LimitExceeded, Meter, written
from localinfra.long_text import join

MAX_SOURCE_CHARS = 128 << 10  # the longest of 70 published templates has 17,000
MAX_PARTS = 20_000  # tokens of the lexer; the largest of those templates has 3,800
COMPILE_DEADLINE_S = 5.0  # CPU time; those templates take 40 ms at most
MAX_COMPILED = 64  # templates kept
MAX_INT_BITS = 16_384  # of a product; Python reads literals of up to 4300 digits
GROWING = frozenset(["*", "**", "%"])  # others return no more than they are given

JINJAS_OWN = frozenset(["_loop_vars", "_block_vars"])  # arguments it adds to calls

METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        "strip lstrip rstrip removeprefix removesuffix split rsplit splitlines partition "
        "rpartition startswith endswith find rfind index rindex count replace join format upper "
        "lower title capitalize casefold isdigit isnumeric isdecimal isalpha isalnum isspace "
        "isupper islower".split()
    ),
    dict: frozenset(["get", "items", "keys", "values"]),
    list: frozenset(["index", "count", "append", "pop"]),  # the last two only as `call` allows
    tuple: frozenset(["index", "count"]),
}


class Refusal(Exception):
    """The template's own `raise_exception`."""


def _raise_exception(message: object) -> NoReturn:
    raise Refusal(str(message))


class _Namespace(Namespace):
    def __repr__(self) -> str:  # Jinja's prints the attributes, which may refer to each other
        return "<Namespace>"


class _Generation(Extension):
    """`{% generation %}` marks text for training. Rendering ignores it."""

    tags = {"generation"}  # noqa: RUF012  # as Extension declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class CompiledTemplate(NamedTuple):
    template: Template
    variables: frozenset[str]  # the names that its source reads, including those set by the server


class _MeteredCode(CodeGenerator):
    """Generates code that calls the meter in each loop, branch and macro, and for each value made.

    Computes nothing while compiling: Jinja would fold `'a'|center(10**9)` into a constant.
    """

    def __init__(self, environment: "Sandbox", output: StringIO):
        super().__init__(environment, None, None, output, optimized=False)
        self.variables: set[str] = set()
        self._tick = Deadline(COMPILE_DEADLINE_S).check

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        self._tick()  # each node is compiled in at most a few walks over those below it
        return super().visit(node, *args, **kwargs)

    def enter_frame(self, frame: Frame) -> None:
        super().enter_frame(frame)
        loads = frame.symbols.loads.values()
        names = (name for action, name in loads if action == VAR_LOAD_RESOLVE and name)
        self.variables.update(name for name in names if name not in self.environment.globals)

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if not isinstance(node, nodes.TemplateData):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write("environment.text(")

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        self.writeline("environment.tick()")
        super().blockvisit(nodes, frame)

    def buffer(self, frame: Frame) -> None:
        frame.buffer = self.temporary_identifier()
        self.writeline(f"{frame.buffer} = environment.buffer()")

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        if node.test:  # runs once per item, outside of any block
            node.test = nodes.And(nodes.EnvironmentAttribute("tick"), node.test)
        super().visit_For(node, frame)

    def visit_EnvironmentAttribute(self, node: nodes.EnvironmentAttribute, frame: Frame) -> None:
        self.write(f"environment.{node.name}()")  # only created above: no template can contain one

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        self.write("(environment.tick() and ")
        super().visit_Compare(node, frame)
        self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concat((")
        for part in node.nodes:
            self.write("environment.text(")
            self.visit(part, frame)
            self.write("), ")
        self.write("))")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self.write("environment.charge({")
        for pair in node.items:
            self.write("environment.tick() and ")  # hashing a key may take a while
            self.visit(pair.key, frame)
            self.write(": ")
            self.visit(pair.value, frame)
            self.write(", ")
        self.write("})")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self.write("environment.own(")
        super().visit_List(node, frame)
        self.write(")")

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx == "load":
            self._charge(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if isinstance(node.arg, nodes.Slice):
            self._charge(super().visit_Getitem, node, frame)
        else:
            super().visit_Getitem(node, frame)

    def _charge(self, visit: Callable[[Any, Frame], None], node: nodes.Expr, frame: Frame) -> None:
        self.write("environment.charge(")
        visit(node, frame)
        self.write(")")

    def _refuse(self, node: nodes.Node, frame: Frame) -> None:
        self.fail(f"{type(node).__name__} has no meaning in a chat template", node.lineno)

    visit_Block = visit_Include = visit_Import = visit_FromImport = visit_Extends = _refuse
    visit_EvalContextModifier = visit_ScopedEvalContextModifier = _refuse  # autoescape


class _Formatter(SandboxedFormatter):
    def __init__(self, environment: "Sandbox"):
        super().__init__(environment)
        self._meter = environment.meter

    def format_field(self, value: object, format_spec: str) -> str:
        if re.search(r"\d{4}", format_spec):
            raise ValueError("the width of a field is too large")
        text: str = super().format_field(value, format_spec)
        self._meter.charge(text)
        return text


class Sandbox(SandboxedEnvironment):
    """Stateless, except for each thread's meter while it renders."""

    intercepted_binops = frozenset(SandboxedEnvironment.default_binop_table)
    code_generator_class: type[_MeteredCode] = _MeteredCode

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            extensions=[LoopControlExtension, _Generation],
        )
        self._running = threading.local()
        bounded_range = self.globals["range"]  # the sandbox's, of at most 100,000
        self.globals = {
            "range": bounded_range,
            "dict": dict,
            "namespace": _Namespace,
            "raise_exception": _raise_exception,
        }
        self.filters = filters.table(self)
        self.tests = filters.tests(self)

    @property
    def meter(self) -> Meter:
        meter: Meter = self._running.meter
        return meter

    @property
    def passthrough(self) -> str:
        passthrough: str = self._running.passthrough
        return passthrough

    def run(
        self, template: Template, values: Mapping[str, object], meter: Meter, passthrough: str
    ) -> str:
        """Renders on this thread. `passthrough`: characters that `tojson` does not escape.

        Raises LimitExceeded, Refusal, or any error of the template.
        """
        self._running.meter, self._running.passthrough = meter, passthrough
        pieces = Buffer(meter)
        try:
            for piece in template.root_render_func(template.new_context(dict(values))):
                pieces.append(piece)
        finally:  # free the conversation, which the meter holds: the thread may stay idle
            del self._running.meter, self._running.passthrough
        return join(pieces)

    def compiled(self, source: str) -> CompiledTemplate:
        """Raises LimitExceeded for an excessive template, Exception for an invalid one."""
        if len(source) > MAX_SOURCE_CHARS:
            raise LimitExceeded(f"it is longer than {MAX_SOURCE_CHARS} characters")
        if any(True for _ in islice(self.lex(source), MAX_PARTS, None)):
            raise LimitExceeded("it has too many tokens")
        code = StringIO()
        generator = self.code_generator_class(self, code)
        generator.visit(self.parse(source))
        compiled = compile(code.getvalue(), "<template>", "exec")
        template = Template.from_code(self, compiled, self.make_globals(None))
        return CompiledTemplate(template, frozenset(generator.variables))

    # Called by generated code.

    def tick(self) -> bool:
        meter: Meter = self._running.meter
        return meter.tick()

    def charge(self, value: object) -> object:
        meter: Meter = self._running.meter
        return meter.charge(value)

    def own(self, made: list[object]) -> list[object]:
        meter: Meter = self._running.meter
        return meter.own(made)

    def text(self, value: object) -> str:
        meter: Meter = self._running.meter
        return meter.text(value)

    def buffer(self) -> Buffer:
        return Buffer(self.meter)

    def concat(self, pieces: Iterable[str]) -> str:
        pieces = list(pieces)
        self.meter.spend(sum(map(written, pieces)))
        return join(pieces)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if type(argument) is not str:  # the hash of a tuple may take a while
            self.meter.tick()
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        meter: Meter = self._running.meter
        meter.tick()
        if operator in GROWING:
            meter.spend(_grown_bytes(meter, operator, left, right))
        if operator == "+" and type(left) is str and type(right) is str:
            return meter.charge(join([left, right]))
        return meter.charge(self.binop_table[operator](left, right))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        meter: Meter = self._running.meter
        meter.tick()
        owner = obj.__self__ if isinstance(obj, BuiltinMethodType) else None
        if isinstance(owner, str):
            cost = filters.METHOD_BYTES.get(obj.__name__)
            if cost is not None:
                meter.spend(cost(owner, *args, **kwargs))
        elif isinstance(owner, list) and obj.__name__ == "append":
            meter.append(owner, *args)
        elif isinstance(owner, list) and obj.__name__ == "pop":
            meter.pop(owner, *args)
        elif _keeps_apart(obj, args):
            meter.spend(getsizeof(args) + getsizeof(kwargs))
        else:
            meter.charge(args)
            meter.charge({name: kwargs[name] for name in kwargs.keys() - JINJAS_OWN})
        return meter.charge(super().call(context, obj, *args, **kwargs))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return super().is_safe_attribute(obj, attr, value) and (
            not callable(value)
            or isinstance(obj, Namespace | LoopContext)
            or attr in METHODS.get(type(obj), ())
        )

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        is_format = isinstance(value, BuiltinMethodType) and value.__name__ == "format"
        if not is_format or not isinstance(value.__self__, str):
            return None
        template = value.__self__
        return lambda *args, **kwargs: _Formatter(self).vformat(template, args, kwargs)


def _grown_bytes(meter: Meter, operator: str, left: object, right: object) -> int:
    """The most bytes that an operator of GROWING may make, known before it is computed."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length()
        bits = bits * max(right, 0) if operator == "**" else bits + right.bit_length()
        if bits > MAX_INT_BITS:
            raise LimitExceeded("it computes with too large a number")
    elif operator == "%" and isinstance(left, str):
        return filters.percent_bytes(meter, left, right)
    elif operator == "*":
        if isinstance(left, int):
            left, right = right, left
        if isinstance(right, int):
            once = written(left) if isinstance(left, str) else getsizeof(left)
            return once * max(right, 0)
    return 0


def _keeps_apart(function: object, args: tuple[object, ...]) -> bool:
    """Whether each argument becomes a variable: no value will hold it, as `varargs` would."""
    if isinstance(function, Macro):
        return not (function.catch_varargs or function.catch_kwargs)
    return function is _Namespace and not args


SANDBOX = Sandbox()


@functools.lru_cache(MAX_COMPILED)
def compiled(source: str) -> CompiledTemplate:
    """The source's compiled form, kept for models loaded later. See `Sandbox.compiled`."""
    return SANDBOX.compiled(source)

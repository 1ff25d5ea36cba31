"""Templates come from untrusted files: outside of a sandbox, each of these would do harm."""

import json
import time
import tracemalloc

import pytest
from chat_templates import template

from localinfra.chat.messages import FunctionCall, Message, ToolCall
from localinfra.chat.sandbox import environment, meter
from localinfra.chat.sandbox.meter import LimitExceeded
from localinfra.chat.template import TemplateError
from localinfra.errors import InvalidRequest

HI = [Message("user", "Hi")]
LOOP = "{% for i in range(100000) %}"
END = "{% endfor %}"
BIG = "{% set a = 'a' * 500000 %}"
GROW = "{% set ns = namespace(x=['aaaa'], y=['aaaa']) %}{% for i in range(50) %}"

ENDLESS = {
    "nested loops": LOOP * 6 + END * 6,
    "loops that let nothing through": LOOP + "{% for j in range(100000) if false %}" + END * 2,
    "macros calling themselves twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "callers calling callers": (
        "{% macro f() %}{{ caller() }}{{ caller() }}{% endmacro %}"
        + "{% call f() %}" * 15
        + "{% endcall %}" * 15
    ),
    "sorting": "{% set x = range(10000) | map('string') | list %}" + LOOP + "{{ x | sort }}" + END,
    "filters in one line": "{{ [" + "range(100000) | select('eq', -1) | list, " * 500 + "] }}",
    "hashing": "{% macro f() %}" + LOOP + "{{ {varargs: 1} }}" + END + "{% endmacro %}"
    "{{ f(*range(20000)) }}",
    "comparing": BIG + "{% set b = a[1:] ~ 'a' %}"
    + LOOP + "{{ [" + "a == b, " * 2000 + "] }}" + END,
    "growing a chain": "{% set ns = namespace() %}"
    + LOOP * 2 + "{% set ns.x = namespace(x=ns.x) %}" + END * 2,
}  # fmt: skip

HUGE = {
    "output": LOOP * 2 + "x" + END * 2,
    "output of a macro": "{% macro f() %}" + LOOP * 2 + "x" + END * 2 + "{% endmacro %}{{ f() }}",
    "a product": "{{ 'a' * 10**9 }}",
    "a product of a list": "{{ 1000000000 * [0] }}",
    "a number": "{% set ns = namespace(x=7) %}" + LOOP + "{% set ns.x = ns.x * ns.x %}" + END,
    "a power": "{{ 9 ** 9999999 }}",
    "a sum": GROW + "{% set ns.x = ns.x + ns.x %}" + END,
    "a concatenation": GROW + "{% set ns.x = ns.x ~ ns.x %}" + END,
    "a set block": GROW + "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}" + END,
    "a shared list as text": GROW + "{% set ns.x = [ns.x, ns.x] %}" + END + "{{ ns.x }}",
    "a shared dict as JSON": GROW + "{% set ns.x = {1: ns.x, 2: ns.x} %}" + END
    + "{{ ns.x | tojson }}",
    "shared items": GROW + "{% set ns.x = {1: ns.x, 2: {3: ns.x}.items()} %}" + END + "{{ ns.x }}",
    "a shared tuple as a key": GROW + "{% set ns.x = (ns.x, ns.x) %}" + END + "{{ {ns.x: 1} }}",
    "twins compared": GROW
    + "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}" + END + "{{ ns.x == ns.y }}",
    "a list that grows": "{% set x = [] %}" + LOOP + "{% set _ = x.append('ab' * 99) %}" + END,
    "lists that grow": LOOP + "{% set x = [] %}"
    + LOOP + "{% set _ = x.append('ab' * 99) %}" + END * 2,
    "a list of shared lists": GROW + "{% set x = [] %}"
    "{% set _ = [x.append(ns.x), x.append(ns.x)] %}{% set ns.x = x %}" + END + "{{ ns.x }}",
    "slices kept": BIG + "{% set ns = namespace() %}" + LOOP
    + "{% set ns.x = namespace(x=ns.x, y=a[1:]) %}" + END,
    "literals kept": "{% set ns = namespace() %}" + LOOP
    + "{% set ns.x = namespace(x=ns.x, y=[" + "1, " * 2000 + "]) %}" + END,
    "many arguments": BIG + "{% macro f() %}{{ varargs }}{% endmacro %}"
    "{{ f(" + "a, " * 999 + "a) }}",
    "replace": BIG + "{{ a.replace('a', 'b' * 1000) }}",
    "the filter replace": BIG + "{{ a | replace('', 'b' * 1000) }}",
    "join": BIG + "{{ ('b' * 1000).join(a) }}",
    "the filter join": "{{ range(100000) | join('b' * 10000) }}",
    "split": "{{ ('a ' * 1000000).split() }}",
    "splitlines": "{{ ('\\n' * 1000000).splitlines() }}",
    "a list of characters": "{{ ('é' * 1000000) | list }}",
    "a map's default": BIG + "{{ range(10000) | map(attribute='x', default=a) | list }}",
    "indent": "{{ ('a\\n' * 400000) | indent(16) }}",
    "indented JSON": "{{ range(100000) | list | tojson(indent=16) }}",
    "a wide field": "{{ '%1000000000d' % 1 }}",
    "a wide field by argument": "{{ '%*d' % (1000000000, 1) }}",
    "a wide named field": "{{ '%((a))1000000000d' % {'(a)': 1} }}",
    "a precise field": "{{ '%.1000000000f' | format(1.5) }}",
    "a field many times": BIG + "{{ ('%(a)s' * 9999) % {'a': a} }}",
}  # fmt: skip

REFUSED = {
    "a format's width": "{{ '{:1000000000}'.format(1) }}",
    "a format's nested width": "{{ '{:{w}}'.format(1, w=10 ** 9) }}",
    "a round's precision": "{{ 5 | round(-1000000000) }}",
    "a range": "{{ range(10 ** 12) | list }}",
    "an indent": "{{ 'a' | indent(10 ** 9) }}",
    "an indent of JSON": "{{ [1] | tojson(indent=10 ** 9) }}",
    "a date": "{{ strftime_now('%Y' * 1000) }}",
    "a macro without end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a loop without end": "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "a list in itself": "{% set x = [] %}{% set _ = x.append(x) %}",
    "a list in itself, via another": "{% set x = [] %}{% set y = [] %}"
    "{% set _ = [x.append(y), y.append(x)] %}",
    "a list in a list that grows": "{% set x = [] %}{% set y = [x, x] %}{{ x.append(1) }}",
    "a list in a dict that grows": "{% set x = [] %}{% set y = {1: x} %}{{ x.append(1) }}",
    "a list in a filter's result that grows": "{% set x = [] %}"
    "{% set y = range(99) | map(attribute='a', default=x) | list %}{{ x.append(1) }}",
    "a list in varargs that grows": "{% macro f(x) %}{{ x.append(1) ~ varargs }}{% endmacro %}"
    "{% set x = [] %}{{ f(x" + ", x" * 999 + ") }}",
    "a list in kwargs that grows": "{% macro f() %}{{ kwargs.x.append(1) }}{% endmacro %}"
    "{{ f(x=[]) }}",
    "a method kept until its list is a part": "{% set x = [] %}{% set add = x.append %}"
    "{% set y = [x] %}{{ add(1) }}",
    "an item that is not there": "{{ [].pop() }}",
    **{
        f"the method {call}": "{{ " + call + " }}"
        for call in (
            "'a'.center(10 ** 9)",
            "'a'.ljust(10 ** 9)",
            "'a'.zfill(10 ** 9)",
            "'a'.encode()",
            "'a'.format_map({})",
            "'a'.expandtabs(10 ** 9)",
            "(1).to_bytes(10 ** 9)",
            "dict.fromkeys(range(9))",
            "messages.append(1)",
            "messages[:].append(1)",
            "messages[0].content.split().append(1)",
            "[1].extend([2])",
            "[2, 1].sort()",
            "messages[0].update({})",
            "lipsum(9)",
            "cycler(1).next()",
            "''.__class__.mro()",
            "messages.__class__()",
            "raise_exception.__globals__.x",
            "namespace.__init__()",
            "self._TemplateReference__context.x",
            "'{0.__class__.x}'.format(1)",
        )
    },
}

NO_TEMPLATE = {
    "its length": "a" * (1 << 20),
    "its parts": "{{ a }}" * 10_000,
    "its parentheses": "{{ " + "(" * 5000 + ")" * 5000 + " }}",
    "its depth": "{% if a %}" * 2000 + "{% endif %}" * 2000,
    "its loops": "{% for a in b %}" * 30 + END * 30,
    "a long sum": "{{ " + "a + " * 5000 + "a }}",
    "a long chain": "{{ a" + ".a" * 5000 + " }}",
    "many branches": "{% if a %}" + "{% elif a %}" * 5000 + "{% endif %}",
    "a wide constant": "{{ 'a' | center(1000000000) }}",
    "HTML": "{% autoescape true %}{% endautoescape %}",
    "a long number": "{{ " + "9" * 50_000 + " }}",
}


@pytest.fixture
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "DEADLINE_S", 0.1)


@pytest.fixture
def small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "MAX_VALUE_BYTES", meter.MAX_VALUE_BYTES // 4)
    monkeypatch.setattr(meter, "MAX_TOTAL_BYTES", meter.MAX_TOTAL_BYTES // 4)


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_never_ends_is_stopped(name: str, short_deadline: None) -> None:
    compiled = template(ENDLESS[name])
    started = time.thread_time()
    with pytest.raises(InvalidRequest, match=r"was stopped: it (took more|produced|built)"):
        compiled.render(HI)
    assert time.thread_time() - started < 2


def test_a_very_large_request_is_named_as_the_reason(short_deadline: None) -> None:
    """The template is not at fault then for not finishing."""
    arguments = json.dumps({"a": [0] * 200_000})
    call = Message("assistant", "", tool_calls=[ToolCall(FunctionCall("f", arguments))])
    source = "{% for m in messages %}" + LOOP * 3 + END * 3 + "{% endfor %}"
    with pytest.raises(InvalidRequest, match="characters of messages, calls and tools") as caught:
        template(source).render([*HI, call])
    assert "models.toml" not in caught.value.message
    with pytest.raises(InvalidRequest, match=r"set another chat_template in models\.toml"):
        template(source).render(HI)


@pytest.mark.parametrize("name", HUGE)
def test_a_template_that_would_fill_the_memory_is_stopped(name: str, small_budget: None) -> None:
    compiled = template(HUGE[name])
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest, match="was stopped: it "):
            compiled.render(HI)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", REFUSED)
def test_features_that_no_chat_template_needs_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="could not render these messages"):
        template(REFUSED[name]).render(HI)


@pytest.mark.parametrize("name", NO_TEMPLATE)
def test_an_excessive_template_is_refused_when_it_is_compiled(name: str) -> None:
    started = time.thread_time()
    with pytest.raises(TemplateError, match="the chat template can't be used: "):
        template(NO_TEMPLATE[name])
    assert time.thread_time() - started < 5


def test_compiling_is_limited_in_cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "{{ " + "a[1:2], " * 2000 + "a }}"
    monkeypatch.setattr(environment, "COMPILE_DEADLINE_S", 0.01)
    with pytest.raises(LimitExceeded, match=r"it took more than 0\.01 s of CPU time"):
        environment.SANDBOX.compiled(source)
    monkeypatch.undo()
    assert environment.SANDBOX.compiled(source).variables == {"a"}


def test_a_compiled_template_is_kept() -> None:
    assert environment.compiled("{{ kept }}") is environment.compiled("{{ kept }}")


def test_compiling_constants_computes_nothing() -> None:
    tracemalloc.start()
    try:
        template("{{ 'a' * 10 ** 9 }}{{ ('a' * 999) | replace('a', 'b' * 10 ** 9) }}")
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_limits_grow_with_the_conversation() -> None:
    long = [Message("user", "word " * 400_000)] * 3
    assert len(template("{{ messages | tojson }}").render(long).text) > 6_000_000


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("[1, 2, 3][1:] | map('string') | join(', ')", "2, 3"),
        ("messages | selectattr('role', 'equalto', 'user') | list | length", "1"),
        ("messages | rejectattr('name', 'defined') | map(attribute='content') | first", "Hi"),
        ("{'a': 1, 'b': 2} | items | map('last') | sum", "3"),
        ("{'b': 1, 'a': 2} | dictsort | first | first", "a"),
        ("{'a': none}.get('b', 'c') ~ {'a': 1}.keys() | list", "c['a']"),
        ("' a\n'.strip() + 'b\n'.rstrip('\n') + 'x-y'.split('-')[-1]", "aby"),
        ("'abc'.startswith('a') and 'abc' is string and {} is mapping", "True"),
        ("'abc'[::-1] | upper | replace('C', 'X') | trim", "XBA"),
        ("'%s: %05.1f' % ('a', 2)", "a: 002.0"),
        ("'{} {b:>3}'.format('a', b=1)", "a   1"),
        ("'a\nb' | indent(2, first=true)", "  a\n  b"),
        ("'<' | e ~ ('<' | safe)", "&lt;<"),
        ("undefined_name | default('none')", "none"),
        ("missing is defined or none is none", "True"),
        ("(2 ** 10 // 3 % 100) ~ (7 / 2) ~ (-1 | abs)", "413.51"),
        ("'7' | int + '1.5' | float + 2.567 | round(1)", "11.1"),
        ("{'b': 'é', 'a': [1, '<']} | tojson", '{"b": "é", "a": [1, "<"]}'),
        ("{'b': 'é', 'a': 1} | tojson(true, sort_keys=true)", '{"a": 1, "b": "\\u00e9"}'),
        ("[1] | tojson(indent=2)", "[\n  1\n]"),
        ("[1, 2] | tojson(separators=(',', ':'))", "[1,2]"),
        ("['b', 'a', 'b'] | unique | sort | join", "ab"),
        ("dict(a=1) | tojson", '{"a": 1}'),
        ("[1, 2, 3].pop(0) ~ [1, 2, 3].pop()", "13"),
    ],
)  # fmt: skip
def test_features_of_published_templates_work(expression: str, expected: str) -> None:
    assert template("{{ " + expression.replace("\n", "\\n") + " }}").render(HI).text == expected


def test_a_template_may_change_the_lists_that_it_writes() -> None:
    source = """
    {%- macro add(queue, item) %}{% set _ = queue.append(item) %}{% endmacro %}
    {%- set ns = namespace(ids=[], seen=['one']) %}
    {%- for message in messages %}
        {%- set _ = ns.ids.append('id ' ~ loop.index) %}
        {{- add(ns.ids, [message.content]) }}
        {%- set both = [ns.ids.pop(0), ns.ids.pop()] %}
        {%- set _ = ns.seen.append(both) %}
    {%- endfor %}
    {{- ns | string ~ ns.ids ~ ns.seen }}"""
    assert template(source).render(HI).text == "<Namespace>[]['one', ['id 1', ['Hi']]]"


def test_generation_blocks_are_transparent() -> None:
    assert template("a{% generation %}b{% endgeneration %}c").render(HI).text == "abc"

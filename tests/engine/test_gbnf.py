"""GBNF is converted exactly: the texts it matches are accepted, and no others."""

import contextlib
import functools
import itertools
import random
import time

import msgspec
import pytest
from llguidance import LLMatcher, LLTokenizer

from localinfra.engine.grammar.client import MAX_GRAMMAR_CHARS, as_lark
from localinfra.engine.grammar.gbnf import (
    Characters,
    GbnfChoice,
    GbnfReference,
    GbnfSequence,
    Node,
    Repeat,
    read_rules,
)
from localinfra.errors import InvalidRequest

BYTES = functools.cache(lambda: LLTokenizer("byte"))


def matcher(grammar: str) -> LLMatcher:
    """A matcher with the client's grammar embedded as in an answer's."""
    outer = '%llguidance {"no_forcing": true}\nstart: @output'
    parts = [{"lark_grammar": outer}]
    parts.append({"name": "output", "lark_grammar": as_lark(grammar, "g", {"<stop>": 7})})
    found = LLMatcher(BYTES(), msgspec.json.encode({"grammars": parts}).decode(), log_level=0)
    assert not found.is_error(), found.get_error()
    return found


def takes(begun: LLMatcher, text: str) -> bool:
    walker = begun.deep_copy()
    for byte in text.encode():
        if walker.is_stopped() or walker.validate_tokens([byte]) != 1:
            return False
        walker.consume_token(byte)
    return bool(walker.is_accepting())


MEANINGS: list[tuple[str, str, list[str], list[str]]] = [
    ("a group repeated", "root ::= ([0-9]+)?", ["", "1", "123"], ["a"]),
    ("nested repetition", 'root ::= ("a"?)+', ["", "aaa"], ["b"]),
    ("counts of counts", 'root ::= ("a"{2}){3}', ["aaaaaa"], ["aaa", "aaaa", "aaaaaaa"]),
    ("exact", 'root ::= "a"{2} "b"', ["aab"], ["ab", "aaab"]),
    ("at least", 'root ::= "a"{2,}', ["aa", "aaaaa"], ["a"]),
    ("between", 'root ::= ("ab"){1,2}', ["ab", "abab"], ["", "ababab"]),
    ("at most", 'root ::= "a"{0,2} | "b"{,1}', ["", "aa", "b"], ["aaa", "bb"]),
    ("none", 'root ::= "x" "a"{0} ""', ["x"], ["xa"]),
    ("a repeated literal", 'root ::= "ab"*', ["", "abab"], ["abb"]),
    ("repeated twice", 'root ::= "a"?*', ["", "aaa"], ["b"]),
    ("escapes", r'root ::= "\u00e9\x41\U0001F600\"\\\n\t\r\[\]\-"', ['éA😀"\\\n\t\r[]-'], ["é"]),
    ("bytes are characters", r'root ::= "\xe9"', ["é"], []),
    ("signs of regexes", 'root ::= "a.*/(b)|[c]{2}^$?+"', ["a.*/(b)|[c]{2}^$?+"], ["aa"]),
    ("ranges", "root ::= [a-cX]+", ["abcX"], ["d", "-"]),
    ("hyphens", "root ::= [-a] [a-] [+-]", ["--+", "aa-"], ["b-+"]),
    ("negation", r"root ::= [^\n\x41-\x43]+", ["xé\r"], ["A", "\n", ""]),
    ("a caret", "root ::= [a^]", ["^", "a"], ["b"]),
    ("brackets", r"root ::= [\[\]\\/&~]+", ["[]\\/&~"], ["a"]),
    ("any", "root ::= .", ["a", "\n", "漢", "😀"], ["", "ab"]),
    ("ranges beyond ASCII", "root ::= [ぁ-ゟ]{2} [^ぁ-ゟ]", ["ひらa"], ["aaa"]),
    ("escaped ranges", r"root ::= [\u3041-\u309f\U0001F600-\U0001F64F]+", ["ひ😀"], ["a"]),
    ("an empty choice", 'root ::= "a" ( | "b") | ', ["", "a", "ab"], ["b"]),
    ("an empty rule", 'root ::= "a" e "b"\ne ::=', ["ab"], ["a"]),
    (
        "names",
        'root ::= a-1 B_2 3 camelCase\na-1 ::= "a"\nB_2 ::= "b"\n3 ::= "c"\ncamelCase ::= ""',
        ["abc"],
        ["ab"],
    ),
    ("names alike", 'root ::= a-b a_b A-B\na-b ::= "1"\na_b ::= "2"\nA-B ::= "3"', ["123"], ["11"]),
    ("a rule named start", 'root ::= start\nstart ::= "a"', ["a"], ["b"]),
    ("start above root", 'start ::= "a"\nroot ::= start "b"', ["ab"], ["a"]),
    ("a colon within", 'root ::= "start: x"', ["start: x"], []),
    ("lark's words", 'root ::= "%json {} & // # \' "', ["%json {} & // # ' "], []),
    ("comments", '# c ::= "\nroot ::= ( # ) c\n "a" # "\n) "b"#end', ["ab"], ["a"]),
    ("lines", 'root ::=\n  "a" |\n  "b" (\n"c"\n|\n"d"\n)\r\n\r\n', ["a", "bc", "bd"], ["b"]),
    ("lines as others wrap them", 'root ::= "a"\n  "b"\n  | "c"\n', ["ab", "c"], ["a"]),
    ("no blanks", 'root::="a"x\nx::="b"|"c"', ["ab", "ac"], ["a"]),
    ("a later definition", 'root ::= "a"\nroot ::= "b"', ["b"], ["a"]),
    ("one that goes on", 'root ::= [a-z]+ "a"', ["xa", "aa", "xaya"], ["a", "xb"]),
    ("one within another", 'root ::= "a" "b" root? | "abc"', ["ab", "abab", "abc"], ["abca"]),
    (
        "blanks that end twice",
        'root ::= (e "\\n")+\ne ::= "x" ws | "(" e ")" ws\nws ::= [ \\n]*',
        ["x\n", "(x )\n\n"],
        ["x"],
    ),
    (
        "words and names",
        'root ::= ("if" | name) ("(" root ")")?\nname ::= [a-z]+',
        ["if", "iff", "i", "if(x(if))"],
        ["if("],
    ),
    ("recursion on the left", 'root ::= root "+" "1" | "1"', ["1", "1+1+1"], ["1+"]),
    ("recursion in the middle", 'root ::= "(" root ")" | ""', ["", "(())"], ["(()"]),
]


@pytest.mark.parametrize(
    ("grammar", "taken", "refused"), [row[1:] for row in MEANINGS], ids=[row[0] for row in MEANINGS]
)
def test_a_construct_means_the_same_as_in_llama_cpp(
    grammar: str, taken: list[str], refused: list[str]
) -> None:
    begun = matcher(grammar)
    for text in taken:
        assert takes(begun, text), text
    for text in refused:
        assert not takes(begun, text), text


@pytest.mark.parametrize(
    ("grammar", "problem"),
    [
        ('main ::= "a"', "no start rule named root .only main"),
        ('root ::= "a" b', "line 1, column 14: the rule b is not defined"),
        ('root ::= "a"\n  ("b"', "line 2, column 3: this parenthesis is not closed"),
        ('root ::= "a")', "column 13: this parenthesis was never opened"),
        ('root ::= "a', "column 10: this text has no closing quote"),
        ("root ::= [a", "column 10: this character class has no closing bracket"),
        ("root ::= []", "this character class is empty"),
        ("root ::= [z-a]", "this range ends before it begins"),
        (r'root ::= "\d"', r"\\d is not an escape"),
        (r'root ::= "\u12"', r"\\u needs 4 hexadecimal digits"),
        (r'root ::= "\ud800"', r"\\ud800 is not a character"),
        (r'root ::= "\UFFFFFFFF"', r"\\UFFFFFFFF is not a character"),
        ('root ::= "a"{2,1}', "the smaller one first"),
        ('root ::= "a"{}', "write a repetition as"),
        ('root ::= "a"{x}', "write a repetition as"),
        ('root ::= "a"{%s}' % ("9" * 5000), "write a repetition as"),
        ("root ::= * a", r"nothing before this \* to repeat"),
        ("root ::= 'a'", "put literal text in double quotes"),
        ('root ::= "a"' + "?*" * 9000, "more than 4 repetition operators"),
        ("root ::= <none>", "<none> is not a control token"),
        ('x\nroot ::= "a"', "line 1, column 1: expected a rule here"),
        ("root ::= " + "(" * 5000 + '"a"' + ")" * 5000, "more than 60 deep"),
        ("root ::= r0\n" + "".join(f"r{n} ::= r{n + 1}\n" for n in range(1200)) + 'r1200 ::= "a"',
         "at most 1000"),
        ("a b c", "GBNF needs `root ::= ...`, Lark needs `start: ...`"),
        ("x" * (MAX_GRAMMAR_CHARS + 1), "characters"),
    ],
)  # fmt: skip
def test_an_error_names_its_line_and_column(grammar: str, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem) as caught:
        as_lark(grammar, "g", {})
    assert caught.value.param == "g"


def test_tokens_are_named_by_id_or_spelling_or_negated() -> None:
    tokens = {"<think>": 5, "<|end|>": 6}
    lark = as_lark("root ::= <think> !<[8]>* <|end|> <[9]> !<think>", "g", tokens)
    assert "(<[5]> (<[^8]>)* <[6]> <[9]> <[^5]>)" in lark


def test_lark_is_passed_through_within_limits() -> None:
    for lark in ('start: "a::=b"', '%llguidance {}\nstart: x\nx: "a"', '?start[lazy]: "a"'):
        assert as_lark(lark, "g", {}) == lark
    for wrong in (
        "start: %json {}",
        "start: A\nA: " + " & ".join(["B"] * 10),
        "start:" + ":" * 1001,
    ):
        with pytest.raises(InvalidRequest):
            as_lark(wrong, "g", {})


def test_a_long_chain_of_rules_and_many_lexemes_compile() -> None:
    chain = "".join(f"r{n} ::= r{n + 1}\n" for n in range(900))
    assert takes(matcher(f'root ::= r0\n{chain}r900 ::= "a"'), "a")
    words = " | ".join(f'"word {n}" root' for n in range(1500))
    begun = matcher(f'root ::= "." | {words}')
    assert takes(begun, "word 7word 77.") and not takes(begun, "word 7word")


ODD = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000, 2)))  # no two are adjacent


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= " + " | ".join(f'"w{n}" root' for n in range(2600)),
        f"root ::= ({'r ' * 8000})?\nr ::= [{ODD[:5000]}]",
        "".join(f"c{n} ::= [{ODD[200 * n : 200 * n + 200]}]? root?\n" for n in range(50))
        + f"root ::= {' '.join(f'c{n % 50}?' for n in range(3000))}",
        "".join(f'r{n} ::= "a"? {" ".join(f"r{(n * 7 + m) % 100}?" for m in range(60))}\n'
                for n in range(100)) + "root ::= r0",
        "root ::= r0\n" + "".join(f"r{n} ::= r{n + 1} r{n + 1}\n" for n in range(60)) + "r60 ::=",
        f'root ::= "{"ab" * 15_000}" root?',
        f"root ::= {'.* ' * 8000}root?",
        'root ::= ("a"{1000000000}){1000000000}',
        "root ::= x" + " " * 30_000 + "x\nx ::= x" + "#" * 1000,
        "root ::= x" + " \n#" * 10_000 + "x",
        "root" + " " * 30_000,
        "root ::= " + "(" * 59 + '"a" | "b" root?' + ')* "c"?' * 59,
    ],
    ids=range(12),
)  # fmt: skip
def test_hostile_grammars_are_converted_in_bounded_time(grammar: str) -> None:
    started_s = time.thread_time()
    with contextlib.suppress(InvalidRequest):
        as_lark(grammar[:MAX_GRAMMAR_CHARS], "g", {})
    assert time.thread_time() - started_s < 10  # 0.5 s at most on a quiet machine


def means(rules: dict[str, Node], text: str) -> bool:
    """Whether a grammar matches the text, by trying every way to parse it."""
    ends: dict[tuple[str, int], set[int]] = {("root", 0): set()}

    def after(node: Node, at: int) -> set[int]:
        if isinstance(node, Characters):
            is_in = at < len(text) and any(a <= ord(text[at]) <= b for a, b in node.ranges)
            return {at + 1} if is_in else set()
        if isinstance(node, GbnfReference):
            return ends.setdefault((node.name, at), set())
        if isinstance(node, GbnfChoice):
            return {end for option in node.options for end in after(option, at)}
        here = {at}
        if isinstance(node, GbnfSequence):
            for item in node.items:
                here = {end for start in here for end in after(item, start)}
            return here
        assert isinstance(node, Repeat)
        found = set(here) if node.least == 0 else set()
        most = node.least + len(text) + 1 if node.most is None else node.most
        for count in range(1, most + 1):
            here = {end for start in here for end in after(node.item, start)}
            found |= here if count >= node.least else set()
        return found

    before = -1
    while before != (before := len(ends) + sum(map(len, ends.values()))):
        for name, at in list(ends):
            ends[name, at] |= after(rules[name], at)
    return len(text) in ends["root", 0]


def a_node(rng: random.Random, depth: int) -> str:
    kind = rng.random()
    if depth == 0 or kind < 0.35:
        literals = ('"a"', '"b"', '"ab"', '"bc"', '"aa"', '""', "[ab]", "[^a]", "[a-c]")
        return rng.choice([*literals, "x", "y", "x", "y", "root"])
    if kind < 0.8:
        parts = [a_node(rng, depth - 1) for _ in range(rng.randint(1, 3))]
        return f"({(' ' if kind < 0.6 else ' | ').join(parts)})"
    repetition = rng.choice(["*", "+", "?", "{2}", "{1,2}", "{,2}", "{2,}"])
    return a_node(rng, depth - 1) + repetition


TEXTS = ["".join(text) for size in range(6) for text in itertools.product("abc", repeat=size)]


@pytest.mark.parametrize("seed", range(12))
def test_any_grammar_accepts_exactly_the_texts_it_matches(seed: int) -> None:
    num_meant = 0
    for number in range(10):
        rng = random.Random(1000 * seed + number)
        base = '\nx ::= "a" | ' + a_node(rng, 3) + "\ny ::= [bc] | " + a_node(rng, 3)
        grammar = f'root ::= {a_node(rng, 3)} | "bb"{base}'
        rules, begun = read_rules(grammar), matcher(grammar)
        for text in rng.sample(TEXTS, 40):
            is_meant = means(rules, text)
            num_meant += is_meant
            assert takes(begun, text) == is_meant, (grammar, text)
    assert num_meant > 2

"""Markdown, formulas and code of answers, as they are drawn."""

from collections.abc import Iterator

import pytest
from echo import EchoServer
from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

# A text and where it is cut as it comes → the tree, in the page's own words.
DRAW = """async ({ text, steps }) => {
  const main = document.querySelector("script[type=module]").src;
  const { MarkdownView } = await import(new URL("text/markdown.js", main));
  const view = new MarkdownView();
  for (const end of steps) view.show(text.slice(0, end));
  view.show(text);
  const words = (node) => {
    if (node.nodeType === Node.TEXT_NODE) return node.data;
    if (node.matches("button, annotation")) return "";
    const inside = [...node.childNodes].map(words).join("");
    if (node.matches(".code-block, .code-head, .table-wrap, semantics, mrow, thead, tbody")) {
      return inside;
    }
    const address = node.matches("a") ? " " + node.getAttribute("href") : "";
    const kind = /^hl-/.test(node.className) ? node.className : node.localName;
    return `<${kind}${address}>${inside}</>`;
  };
  return [...view.element.childNodes].map(words).join("");
}"""

WRITTEN = [
    ("plain", "<p>plain</>"),
    ("a\nb", "<p>a<br></>b</>"),
    ("# Title #\ntext", "<h2>Title</><p>text</>"),
    ("*a* **b** ***c*** ~~d~~", "<p><em>a</> <strong>b</> <strong><em>c</></> <del>d</></>"),
    ("snake_case and 2 * 3 * 4", "<p>snake_case and 2 * 3 * 4</>"),
    ("__a__ _b_", "<p><strong>a</> <em>b</></>"),
    ("**a *b* c**", "<p><strong>a <em>b</> c</></>"),
    ("\\*a\\*", "<p>*a*</>"),
    ("`a *b*` ``c`d``", "<p><code>a *b*</> <code>c`d</></>"),
    ("**open", "<p>**open</>"),
    ("[a *b*](https://x.org/y_(z))", "<p><a https://x.org/y_(z)>a <em>b</></></>"),
    ("see https://x.org/a_b. Yes", "<p>see <a https://x.org/a_b>https://x.org/a_b</>. Yes</>"),
    ("(https://x.org)", "<p>(<a https://x.org>https://x.org</>)</>"),
    ("[https://a.org](https://b.org)", "<p><a https://b.org>https://a.org</></>"),
    ("[a](javascript:x)", "<p>a (javascript:x)</>"),
    ("- a\n- b", "<ul><li>a</><li>b</></>"),
    ("3. a\n4. b", "<ol><li>a</><li>b</></>"),
    ("- a\n  - b\n- c", "<ul><li>a<ul><li>b</></></><li>c</></>"),
    ("1. a\n   more\n\n   new\n2. b", "<ol><li>a<br></>more<p>new</></><li>b</></>"),
    ("1. a\n\n2. b", "<ol><li>a</><li>b</></>"),
    ("- a\n\ntext", "<ul><li>a</></><p>text</>"),
    ("1. a\n   ```\n   x\n   ```", "<ol><li>a<span>text</><pre><code>x</></></></>"),
    ("- [x] done", "<ul><li><input></>done</></>"),
    ("> a\n> > b", "<blockquote><p>a</><blockquote><p>b</></></>"),
    ("---", "<hr></>"),
    ("|a|b|\n|-|:-:|\n|1|`x\\|y`|",
     "<table><tr><th>a</><th>b</></><tr><td>1</><td><code>x|y</></></></>"),
    ("```\na\n  b\n```", "<span>text</><pre><code>a\n  b</></>"),
    ("````\n```\n````", "<span>text</><pre><code>```</></>"),
    ("```py\nif x: # c\n```",
     "<span>py</><pre><code><hl-keyword>if</> x: <hl-comment># c</></></>"),
    ('```json\n{"a": 1}\n```',
     '<span>json</><pre><code>{<hl-string>"a"</>: <hl-number>1</>}</></>'),
    ("<b>x</b>", "<p><b>x</b></>"),
    ("a<br>b", "<p>a<br></>b</>"),
    ("costs $5 or $6", "<p>costs $5 or $6</>"),
    ("$x^2$", "<p><math><msup><mi>x</><mn>2</></></></>"),
    ("\\(a_i\\)", "<p><math><msub><mi>a</><mi>i</></></></>"),
    ("$$\\frac{1}{2}$$", "<div><math><mfrac><mn>1</><mn>2</></></></>"),
    ("\\[\n\\sqrt{x}\n\\]", "<div><math><msqrt><mi>x</></></></>"),
    ("$$\\sum_{i=1}^n i$$",
     "<div><math><munderover><mo>∑</><mi>i</><mo>=</><mn>1</><mi>n</></><mi>i</></></>"),
    ("$\\mathbb{R}\\,\\sin x$", "<p><math><mi>\u211d</><mspace></><mo>sin</><mi>x</></></>"),
    ("$\\begin{pmatrix}a&b\\\\c&d\\end{pmatrix}$",
     "<p><math><mo>(</><mtable><mtr><mtd><mi>a</></><mtd><mi>b</></></>"
     "<mtr><mtd><mi>c</></><mtd><mi>d</></></></><mo>)</></></>"),
    ("\\[\na\n+ b\n\\]", "<div><math><mi>a</><mo>+</><mi>b</></></>"),
    ("$$\nopen\n\nnext", "<p>$$<br></>open</><p>next</>"),
    ("$$\\underbrace{ab}_n$$",
     "<div><math><munder><munder><mi>a</><mi>b</><mo>⏟</></><mi>n</></></></>"),
    ("$\\unknown x$", "<p><math><mtext>\\unknown</><mi>x</></></>"),
    ("$\\frac{1$", "<p><code>\\frac{1</></>"),
    ("$\\text{if } x$", "<p><math><mtext>if\u00a0</><mi>x</></></>"),
]  # fmt: skip


@pytest.fixture(scope="module")
def drawing(chromium: Browser, server: EchoServer) -> Iterator[Page]:
    page = chromium.new_page()
    page.goto(server.url)
    yield page
    page.close()


@pytest.mark.parametrize(("text", "tree"), WRITTEN, ids=[text for text, _ in WRITTEN])
def test_a_text_is_drawn_as_it_is_meant(drawing: Page, text: str, tree: str) -> None:
    assert drawing.evaluate(DRAW, {"text": text, "steps": []}) == tree


def test_a_code_block_has_its_language_while_it_streams(drawing: Page) -> None:
    text = "```python\nx"
    assert drawing.evaluate(DRAW, {"text": text, "steps": [3, 5, 10]}) == (
        "<span>python</><pre><code>x</></>"
    )


def test_it_does_not_matter_where_a_stream_is_cut(drawing: Page) -> None:
    text = "\n\n".join(text for text, _ in WRITTEN)
    whole = drawing.evaluate(DRAW, {"text": text, "steps": []})
    for cut in range(len(text)):
        assert drawing.evaluate(DRAW, {"text": text, "steps": [cut]}) == whole, text[:cut]
    letters = list(range(len(text)))
    assert drawing.evaluate(DRAW, {"text": text, "steps": letters}) == whole


def test_a_text_may_have_any_number_of_parts(drawing: Page) -> None:
    """More than a call can have arguments."""
    tree = drawing.evaluate(DRAW, {"text": "*a* " * 70_000, "steps": []})
    assert tree.count("<em>a</>") == 70_000

"""Whatever a model writes, the page shows it and nothing else happens."""

import pytest
from playwright.sync_api import Page, expect
from talking import say, text_of

pytestmark = pytest.mark.browser

MARKUP = """<script>window.hacked = 1</script> <img src=x onerror="window.hacked = 1">
<iframe src="https://example.org"></iframe> <style>body { display: none }</style>

<svg onload="window.hacked = 1"></svg> <a href="javascript:hacked=1">a</a>

![pixel](https://example.org/track.png) ![data](data:image/svg+xml,<svg/>)

[script](javascript:window.hacked=1) [data](data:text/html,x) [file](file:///etc/passwd)
[here](/v1/models/x/unload) [odd](jAvAsCrIpT:hacked=1) [space]( javascript:hacked=1 )

| <b>bold</b> | [x](javascript:hacked=1) |
| --- | --- |
| <script>hacked=1</script> | ![i](https://example.org/i.png) |

$\\text{<script>hacked=1</script>}$ $\\href{javascript:hacked=1}{x}$ $<img src=x onerror=hacked=1>$

```html
<script>window.hacked = 1</script>
```
"""


def assert_untouched(page: Page) -> None:
    assert page.evaluate("window.hacked === undefined")
    made = "script, img, iframe, style, svg:not(.icon), object, embed, form, base, meta, link"
    assert page.locator(".prose").locator(made).count() == 0
    listeners = "all => all.flatMap(e => e.getAttributeNames()).filter(name => /^on/.test(name))"
    assert page.locator(".prose *").evaluate_all(listeners) == []
    links = page.locator(".prose a").evaluate_all("all => all.map(a => [a.href, a.rel])")
    for address, relation in links:
        assert address.startswith(("https://", "http://", "mailto:")), address
        assert "noopener" in relation and "noreferrer" in relation


def test_markup_and_scripts_stay_text(page: Page) -> None:
    answer = say(page, MARKUP)
    expect(text_of(answer)).to_contain_text("<script>window.hacked = 1</script>")
    assert_untouched(page)
    page.reload()  # what was kept is shown in the same way
    page.locator(".conversation").click()
    expect(text_of(page.locator(".turn.assistant"))).to_contain_text("<iframe")
    assert_untouched(page)


def test_pictures_of_other_hosts_are_links_and_are_not_fetched(page: Page) -> None:
    """`open_page` fails on any request to another host."""
    answer = say(page, "![a pixel](https://example.org/track.png)")
    link = answer.locator(".prose a")
    expect(link).to_have_text("Picture: a pixel")
    expect(link).to_have_attribute("href", "https://example.org/track.png")
    assert answer.locator(".prose img").count() == 0


def test_a_link_shows_where_it_leads(page: Page) -> None:
    link = say(page, "[https://mybank.com](https://evil.example/x)").locator(".prose a")
    expect(link).to_have_attribute("title", "https://evil.example/x")


def test_signs_that_turn_the_direction_are_shown(page: Page) -> None:
    answer = say(page, "user \u202egnp.exe and `x\u2066y` end\n\n```\nif \u202e(admin)\n```")
    expect(text_of(answer)).to_contain_text("⟨U+202E⟩gnp.exe")
    expect(text_of(answer)).to_contain_text("⟨U+2066⟩")
    text = text_of(answer).inner_text()
    assert not set(text) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert "\u202e" not in page.locator(".turn.user").inner_text()
    assert "\u202e" not in page.locator(".conversation").inner_text()


def test_signs_that_hide_text_are_shown_but_those_of_flags(page: Page) -> None:
    flag = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
    answer = say(page, f"a\U000e0041b\u061cc {flag}\U000e0042")
    expect(text_of(answer)).to_have_text(f"a⟨U+E0041⟩b⟨U+061C⟩c {flag}⟨U+E0042⟩")


@pytest.mark.parametrize(
    "text",
    [
        "'> '.repeat(20000) + 'x'",
        "'- '.repeat(20000) + 'x'",
        "'*'.repeat(50000)",
        "'*a '.repeat(20000)",
        "'**a'.repeat(20000)",
        "'_a_b'.repeat(20000)",
        "'['.repeat(50000)",
        "'[a'.repeat(20000)",
        "'[a]('.repeat(20000)",
        "'![['.repeat(20000)",
        "'`'.repeat(50000)",
        "'`a'.repeat(20001)",
        "'$a'.repeat(20001)",
        "'\\\\\\\\('.repeat(20000)",
        "'$' + '{'.repeat(20000) + '$'",
        "'$' + '\\\\frac'.repeat(5000) + '$'",
        "'<'.repeat(50000)",
        "'https://'.repeat(10000)",
        "'|a'.repeat(20000) + '\\n' + '|-'.repeat(20000) + '\\n'",
        "'#' + ' '.repeat(50000) + 'x'",
        "'```' + ' '.repeat(50000) + '`'",
        "'|-' + ' '.repeat(50000) + 'x'",
        "'a|b\\n-|-\\n' + 'x|y\\n'.repeat(5000)",
        "'```js\\n' + '\"'.repeat(50000) + '\\n```'",
        "'```html\\n' + '<a '.repeat(20000) + '\\n```'",
        "' '.repeat(100000) + '\\n'.repeat(50000)",
        "'\\u0300'.repeat(50000)",
        "'\\ud800'.repeat(1000)",
    ],
)
def test_no_text_takes_long_or_breaks_the_page(page: Page, text: str) -> None:
    """Work that grows with the square of a text would not end within the test's limit."""
    length = page.evaluate(
        f"""async () => {{
          const main = document.querySelector("script[type=module]").src;
          const {{ markdown }} = await import(new URL("text/markdown.js", main));
          return markdown({text}).textContent.length;
        }}"""
    )
    assert length >= 0


def test_a_wide_table_of_short_lines_makes_few_cells(page: Page) -> None:
    """A cell for each column of each line would be 190,000 of them here."""
    width, lines = 190, 1000
    text = f"{'|a' * width}|\n{'|-' * width}|\n" + "|b\n" * lines
    count = """async (text) => {
      const script = document.querySelector("script[type=module]").src;
      const { markdown } = await import(new URL("./text/markdown.js", script));
      return markdown(text).querySelectorAll("td").length;
    }"""
    assert page.evaluate(count, text) == 2 * lines


def test_a_language_of_code_can_not_turn_the_direction(page: Page) -> None:
    answer = say(page, "```\u202egnp\ncode\n```")
    expect(answer.locator(".code-head span").first).to_have_text("⟨U+202E⟩gnp")

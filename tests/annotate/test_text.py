"""Texts on the labelling page: as Markdown means them, and no text keeps the browser busy for long."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

TEXT = ROOT / "bgpm/annotate/page/text.js"
PIECES = [
    *("*", "**", "***", "_", "__", "`", "``", "~~~", "```", "[", "](", "]", "(", ")", "!", "|", "-", "|-|", ":", "#"),
    *(" ", "  ", "\t", "\n", "\n\n", "> ", "- ", "  - ", "1. ", "\u2028", "a", "word ", "\u00e9", "<b>", "&amp;"),
]
WORST = [
    *("# " + " " * 20_000 + "\u2028", "**a", "*a ", "_a ", "`a", "``a`", "[", "[a](", "- \n", "> ", ">" * 12, "|"),
    *("a|b\n-|-\n", "|-|\n", "1. a\n", "~~~\n~", "* *", "- " * 9, "```\n", "*_", "  - a\n"),
]

# A document that holds just what the page uses of one; it counts the elements and prints what was made.
NODE = r"""
class Node {
  constructor(name) { this.name = name; this.inside = []; }
  append(...some) { this.inside.push(...some); }
  replaceChildren() { this.inside = []; }
  set textContent(text) { this.inside = [text]; }
  get html() {
    const inside = this.inside.map((one) => (typeof one === "string" ? one : one.html)).join("");
    return this.name ? `<${this.name}>${inside}</${this.name}>` : inside;
  }
}
let made = 0;
globalThis.document = { createElement: (name) => { made += 1; return new Node(name); } };
const { show } = await import(process.argv[1]);
let texts = "";
for await (const part of process.stdin) texts += part;
const found = JSON.parse(texts).map((text) => {
  let cpu = Infinity, html = "";
  for (let again = 0; again < 3; again += 1) {
    const start = process.cpuUsage();
    const node = new Node("");
    made = 0;
    show(node, text, false);
    const used = process.cpuUsage(start);
    cpu = Math.min(cpu, (used.user + used.system) / 1e6);
    if (text.length < 1000) html = node.html;
  }
  return { html, made, cpu };
});
console.log(JSON.stringify(found));
"""


def rendered(texts: list[str], tmp_path: Path) -> list[dict[str, Any]]:
    """Each text's nodes, their number, and the CPU seconds that it took."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node on PATH")
    shutil.copy(TEXT, module := tmp_path / "text.mjs")
    done = subprocess.run(
        [node, "--input-type=module", "-e", NODE, str(module)],
        input=json.dumps(texts), capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_markdown_becomes_what_it_means(tmp_path: Path) -> None:
    expected = {
        "a *b* **c** ***d***": "<p>a <em>b</em> <strong>c</strong> <strong><em>d</em></strong></p>",
        "snake_case_name, 2*3*4, a * b * c": "<p>snake_case_name, 2*3*4, a * b * c</p>",
        "__x__ and _y_": "<p><strong>x</strong> and <em>y</em></p>",
        "**a *b** c*": "<p><strong>a *b</strong> c*</p>",
        "*a **b** c*": "<p><em>a <strong>b</strong> c</em></p>",
        "`*a*` and ``b`c`` and `d": "<p><code>*a*</code> and <code>b`c</code> and `d</p>",
        "[l*i*n](http://x) ![i](u) [no] (x)": "<p>l*i*n<span> (http://x)</span> image: i<span> (u)</span> [no] (x)</p>",
        "# h #\n####### no": "<h3>h</h3><p>####### no</p>",
        "---\n- a\n  - b\n1. x": "<hr></hr>"
        "<ul><li><p>a</p><ul><li><p>b</p></li></ul></li></ul><ol><li><p>x</p></li></ol>",
        "> q\n> > r\nt": "<blockquote><p>q</p><blockquote><p>r</p></blockquote></blockquote><p>t</p>",
        "```py\nx\n~~~\n```\ny": "<pre><code>x\n~~~</code></pre><p>y</p>",
        "|a|b|\n|---|:-:|\n|1|*2*|\n3": "<div><table><tr><th>a</th><th>b</th></tr>"
        "<tr><td>1</td><td><em>2</em></td></tr>"
        "</table></div><p>3</p>",
        "<b>x</b> &amp;": "<p><b>x</b> &amp;</p>",  # as text: nodes are printed without escapes here
        "": "",
    }  # fmt: skip
    assert dict(zip(expected, (one["html"] for one in rendered(list(expected), tmp_path)), strict=True)) == expected


def hostile(length: int) -> list[str]:
    """Texts of a length that repeat what a reader of Markdown may trip over."""
    rng = random.Random(0)
    units = [*WORST, *PIECES, *("".join(rng.choices(PIECES, k=rng.randint(2, 7))) for _ in range(40))]
    return [(unit * (length // len(unit) + 1))[:length] for unit in units]


@pytest.mark.slow
def test_no_text_takes_much_longer_than_lists_with_bold_and_code_of_its_length(tmp_path: Path) -> None:
    length = 60_000
    texts = hostile(length)
    usual, *others = rendered(
        [
            ("- **bold** words and `code`, and more of it than that, which goes on for a while\n" * length)[:length],
            *texts,
        ],
        tmp_path,
    )
    slow = [(text[:40], one["cpu"]) for text, one in zip(texts, others, strict=True) if one["cpu"] > 20 * usual["cpu"]]
    assert not slow  # a search that starts over at every character takes some thousand times as long
    assert max(one["made"] for one in others) <= 200 + length / 80 + 20


@pytest.mark.slow
def test_no_text_keeps_the_browser_busy_for_20_times_as_long_as_plain_text(
    campaign: Callable[..., Any], start: Callable[..., Any], browser: Any
) -> None:
    browser.get(start(campaign().root).url)
    texts = [("word and words " * 1400)[:20_000], *hostile(20_000)[: len(WORST)]]
    script = """
        const [texts, done] = arguments;
        import("/text.js").then(({ show }) => {
          const node = document.createElement("div");
          node.className = "body";
          document.body.append(node);
          const time = (text, raw) => {
            node.replaceChildren();
            node.offsetHeight;
            const start = performance.now();
            show(node, text, raw);
            node.offsetHeight;
            return performance.now() - start;
          };
          const best = texts.map(() => [Infinity, Infinity]);
          for (let again = 0; again < 8; again += 1) {
            for (const [n, text] of texts.entries()) best[n] = best[n].map((t, raw) => Math.min(t, time(text, !!raw)));
          }
          done(best);
        });
    """
    browser.set_script_timeout(120)
    # Many short lines take long however they are shown: plain is prose, or the text itself as it is written.
    (prose, _), *others = browser.execute_async_script(script, texts)
    slow = sorted(
        ((t / max(prose, plain), text[:30]) for (t, plain), text in zip(others, texts[1:], strict=True)), reverse=True
    )
    assert slow[0][0] < 20, slow[:5]

"""The report as one HTML page, and a page a task to browse its answers; both stand alone, without a network."""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from yuan_evaluator.report import markdown as md
from yuan_evaluator.report import plots

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; } th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; }
td:not(:first-child), th:not(:first-child) { text-align: right; } h2 { margin-top: 2em; }
svg { max-width: 100%; height: auto; } .right { color: #117733; } .wrong { color: #aa3333; }
pre { white-space: pre-wrap; background: #f6f6f6; padding: .6em; overflow-wrap: anywhere; max-height: 30em;
 overflow: auto; }
details { border-bottom: 1px solid #eee; padding: .3em 0; } summary { cursor: pointer; } em { color: #777; }
@media (prefers-color-scheme: dark) { body { background: #1b1b1b; color: #ddd; } pre { background: #262626; }
 th, td { border-color: #444; } svg { background: #ddd; } }
"""


def page(report: md.Report, leaderboard: Sequence[Mapping[str, Any]]) -> str:
    """Returns the report's page."""
    body = [f"<h1>{html.escape(report['model'])}</h1>"]
    text = md.markdown(report, leaderboard).partition("\n")[2]
    pictures = {
        task["title"]: plots.categories_plot(task["categories"])
        for task in md.tasks_of(report).values()
        if task["categories"]
    }
    links = {task["title"]: name for name, task in md.tasks_of(report).items()}
    for block in text.split("\n\n"):
        body.append(_block(block.strip("\n")))
        if block.strip().startswith("## "):
            title = block.strip().removeprefix("## ").partition("\n")[0]
            if title in links:
                body.append(f'<p><a href="items/{links[title]}.html">every question and answer</a></p>')
                body.append(pictures.get(title, ""))
    if md.tasks_of(report):
        body.insert(1, plots.scores_plot(leaderboard))
    return _document(report["model"], "\n".join(body))


def _block(text: str) -> str:
    """Returns one block of our own Markdown as HTML: a heading, a table, a list, or a paragraph."""
    if text.startswith("#"):
        head, _, rest = text.partition("\n")
        level = len(head) - len(head.lstrip("#"))
        return f"<h{level}>{html.escape(head.lstrip('# '))}</h{level}>" + (_block(rest.strip()) if rest.strip() else "")
    if text.startswith("|"):
        rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines()]
        head = "".join(f"<th>{_inline(cell)}</th>" for cell in rows[0])
        lines = "".join(f"<tr>{''.join(f'<td>{_inline(cell)}</td>' for cell in row)}</tr>" for row in rows[2:])
        return f"<table><tr>{head}</tr>{lines}</table>"
    if text.startswith("- "):
        return f"<ul>{''.join(f'<li>{_inline(line[2:])}</li>' for line in text.splitlines())}</ul>"
    return f"<p>{_inline(text)}</p>" if text else ""


def _inline(text: str) -> str:
    text = html.escape(text.replace("\\|", "|").strip())
    return f"<em>{text[1:-1]}</em>" if text.startswith("*") and text.endswith("*") and len(text) > 2 else text


def browser(title: str, records: Sequence[Mapping[str, Any]]) -> str:
    """Returns a page that shows a task's records: filtered by verdict and words, a hundred at a time."""
    data = json.dumps(list(records), ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    body = f"""<h1>{html.escape(title)}</h1>
<p><input id="words" placeholder="words" size="30"> <select id="verdict"><option value="">all</option>
<option value="right">right</option><option value="wrong">wrong</option></select> <button id="back">‹</button>
<button id="on">›</button> <span id="count"></span></p><div id="list"></div>
<script type="application/json" id="data">{data}</script><script>{_SCRIPT}</script>"""
    return _document(title, body)


_SCRIPT = """
const records = JSON.parse(document.getElementById('data').textContent), shown = 100;
const list = document.getElementById('list'), words = document.getElementById('words');
const verdict = document.getElementById('verdict'), count = document.getElementById('count');
let start = 0;
function make(kind, text, name) { const e = document.createElement(kind); e.textContent = text;
  if (name) e.className = name; return e; }
function show() {
  const wanted = words.value.toLowerCase();
  const found = records.filter(r => (!wanted || JSON.stringify(r).toLowerCase().includes(wanted))
    && (!verdict.value || (r.right > 0.5) === (verdict.value === 'right')));
  start = Math.max(0, Math.min(start, found.length - 1));
  const end = Math.min(start + shown, found.length);
  count.textContent = found.length ? `${start + 1} to ${end} of ${found.length}` : 'none';
  list.replaceChildren(...found.slice(start, start + shown).map(r => {
    const box = document.createElement('details'), head = make('summary', '');
    head.append(make('span', r.right > 0.5 ? '✓ ' : '✗ ', r.right > 0.5 ? 'right' : 'wrong'),
      `${r.item}  ${(r.question || '').slice(0, 90)}`);
    box.append(head, make('b', 'prompt'), make('pre', r.prompt), make('b', 'gold'), make('pre', r.gold));
    if (r.likelihood) box.append(make('b', 'likelihood'), make('pre', JSON.stringify(r.likelihood, null, 1)));
    (r.samples || []).forEach((s, i) => box.append(make('b', `answer ${i + 1}${r.chosen === i ? ' (chosen)' : ''}: `
      + (s.right ? 'right' : 'wrong') + (s.detail ? `, ${s.detail}` : ''), s.right ? 'right' : 'wrong'),
      make('pre', s.error || s.text), make('i', `extracted (${s.rule}):`), make('pre', s.extracted ?? 'nothing')));
    if (r.unit_tests) box.append(make('b', 'unit tests'), ...r.unit_tests.map(t => make('pre', t)));
    return box; }));
}
words.oninput = verdict.onchange = () => { start = 0; show(); };
document.getElementById('back').onclick = () => { start -= shown; show(); };
document.getElementById('on').onclick = () => { start += shown; show(); };
show();
"""


def _document(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )

"""Reports as one HTML file each: no script, no network, every text escaped."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from contrastive_ner.insight.audit import KINDS, Audit
from contrastive_ner.serving.demo import marked, storable

REPORT_START = (
    '<!doctype html>\n<html><head><meta charset="utf-8"><meta name="generator" '
    'content="contrastive-ner">'
)
STYLE = """
body { font: 16px/1.6 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1rem; margin: 1.5rem 0 .3rem; color: #555; }
section { border-top: 1px solid #ddd; padding-bottom: .7rem; }
mark { background: #fde9b0; border-radius: .2rem; padding: 0 .15rem; }
mark mark { background: #f8cf6a; }
mark.bad { background: #f7c6c0; } mark.good { background: #c7e8c9; }
mark small { color: #664; font-size: .7rem; margin-left: .2rem; }
table { border-collapse: collapse; margin: .3rem 0 .6rem; font-size: .9rem; }
td, th { text-align: left; padding: .1rem .8rem .1rem 0; vertical-align: top; font-weight: normal; }
th { color: #777; } .same { color: #24702a; } .other { color: #a33; } .note { color: #666; }
p { margin: .3rem 0; white-space: pre-wrap; }
"""


def page(title: str, note: str, sections: Iterable[str]) -> str:
    """A page; `title` and `note` are plain text, the sections HTML."""
    body = "\n".join(f"<section>{section}</section>" for section in sections)
    return storable(
        f"{REPORT_START}<title>{escape(title)}</title>\n"
        f"<style>{STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n"
        f'<p class="note">{escape(note)}</p>\n{body}\n</body></html>\n'
    )


def neighbour_table(neighbours: Sequence[dict[str, Any]], label: str) -> str:
    """The nearest mentions as a table; those with the same label are marked as such."""
    if not neighbours:
        return '<p class="note">no neighbours</p>'
    rows = [
        f'<tr><td class="{"same" if n["label"] == label else "other"}">{escape(n["label"])}</td>'
        f"<td>{n['similarity']:.3f}</td><td>{escape(n['before'])}<mark>{escape(n['word'])}</mark>"
        f"{escape(n['after'])}</td><td>{escape(n['record'])}</td></tr>"
        for n in neighbours
    ]
    head = "<tr><th>label</th><th>similarity</th><th>training text</th><th>record</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def explain_page(rows: Sequence[dict[str, Any]], model: str) -> str:
    """The report of `explain`."""
    sections = []
    for row in rows:
        spans = [(m["start"], m["end"], m["label"], "") for m in row["entities"]]
        parts = [f"<h2>{escape(row['id'])}</h2><p>{marked(row['text'], spans)}</p>"]
        for m in row["entities"]:
            word = escape(row["text"][m["start"] : m["end"]])
            parts.append(
                f"<p><b>{word}</b> {escape(m['label'])}, score {m['score']:.2f}; "
                f"{m['agreeing']} of {len(m['neighbours'])} neighbours have this label</p>"
                + neighbour_table(m["neighbours"], m["label"])
            )
        sections.append("".join(parts))
    note = f"{len(rows)} texts, tagged by {model}; each mention with the nearest training mentions."
    return page("Why these mentions?", note, sections)


def audit_page(result: Audit, rows: Sequence[dict[str, Any]], name: str) -> str:
    """The report of `audit`."""
    sections = []
    for rank, row in enumerate(rows, 1):
        texts = [  # a line each: their boundaries are what differs, and may cross
            marked(row["text"], [(own["start"], own["end"], f"{who} {own['label']}", kind)])
            for own, who, kind in (
                (row["annotated"], "data:", "bad"),
                (row["model"], "model:", "good"),
            )
            if own is not None
        ]
        label = (row["annotated"] or row["model"])["label"]
        sections.append(
            f"<h2>{rank}. {escape(row['record'])}: {escape(KINDS[row['kind']])} "
            f"(suspicion {row['suspicion']:.3f})</h2>"
            + "".join(f"<p>{text}</p>" for text in texts)
            + neighbour_table(row["neighbours"], label)
        )
    note = (
        f"{name}: {result.texts} texts, {result.mentions} mentions; {len(result.found)} "
        f"disagreements, the first {len(rows)} are shown. Red is the annotation, green what a "
        "model says that was not trained on the text; below are the nearest mentions elsewhere."
    )
    return page("Labels to check", note, sections)


def select_page(rows: Sequence[dict[str, Any]], name: str) -> str:
    """The report of `select`."""
    sections = []
    for row in rows:
        spans = [(m["start"], m["end"], m["label"], "") for m in row["entities"]]
        sections.append(
            f"<h2>{row['rank']}. {escape(row['id'])} (doubt {row['doubt']:.2f}, distance "
            f"{row['distance']:.2f})</h2><p>{marked(row['text'], spans)}</p>"
        )
    note = f"{name}: {len(rows)} texts, the most useful first, with the model's predictions."
    return page("Texts to annotate next", note, sections)

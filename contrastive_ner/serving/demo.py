"""A page to try a model: a text in, its mentions marked. Needs gradio: the extra `demo`.

This file is also the app.py of a Space (`push --space`), next to a folder `model`: it imports
nothing else of the project. Sections: HTML, the page.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from html import escape
from pathlib import Path
from typing import Any

COLOURS = 8  # of types; further types begin again
MOST_CHARACTERS = 50_000  # of a text: a page is shared, and a model tags one text at a time
MOST_TYPES = 200
MOST_WAITING = 64  # requests in the queue
CSS = """
.mentions p { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 2.4; }
.mentions mark { background: var(--own); color: #222; border-radius: .25rem;
  padding: .15rem .2rem; }
.mentions mark mark { box-shadow: 0 0 0 1px #0006; padding: .05rem .15rem; }
.mentions mark small { margin-left: .3rem; font-size: .7em; color: #444; white-space: nowrap; }
.mentions table { border-collapse: collapse; font-size: .9rem; }
#result .mentions :is(td, th) { text-align: left; border: 0; padding: .1rem 1rem .1rem 0; }
.mentions .refused { color: #b00020; line-height: 1.5; }
""" + "".join(
    f".mentions .t{number} {{ --own: {colour}; }}\n"
    for number, colour in enumerate(
        ("#fde9b0", "#c7e3f7", "#cdeccd", "#f7cfc9", "#e2d3f5", "#cfeeee", "#f9d9ec", "#e4e4d0")
    )
)


# --------------------------------------------------------------------------------------------- HTML
def marked(text: str, spans: Sequence[tuple[int, int, str, str]]) -> str:
    """A text with spans (start, end, label, class) marked, also nested ones, as HTML.

    A span that crosses another one is cut at the other's end.

    >>> marked("<b> Rome", [(4, 8, "LOC", "")])
    '&lt;b&gt; <mark>Rome<small>LOC</small></mark>'
    """
    opening: dict[int, list[tuple[int, int, str, str]]] = {}
    for span in sorted(spans, key=lambda s: -s[1]):
        opening.setdefault(span[0], []).append(span)
    pieces: list[str] = []
    open_spans: list[tuple[int, str]] = []
    for at in range(len(text) + 1):
        while open_spans and open_spans[-1][0] <= at:
            _, label = open_spans.pop()
            pieces.append(f"<small>{escape(label)}</small></mark>")
        for _, end, label, kind in opening.get(at, ()):
            pieces.append(f'<mark class="{escape(kind)}">' if kind else "<mark>")
            open_spans.append((min([end, *(own for own, _ in open_spans)]), label))
        pieces.append(escape(text[at : at + 1]))
    return "".join(pieces)


def result_html(record: Mapping[str, Any], labels: Sequence[str]) -> str:
    """A tagged text: its mentions marked, a table of them, a link to the record as JSON."""
    text, found = record["text"], record["entities"]
    spans = [
        (m["start"], m["end"], f"{m['label']} {m['score']:.2f}", f"t{colour(m, labels)}")
        for m in found
    ]
    rows = "".join(
        f"<tr><td>{escape(text[m['start'] : m['end']])}</td><td>{escape(m['label'])}</td>"
        f"<td>{m['score']:.3f}</td><td>{m['start']}-{m['end']}</td></tr>"
        for m in found
    )
    head = "<tr><th>mention</th><th>type</th><th>score</th><th>place</th></tr>"
    raw = base64.b64encode(json.dumps(record).encode()).decode()
    link = (
        f'<a download="mentions.json" href="data:application/json;base64,{raw}">'
        f"{len(found)} mentions as JSON</a>"
    )
    table = f"<table>{head}{rows}</table>" if found else ""
    return inside(f"<p>{marked(text, spans)}</p>{table}<p>{link}</p>")


def inside(html: str) -> str:
    """HTML for the page, without the characters with which its templates mark fields."""
    for sign in "{}$`":
        html = html.replace(sign, f"&#{ord(sign)};")
    return f'<div class="mentions">{html}</div>'


def colour(mention: Mapping[str, Any], labels: Sequence[str]) -> int:
    """The number of a type's colour."""
    return list(labels).index(mention["label"]) % COLOURS


# ---------------------------------------------------------------------------------------- the page
class Page:
    """What the page does with a text; errors of the user's are shown in the place of mentions.

    Args:
        pipeline: pipeline of one of this project's models.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.has_types = hasattr(pipeline.model, "encode_types")
        own = pipeline._forward_params.get("types")
        self.descriptions: dict[str, str] = {}
        if self.has_types:
            given = (own or pipeline.model.types).descriptions
            self.descriptions = {label: " ".join(said.split()) for label, said in given.items()}
        self.labels = list(self.descriptions) or list(pipeline.model.config.entity_types)
        self.encoded = lru_cache(16)(self.encode)

    def encode(self, types: tuple[tuple[str, str], ...]) -> Any:
        """Types by their descriptions, encoded."""
        return self.pipeline.model.encode_types(dict(types), self.pipeline.tokenizer)

    def tag(self, text: str, least: float = 0, types: str = "") -> str:
        """The mentions of a text as HTML.

        Args:
            least: the least score; 0 leaves it to the model.
            types: lines of LABEL: description, of a BINDER model.
        """
        try:
            text = storable(text)
            if len(text) > MOST_CHARACTERS:
                raise ValueError(
                    f"the text has {len(text)} characters: expected at most {MOST_CHARACTERS}"
                )
            options: dict[str, Any] = {"min_score": least} if least else {}
            labels = self.labels
            if self.has_types and (given := described(types, labels)) != self.descriptions:
                options["types"], labels = self.encoded(tuple(given.items())), list(given)
            result = self.pipeline(text, coverage=True, **options)
        except ValueError as error:  # also the InputError of a model's own code
            return inside(f'<p class="refused">{escape(" ".join(str(error).splitlines()))}</p>')
        entities = [
            {"start": m["start"], "end": m["end"], "label": m["entity_group"], "score": m["score"]}
            for m in result["entities"]
        ]
        record = {"text": text, "entities": entities, "coverage": result["coverage"]}
        return result_html(record, labels)


def storable(text: Any) -> str:
    """A text without lone surrogates, which cannot be sent."""
    return str(text or "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def described(lines: str, known: Iterable[str] = ()) -> dict[str, str]:
    """{label: description} from lines of LABEL: description; empty lines are left out.

    Args:
        known: labels that may hold ": " themselves.

    >>> described("PER: names of people\\n\\nGPE: city: a town", ["GPE: city"])
    {'PER': 'names of people', 'GPE: city': 'a town'}

    Raises:
        ValueError: a line is another, a label is there twice, or there are too many.
    """
    types: dict[str, str] = {}
    for line in filter(None, map(str.strip, storable(lines).split("\n"))):
        fitting = [own for own in known if line.startswith(f"{own}: ")]
        label = max(fitting, key=len, default=line.partition(":")[0].strip())
        text = line[len(label) :].lstrip().removeprefix(":").strip()
        if not label or not text:
            raise ValueError(f"types: expected TYPE: description, found {line!r}")
        if label in types:
            raise ValueError(f"types: {label!r} is there twice: expected one line a type")
        types[label] = text
    if len(types) > MOST_TYPES:
        raise ValueError(f"types: expected at most {MOST_TYPES}, found {len(types)}")
    return types


def build_page(pipeline: Any, name: str) -> Any:
    """The page of a pipeline, as `gradio.Blocks` that are not launched yet.

    One text is tagged at a time, for all open pages; further ones wait in a queue.

    Args:
        name: of the model, for the title.
    """
    import gradio

    page = Page(pipeline)
    with gradio.Blocks(title=f"{name} - contrastive-ner", analytics_enabled=False) as blocks:
        gradio.HTML(inside(f"<h1>{escape(name)}</h1>"))
        text = gradio.Textbox(label="Text", lines=4, max_length=MOST_CHARACTERS, elem_id="text")
        least = gradio.Slider(
            0, 0.99, value=0, step=0.01, label="Least score (0: as the model decides)"
        )
        types = gradio.Textbox(
            "\n".join(f"{label}: {said}" for label, said in page.descriptions.items()),
            label="Types, one a line as TYPE: description; change, add or remove some",
            lines=2,
            visible=page.has_types,
            elem_id="types",
        )
        button = gradio.Button("Find mentions", variant="primary", elem_id="find")
        result = gradio.HTML(elem_id="result", js_on_load="")
        inputs = [text, least, types] if page.has_types else [text, least]
        gradio.on(
            [button.click, text.submit, least.release],
            page.tag,
            inputs,
            result,
            api_name="tag",
            trigger_mode="always_last",
            concurrency_limit=1,
        )
    return blocks.queue(max_size=MOST_WAITING)


def look() -> dict[str, Any]:
    """Options of `Blocks.launch`: what the page looks like, and nothing that it does not need.

    Its fonts are those of the browser, so that it needs no network.
    """
    import gradio

    return {
        "theme": gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        "css": CSS,
        "footer_links": ["api"],
        "run_history": False,
        "ssr_mode": False,
        "max_file_size": 1,
        "quiet": True,
    }


def main() -> None:
    """Serve the page of the model in the folder next to this file, as a Space does."""
    from transformers import pipeline

    # The code in the folder was checked when the Space was made.
    here = Path(__file__).resolve().parent
    load = partial(pipeline, "ner", trust_remote_code=True)
    build_page(load(model=str(here / "model")), here.name).launch(**look())


if __name__ == "__main__":
    main()

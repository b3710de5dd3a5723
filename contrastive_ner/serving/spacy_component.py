"""The spaCy component "contrastive_ner". Needs spaCy: the extra `spacy`.

`nlp.add_pipe("contrastive_ner", config={"model": FOLDER})`; installing the package registers it.
"""

import io
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive_ner.data.spacy_docs import load_spacy
from contrastive_ner.errors import ConfigError
from contrastive_ner.files import expand, fresh_folder
from contrastive_ner.hub.repository import check_code
from contrastive_ner.models.batches_ner import DEFAULT_BATCH_SIZE
from contrastive_ner.models.windows_ner import check_options, flat_spans
from contrastive_ner.serving.inference import base_of_adapter, lexicon_option, load_pipeline

if TYPE_CHECKING:
    from contrastive_ner.models.pipeline_ner import NerPipeline

spacy = load_spacy()
NAME = "contrastive_ner"
ALIGNMENTS = ("expand", "contract", "strict")
DEFAULTS = {
    "model": None,
    "alignment": "expand",
    "overwrite_ents": False,
    "spans_key": "sc",
    "types": None,
    "decoding": None,
    "min_score": None,
    "lexicon": None,
    "batch_size": DEFAULT_BATCH_SIZE,
    "trust_remote_code": False,
}


@spacy.language.Language.factory(
    NAME,
    default_config=DEFAULTS,
    assigns=["doc.ents", "doc.spans", "token.ent_iob", "token.ent_type"],
    default_score_weights={"ents_f": 1.0, "ents_p": 0.0, "ents_r": 0.0},
)
def make_component(
    nlp: Any,
    name: str,
    model: str | None,
    alignment: str,
    overwrite_ents: bool,
    spans_key: str,
    types: dict[str, str] | None,
    decoding: str | None,
    min_score: float | dict[str, float] | None,
    lexicon: str | bool | None,
    batch_size: int,
    trust_remote_code: bool,
) -> "NerComponent":
    """The component of a pipeline; its arguments are the keys of its configuration."""
    if model is None:
        raise ConfigError(
            f"{name}: model is not set: expected the folder of a model, as in "
            f"nlp.add_pipe({NAME!r}, config={{'model': 'runs/mine/model'}})"
        )
    check_config_holds(types or {})
    return NerComponent(
        model,
        alignment=alignment,
        overwrite_ents=overwrite_ents,
        spans_key=spans_key,
        types=types,
        decoding=decoding,
        min_score=min_score,
        lexicon=lexicon,
        batch_size=batch_size,
        trust_remote_code=trust_remote_code,
    )


class NerComponent:
    """Writes the mentions that a model finds into spaCy's documents.

    Flat mentions become `doc.ents`; where the model nests, all mentions become
    `doc.spans[spans_key]`, and `doc.ents` stays as it is. `span._.score` is a mention's score, and
    `doc.spans[spans_key].attrs["scores"]` those of a group. The model is loaded at its first use.

    Args:
        model: folder of a model.
        alignment: what becomes of a mention that does not start and end with spaCy's tokens:
            "expand" takes all tokens that it touches, "contract" those that lie inside it, "strict"
            leaves it out.
        overwrite_ents: what becomes of entities that the document has already: false keeps them and
            leaves out mentions that overlap them, true has the mentions replace those that they
            overlap. As in spaCy's entity_ruler.
        spans_key: group of `doc.spans` for nested mentions, which is replaced.
        types, decoding, min_score, batch_size: as in `NerPipeline`.
        lexicon: of a model with `lexicon_fusion`: file with the words that it reads instead of its
            own, which a saved pipeline has in its copy; False for no words.
        trust_remote_code: run the model's own code if it differs from this project's.

    Raises:
        ConfigError, InputError: an option is invalid.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        alignment: str = "expand",
        overwrite_ents: bool = False,
        spans_key: str = "sc",
        types: dict[str, str] | None = None,
        decoding: str | None = None,
        min_score: float | dict[str, float] | None = None,
        lexicon: str | bool | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        trust_remote_code: bool = False,
    ) -> None:
        if alignment not in ALIGNMENTS:
            raise ConfigError(
                f"alignment is {alignment!r}: expected one of {', '.join(ALIGNMENTS)}"
            )
        check_options(decoding=decoding, min_score=min_score)
        if lexicon is True:
            raise ConfigError("lexicon is true: expected the name of a file, or false for no words")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}: expected at least 1")
        self.folder = Path(expand(str(model)))
        self.alignment, self.spans_key = alignment, spans_key
        self.overwrite_ents, self.trust_remote_code = overwrite_ents, trust_remote_code
        given = {"types": types, "decoding": decoding, "min_score": min_score}
        self.lexicon = None if lexicon is None else lexicon and expand(lexicon)
        self.options = {name: value for name, value in given.items() if value is not None}
        self.batch_size = batch_size
        self._pipeline: NerPipeline | None = None
        self._no_copy = ""  # why the model cannot be saved with the pipeline
        if not spacy.tokens.Span.has_extension("score"):
            spacy.tokens.Span.set_extension("score", default=None)
        _, method, getter, _ = spacy.tokens.Span.get_extension("score")
        if method is not None or getter is not None:
            raise ConfigError(
                "Span._.score is an extension with a getter or method, and scores could not be "
                "stored: register it with a default, or under another name"
            )

    @property
    def pipeline(self) -> "NerPipeline":
        """The pipeline of the model.

        Raises:
            ConfigError, RepositoryError, InputError: as in `load_pipeline`.
        """
        if self._pipeline is None:
            trusts = self.trust_remote_code
            loaded = load_pipeline(self.folder, trust_remote_code=trusts)
            self._no_copy = why_no_copy(self.folder)
            options = dict(self.options)
            if self.lexicon is False:
                options["lexicon"] = False
            elif self.lexicon is not None:  # saved with the model, then
                loaded.model.lexicon = lexicon_option(loaded, self.lexicon)
            self._pipeline = loaded.model.pipeline(loaded.tokenizer, **options)
        return self._pipeline

    @property
    def nests(self) -> bool:
        """Whether mentions may overlap."""
        config = self.pipeline.model.config
        return self.options.get("decoding", config.decoding) == "nested"

    def __call__(self, doc: Any) -> Any:
        """Tag a document."""
        return next(self.pipe([doc]))

    def pipe(self, stream: Iterable[Any], *, batch_size: int = 1000) -> Iterator[Any]:
        """Tag documents, `batch_size` at a time; the model reads `self.batch_size` windows."""
        docs = iter(stream)
        while batch := list(islice(docs, batch_size)):
            texts = [doc.text for doc in batch]
            found = self.pipeline(texts, batch_size=self.batch_size)
            for doc, mentions in zip(batch, found, strict=True):
                self._write(doc, mentions)
                yield doc

    def _write(self, doc: Any, mentions: Sequence[dict[str, Any]]) -> None:
        best: dict[tuple[int, int, str], float] = {}  # two mentions may touch the same tokens
        for mention in mentions:
            span = doc.char_span(
                mention["start"],
                mention["end"],
                label=mention["entity_group"],
                alignment_mode=self.alignment,
            )
            if span is not None and len(span):
                at = span.start, span.end, mention["entity_group"]
                best[at] = max(mention["score"], best.get(at, 0.0))
        found = [(*at, score) for at, score in sorted(best.items())]
        if self.nests:
            spans = [spacy.tokens.Span(doc, *at) for *at, _ in found]
            scores = [score for *_, score in found]
            group = spacy.tokens.SpanGroup(
                doc, name=self.spans_key, spans=spans, attrs={"scores": scores}
            )
            doc.spans[self.spans_key] = group
        else:
            found = flat_spans(found, getattr(self.pipeline.model, "later_types", ()))
            spans, scores = self._with_ents(doc, found)
        # Of spans with the same tokens, which spaCy gives one score, the highest counts.
        for score, span in sorted(zip(scores, spans, strict=True), key=lambda pair: pair[0]):
            span._.score = score

    def _with_ents(self, doc: Any, found: Sequence[tuple]) -> tuple[list[Any], list[float]]:
        """Set `doc.ents`; returns the new ones, with their scores."""
        before = list(doc.ents)
        if not self.overwrite_ents:
            taken = {i for ent in before for i in range(ent.start, ent.end)}
            found = [item for item in found if taken.isdisjoint(range(item[0], item[1]))]
        spans = [spacy.tokens.Span(doc, *at) for *at, _ in found]
        own = {i for span in spans for i in range(span.start, span.end)}
        kept = [ent for ent in before if own.isdisjoint(range(ent.start, ent.end))]
        doc.ents = [*kept, *spans]
        return spans, [item[3] for item in found]

    def score(self, examples: Iterable[Any], **_: Any) -> dict[str, Any]:
        """Scores for `nlp.evaluate`: of `doc.ents`, or of the span group where mentions nest."""
        if not self.nests:
            return spacy.scorer.get_ner_prf(examples)
        key = self.spans_key
        return spacy.scorer.Scorer.score_spans(
            examples,
            f"spans_{key}",
            getter=lambda doc, _: doc.spans.get(key, []),
            has_annotation=lambda doc: key in doc.spans,
            allow_overlap=True,
            labeled=True,
        )

    # -- saving: a copy of the model is part of the saved pipeline
    def to_disk(self, path: str | Path, *, exclude: Sequence[str] = ()) -> None:
        """Save a copy of the model.

        Raises:
            ConfigError: the model runs code of its own, which nobody has trusted where the copy is
                opened; or it is an adapter.
        """
        pipeline = self.pipeline
        if self._no_copy:
            raise ConfigError(f"{self.folder} {self._no_copy}")
        folder = fresh_folder(Path(path))
        pipeline.model.save_pretrained(folder)
        pipeline.tokenizer.save_pretrained(folder)

    def from_disk(self, path: str | Path, *, exclude: Sequence[str] = ()) -> "NerComponent":
        """Use the copy of the model in a saved pipeline. It never runs code of its own.

        Raises:
            ConfigError, RepositoryError, InputError: as in `load_pipeline`.
        """
        self.folder, self.trust_remote_code, self._pipeline = Path(path), False, None
        self.lexicon = False if self.lexicon is False else None
        _ = self.pipeline
        return self

    def to_bytes(self, *, exclude: Sequence[str] = ()) -> bytes:
        """The same as `to_disk`, as bytes."""
        buffer = io.BytesIO()
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(buffer, "w") as archive:
            self.to_disk(folder)
            for file in sorted(Path(folder).rglob("*")):
                archive.write(file, file.relative_to(folder))
        return buffer.getvalue()

    def from_bytes(self, data: bytes, *, exclude: Sequence[str] = ()) -> "NerComponent":
        """The same as `from_disk`, from the bytes of `to_bytes`."""
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                archive.extractall(folder)
            return self.from_disk(folder)


def check_config_holds(types: dict[str, str]) -> None:
    """Refuse types that would come back as others from the config.cfg of a saved pipeline.

    Raises:
        ConfigError: spaCy's configuration cannot hold a label or its description.
    """
    for label, text in types.items():
        try:
            written = spacy.Config({"types": {label: text}}).to_str()
            if spacy.Config().from_str(written) == {"types": {label: text}}:
                continue
        except ValueError:  # of its parser
            pass
        raise ConfigError(
            f"types: spaCy's configuration cannot hold {label!r} with its description: expected "
            "labels without ':', '=' or '#' and descriptions without '${'"
        )


def why_no_copy(folder: Path) -> str:
    """Why the model of a folder cannot be saved with a pipeline; empty if it can."""
    if base_of_adapter(folder) is not None:
        return (
            "is an adapter: merge it into its base model (merge_and_unload), save that, and make "
            "the pipeline with it"
        )
    if not check_code(folder, trust_remote_code=True):
        return (
            "runs code of its own, which a saved pipeline would run wherever it is opened: add the "
            "component to the pipeline after loading it instead"
        )
    return ""

"""A trained model at work: loading its pipeline, tagging records, scoring it on annotated ones."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from contrastive_ner.data.records import Mention, Record, outermost
from contrastive_ner.errors import ConfigError, DataError, RepositoryError
from contrastive_ner.hub.repository import MODELING_FILES, check_code, read_config, weight_faults
from contrastive_ner.logs import quiet_libraries
from contrastive_ner.models import model_class
from contrastive_ner.models.windows_ner import InputError

if TYPE_CHECKING:
    from contrastive_ner.models.pipeline_ner import NerPipeline


def load_pipeline(
    model_dir: str | Path,
    *,
    trust_remote_code: bool = False,
    dtype: str = "float32",
    compile_encoder: bool = False,
) -> "NerPipeline":
    """The pipeline of a model folder, with this project's classes; a folder's own code runs only if it differs and is trusted.

    Args:
        dtype: of the weights: float32, or bfloat16, which is faster on processors that have it and moves scores a little.
        compile_encoder: by torch.compile, which pays off over many texts.

    Raises:
        ConfigError: the folder holds no model of this project, or a damaged one.
        RepositoryError: its code is not this project's and `trust_remote_code` is false.
    """
    quiet_libraries()
    from transformers import PreTrainedTokenizerFast
    from transformers import pipeline as library_pipeline

    folder = Path(model_dir)
    try:
        kind = read_config(folder).get("model_type")
    except RepositoryError:
        kind = None
    if kind not in tuple(MODELING_FILES) or not (folder / "model.safetensors").is_file():
        raise ConfigError(
            f"{folder} is no model folder (expected config.json of a nerco or binder model and model.safetensors; pickled weights are "
            "refused); a run's model is in its folder model/"
        )
    damaged = weight_faults(folder)
    if damaged:
        raise ConfigError(f"{folder}: {'; '.join(damaged)}; copy or train it again")
    is_own_code = check_code(folder, trust_remote_code=trust_remote_code)
    try:
        if is_own_code:
            model = model_class(kind).from_pretrained(folder, dtype=dtype)
            pipeline = model.pipeline(PreTrainedTokenizerFast.from_pretrained(folder))
        else:
            pipeline = library_pipeline(
                "ner", model=str(folder), trust_remote_code=True, dtype=dtype
            )
        if compile_encoder:
            encoder_of(pipeline.model).compile(dynamic=True)
        return pipeline
    except (InputError, OSError):
        raise
    except (
        Exception
    ) as error:  # whatever the libraries make of a damaged configuration or tokenizer
        raise ConfigError(
            f"{folder} cannot be loaded, its files are damaged ({type(error).__name__}: {error})"
        ) from error


def encoder_of(model: Any) -> Any:
    """The encoder that reads texts."""
    return getattr(model, "nerco", model).encoder


def is_binder(pipeline: "NerPipeline") -> bool:
    return pipeline.model.config.model_type == "binder"


class Found(NamedTuple):
    """What a model found in records: mentions and coverage of each; how many mentions were left out because they reach from one text
    of a document into the next."""

    mentions: list[list[Mention]]
    coverage: list[float]
    across: int


def tag_records(pipeline: "NerPipeline", records: Sequence[Record], **options: Any) -> Found:
    """Mentions of records.

    BINDER reads the texts of a document (`doc`) together, as in training; a tagger reads each by itself.

    Args:
        options: of the pipeline's call, such as `batch_size` and `types`.
    """
    if not is_binder(pipeline):
        results = list(pipeline((record.text for record in records), coverage=True, **options))
        return Found(
            [mentions_of(result["entities"]) for result in results],
            [result["coverage"] for result in results],
            0,
        )
    from contrastive_ner.data.documents import join_documents, split_document

    documents = join_documents(records)
    mentions: list[list[Mention]] = []
    coverage: list[float] = []
    across = 0
    results = pipeline((document.record.text for document in documents), coverage=True, **options)
    for document, result in zip(documents, results, strict=True):
        own, lost = split_document(document, mentions_of(result["entities"]))
        mentions += own
        coverage += [result["coverage"]] * len(own)
        across += lost
    return Found(mentions, coverage, across)


def mentions_of(found: Iterable[dict[str, Any]]) -> list[Mention]:
    """The pipeline's dicts as mentions."""
    return [
        Mention(
            m["start"],
            m["end"],
            m["entity_group"],
            m["score"],
            tuple((best["label"], best["score"]) for best in m.get("labels", ())),
            m.get("abstained"),
        )
        for m in found
    ]


def evaluate_records(
    pipeline: "NerPipeline",
    records: Sequence[Record],
    train: Sequence[Record] | None = None,
    types: Mapping[str, str] | None = None,
    min_score: float | None = None,
) -> dict[str, Any]:
    """Span scores of a pipeline on records, what its errors are, and counts of every text.

    Gold are the mentions that the model can give: all of them where it nests, else the outermost ones. `all_mentions` counts all in any
    case, `outer` and `inner` apart. With the training data, what occurs there and what is new are scored apart.

    Args:
        types: {label: description}: BINDER looks for these instead of its trained types.
        min_score: of the pipeline's call.

    Raises:
        DataError: the records hold an entity type that the model does not know.
    """
    from contrastive_ner.evaluation.metrics import (
        calibration,
        error_breakdown,
        figures,
        length_scores,
        scores_by_group,
        span_scores,
        text_counts,
        training_scores,
    )

    nests = pipeline.model.config.decoding == "nested"
    check_known_types(
        records, set(pipeline.model.config.entity_types) if types is None else set(types)
    )
    texts = [record.text for record in records]
    options = {
        name: value
        for name, value in (("types", types), ("min_score", min_score))
        if value is not None
    }
    predictions, _, across = tag_records(pipeline, records, **options)
    split = [outermost(record.entities) for record in records]
    everything = [record.entities for record in records]
    gold = everything if nests else [outer for outer, _ in split]
    scores = span_scores(predictions, gold)
    scores["all_mentions"] = span_scores(predictions, everything)["micro"]
    # A right prediction is inner or outer as its gold mention is; a wrong one as it stands among the predictions.
    inner = [{m[:3] for m in own} for _, own in split]
    outer = [{m[:3] for m in own} for own, _ in split]
    inner_predictions = [{m[:3] for m in outermost(found)[1]} for found in predictions]

    def depth(text: int, mention: tuple) -> str:
        is_inner = mention in inner[text] or (
            mention not in outer[text] and mention in inner_predictions[text]
        )
        return "inner" if is_inner else "outer"

    groups = scores_by_group(predictions, everything, depth)
    scores |= {name: groups.get(name, figures(0, 0, 0)) for name in ("outer", "inner")}
    scores["errors"] = error_breakdown(predictions, gold)
    scores["lengths"] = length_scores(predictions, gold)
    scores["calibration"] = calibration(predictions, gold)
    if train is not None:
        learnt = {
            (r.text[m.start : m.end], m.label)
            for r in train
            for m in (r.entities if nests else outermost(r.entities)[0])
        }
        scores |= training_scores(
            predictions, gold, texts, {record.text for record in train}, learnt
        )
    if across:
        scores["across_texts"] = across
    scores["counts"] = text_counts(predictions, gold)
    if not nests and any(inner):
        scores["all_counts"] = text_counts(predictions, everything)
    return scores


def check_known_types(records: Sequence[Record], known: set[str]) -> None:
    for record in records:
        for mention in record.entities:
            if mention.label not in known:
                raise DataError(
                    f"record {record.id!r}: entity type {mention.label!r} is unknown to the model (it knows {', '.join(sorted(known))})"
                )

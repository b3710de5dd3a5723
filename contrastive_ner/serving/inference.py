"""Using a trained model: loading its pipeline, tagging records, scoring it on annotated records."""

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from contrastive_ner.data.records import Mention, Record, outermost
from contrastive_ner.devices import check_device
from contrastive_ner.errors import ConfigError, DataError, RepositoryError
from contrastive_ner.evaluation.confusions import confusions, list_errors
from contrastive_ner.hub.download import model_folder
from contrastive_ner.hub.repository import (
    MODELING_FILES,
    check_code,
    read_config,
    read_object,
    use_faults,
)
from contrastive_ner.hub.weights import tensor_faults, weight_faults
from contrastive_ner.logs import log, quiet_libraries
from contrastive_ner.models import model_class
from contrastive_ner.models.checks_ner import INDEX
from contrastive_ner.models.lexicon_ner import lexicon_for
from contrastive_ner.models.windows_ner import InputError

if TYPE_CHECKING:
    from contrastive_ner.models.pipeline_ner import NerPipeline


def load_pipeline(
    model_dir: str | Path,
    *,
    trust_remote_code: bool = False,
    precision: str = "float32",
    compile_encoder: bool = False,
    device: str | None = None,
) -> "NerPipeline":
    """Load the pipeline of a model or an adapter with this project's classes.

    The model's own code runs only if it differs from this project's and is trusted. An adapter is
    used with the base model that it names, which must have this project's code.

    Args:
        model_dir: folder, or repository on the Hub as USER/NAME[@REVISION].
        precision: of the weights: float32; bfloat16, which is faster on devices that compute in it
            and changes scores slightly; auto: bfloat16 on those, else float32.
        compile_encoder: compile the encoder with torch.compile; worthwhile for many texts.
        device: cpu, cuda, cuda:N or mps; None: transformers' choice.

    Raises:
        ConfigError: the folder does not hold a model of this project, or the model is damaged.
        RepositoryError: the folder's code is not this project's and `trust_remote_code` is false;
            the folder holds pickles, links or other files that do not belong.
        InputError: weights are missing, NaN or infinite, or config.json does not fit them.
    """
    quiet_libraries()
    options = {"precision": precision}
    if device is not None:
        options["device"] = check_device(device)
    from transformers import PreTrainedTokenizerFast
    from transformers import pipeline as library_pipeline

    folder = model_folder(str(model_dir), trust_remote_code=trust_remote_code)
    base = base_of_adapter(folder)
    whole = folder if base is None else base  # where configuration, tokenizer and code are
    kind = check_model_folder(whole)
    is_own_code = check_code(whole, trust_remote_code=trust_remote_code and base is None)
    try:
        if is_own_code:
            added = {} if base is None else {"_adapter_model_path": str(folder)}
            model = model_class(kind).from_pretrained(whole, adapter_kwargs=added)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(whole)
            pipeline = model.pipeline(tokenizer, **options)
        else:
            damaged = tensor_faults(folder, read_config(folder), is_own_code=False)
            if damaged:
                raise ConfigError(f"{folder}: {'; '.join(damaged)}; copy or train it again")
            pipeline = library_pipeline("ner", model=str(folder), trust_remote_code=True, **options)
        if compile_encoder:
            encoder_of(pipeline.model).compile(dynamic=True)
        return pipeline
    except (InputError, ConfigError, OSError, KeyboardInterrupt, SystemExit):
        raise
    # A damaged configuration or tokenizer can raise anything, even a panic (not an Exception).
    except BaseException as error:
        raise ConfigError(
            f"{folder} cannot be loaded: its files are damaged ({type(error).__name__}: {error}); "
            "copy or train the model again"
        ) from error


def base_of_adapter(folder: Path) -> Path | None:
    """The folder of the base model that an adapter names; None for any other folder.

    A base model on the Hub is downloaded, at the revision that the adapter names, or main.

    Raises:
        ConfigError: the base model is not there, nor on the Hub.
        RepositoryError: the folder holds pickles or other files that do not belong.
        InputError: the adapter is damaged, or there is no peft.
    """
    if not (folder / "adapter_config.json").is_file() or (folder / "config.json").exists():
        return None
    from contrastive_ner.models.adapters_ner import (
        ADAPTER_CONFIG,
        ADAPTER_WEIGHTS,
        check_adapter,
    )

    own = {f"{n}: does not belong in a model repository" for n in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)}
    refused = [fault for fault in use_faults(folder) if fault not in own]
    if refused:
        raise RepositoryError(folder, refused)
    base = check_adapter(folder, {})
    if Path(base).is_dir():
        return Path(base)
    revision = read_object(folder, ADAPTER_CONFIG).get("revision")
    try:
        return model_folder(f"{base}@{revision}" if isinstance(revision, str) else base)
    except ConfigError as error:
        raise ConfigError(
            f"{folder}: its base model {base!r} is not there: {error}; download it, or correct "
            f"{ADAPTER_CONFIG}"
        ) from error


def check_model_folder(folder: Path) -> str:
    """The model type of a folder whose files may be read; nothing of it is loaded.

    Raises:
        ConfigError, RepositoryError: as in `load_pipeline`.
    """
    try:
        kind = read_config(folder).get("model_type")
    except RepositoryError:
        kind = None
    if kind not in tuple(MODELING_FILES) or not any(
        (folder / name).is_file() for name in ("model.safetensors", INDEX)
    ):
        raise ConfigError(
            f"{folder} is not a model folder: expected config.json of a nerco or binder model and "
            "model.safetensors (pickled weights are refused); the model of a run is in its "
            "subfolder model/"
        )
    # Without the second one, texts would be read in another way.
    needed = ("tokenizer.json", "tokenizer_config.json")
    lacking = [f"{name} is missing" for name in needed if not (folder / name).exists()]
    refused = use_faults(folder) + lacking
    if refused:
        raise RepositoryError(folder, refused)
    damaged = weight_faults(folder)
    if damaged:
        raise ConfigError(f"{folder}: {'; '.join(damaged)}; copy or train it again")
    return str(kind)


def encoder_of(model: Any) -> Any:
    """The text encoder of a model."""
    return getattr(model, "nerco", model).encoder


def is_binder(pipeline: "NerPipeline") -> bool:
    """Whether the pipeline's model is a BINDER model."""
    return pipeline.model.config.model_type == "binder"


def lexicon_option(pipeline: "NerPipeline", given: Any) -> Any:
    """The lexicon for the pipeline's calls, read once, from the same option; logs its remarks.

    Raises:
        InputError: the model reads no words, or the file cannot be used.
    """
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        lexicon = lexicon_for(given, pipeline.model.config)
    for remark in remarks:
        log.warning("%s", remark.message)
    return lexicon


class Found(NamedTuple):
    """Predictions for records: the mentions and the coverage of each.

    `across` counts the mentions that were left out because they cross from one text of a document
    into the next.
    """

    mentions: list[list[Mention]]
    coverage: list[float]
    across: int


def tag_records(pipeline: "NerPipeline", records: Sequence[Record], **options: Any) -> Found:
    """Predict the mentions of records.

    BINDER reads the texts of a document (`doc`) together, as in training; a tagger reads each text
    by itself.

    Args:
        options: options of the pipeline's call, such as `batch_size` and `types`.
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
    """Mentions from the dicts that the pipeline returns."""
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
    unseen_types: str = "refuse",
    errors: list[dict[str, Any]] | None = None,
    lexicon: Any = None,
) -> dict[str, Any]:
    """Span scores of a pipeline on records, a breakdown of its errors, and counts of every text.

    The mentions that the model can predict count as gold: all of them for a nested model, else the
    outermost ones. `all_mentions` counts all in any case; `outer` and `inner` score them
    separately. With training data, mentions that occur there and new ones are scored separately.

    Args:
        train: training data of the model.
        types: {label: description} that BINDER looks for instead of its trained types.
        min_score: option of the pipeline's call.
        unseen_types: "missed" counts mentions of types that the model does not know as missed.
        errors: a list to which every error is added; see `list_errors`.
        lexicon: option of the pipeline's call.

    Raises:
        DataError: the records hold an entity type that the model does not know.
    """
    known = pipeline.model.config.entity_types if types is None else types
    unseen = mentions_of_unseen_types(records, set(known), refuse=unseen_types != "missed")
    given = {"types": types, "min_score": min_score, "lexicon": lexicon}
    options = {name: value for name, value in given.items() if value is not None}
    found = tag_records(pipeline, records, **options)
    return score_found(pipeline, records, found, train, unseen, errors)


class DataSet(NamedTuple):
    """One of several data sets: its records, its training data, and {type: description}."""

    records: Sequence[Record]
    train: Sequence[Record]
    types: Mapping[str, str]
    unseen_types: str = "refuse"


def evaluate_sets(pipeline: "NerPipeline", sets: Mapping[str, DataSet]) -> dict[str, Any]:
    """Scores of a BINDER model on several data sets, of which each is tagged with its own types.

    Returns the scores of `evaluate_records` over all of them, and in `sets` those of each.
    """
    joined = Found([], [], 0)
    own_scores: dict[str, Any] = {}
    unseen: dict[str, int] = {}
    records: list[Record] = []
    for name, own in sets.items():
        refuse = own.unseen_types != "missed"
        lacking = mentions_of_unseen_types(own.records, set(own.types), refuse=refuse)
        found = tag_records(pipeline, own.records, types=own.types)
        own_scores[name] = score_found(pipeline, own.records, found, own.train, lacking)
        # Another set may know a type of that name.
        apart = {label: f"{name}:{label}" for label in lacking}
        unseen |= {apart[label]: count for label, count in lacking.items()}
        for record in own.records:
            entities = [m._replace(label=apart.get(m.label, m.label)) for m in record.entities]
            records.append(replace(record, entities=entities))
        joined = Found(
            joined.mentions + found.mentions,
            joined.coverage + found.coverage,
            joined.across + found.across,
        )
    train = [record for own in sets.values() for record in own.train]
    scores = score_found(pipeline, records, joined, train, dict(sorted(unseen.items())))
    return {**scores, "sets": own_scores}


def score_found(
    pipeline: "NerPipeline",
    records: Sequence[Record],
    found: Found,
    train: Sequence[Record] | None = None,
    unseen: Mapping[str, int] | None = None,
    errors: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The scores of predictions for records; see `evaluate_records`.

    Args:
        unseen: numbers of mentions whose types the model does not know.
    """
    from contrastive_ner.evaluation.metrics import span_scores, text_counts, training_scores

    nests = pipeline.model.config.decoding == "nested"
    predictions = found.mentions
    everything = [record.entities for record in records]
    gold = [gold_mentions(record, nests) for record in records]
    scores = span_scores(predictions, gold)
    scores["all_mentions"] = span_scores(predictions, everything)["micro"]
    scores |= depth_scores(predictions, everything)
    scores |= error_scores(predictions, gold)
    if errors is not None:
        errors += list_errors(records, predictions, gold)
    if train is not None:
        learnt = {
            (r.text[m.start : m.end], m.label) for r in train for m in gold_mentions(r, nests)
        }
        texts, train_texts = [record.text for record in records], {record.text for record in train}
        scores |= training_scores(predictions, gold, texts, train_texts, learnt)
    if found.across:
        scores["across_texts"] = found.across
    if unseen:  # those that count as gold
        counted = Counter(m.label for own in gold for m in own if m.label in unseen)
        scores["unseen_types"] = dict(sorted(counted.items()))
    scores["counts"] = text_counts(predictions, gold)
    if any(len(own) < len(every) for own, every in zip(gold, everything, strict=True)):
        scores["all_counts"] = text_counts(predictions, everything)
    return scores


def error_scores(
    predictions: Sequence[list[Mention]], gold: Sequence[list[Mention]]
) -> dict[str, Any]:
    """Kinds of errors, confusions, scores by length, calibration error."""
    from contrastive_ner.evaluation.metrics import calibration, error_breakdown, length_scores

    return {
        "errors": error_breakdown(predictions, gold),
        "confusions": confusions(predictions, gold),
        "lengths": length_scores(predictions, gold),
        "calibration": calibration(predictions, gold),
    }


def gold_mentions(record: Record, nests: bool) -> list[Mention]:
    """The mentions of a record that a model can predict: all if it nests, else the outermost."""
    return record.entities if nests else outermost(record.entities)[0]


def depth_scores(
    predictions: Sequence[list[Mention]], references: Sequence[list[Mention]]
) -> dict[str, dict[str, Any]]:
    """Scores of the outermost mentions and of those inside or across them: {"outer", "inner"}.

    A correct prediction is inner or outer as its gold mention is, a wrong one by its place among
    the predictions.
    """
    from contrastive_ner.evaluation.metrics import figures, scores_by_group

    split = [outermost(mentions) for mentions in references]
    inner = [{m[:3] for m in own} for _, own in split]
    outer = [{m[:3] for m in own} for own, _ in split]
    inner_predictions = [{m[:3] for m in outermost(found)[1]} for found in predictions]

    def depth(text: int, mention: tuple) -> str:
        is_inner = mention in inner[text] or (
            mention not in outer[text] and mention in inner_predictions[text]
        )
        return "inner" if is_inner else "outer"

    groups = scores_by_group(predictions, references, depth)
    return {name: groups.get(name, figures(0, 0, 0)) for name in ("outer", "inner")}


def mentions_of_unseen_types(
    records: Sequence[Record], known: set[str], *, refuse: bool
) -> dict[str, int]:
    """Number of mentions of each entity type that a model does not know.

    Raises:
        DataError: there is one, and `refuse` is set.
    """
    counts: Counter[str] = Counter()
    for record in records:
        for mention in record.entities:
            counts[mention.label] += mention.label not in known
            if refuse and mention.label not in known:
                raise DataError(
                    f"record {record.id!r}: entity type {mention.label!r} is unknown to the model "
                    f"(it knows {', '.join(sorted(known))}); unseen_types=missed counts it as "
                    "missed"
                )
    return {label: count for label, count in sorted(counts.items()) if count}

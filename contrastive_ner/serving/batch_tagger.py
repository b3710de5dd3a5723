"""A class for the engines that call one with batches: datasets, Ray Data, Spark."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive_ner.data.records import Record
from contrastive_ner.errors import ConfigError
from contrastive_ner.serving.predict import Job, Tagger

if TYPE_CHECKING:
    import pyarrow

IMPORTED_IN = os.getpid()
SPARK_TYPE = "array<struct<start: bigint, end: bigint, label: string, score: double>>"


class BatchTagger:
    """Adds the column `entities` to batches: lists of {"start", "end", "label", "score"}.

    With the options top_k and abstain_below, also "labels" and "abstained"; see `mention_type`. A
    row without a text (null, or no string) has null there. The other columns, so an id, stay as
    they are. The model is loaded with the first batch, in the process that has it.

        dataset.map(BatchTagger(MODEL), batched=True)                              # datasets
        data.map_batches(BatchTagger, fn_constructor_args=[MODEL], concurrency=2,  # Ray Data
                         batch_format="pyarrow")
        frame.mapInPandas(BatchTagger(MODEL).frames, schema)                       # Spark

    In Spark's `schema`, `entities` is of `SPARK_TYPE`.

    Args:
        model: folder of a model, which must be at this place on every machine, or USER/NAME. For
            the cache of `datasets.map`, a folder is what its files hold, and a repository its name:
            name a commit too (USER/NAME@COMMIT) where the repository may change.
        text_column: the column that holds the texts.
        trust_remote_code, precision, device: as in `load_pipeline`.
        only_new: give the column `entities` alone. `datasets` keeps the others by itself, so that
            this does no harm there; it is needed for `remove_columns` with a streamed or formatted
            data set, whose other columns would otherwise be written in the values of the format.
        options: options of the pipeline's call, such as `min_score` and `types`.

    Raises:
        ConfigError: an option is none of a batch.
    """

    def __init__(
        self,
        model: str | Path,
        text_column: str = "text",
        *,
        trust_remote_code: bool = False,
        precision: str = "float32",
        device: str | None = None,
        only_new: bool = False,
        **options: Any,
    ) -> None:
        for name in ("coverage", "is_split_into_words", "delimiter"):
            if name in options:
                raise ConfigError(
                    f"{name} is not an option of batches: expected texts and mentions"
                )
        self.text_column, self.only_new = text_column, only_new
        self.job = Job(
            str(model),
            options,
            trust_remote_code=trust_remote_code,
            precision=precision,
            device=device,
        )
        self._tagger: Tagger | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to other processes: everything but the loaded model.

        `datasets` finds the results of an earlier `map` by a hash of this, so that it names what is
        in the model's files, not where they are alone.
        """
        identity = json.dumps(self.job.identity(), sort_keys=True, default=str)
        digest = hashlib.sha256(identity.encode()).hexdigest()
        return {**vars(self), "_tagger": None, "_files": digest}

    def __call__(self, batch: Any, *_: Any) -> Any:
        """A batch with the new column, of the same kind: a mapping, a table of pyarrow or a frame.

        A mapping of arrays becomes a table, whose column of mentions has its type in any case.

        Raises:
            ConfigError: this is a single row, there is no such column, or one with the name
                `entities`; else as in `load_pipeline`.
        """
        if isinstance(batch, list | str):
            raise ConfigError(
                "found a column, or a row: expected a batch with its columns; leave out "
                "input_columns (datasets)"
            )
        if self.text_column not in (names := names_of(batch)):
            raise ConfigError(
                f"text_column is {self.text_column!r}: expected one of {', '.join(map(str, names))}"
            )
        if "entities" in names:
            raise ConfigError("there is a column 'entities' already: rename it, or leave it out")
        column = batch[self.text_column]
        if column is None or isinstance(column, str):
            raise ConfigError(
                f"the column {self.text_column!r} is {column!r:.40}, a row: expected a batch "
                "(datasets: map(tagger, batched=True); Ray Data: map_batches)"
            )
        texts = column.to_pylist() if hasattr(column, "to_pylist") else list(column)
        found = Column(self.entities(texts), self.job.options)
        if hasattr(batch, "append_column"):
            kept = batch.select([]) if self.only_new else batch
            return kept.append_column("entities", found.__arrow_array__())
        if hasattr(batch, "assign"):
            new = type(column)(list(found), dtype=object, index=batch.index)
            return (batch[[]] if self.only_new else batch).assign(entities=new)
        # `datasets` keeps the other columns by itself, or leaves out what remove_columns names.
        kept = {} if self.only_new or type(batch).__name__ == "LazyBatch" else batch
        if not self.only_new and any(hasattr(own, "dtype") for own in batch.values()):
            return as_table({**kept, "entities": found})
        return {**kept, "entities": found}

    def frames(self, frames: Iterable[Any]) -> Iterator[Any]:
        """Frames of pandas with the new column, as Spark's `mapInPandas` asks for."""
        yield from map(self, frames)

    def entities(self, texts: list[Any]) -> list[list[dict[str, Any]] | None]:
        """The mentions of each text; None for what is not a text."""
        if self._tagger is None:
            if os.getpid() != IMPORTED_IN:  # threads of torch stand still in a forked process
                import torch

                torch.set_num_threads(1)
            self._tagger = Tagger(self.job)
        records = [Record("", text) for text in texts if isinstance(text, str)]
        tagged = iter(self._tagger.records(records)[0])
        return [
            next(tagged).to_dict()["entities"] if isinstance(text, str) else None for text in texts
        ]


def names_of(batch: Any) -> list[str]:
    """The columns of a batch."""
    return list(
        batch.keys() if isinstance(batch, Mapping) else getattr(batch, "column_names", batch)
    )


def as_table(columns: Mapping[str, Any]) -> Any:
    """A table of pyarrow with these columns; the columns themselves if it cannot hold one."""
    import pyarrow

    try:
        return pyarrow.table({name: pyarrow.array(own) for name, own in columns.items()})
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, pyarrow.ArrowNotImplementedError):
        return dict(columns)  # such as tensors


class Column(list):
    """A column of mentions of a known type: from a batch without mentions none can be inferred."""

    def __init__(self, rows: Iterable[Any], options: Mapping[str, Any]) -> None:
        super().__init__(rows)
        self.options = options

    def __arrow_array__(self, type: Any = None) -> "pyarrow.Array":
        import pyarrow

        return pyarrow.array(list(self), type or mention_type(self.options))

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


def mention_type(options: Mapping[str, Any] | None = None) -> "pyarrow.DataType":
    """The type of the column `entities`, the same for batches in which nothing is found.

    Args:
        options: those of the call. top_k adds "labels", the most likely types with their scores;
            abstain_below adds "abstained".
    """
    import pyarrow

    whole, text, real = pyarrow.int64(), pyarrow.string(), pyarrow.float64()
    mention = {"start": whole, "end": whole, "label": text, "score": real}
    if options and options.get("top_k") is not None:
        mention["labels"] = pyarrow.list_(pyarrow.struct({"label": text, "score": real}))
    if options and options.get("abstain_below") is not None:
        mention["abstained"] = pyarrow.bool_()
    return pyarrow.list_(pyarrow.struct(mention))

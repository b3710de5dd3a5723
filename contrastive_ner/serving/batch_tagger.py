"""A class for the engines that call one with batches: datasets, Ray Data, Spark."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive_ner.data.records import Record
from contrastive_ner.errors import ConfigError
from contrastive_ner.serving.predict import Job, Tagger

if TYPE_CHECKING:
    import pyarrow

SPARK_TYPE = "array<struct<start: bigint, end: bigint, label: string, score: double>>"


class BatchTagger:
    """Adds the column `entities` to batches: lists of {"start", "end", "label", "score"}.

    A row without a text (null, or no string) has null there. The other columns, so an id, stay as
    they are. The model is loaded with the first batch, in the process that has it.

        dataset.map(BatchTagger(MODEL), batched=True)                              # datasets
        data.map_batches(BatchTagger, fn_constructor_args=[MODEL], concurrency=2,  # Ray Data
                         batch_format="pyarrow")
        frame.mapInPandas(BatchTagger(MODEL).frames, schema)                       # Spark

    In Spark's `schema`, `entities` is of `SPARK_TYPE`.

    Args:
        model: folder of a model, which must be at this place on every machine, or USER/NAME.
        text_column: the column that holds the texts.
        trust_remote_code, precision, device: as in `load_pipeline`.
        options: options of the pipeline's call, such as `min_score` and `types`.
    """

    def __init__(
        self,
        model: str | Path,
        text_column: str = "text",
        *,
        trust_remote_code: bool = False,
        precision: str = "float32",
        device: str | None = None,
        **options: Any,
    ) -> None:
        self.text_column = text_column
        self.job = Job(
            str(model),
            options,
            trust_remote_code=trust_remote_code,
            precision=precision,
            device=device,
        )
        self._tagger: Tagger | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to other processes: everything but the loaded model."""
        return {**vars(self), "_tagger": None}

    def __call__(self, batch: Any) -> Any:
        """A batch with the new column, of the same kind: a mapping, a table of pyarrow or a frame.

        Raises:
            ConfigError: there is no such column, or one with the name `entities`; else as in
                `load_pipeline`.
        """
        if self.text_column not in (names := names_of(batch)):
            raise ConfigError(
                f"text_column is {self.text_column!r}: expected one of {', '.join(map(str, names))}"
            )
        if "entities" in names:
            raise ConfigError("there is a column 'entities' already: rename it, or leave it out")
        column = batch[self.text_column]
        texts = column.to_pylist() if hasattr(column, "to_pylist") else list(column)
        found = self.entities(texts)
        if hasattr(batch, "append_column"):
            import pyarrow

            return batch.append_column("entities", pyarrow.array(found, mention_type()))
        if hasattr(batch, "assign"):
            return batch.assign(entities=found)
        return {**batch, "entities": found}

    def frames(self, frames: Iterable[Any]) -> Iterator[Any]:
        """Frames of pandas with the new column, as Spark's `mapInPandas` asks for."""
        yield from map(self, frames)

    def entities(self, texts: list[Any]) -> list[list[dict[str, Any]] | None]:
        """The mentions of each text; None for what is no text."""
        if self._tagger is None:
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


def mention_type() -> "pyarrow.DataType":
    """The type of the column `entities`, the same for batches in which nothing is found."""
    import pyarrow

    whole, text, real = pyarrow.int64(), pyarrow.string(), pyarrow.float64()
    mention = {"start": whole, "end": whole, "label": text, "score": real}
    return pyarrow.list_(pyarrow.struct(mention))

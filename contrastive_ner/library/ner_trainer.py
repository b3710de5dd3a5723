"""One call from a data set to a shared model; the code is that of the commands train and push."""

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from contrastive_ner.cli.share import upload
from contrastive_ner.cli.train import command_train
from contrastive_ner.data.descriptions import read_types
from contrastive_ner.data.fields import plain
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.records import Record
from contrastive_ner.data.tables import rows_of
from contrastive_ner.errors import ConfigError, DataError, shown
from contrastive_ner.files import atomic_writer, expand, read_json, sha256
from contrastive_ner.models.pipeline_ner import NerPipeline
from contrastive_ner.serving.inference import evaluate_records, load_pipeline
from contrastive_ner.training.config import RunConfig, is_first_process, layout_of
from contrastive_ner.training.run import check_run_dir, first_process_first, saved_config
from contrastive_ner.training.settings import config_from
from contrastive_ner.training.start import is_trained

Data = str | Path | Iterable[Any]
COLUMNS = ("text", "tokens", "tags", "entities", "id", "doc")
OWN_KEYS = ("encoder", "init_model", "train_file", "dev_file", "test_file", "types_file", "fields")


class NerTrainer:
    """Train, score, save and share a model in one call, as `contrastive-ner train` and `push` do.

    `train` runs the phases of the method, fits the scores on `eval_dataset`, and writes the run's
    directory with `metrics.json` and `model/` (weights, code, card). Killed and called again, it
    goes on where it was. The data are written to `OUTPUT_DIR-data/`, next to `train.yaml`, with
    which the command line starts the same run.

    Args:
        model: folder or Hub name of an encoder, or the folder of a trained model to go on from.
        args: keys of a training configuration (`RunConfig`) and their values, or its YAML file.
        train_dataset, eval_dataset, test_dataset: a `datasets.Dataset`, rows (mappings or
            `Record`s), or the name of a file; in any layout that `read_records` reads.
        column_mapping: {column: name} of columns under other names than `text`, `tokens`, `tags`
            (BIO and other schemes, class names included), `entities`, `id` or `doc`.
        types: BINDER: {type: description}, or a YAML file of them.

    Raises:
        ConfigError: an argument or a key of `args` is unknown or invalid.
        DataError: a data set is empty, or lacks a column; reading errors come with `train`.

    Example:
        >>> rows = [{"text": "Anna left Paris", "entities": [[0, 4, "PER"], [10, 15, "LOC"]]}]
        >>> NerTrainer("encoders/zh-char-mini", {"method": "crf"}, rows, rows).config.method
        'crf'
    """

    def __init__(
        self,
        model: str | Path,
        args: Mapping[str, Any] | str | Path | None = None,
        train_dataset: Data | None = None,
        eval_dataset: Data | None = None,
        test_dataset: Data | None = None,
        *,
        column_mapping: Mapping[str, str] | None = None,
        types: Mapping[str, str] | str | Path | None = None,
    ) -> None:
        if not isinstance(model, str | Path):
            raise ConfigError(
                f"model is a {type(model).__name__}: expected the folder or Hub name of an "
                "encoder, or the folder of a trained model (save_pretrained writes one)"
            )
        self.config = _configuration(model, args, column_mapping or {})
        self.data_dir = Path(f"{self.config.run_dir}-data")
        self._data = {"train": train_dataset, "dev": eval_dataset, "test": test_dataset}
        self._types, self._columns = types, dict(column_mapping or {})
        for name, data in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset)):
            if data is None:
                raise ConfigError(f"{name} is missing")
        files: dict[str, Any] = {
            f"{split}_file": self._place(split, data) for split, data in self._data.items()
        }
        for split, data in self._data.items():
            _check_columns(split, data, column_mapping or {})
        if types is not None and self.config.method != "binder":
            raise ConfigError(f"types are for method binder: found method {self.config.method}")
        if types is not None:
            given = isinstance(types, str | Path)
            files["types_file"] = str(types if given else self.data_dir / "types.yaml")
        self.config = replace(self.config, **files)

    def _place(self, split: str, data: Data | None) -> str:
        """The file that holds a split, or will."""
        if data is None:
            return ""
        return str(data) if isinstance(data, str | Path) else str(self.data_dir / f"{split}.jsonl")

    @property
    def model_dir(self) -> Path:
        """The folder of the trained model."""
        return self.config.run_dir / "model"

    @property
    def pipeline(self) -> NerPipeline:
        """The trained model, ready to tag texts. ConfigError before `train`."""
        self._check_trained()
        return load_pipeline(self.model_dir)

    def train(self) -> dict[str, Any]:
        """Run all phases, or those that are left; returns the content of `metrics.json`.

        Raises:
            ConfigError: the directory holds another run.
            DataError: a data set cannot be read.
        """
        with first_process_first():
            if is_first_process():
                self._write_data()
        command_train(self.config)
        file = self.config.run_dir / "metrics.json"
        return read_json(file) if file.is_file() else {}  # under torchrun, the first one writes it

    def evaluate(self, dataset: Data | None = None) -> dict[str, Any]:
        """Scores of the trained model on a data set, by default on `eval_dataset`."""
        self._check_trained()
        if dataset is None:
            return read_json(self.config.run_dir / "metrics.json")["dev"]
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "data.jsonl"
            if isinstance(dataset, str | Path):
                place = Path(expand(str(dataset)))
            else:
                _check_columns("evaluation", dataset, self._columns)
                write_rows(dataset, place)
            records, _ = read_records(place, layout_of(self.config))
        return evaluate_records(self.pipeline, records, unseen_types=self.config.unseen_types)

    def push_to_hub(self, repository: str, *, license: str, **options: Any) -> str:
        """Check the model and upload it in one commit, as `contrastive-ner push`; returns a report.

        Args:
            repository: USER/NAME.
            license: of the model, such as "apache-2.0".
            options: as those of the command: private, branch, tag, message, pull_request, replace,
                dry_run, language, dataset, base_model.
        """
        self._check_trained()
        return upload(self.model_dir, repository, license=license, **options)

    def _check_trained(self) -> None:
        if not (self.config.run_dir / "metrics.json").is_file():
            raise ConfigError(f"{self.config.run_dir} holds no complete run: call train() first")

    def _write_data(self) -> None:
        """Write the data files and the configuration; those of a run that began stay as they are.

        Raises:
            ConfigError: the run began with other data, or another configuration.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.data_dir, prefix=".new-") as folder:
            for split, data in self._data.items():
                if data is not None and not isinstance(data, str | Path):
                    write_rows(data, Path(folder) / f"{split}.jsonl", f"{split} data set")
            if isinstance(self._types, Mapping):
                with atomic_writer(Path(folder) / "types.yaml") as file:
                    yaml.safe_dump({"types": dict(self._types)}, file, allow_unicode=True)
                read_types(Path(folder) / "types.yaml")
            new = sorted(Path(folder).iterdir())
            there = [path for path in new if (self.data_dir / path.name).is_file()]
            changed = [
                path.name for path in there if sha256(path) != sha256(self.data_dir / path.name)
            ]
            if changed and saved_config(self.config.run_dir) is not None:
                raise ConfigError(
                    f"{self.config.run_dir} holds a run of other data ({', '.join(changed)}); "
                    "choose another output_dir"
                )
            for path in new:
                path.replace(self.data_dir / path.name)
        check_run_dir(self.config)
        with atomic_writer(self.data_dir / "train.yaml") as file:
            yaml.safe_dump(self.config.to_dict(), file, allow_unicode=True, sort_keys=False)


def write_rows(data: Iterable[Any], path: Path, name: str = "data set") -> None:
    """Write the rows of a data set as JSON lines, classes by their names.

    Raises:
        DataError: it is empty, or has something else than rows.
    """
    count = 0
    with atomic_writer(path) as file:
        for row in rows_of(data, name):
            value = row.to_dict() if isinstance(row, Record) else plain(row)
            file.write(json.dumps(value, ensure_ascii=False) + "\n")
            count += 1
        if not count:
            raise DataError(f"{name}: expected rows, found none")


def _configuration(
    model: str | Path, args: Mapping[str, Any] | str | Path | None, columns: Mapping[str, str]
) -> RunConfig:
    """The run's configuration, without its files."""
    if args is not None and not isinstance(args, Mapping | str | Path):
        raise ConfigError(
            f"args is a {type(args).__name__}: expected a mapping of the keys of a training "
            "configuration, such as {'method': 'crf', 'stage2_epochs': 5}, or its YAML file"
        )
    values: dict[str, Any] = dict(args) if isinstance(args, Mapping) else {}
    values = {key: str(own) if isinstance(own, Path) else own for key, own in values.items()}
    for key in OWN_KEYS:
        if key in values:
            raise ConfigError(f"{key}: expected as an argument of NerTrainer, found in args")
    name = str(model)
    values["init_model" if is_trained(name) else "encoder"] = name
    if unknown := sorted({*columns.values()} - {*COLUMNS}):
        raise ConfigError(
            f"column_mapping is {{column: name}}, with a name of {', '.join(COLUMNS)}: found "
            f"{', '.join(map(shown, unknown))}"
        )
    if columns:
        values["fields"] = [f"{ours}={theirs}" for theirs, ours in columns.items()]
    return config_from(values, None if isinstance(args, Mapping | None) else args)


def _check_columns(split: str, data: Any, columns: Mapping[str, str]) -> None:
    """Raise DataError for a mapped column that a data set does not have."""
    there = getattr(data, "column_names", None)
    if not isinstance(there, list):
        return
    missing = sorted(set(columns) - set(there))
    if missing:
        raise DataError(
            f"{split} data set: column_mapping names {', '.join(missing)}; its columns are "
            f"{', '.join(there)}"
        )

"""Cross-validate configurations on all sentences of a data set, and collect the metrics.

python -m benchmarks.folds configs/weibo_*.yaml --seeds 0 1 2 --jobs 2 [key=value ...]

The texts of a configuration's train, dev and test files are dealt to `--folds` folds, equal texts
to the same one. Of the rest, an eighth is dev (on which a run chooses its epoch) and seven eighths
train, so that each text is tested once a seed. Runs are those of benchmarks.experiments; fold f of
configuration c is the run `folds-D-c-fF-S` of data set D with seed S. `--dev` skips test: settings
are chosen that way; its runs and results are called `folds_dev`. `--share P` trains on P percent of
the training texts, drawn at random, smaller shares from larger ones; its runs are called `c_P`, and
compared with `crf_P`. At the end the table of all results is printed.
"""

import argparse
import os
import random
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.experiments import ROOT, train
from benchmarks.tables import folds_table, read
from contrastive_ner.data.readers import read_files
from contrastive_ner.data.records import Record
from contrastive_ner.data.writers import write_records
from contrastive_ner.files import expand
from contrastive_ner.training.config import RunConfig, layout_of
from contrastive_ner.training.settings import load_config

DEV = 8  # one in so many of the texts that are not test


def deal(records: Sequence[Record], folds: int) -> list[dict[str, list[Record]]]:
    """The records of train, dev and test of each fold; equal texts are in one part."""
    texts = sorted({record.text for record in records})
    random.Random(0).shuffle(texts)
    number = {text: i for i, text in enumerate(texts)}
    dealt = []
    for fold in range(folds):
        parts: dict[str, list[Record]] = {"train": [], "dev": [], "test": []}
        for record in records:
            own = number[record.text]
            dev = own // folds % DEV == 0
            parts["test" if own % folds == fold else "dev" if dev else "train"].append(record)
        dealt.append(parts)
    return dealt


def drawn(records: Sequence[Record], percent: int) -> list[Record]:
    """Records of `percent` of the texts, at least one; a smaller share is part of a larger one."""
    texts = sorted({record.text for record in records})
    random.Random(1).shuffle(texts)
    kept = set(texts[: max(1, round(len(texts) * percent / 100))])
    return [record for record in records if record.text in kept]


def write_folds(config: RunConfig, folds: int, folder: Path, percent: int = 100) -> None:
    """One folder a fold, with train.jsonl, dev.jsonl and test.jsonl."""
    names = [expand(name) for name in (config.train_file, config.dev_file, config.test_file)]
    read = read_files(names, layout_of(config))
    records = [record for part, _ in read for record in part]
    for fold, parts in enumerate(deal(records, folds)):
        parts["train"] = drawn(parts["train"], percent)
        own = folder / str(fold)
        own.mkdir(parents=True, exist_ok=True)
        for name, members in parts.items():
            write_records(members, own / f"{name}.jsonl")


def main() -> int:
    """Run all configurations with all seeds on all folds; return 1 if a run failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.folds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("arguments", nargs="+", metavar="CONFIG | key=value")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--folds", type=int, default=5, help="number of folds [5]")
    parser.add_argument("--jobs", type=int, default=1, help="number of runs in parallel [1]")
    parser.add_argument("--threads", type=int, help="threads per run [an equal share]")
    parser.add_argument(
        "--share", type=int, default=100, metavar="P", help="percent of the training texts [100]"
    )
    parser.add_argument("--dev", action="store_true", help="measure on dev only")
    parser.add_argument("--name", help="name of the runs of a configuration changed by keys")
    parser.add_argument("--results", type=Path, help="folder for the metrics [results/folds]")
    arguments = parser.parse_intermixed_args()  # keys may follow the options
    if not 1 <= arguments.share <= 100:
        parser.error(f"--share is {arguments.share}: expected 1 to 100")
    share = "" if arguments.share == 100 else f"_{arguments.share}"
    os.chdir(ROOT)
    kind = "folds_dev" if arguments.dev else "folds"
    results = arguments.results or ROOT / "results" / kind
    keys = [item for item in arguments.arguments if "=" in item]
    runs = []
    for file in (item for item in arguments.arguments if "=" not in item):
        config = load_config(file, keys)
        data = Path(config.train_file).parent.name
        folder = Path("runs", "folds", f"{data}{share}-{arguments.folds}")
        write_folds(config, arguments.folds, folder, arguments.share)
        name = (arguments.name or Path(file).stem.removeprefix(f"{data}_")) + share
        for fold in range(arguments.folds):
            place = folder / str(fold)
            own = [f"{part}_file={place / part}.jsonl" for part in ("train", "dev", "test")]
            own += ["test_file="] * arguments.dev + ["indexed_characters=false", "format=jsonl"]
            own += ["unseen_types=missed"]  # a rare type may be in one fold alone
            own += [f"output_dir=runs/{kind}-{data}-{name}-f{fold}-{{seed}}"]
            runs.append((fold, file, own + keys))
    runs.sort(key=lambda run: run[0])  # every configuration of a fold before the next fold
    threads = arguments.threads or max(1, (os.cpu_count() or 1) // arguments.jobs)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        jobs = [
            pool.submit(train, file, [*own, f"seed={seed}"], threads=threads, results=results)
            for seed in arguments.seeds
            for _, file, own in runs
        ]
        failed = any([job.result() for job in jobs])  # noqa: C419 - wait for all of them
    print("\n".join(folds_table(read(results))))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

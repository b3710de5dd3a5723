"""Run configurations with several seeds in parallel and collect their metrics in results/runs/.

python -m benchmarks.experiments configs/weibo_*.yaml --seeds 0 1 2 3 4 --jobs 2 [key=value ...]

Every run is `contrastive-ner train CONFIG seed=S`. Started again, it skips complete runs, and those
whose metrics `--results` holds already, and resumes interrupted ones. The jobs share the cores. All
configurations of a seed run before the next seed, so that a table of partial results compares the
same seeds.
"""

import argparse
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from contrastive_ner.files import read_json
from contrastive_ner.training.config import RunConfig
from contrastive_ner.training.run import encoder_hash
from contrastive_ner.training.settings import load_config

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Run all configurations with all seeds; return 1 if a run failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "arguments",
        nargs="+",
        metavar="CONFIG | key=value",
        help="configurations, and keys to override in all of them",
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0], help="seeds of each configuration"
    )
    parser.add_argument("--jobs", type=int, default=1, help="number of runs in parallel [1]")
    parser.add_argument("--threads", type=int, help="threads per run [an equal share of the cores]")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "results" / "runs", help="folder for the metrics"
    )
    arguments = parser.parse_intermixed_args()  # keys may follow the options
    overrides = [item for item in arguments.arguments if "=" in item]
    configs = [item for item in arguments.arguments if "=" not in item]
    runs = [
        (config, [*overrides, f"seed={seed}"]) for seed in arguments.seeds for config in configs
    ]
    threads = arguments.threads or max(1, (os.cpu_count() or 1) // arguments.jobs)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        failed = [
            code
            for code in pool.map(
                lambda run: train(*run, threads=threads, results=arguments.results), runs
            )
            if code
        ]
    return 1 if failed else 0


def train(config_file: str, overrides: list[str], *, threads: int, results: Path) -> int:
    """Train in a separate process and return its exit code.

    Its output goes to `RUN_DIR.log`; on success its metrics are copied to `results`.
    """
    config: RunConfig = load_config(config_file, overrides)
    run_dir = config.run_dir
    target = results / f"{run_dir.name}.json"
    if holds(target, config):
        print(f"{run_dir.name} was measured before", flush=True)
        return 0
    if not (run_dir / "metrics.json").is_file():
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, str(ROOT / "run_ner.py"), "train", config_file, *overrides]
        with open(f"{run_dir}.log", "a", encoding="utf-8") as log:
            code = subprocess.run(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT
            ).returncode
        if code:
            print(f"{run_dir}: exit code {code}, see {run_dir}.log", flush=True)
            return code
    results.mkdir(parents=True, exist_ok=True)
    shutil.copy(run_dir / "metrics.json", target)
    print(f"{run_dir.name} is complete", flush=True)
    return 0


def holds(file: Path, config: RunConfig) -> bool:
    """Whether a file has the metrics of a run with this configuration, on the same encoder."""
    if not file.is_file():
        return False
    found = read_json(file)
    wanted = {"config": config.to_dict(), "encoder_sha256": encoder_hash(config)}
    return all(found.get(name) == value for name, value in wanted.items())


if __name__ == "__main__":
    sys.exit(main())

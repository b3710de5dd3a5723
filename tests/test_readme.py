"""Every command and program of the README, as written, in a clean copy with less text."""

import re
import sys
from pathlib import Path

import pytest
from clean_copy import clean_copy, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SENTENCES = 150  # of the training file; all would only take longer


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy whose training file is shorter, with the model that `make demo` trains."""
    folder = clean_copy(tmp_path_factory.mktemp("brief"))
    train = folder / "samples/zh/train.jsonl"
    train.write_text("".join(train.open(encoding="utf-8").readlines()[:SENTENCES]), "utf-8")
    run([sys.executable, "-m", "contrastive_ner", "train", "configs/demo.yaml"], folder)
    return folder


def test_commands_of_the_readme_run(clone: Path):
    blocks = re.findall(r"```bash\n(.*?)```", (clone / "README.md").read_text("utf-8"), flags=re.S)
    assert len(blocks) >= 4
    for block in blocks:
        if "make demo" not in block:  # the demo has run, and this suite is `make test`
            run(["bash", "-euo", "pipefail", "-c", block], clone)


def test_python_of_the_readme_runs(clone: Path):
    blocks = re.findall(
        r"```python\n(.*?)```", (clone / "README.md").read_text("utf-8"), flags=re.S
    )
    assert len(blocks) == 3
    for block in blocks:
        run([sys.executable, "-c", block], clone)


def test_result_tables_of_the_readme_are_up_to_date(clone: Path):
    run([sys.executable, "-m", "benchmarks.tables", "--check"], clone)

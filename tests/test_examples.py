"""Every script in examples/ runs and leaves a model that opens."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from contrastive_ner.serving.inference import load_pipeline

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(path), str(tmp_path), "2"],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert isinstance(load_pipeline(tmp_path / "model")("王经理明天从上海虹桥站出发"), list)

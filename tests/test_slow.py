"""The demo, and with its model the commands of the docs, as written, in a clean copy."""

import re
import sys
from pathlib import Path

import pytest
from clean_copy import clean_copy, run
from hub_server import TestHub

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clean_copy(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def demo(clone: Path) -> str:
    # -o: the environment is this one; it must not be installed again from the copy.
    return run(["make", "-o", ".venv/run", "demo"], clone)


def test_demo_compares_tags_and_names_the_model_folder(demo: str, clone: Path):
    for split in ("dev", "test"):
        assert f"=== {split}: NerCo, CRF tagger, plain token classifier" in demo
    assert re.search(r"nerco P +R +F1 +crf P +R +F1 +ce P +R +F1", demo)
    assert demo.count('"entity_group"') >= 4
    assert "Hub-ready folder: runs/demo-nerco-0/model" in demo
    assert (clone / "runs/demo-nerco-0/model/README.md").is_file()


def test_demo_trains_for_minutes_not_hours(demo: str):
    # Four minutes on two idle cores is the aim; a shared machine may be much slower.
    seconds = int(re.search(r"\(training (\d+) s", demo).group(1))
    assert seconds <= 900


def test_demo_learns_something(demo: str):
    micro = [
        line for line in demo.splitlines() if line.startswith("micro") and len(line.split()) == 11
    ]
    scores = [float(line.split()[3]) for line in micro]
    assert len(scores) == 2
    assert min(scores) > 50


def test_commands_of_the_page_on_sharing_run(demo: str, clone: Path, tmp_path: Path):
    page = (
        (clone / "docs" / "sharing.md")
        .read_text("utf-8")
        .replace("mine-nerco-0", "demo-nerco-0")
        .replace("USER/NAME", "tester/model")
    )
    push, named, bundle, versions = re.findall(r"```bash\n(.*?)```", page, flags=re.S)
    (load,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    with TestHub(tmp_path / "hub") as hub:
        variables = hub.environment(tmp_path / "cache")
        assert "tester/model would be created" in run(["bash", "-euc", push], clone, **variables)
        pushed = run(["bash", "-euc", push.replace("--dry_run", "")], clone, **variables)
        commit = re.search("commit ([0-9a-f]{40})", pushed).group(1)
        run(
            [
                sys.executable,
                "-c",
                load.replace('"..."', f'"{commit}"') + "assert ner('李明在北京')",
            ],
            tmp_path,
            **variables,
        )
        assert '"entities"' in run(["bash", "-euc", named], clone, **variables)
        assert "repeats its stored predictions" in run(["bash", "-euc", bundle], clone, **variables)
    assert "transformers 5.6.0: passes" in run(["bash", "-euc", versions], clone)


def test_the_page_on_serving_runs(demo: str, clone: Path):
    page = (
        (clone / "docs" / "serving.md").read_text("utf-8").replace("mine-nerco-0", "demo-nerco-0")
    )
    commands, programs = (
        re.findall(rf"```{language}\n(.*?)```", page, flags=re.S) for language in ("bash", "python")
    )
    assert commands
    assert programs
    for command in commands:
        run(["bash", "-euc", command], clone)
    for program in programs:
        assert "李明远" in run([sys.executable, "-c", program], clone)
    assert len((clone / "tagged.jsonl").read_text("utf-8").splitlines()) == 126

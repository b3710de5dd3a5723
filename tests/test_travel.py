"""What runs when a checkpoint is loaded: its own files, whatever is installed next to them."""

import json
import re
from pathlib import Path

import pytest
from conftest import MODELS, run_python

from contrastive_ner.files import sha256

LOADED = """
import hashlib, json, sys
from pathlib import Path
import contrastive_ner.models.modeling_nerco, contrastive_ner.models.modeling_binder
from transformers import pipeline
ner = pipeline("ner", model=sys.argv[1], trust_remote_code=True)
ner("张三在北京。")
remote = [m for name, m in sys.modules.items() if name.startswith("transformers_modules.")]
files = [Path(m.__file__) for m in remote if getattr(m, "__file__", None)]
hashes = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
hashes.pop("__init__.py", None)
print(json.dumps(hashes))
code = [type(ner), type(ner.model), type(ner.model.config), type(ner.reader)]
print(json.dumps([kind.__module__ for kind in code]))
"""
LOAD = """
import sys
import contrastive_ner.models.modeling_nerco, contrastive_ner.models.modeling_binder
from transformers import AutoModel
AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
"""
SIBLINGS = {
    "nerco": [
        "adapters_ner.py",
        "batches_ner.py",
        "checks_ner.py",
        "crf_layer_ner.py",
        "crf_ner.py",
        "encoder_ner.py",
        "flat_ner.py",
        "fusion_ner.py",
        "lattice_ner.py",
        "lexicon_ner.py",
        "matching_ner.py",
        "pipeline_ner.py",
        "strict_ner.py",
        "windows_ner.py",
    ],
    "binder": [
        "adapters_ner.py",
        "batches_ner.py",
        "checks_ner.py",
        "encoder_ner.py",
        "lattice_ner.py",
        "lexicon_ner.py",
        "matching_ner.py",
        "pipeline_ner.py",
        "strict_ner.py",
        "types_binder.py",
        "windows_ner.py",
    ],
}


@pytest.fixture(params=["nerco", "binder"])
def checkpoint(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """Method and folder of a saved model, with this package installed in the environment."""
    if request.param == "nerco":
        return "nerco", request.getfixturevalue("saved_tagger")
    return "binder", request.getfixturevalue("saved_binder")[0]


def test_the_code_that_runs_is_the_code_in_the_folder(checkpoint, tmp_path: Path):
    method, folder = checkpoint
    # One of them differs from the installed file, so that a mix-up would be seen.
    (folder / "windows_ner.py").write_text(
        (folder / "windows_ner.py").read_text("utf-8") + "\n# another\n", "utf-8"
    )
    ran, modules = map(
        json.loads, run_python(LOADED, tmp_path, tmp_path / "cache", str(folder)).splitlines()[-2:]
    )
    names = [f"modeling_{method}.py", *SIBLINGS[method]]
    assert ran == {name: sha256(folder / name) for name in names}
    assert ran["windows_ner.py"] != sha256(MODELS / "windows_ner.py")
    assert all(module.startswith("transformers_modules.") for module in modules)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", ["raise ImportError('broken on purpose')\n", "import no_such_module_anywhere\n", None]
)
def test_a_broken_sibling_fails_with_its_own_error(checkpoint, fault: str | None, tmp_path: Path):
    """The installed package has a working copy of every sibling: none of them may be taken."""
    method, folder = checkpoint
    sibling = folder / SIBLINGS[method][-1]
    sibling.unlink() if fault is None else sibling.write_text(fault, "utf-8")
    with pytest.raises(AssertionError) as failed:
        run_python(LOAD, tmp_path, tmp_path / "cache", str(folder))
    message = str(failed.value)
    expected = {None: sibling.name}.get(
        fault, "broken on purpose" if fault and "purpose" in fault else "no_such_module_anywhere"
    )
    assert re.search(expected, message)

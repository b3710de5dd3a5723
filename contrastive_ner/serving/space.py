"""A Space of Gradio, as a folder: the page of `demo` with its model."""

import os
import shutil
from importlib.metadata import version
from pathlib import Path

from contrastive_ner.errors import ConfigError
from contrastive_ner.extras import need
from contrastive_ner.hub.metadata import read_card
from contrastive_ner.serving import demo

APP = "app.py"
TEXT = """
A page to try a model for named-entity recognition: a text in, its mentions marked. `model/` holds
the model with its code, `app.py` the page. To run it elsewhere:

    pip install gradio=={version} -r requirements.txt
    python app.py
"""


def check_space(folder: Path) -> None:
    """Check that a Space can be written, before anything else is done.

    Raises:
        ConfigError: the folder exists, or gradio is not installed.
    """
    need("gradio", "demo")
    if folder.exists():
        raise ConfigError(f"{folder} exists; choose another folder")


def write_space(model: Path, folder: Path, name: str) -> None:
    """Write a Space with a model and the page to a folder, which is complete or not there.

    The versions it asks for are those that are installed here.

    Args:
        model: a packaged and checked model.
        name: USER/NAME of the Space.
    """
    from huggingface_hub import SpaceCardData

    card = SpaceCardData(
        title=name.rpartition("/")[2],
        sdk="gradio",
        sdk_version=version("gradio"),
        app_file=APP,
        license=read_card(model / "README.md").data.to_dict().get("license"),
    )
    partial = folder.with_name(f".{folder.name}-partial")
    shutil.rmtree(partial, ignore_errors=True)  # left behind by a process that was killed
    try:
        shutil.copytree(model, partial / "model")
        shutil.copyfile(demo.__file__, partial / APP)
        readme = f"---\n{card.to_yaml()}\n---\n{TEXT.format(version=version('gradio'))}"
        (partial / "README.md").write_text(readme, "utf-8")
        lines = [f"{of}=={version(of).partition('+')[0]}\n" for of in ("torch", "transformers")]
        (partial / "requirements.txt").write_text("".join(lines), "utf-8")
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)

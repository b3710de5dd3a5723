"""What a result was made with: versions, commit, machine, date."""

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from contrastive_ner import __version__

ROOT = Path(__file__).resolve().parent.parent  # of the clone, if the package runs from one


def clone_root() -> Path | None:
    """The root of the project's clone if the package runs from one; None if it is installed."""
    pyproject = ROOT / "pyproject.toml"
    is_ours = pyproject.is_file() and 'name = "contrastive-ner"' in pyproject.read_text("utf-8")
    return ROOT if is_ours else None


def commit() -> str | None:
    """The commit of the project's clone, with -dirty if files differ; None without a clone or git.

    It is never the commit of another repository that contains the package.
    """
    root = clone_root()
    if root is None:
        return None
    try:
        top = _git(root, "rev-parse", "--show-toplevel")
        return (
            _git(root, "describe", "--always", "--dirty")
            if top and Path(top).resolve() == root
            else None
        )
    except OSError:  # git is not installed
        return None


def _git(root: Path, *arguments: str) -> str | None:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    return done.stdout.strip() or None if done.returncode == 0 else None


def provenance() -> dict[str, Any]:
    """Versions, commit (if any), machine and date."""
    import torch
    import transformers

    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {os.cpu_count()} cores"
    )
    return {
        "versions": {
            "contrastive-ner": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "commit": commit(),
        "machine": f"{device} ({platform.machine()})",
        "date": time.strftime("%Y-%m-%d"),
    }

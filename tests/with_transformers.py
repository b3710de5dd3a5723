"""Run the contract tests with other versions of transformers.

.venv/bin/python tests/with_transformers.py 5.6.0 [5.12.1 ...]

Each version gets its own environment below runs/, which takes all other packages from this one.
"""

import argparse
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = ["tests/test_contracts.py", "tests/test_binder_contracts.py"]


def environment(version: str) -> Path:
    """Path of the Python in an environment with that version of transformers."""
    folder = ROOT / "runs" / f".transformers-{version}"
    python = folder / "bin" / "python"
    if not python.is_file():
        venv.create(folder, with_pip=True, symlinks=True)
        own = next((folder / "lib").glob("python*/site-packages"))
        (own / "base.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
        subprocess.run(
            [
                python,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                f"transformers=={version}",
            ],
            check=True,
        )
    return python


def main() -> int:
    """Test every version; return 1 if one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("versions", nargs="+", help="versions of transformers")
    parser.add_argument(
        "--tests", nargs="+", default=CONTRACTS, help="test files to run [the contract tests]"
    )
    arguments = parser.parse_args()
    passed = {}
    for version in arguments.versions:
        python = environment(version)
        found = subprocess.run(
            [python, "-c", "import transformers; print(transformers.__version__)"],
            capture_output=True,
            text=True,
            check=True,
        )
        if found.stdout.strip() != version:
            raise SystemExit(
                f"expected transformers {version}, the environment has {found.stdout.strip()}"
            )
        command = [
            python,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-m",
            "slow or not slow",
            *arguments.tests,
        ]
        passed[version] = subprocess.run(command, cwd=ROOT).returncode == 0
    for version, ok in passed.items():
        print(f"transformers {version}: {'passes' if ok else 'FAILS'}")
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

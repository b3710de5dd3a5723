"""push, bundle, verify: sharing a model as a repository."""

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contrastive_ner.cli.options import add_trust_option
from contrastive_ner.errors import ConfigError, RepositoryError
from contrastive_ner.files import outside, sha256
from contrastive_ner.hub.clean_process import check_loads
from contrastive_ner.hub.metadata import has_license
from contrastive_ner.hub.repository import (
    MANIFEST,
    code_differs,
    code_versions,
    faults_of,
    package,
)
from contrastive_ner.logs import quiet_libraries


def add_sharing_commands(commands: Any) -> None:
    """Add the commands push, bundle and verify."""
    push = commands.add_parser(
        "push",
        help="check a model and upload it to the Hub in one commit",
        description="Check a model, load it in a clean process, repeat its stored predictions, and "
        "upload it to the Hub in one commit. If nothing has changed, no commit is made. Log in "
        "first with: hf auth login",
    )
    push.add_argument("model", metavar="MODEL", help="model folder of a run")
    add_push_options(push)
    push.set_defaults(command=command_push)

    bundle = commands.add_parser(
        "bundle",
        help="check a model and write it to one archive that loads without network",
        description="Check a model, load it in a clean process, repeat its stored predictions, and "
        "write it to one ZIP archive. Unpacked, it loads without network.",
    )
    bundle.add_argument("model", metavar="MODEL", help="model folder of a run")
    bundle.add_argument("output", metavar="NAME.zip", help="archive to write")
    bundle.set_defaults(command=command_bundle, repository=None)
    for command in (push, bundle):
        add_card_options(command)

    verify = commands.add_parser(
        "verify",
        help="check a model folder, bundle or Hub repository against its manifest",
        description="Check the files of a model folder, a bundle or a Hub repository against its "
        "manifest, and tell whether its code is this project's.",
    )
    verify.add_argument(
        "model", metavar="MODEL", help="folder, NAME.zip, or USER/NAME[@REVISION] on the Hub"
    )
    verify.add_argument(
        "--revision", metavar="NAME", help="commit, tag or branch of a Hub repository [main]"
    )
    verify.add_argument(
        "--run",
        action="store_true",
        help="also load the model in a clean process and repeat its stored predictions",
    )
    verify.add_argument(
        "--unpack", metavar="FOLDER", help="copy the files to this new folder if all is well"
    )
    verify.set_defaults(command=command_verify)
    for command in (push, bundle, verify):
        add_trust_option(command)


def add_push_options(command: argparse.ArgumentParser) -> None:
    """Add the repository and the options of its commit."""
    command.add_argument(
        "repository",
        metavar="USER/NAME",
        help="Hub repository; it is created if it does not exist",
    )
    command.add_argument(
        "--branch", default="main", metavar="NAME", help="branch to commit to [main]"
    )
    command.add_argument(
        "--pull_request", action="store_true", help="open a pull request instead of committing"
    )
    command.add_argument(
        "--private",
        action="store_true",
        help="create the repository as private; refuse an existing public one",
    )
    command.add_argument("--tag", metavar="NAME", help="tag for the commit, such as v1.0")
    command.add_argument(
        "--message", default="Upload model", metavar="TEXT", help="commit message [Upload model]"
    )
    command.add_argument(
        "--replace",
        action="store_true",
        help="also remove files that no push of this project wrote, and replace a card that was "
        "edited on the Hub",
    )
    command.add_argument(
        "--dry_run", action="store_true", help="show what would be uploaded; upload nothing"
    )
    command.add_argument(
        "--space",
        metavar="FOLDER",
        help="upload a Space instead, the page of contrastive-ner demo with the model, which is "
        "first written to this new folder (with --dry_run it stays at that)",
    )


def add_card_options(command: argparse.ArgumentParser) -> None:
    """Add the options that set metadata of the model card."""
    group = command.add_argument_group("metadata of the model card")
    group.add_argument("--license", metavar="ID", help="such as apache-2.0; required for push")
    group.add_argument("--language", nargs="+", metavar="CODE", help="such as zh")
    group.add_argument("--dataset", nargs="+", metavar="NAME", help="data sets on the Hub")
    group.add_argument("--base_model", metavar="NAME", help="the encoder's name on the Hub")


# ------------------------------------------------------------------------------------------ sharing
def command_push(arguments: argparse.Namespace) -> int:
    """Check a model and upload it to the Hub."""
    print(checked_push(arguments))
    return 0


def checked_push(arguments: argparse.Namespace) -> str:
    """Check a model and upload it, or a Space with it, to the Hub; returns a report."""
    from contrastive_ner.hub.upload import push
    from contrastive_ner.serving.space import check_space, write_space

    space = None if arguments.space is None else Path(arguments.space)
    if space is not None:
        outside(space, Path(arguments.model))
        check_space(space)
    with packaged(arguments) as folder:
        if space is not None:
            write_space(folder, space, arguments.repository)
        try:
            return push(
                space or folder,
                arguments.repository,
                branch=arguments.branch,
                private=arguments.private or None,
                pull_request=arguments.pull_request,
                tag=arguments.tag,
                message=arguments.message,
                dry_run=arguments.dry_run,
                replace=arguments.replace,
                space=space is not None,
            )
        except BaseException:  # also Ctrl-C: the same command can be given again
            if space is not None:
                shutil.rmtree(space, ignore_errors=True)
            raise


def upload(model: Path, repository: str, **options: Any) -> str:
    """`push` from a program: options by their names, as the command has them; returns a report.

    Raises:
        ConfigError: an option is unknown; else as the command.
    """
    parser = argparse.ArgumentParser()
    add_push_options(parser)
    add_card_options(parser)
    add_trust_option(parser)
    arguments = parser.parse_args([repository])
    for name, value in options.items():
        if name not in vars(arguments) or name == "repository":
            raise ConfigError(
                f"{name}: expected one of {', '.join(sorted({*vars(arguments)} - {'repository'}))}"
            )
        listed = name in ("language", "dataset") and isinstance(value, str)
        setattr(arguments, name, [value] if listed else value)
    arguments.model, arguments.command = str(model), command_push
    return checked_push(arguments)


def command_bundle(arguments: argparse.Namespace) -> int:
    """Check a model and write it to one archive."""
    from contrastive_ner.hub.bundle import write_bundle

    output = Path(arguments.output)
    if output.suffix != ".zip":
        raise ConfigError(f"{output}: expected a file name that ends in .zip")
    if output.exists():
        raise ConfigError(f"{output} exists; remove it or choose another name")
    outside(output, Path(arguments.model))
    with packaged(arguments) as folder:
        write_bundle(folder, output)
    print(f"{output}: {output.stat().st_size:,} bytes, SHA-256 {sha256(output)}")
    return 0


@contextmanager
def packaged(arguments: argparse.Namespace) -> Iterator[Path]:
    """A model as a repository in a temporary folder, checked and loaded in a clean process.

    Raises:
        ConfigError: push, and the card names no license.
        RepositoryError: a check fails; see `package` and `check_loads`.
    """
    given = {
        "license": arguments.license,
        "language": arguments.language,
        "datasets": arguments.dataset,
        "base_model": arguments.base_model,
    }
    quiet_libraries()
    is_space = getattr(arguments, "space", None) is not None  # whose name is not the model's
    with tempfile.TemporaryDirectory() as scratch:
        metadata = {name: value for name, value in given.items() if value is not None}
        folder = package(
            Path(arguments.model),
            Path(scratch) / "model",
            metadata,
            repo_id=None if is_space else arguments.repository,
        )
        if arguments.command is command_push and not has_license(folder):
            raise ConfigError(
                "the card names no license, and without one nobody may use the model; pass "
                "--license, such as --license apache-2.0"
            )
        check_loads(folder, trust_remote_code=arguments.trust_remote_code)
        yield folder


def command_verify(arguments: argparse.Namespace) -> int:
    """Check a repository against its manifest, and load or unpack it if asked."""
    from contrastive_ner.hub.download import opened

    if arguments.unpack:
        outside(Path(arguments.unpack), Path(arguments.model))
    with opened(arguments.model, arguments.revision) as (folder, name):
        faults = faults_of(folder)
        if faults:
            raise RepositoryError(name, faults)
        other = code_differs(folder)
        print(f"{name}: every file matches {MANIFEST}")
        listed = ", ".join(f"{file} ({digest})" for file, digest in other.items())
        of = ", ".join(sorted(code_versions(folder)))
        print(
            f"code: NOT this project's: {listed}"
            if other
            else f"code: this project's, version {of}"
        )
        if arguments.run:
            has_walls = check_loads(folder, trust_remote_code=arguments.trust_remote_code)
            where = "in a clean process without network" if has_walls else "in a clean process"
            print(f"loads {where} and repeats its stored predictions")
            if not has_walls:
                print("this system offers no namespaces: its network was not cut off")
        if arguments.unpack:
            target = Path(arguments.unpack)
            if target.exists():
                raise ConfigError(f"{target} exists; choose another folder")
            partial = target.with_name(f".{target.name}-partial")
            shutil.rmtree(partial, ignore_errors=True)  # left behind by a process that was killed
            try:
                shutil.copytree(folder, partial)
                os.rename(partial, target)  # all or nothing
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            print(f"unpacked: {target}")
    return 0

"""push, bundle, verify: a model as a repository."""

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contrastive_ner.cli.options import add_trust_option
from contrastive_ner.errors import ConfigError, RepositoryError
from contrastive_ner.files import sha256
from contrastive_ner.hub.repository import (
    MANIFEST,
    check_loads,
    code_differs,
    code_versions,
    faults_of,
    has_license,
    package,
)
from contrastive_ner.logs import quiet_libraries


def add_sharing_commands(commands: Any) -> None:
    """push, bundle, verify."""
    push = commands.add_parser(
        "push",
        help="check a model and upload it to the Hub in one commit; unchanged ones make none",
    )
    push.add_argument("model", help="model folder of a run")
    push.add_argument(
        "repository",
        metavar="USER/NAME",
        help="repository of the Hub; it is created where there is none",
    )
    push.add_argument("--branch", default="main", help="branch of the commit [main]")
    push.add_argument("--pull_request", action="store_true", help="propose the commit")
    push.add_argument(
        "--private",
        action="store_true",
        help="create a private repository; an existing public one is refused",
    )
    push.add_argument("--tag", help="a name for the commit, such as v1.0")
    push.add_argument("--message", default="Upload model", help="message of the commit")
    push.add_argument("--dry_run", action="store_true", help="show what would go, upload nothing")
    push.set_defaults(command=command_push)

    bundle = commands.add_parser(
        "bundle", help="check a model and write it into one archive that loads without network"
    )
    bundle.add_argument("model", help="model folder of a run")
    bundle.add_argument("output", help="archive to write, NAME.zip")
    bundle.set_defaults(command=command_bundle, repository=None)
    for command in (push, bundle):
        command.add_argument(
            "--license", help="the card's license, such as apache-2.0; push needs one"
        )
        command.add_argument("--language", nargs="+", help="the card's languages, such as zh")
        command.add_argument(
            "--dataset", nargs="+", help="the card's data sets, by their names on the Hub"
        )
        command.add_argument("--base_model", help="the encoder's name on the Hub, for the card")

    verify = commands.add_parser(
        "verify", help="check a model folder, bundle or repository of the Hub against its manifest"
    )
    verify.add_argument("model", help="folder, archive, or USER/NAME")
    verify.add_argument(
        "--revision", help="commit, tag or branch of a repository of the Hub [main]"
    )
    verify.add_argument(
        "--run",
        action="store_true",
        help="load it in a clean process, and repeat its stored predictions",
    )
    verify.add_argument(
        "--unpack", metavar="FOLDER", help="leave the files there if nothing is wrong"
    )
    verify.set_defaults(command=command_verify)
    for command in (push, bundle, verify):
        add_trust_option(command)


# ------------------------------------------------------------------------------------------ sharing
def command_push(arguments: argparse.Namespace) -> int:
    from contrastive_ner.hub.upload import push

    with packaged(arguments) as folder:
        print(
            push(
                folder,
                arguments.repository,
                branch=arguments.branch,
                private=arguments.private or None,
                pull_request=arguments.pull_request,
                tag=arguments.tag,
                message=arguments.message,
                dry_run=arguments.dry_run,
            )
        )
    return 0


def command_bundle(arguments: argparse.Namespace) -> int:
    from contrastive_ner.hub.bundle import write_bundle

    output = Path(arguments.output)
    if output.suffix != ".zip":
        raise ConfigError(f"{output}: expected a name that ends in .zip")
    with packaged(arguments) as folder:
        write_bundle(folder, output)
    print(f"{output}: {output.stat().st_size:,} bytes, SHA-256 {sha256(output)}")
    return 0


@contextmanager
def packaged(arguments: argparse.Namespace) -> Iterator[Path]:
    """A model as a repository in a scratch folder, checked, loaded in a clean process, its stored predictions repeated."""
    given = {
        "license": arguments.license,
        "language": arguments.language,
        "datasets": arguments.dataset,
        "base_model": arguments.base_model,
    }
    quiet_libraries()
    with tempfile.TemporaryDirectory() as scratch:
        metadata = {name: value for name, value in given.items() if value is not None}
        folder = package(
            Path(arguments.model), Path(scratch) / "model", metadata, repo_id=arguments.repository
        )
        if arguments.command is command_push and not has_license(folder):
            raise ConfigError(
                "the card names no license: pass --license, such as apache-2.0 (without one nobody may use the model)"
            )
        check_loads(folder, trust_remote_code=arguments.trust_remote_code)
        yield folder


def command_verify(arguments: argparse.Namespace) -> int:
    from contrastive_ner.hub.upload import opened

    with opened(arguments.model, arguments.revision) as (folder, name):
        faults = faults_of(folder)
        if faults:
            raise RepositoryError(name, faults)
        other = code_differs(folder)
        print(f"{name}: every file is the one that {MANIFEST} names")
        listed = ", ".join(f"{file} ({digest})" for file, digest in other.items())
        of = ", ".join(sorted(code_versions(folder)))
        print(
            f"code: NOT this project's: {listed}"
            if other
            else f"code: this project's, version {of}"
        )
        if arguments.run:
            check_loads(folder, trust_remote_code=arguments.trust_remote_code)
            print("loads in a clean process without network, and repeats its stored predictions")
        if arguments.unpack:
            target = Path(arguments.unpack)
            if target.exists():
                raise ConfigError(f"{target} exists; choose another folder")
            shutil.copytree(folder, target)
            print(f"unpacked: {target}")
    return 0

"""Bundles: a model repository as one ZIP archive."""

import os
import re
import shutil
import stat
import tempfile
import zipfile
from pathlib import Path

from contrastive_ner.errors import ConfigError, RepositoryError
from contrastive_ner.files import fresh_folder, move_folder


def write_bundle(folder: Path, bundle: Path) -> None:
    """Write a repository as one ZIP archive; equal content gives equal bytes.

    The archive stores no times, and does not compress: weights are hardly compressible.
    """
    bundle.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=bundle.parent, prefix=f".{bundle.name}.") as scratch:
        partial = Path(scratch) / bundle.name
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(folder.iterdir()):
                entry = zipfile.ZipInfo(f"{bundle.stem}/{path.name}")
                entry.external_attr = (stat.S_IFREG | 0o644) << 16
                with (
                    path.open("rb") as source,
                    archive.open(entry, "w", force_zip64=path.stat().st_size >= 2**31) as target,
                ):
                    shutil.copyfileobj(source, target)
        os.replace(partial, bundle)


def unpack_bundle(bundle: Path, folder: Path) -> None:
    """Unpack a bundle's files into `folder`, which appears complete or not at all.

    Raises:
        ConfigError: `folder` exists and is not empty.
        RepositoryError: the bundle is not a ZIP archive as `write_bundle` writes it: regular files
            in one folder, each once, no links, no compression (so that the files cannot be larger
            than the archive).
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; choose another folder")
    partial = fresh_folder(folder.with_name(f".{folder.name}-partial"))
    try:
        with zipfile.ZipFile(bundle) as archive:
            faults = entry_faults(archive.infolist())
            # Entries that share bytes could make them so.
            if sum(entry.file_size for entry in archive.infolist()) > bundle.stat().st_size:
                faults.append("the files are larger than the archive")
            if faults:
                raise RepositoryError(bundle, faults)
            for entry in archive.infolist():
                with (
                    archive.open(entry) as source,
                    (partial / Path(entry.filename).name).open("xb") as target,
                ):
                    shutil.copyfileobj(source, target)
        move_folder(partial, folder)
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        EOFError,
        UnicodeError,
        OverflowError,
    ) as error:
        raise RepositoryError(bundle, [f"is not a bundle, or is damaged ({error})"]) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def entry_faults(entries: list[zipfile.ZipInfo]) -> list[str]:
    """Entries of an archive that are not as `write_bundle` writes them."""
    faults = []
    places = [re.fullmatch(r"([^/\\\0]+)/([^/\\\0]+)", entry.filename) for entry in entries]
    for entry, place in zip(entries, places, strict=True):
        mode = entry.external_attr >> 16
        if place is None or {place[1], place[2]} & {".", ".."} or ":" in entry.filename:
            faults.append(f"{entry.filename!r}: expected FOLDER/FILE")
        elif not stat.S_ISREG(mode):
            faults.append(f"{entry.filename!r}: is not a regular file")
        elif (
            entry.compress_type != zipfile.ZIP_STORED
            or entry.file_size != entry.compress_size
            or entry.flag_bits & 1
        ):
            faults.append(f"{entry.filename!r}: is compressed or encrypted")
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        faults.append("the archive holds a file twice")
    if len({place[1] for place in places if place}) > 1:
        faults.append("the archive holds several folders")
    return faults

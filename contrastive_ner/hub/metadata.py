"""The metadata of a model card, which a person may have edited."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive_ner.errors import RepositoryError

if TYPE_CHECKING:
    from huggingface_hub import ModelCard


def set_metadata(card_file: Path, metadata: Mapping[str, Any]) -> None:
    """Set fields of a card's metadata; its text stays unchanged."""
    card = read_card(card_file)
    for name, value in metadata.items():
        setattr(card.data, name, value)
    card.save(card_file)


def has_license(folder: Path) -> bool:
    """Whether a repository's card names a license."""
    return bool(read_card(folder / "README.md").data.to_dict().get("license"))


def read_card(card_file: Path) -> "ModelCard":
    """Read a model card, whose metadata a person may have edited.

    Raises:
        RepositoryError: the metadata is not valid YAML.
    """
    import yaml
    from huggingface_hub import ModelCard

    try:
        return ModelCard.load(card_file)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())
        kind = "UTF-8" if isinstance(error, UnicodeDecodeError) else "valid YAML of a card"
        raise RepositoryError(
            card_file.parent,
            [f"{card_file.name}: the metadata between the --- lines is not {kind} ({said})"],
        ) from error

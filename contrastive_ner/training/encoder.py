"""The encoder of a run: where it is, its tokenizer, and whether it reads characters or words."""

from pathlib import Path
from typing import TYPE_CHECKING

from contrastive_ner.data.joining import is_chinese
from contrastive_ner.errors import ConfigError
from contrastive_ner.files import expand, fresh_folder, move_folder, seal
from contrastive_ner.logs import log
from contrastive_ner.provenance import clone_root
from contrastive_ner.training.config import RunConfig
from contrastive_ner.training.loading import Data
from contrastive_ner.training.start import is_intact, refuse_trained

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encoder_place(name: str) -> str:
    """Location of an encoder: a folder or a name on the Hub.

    A relative folder that does not exist here is looked up in the clone that the package runs from,
    never on the Hub.

    Raises:
        InputError: the name can only be that of a folder, and there is none.
    """
    from contrastive_ner.models.encoder_ner import check_place

    place, folder = expand(name), encoder_folder(name)
    if folder is not None:
        return str(folder)
    check_place(place)
    return place


def encoder_folder(name: str) -> Path | None:
    """The folder of an encoder, here or in the clone; None if there is none of this name."""
    place, root = Path(expand(name)), clone_root()
    if place.is_dir():
        return place
    return root / place if root is not None and (root / place).is_dir() else None


def encoder_tokenizer(place: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of an encoder; a byte-level one reads first words like others.

    Without that, a word of RoBERTa's vocabulary has other tokens at the start of a text or a line
    than inside it. The setting is saved with the model, and is that of `reads_after_space`.
    """
    from transformers import AutoTokenizer

    from contrastive_ner.models.pipeline_ner import is_byte_level, reads_after_space

    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    if is_byte_level(tokenizer) and not reads_after_space(tokenizer):
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False, add_prefix_space=True)
    return tokenizer


def load_tokenizer(config: RunConfig, data: Data) -> tuple["PreTrainedTokenizerBase", str]:
    """The encoder's tokenizer, and the label unit: "token" for character text, otherwise "word".

    Raises:
        ConfigError: the encoder cannot be loaded, or its input is shorter than max_window_tokens.
    """
    from transformers import AutoConfig

    from contrastive_ner.models.encoder_ner import longest_input

    place = encoder_place(config.encoder)
    refuse_trained(place)
    try:
        # Code that comes with an encoder is refused, not run.
        tokenizer = encoder_tokenizer(place)
        encoder_config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"encoder {config.encoder!r} could not be loaded: {str(error).splitlines()[0]}"
        ) from error
    longest = longest_input(encoder_config, tokenizer)
    if config.max_window_tokens > longest:
        raise ConfigError(
            f"max_window_tokens is {config.max_window_tokens}: the encoder reads {longest} at most"
        )
    chosen = config.text_unit == "character"
    character = reads_characters(data) if config.text_unit == "auto" else chosen
    return tokenizer, "token" if character else "word"


def reads_characters(data: Data) -> bool:
    """Whether texts are read by characters, not by words; of several sets, all alike."""
    character = is_chinese(record.text for record in data.records["train"])
    for name, own in data.sets.items():
        if is_chinese(record.text for record in own.records["train"]) != character:
            unit = "character" if character else "word"
            log.warning("data set %s: read by %s, as all are; see text_unit", name, unit)
    return character


def prepare_encoder(
    config: RunConfig, tokenizer: "PreTrainedTokenizerBase", label_unit: str
) -> tuple[str, "PreTrainedTokenizerBase"]:
    """Location and tokenizer of the encoder.

    Unchanged, or for character text rewritten to read characters and saved in the run directory.
    """
    from contrastive_ner.training.characters import character_tokenizer, is_character_tokenizer

    if label_unit == "word" or is_character_tokenizer(tokenizer):
        return encoder_place(config.encoder), tokenizer
    from transformers import AutoModel

    from contrastive_ner.models.checks_ner import check_tensors
    from contrastive_ner.models.encoder_ner import check_complete, weight_files

    folder = config.run_dir / "encoder"
    if not is_intact(folder):
        place = encoder_place(config.encoder)
        check_tensors(weight_files(place))
        encoder, info = AutoModel.from_pretrained(
            place, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
        check_complete(place, info["missing_keys"])
        characters, encoder = character_tokenizer(tokenizer, encoder)
        partial = fresh_folder(config.run_dir / ".encoder-partial")
        encoder.save_pretrained(partial)
        characters.save_pretrained(partial)
        seal(partial)
        move_folder(partial, folder)
    return str(folder), encoder_tokenizer(str(folder))

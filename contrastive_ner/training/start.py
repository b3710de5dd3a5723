"""Training that goes on from a trained model (`init_model`): its encoder, and its heads by type.

The encoder and the tokenizer of the model are written to the run directory, where every phase
takes them from. A new model is built for the types of the data; `continue_tagger` and
`continue_binder` then copy the weights of what it has in common with the old one. What depends on
the weights, such as calibrated scores and stored type vectors, is not copied.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from contrastive_ner.errors import ConfigError, shown
from contrastive_ner.files import SEAL, expand, fresh_folder, move_folder, read_json, seal
from contrastive_ner.logs import log
from contrastive_ner.models import model_class
from contrastive_ner.training.config import RunConfig


def source_of(config: RunConfig, types: Sequence[str]) -> RunConfig:
    """The configuration with the encoder and the text unit of `init_model`, if there is one.

    Raises:
        ConfigError: `init_model` is not a model that this run can start from.
    """
    if not config.init_model:
        return config
    saved = check_start(config)
    kept, old = [t for t in types if t in types_of(saved)], types_of(saved)
    parts = {
        "kept": kept,
        "new, with fresh weights": [t for t in types if t not in old],
        "dropped": [t for t in old if t not in types],
    }
    if config.method == "binder":  # all types share the weights
        parts["new"] = parts.pop("new, with fresh weights")
        if fitted := [label for label in kept if label in (saved.get("fits") or {})]:
            log.warning(
                "%s: fitted to examples in init_model, which ends as its weights change; their "
                "descriptions are learnt",
                ", ".join(fitted),
            )
    log.info(
        "going on from %s: types %s",
        config.init_model,
        "; ".join(f"{name}: {', '.join(own)}" for name, own in parts.items() if own),
    )
    folder = config.run_dir / "encoder"
    if not is_intact(folder):
        from transformers import AutoTokenizer

        place = expand(config.init_model)
        partial = fresh_folder(config.run_dir / ".encoder-partial")
        trained_model(config).base_model.encoder.save_pretrained(partial)
        AutoTokenizer.from_pretrained(place, trust_remote_code=False).save_pretrained(partial)
        seal(partial)
        move_folder(partial, folder)
    unit = "character" if saved["label_unit"] == "token" else "word"
    return replace(config, encoder=str(folder), text_unit=unit)


def check_start(config: RunConfig) -> dict[str, Any]:
    """The content of `config.json` of `init_model`. ConfigError if it does not suit the run."""
    file, name = Path(expand(config.init_model)) / "config.json", config.init_model
    if not file.is_file():
        raise ConfigError(f"init_model is {name!r}: expected the folder of a trained model")
    saved = read_json(file)
    kind = "binder" if config.method == "binder" else "nerco"
    found = saved.get("model_type") if isinstance(saved, dict) else None
    if found != kind:
        raise ConfigError(
            f"init_model {name} holds a model of type {shown(found)}: method={config.method} goes "
            f"on from {kind!r}; for any other encoder set encoder"
        )
    units = {"character": "token", "word": "word"}
    if units.get(config.text_unit, saved.get("label_unit")) != saved.get("label_unit"):
        raise ConfigError(
            f"text_unit is {config.text_unit!r}: the labels of init_model {name} are those of each "
            f"{saved.get('label_unit')}; set text_unit=auto"
        )
    if kind == "nerco":
        check_states(config, saved)
    if kind == "binder":
        if saved.get("type_encoder") == "none":
            raise ConfigError(f"init_model {name} was exported without its type encoder")
        kind_of_types = saved.get("type_encoder", "untied")
        if config.type_encoder == "tied" and kind_of_types != "tied":
            raise ConfigError(
                f"type_encoder is tied: init_model has a type encoder of its own, which would be "
                f"lost; set type_encoder={kind_of_types}"
            )
        size = saved.get("projection_size")
        own_width = config.width_embedding_size or config.projection_size
        for name, wanted, found in (
            ("projection_size", config.projection_size, size),
            ("width_embedding_size", own_width, saved.get("width_embedding_size") or size),
            ("threshold", config.threshold, saved.get("threshold", "token")),
        ):
            if found != wanted:
                raise ConfigError(
                    f"{name} is {wanted}: that of init_model is {shown(found)}; set it"
                )
    return saved


def check_states(config: RunConfig, saved: dict[str, Any]) -> None:
    """Raise ConfigError if the linear layer of `init_model` reads states of another kind."""
    keys = ["lexicon_fusion"]
    if "flat" not in (config.lexicon_fusion, saved.get("lexicon_fusion")):
        return  # an adapter leaves the encoder's states what they are
    if config.lexicon_fusion == saved.get("lexicon_fusion"):
        keys = ["lattice_heads", "lattice_head_size"]
    for key in keys:
        found = saved.get(key, "none")
        if found != (wanted := getattr(config, key)):
            raise ConfigError(
                f"{key} is {wanted}: that of init_model {config.init_model} is {shown(found)}, "
                f"whose linear layer reads other states; expected {shown(found)}, or encoder "
                "instead of init_model"
            )


def refuse_trained(encoder: str) -> None:
    """Raise ConfigError if `encoder` is the folder of a model of this project."""
    if is_trained(encoder):
        raise ConfigError(
            f"encoder {encoder} is a trained model; to go on from it, set init_model instead"
        )


def is_trained(place: str) -> bool:
    """Whether a place is the folder of a model of this project."""
    file = Path(place) / "config.json"
    saved = read_json(file) if file.is_file() else None
    return isinstance(saved, dict) and saved.get("model_type") in ("nerco", "binder")


def is_intact(folder: Path) -> bool:
    """Whether an encoder made by this run is there, as it was written."""
    from contrastive_ner.training.checkpoints import seal_fault

    fault = seal_fault(folder) if (folder / SEAL).exists() else None
    if fault is not None:
        log.warning("%s: %s; making it again", folder, fault)
    return fault is None and folder.is_dir()


def types_of(saved: dict[str, Any]) -> list[str]:
    """The entity types in a model's `config.json`."""
    if saved["model_type"] == "binder":
        return list(saved.get("descriptions", {}))
    labels = [label for _, label in sorted((int(i), x) for i, x in saved["id2label"].items())]
    return list(dict.fromkeys(label[2:] for label in labels if label != "O"))


def trained_model(config: RunConfig) -> Any:
    """The model that a run starts from."""
    kind = "binder" if config.method == "binder" else "nerco"
    return model_class(kind).from_pretrained(expand(config.init_model))


def continue_tagger(model: Any, config: RunConfig) -> None:
    """Copy classifier rows and transitions of the labels that the trained tagger also has."""
    import torch

    if not config.init_model:
        return
    old = trained_model(config)
    had, has = old.config.labels, model.config.labels
    now = torch.tensor([number for number, label in enumerate(has) if label in had])
    before = torch.tensor([had.index(label) for label in has if label in had])
    with torch.no_grad():
        model.classifier.weight[now] = old.classifier.weight[before]
        model.classifier.bias[now] = old.classifier.bias[before]
        if model.crf.transitions is not None and old.crf.transitions is not None:
            model.crf.transitions[now[:, None], now] = old.crf.transitions[before[:, None], before]


def continue_fusion(model: Any, config: RunConfig) -> None:
    """Copy what the trained tagger knows of words, if both read them in the same way.

    Of types, characters, pairs and words: those that both have.
    """
    if not config.init_model or (model.lexicon_adapter is None and model.lattice is None):
        return
    old = trained_model(config).nerco
    if old.lexicon_adapter is not None and model.lexicon_adapter is not None:
        continue_adapter(model, old)
    if old.lattice is not None and model.lattice is not None:
        continue_lattice(model, old)


def continue_lattice(model: Any, old: Any) -> None:
    """Copy the weights of a lattice layer, and the vectors of what both have.

    Raises:
        ConfigError: their sizes differ.
    """
    import torch

    if model.lattice.size != old.lattice.size or model.lattice.heads != old.lattice.heads:
        raise ConfigError(
            f"lattice_heads and lattice_head_size are {model.lattice.heads} and "
            f"{model.lattice.head_size}: init_model has {old.lattice.heads} and "
            f"{old.lattice.head_size}"
        )
    found = old.lattice.state_dict()
    with torch.no_grad():
        for name, value in model.lattice.named_parameters():
            table = name.removesuffix(".weight")
            if table in ("entries", "bigrams"):
                had, has = (getattr(part.vocabulary, table) for part in (old, model))
                both = [word for word in has if word in had]
                rows = torch.tensor([1, *(has[word] for word in both)])
                value[rows] = found[name][[1, *(had[word] for word in both)]]
            else:
                value.copy_(found[name])


def continue_adapter(model: Any, old: Any) -> None:
    """Copy the weights of an adapter, and those of the types of words that both have."""
    import torch

    had, has = (["", *part.config.lexicon_types] for part in (old, model))
    found = old.lexicon_adapter.state_dict()
    with torch.no_grad():
        for name, value in model.lexicon_adapter.named_parameters():
            if name != "kind":
                value.copy_(found[name])
        for number, kind in enumerate(has):
            if kind in had:
                model.lexicon_adapter.kind[number] = found["kind"][had.index(kind)]


def continue_binder(model: Any, config: RunConfig) -> None:
    """Copy the projections and the type encoder of the trained model; all types share them.

    A model for wider spans keeps the embeddings of the widths that the trained one has.
    """
    import torch

    if not config.init_model:
        return
    own, found = model.state_dict(), trained_model(config).state_dict()
    with torch.no_grad():
        for name, value in found.items():
            if name.startswith(("heads.", "type_heads.", "type_encoder.")) and name in own:
                rows = min(len(value), len(own[name])) if name == "heads.width.weight" else None
                if own[name][:rows].shape != value[:rows].shape:
                    raise ConfigError(f"init_model {config.init_model}: {name} has another size")
                own[name][:rows].copy_(value[:rows])

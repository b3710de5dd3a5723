"""The code that travels with the weights: flat files that import each other as `from .sibling`.

Reading order: `modeling_nerco` or `modeling_binder`, then what they share: `encoder_ner` (safe loading), `crf_ner` (tag inference),
`types_binder` (encoded types), `windows_ner` (texts to windows, spans to mentions), `pipeline_ner` (`pipeline("ner")`).
The files keep their names: models saved earlier name them in `config.json`.
"""

from typing import Any


def model_class(model_type: str) -> Any:
    """The tagger's class of a `model_type`, "nerco" or "binder"."""
    if model_type == "binder":
        from .modeling_binder import BinderModel

        return BinderModel
    from .modeling_nerco import NercoForTokenClassification

    return NercoForTokenClassification

"""The code that travels with the weights: flat files that import each other as `from .sibling`.

Start with `modeling_nerco` or `modeling_binder`, then read what they share: `checks_ner` (files
before loading), `encoder_ner` (safe loading), `adapters_ner` (adapters, the weights in force),
`crf_layer_ner` and `crf_ner` (CRF in torch, inference in NumPy), `types_binder` (encoded types),
`windows_ner` (texts to windows, spans to mentions), `batches_ner` (windows of similar length
together), `lexicon_ner` and `matching_ner` (words of a lexicon in texts), `fusion_ner`,
`lattice_ner` and `flat_ner` (what a model makes of them), `pipeline_ner` (`pipeline("ner")`). The
file names must not change: saved models refer to them in `config.json`.
"""

from typing import Any


def model_class(model_type: str) -> Any:
    """The tagger class for a `model_type`: "binder" or "nerco"."""
    if model_type == "binder":
        from .modeling_binder import BinderModel

        return BinderModel
    from .modeling_nerco import NercoForTokenClassification

    return NercoForTokenClassification

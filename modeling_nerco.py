"""NerCo's models; the code is in `contrastive_ner/models/modeling_nerco.py`."""

from contrastive_ner.models.modeling_nerco import (
    NercoConfig,
    NercoForTokenClassification,
    NercoModel,
)

__all__ = ["NercoConfig", "NercoForTokenClassification", "NercoModel"]

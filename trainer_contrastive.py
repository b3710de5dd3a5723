"""Stage one of NerCo; the code is in `contrastive_ner/training/contrastive.py`."""

from contrastive_ner.training.contrastive import ContrastiveTrainer, ContrastiveTrainingArguments
from contrastive_ner.training.joint import JointTrainer

__all__ = ["ContrastiveTrainer", "ContrastiveTrainingArguments", "JointTrainer"]

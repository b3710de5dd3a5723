"""Tagging and contrast in one loss, for comparison with NerCo, which first contrasts."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from contrastive_ner.training.criteria import classes_of
from contrastive_ner.training.gathering import gather_tokens
from contrastive_ner.training.losses import pairwise_contrastive_loss
from contrastive_ner.training.sentence_trainer import SentenceTrainer


class JointTrainer(SentenceTrainer):
    """Trainer for stage two with tagging loss + `weight` * contrastive loss of the tokens' states.

    For comparison with NerCo, which first contrasts and then tags.

    Args:
        label_classes: as in `ContrastiveTrainer`.
        weight: weight of the contrastive loss.
        temperature: temperature of the contrastive loss.
        after_dropout: contrast what the linear layer reads instead of the encoder's last layer. All
            other arguments are those of `Trainer`.
    """

    def __init__(
        self,
        *args: Any,
        label_classes: Sequence[int],
        weight: float,
        temperature: float,
        after_dropout: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.label_classes, self.weight, self.temperature = list(label_classes), weight, temperature
        self.after_dropout = after_dropout

    def compute_loss(
        self, model: nn.Module, inputs: dict, return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Tagging loss, plus the contrastive loss in training; see `Trainer.compute_loss`."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        read: list[Tensor] = []  # by the linear layer
        handle = self.accelerator.unwrap_model(model).classifier.register_forward_pre_hook(
            lambda _, given: read.append(given[0])
        )
        try:
            loss, outputs = super().compute_loss(
                model,
                {**inputs, "output_hidden_states": not self.after_dropout},
                return_outputs=True,
                **kwargs,
            )
        finally:
            handle.remove()
        states = read[-1] if self.after_dropout else outputs.hidden_states[-1]
        classes = classes_of(inputs["labels"], self.label_classes)  # (B, T)
        tokens = gather_tokens(states[classes >= 0], classes[classes >= 0])
        loss = loss + self.weight * pairwise_contrastive_loss(*tokens, temperature=self.temperature)
        return (loss, outputs) if return_outputs else loss

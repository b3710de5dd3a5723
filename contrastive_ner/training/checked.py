"""What all Trainers of this package add to the standard one, whatever they train."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from contrastive_ner.errors import ConfigError
from contrastive_ner.files import SEAL
from contrastive_ner.training.arguments import refuse_ignored
from contrastive_ner.training.checkpoints import weights_fault
from contrastive_ner.training.weights import weighted_loss


class CheckedTrainer(Trainer):
    """The standard `Trainer`, with checked arguments and checkpoints, and weighted sentences.

    `tag_weights`, if set, are the weights of a tagger's labels (C,) in training, 0 for O; see
    `training.weights`.

    Raises:
        ConfigError: `args` has a field that cannot work here (`refuse_ignored`); or, at the end of
            training, the best checkpoint is not as it was written.
    """

    is_stage_one = False
    tag_weights: Tensor | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        refuse_ignored(self.args, self.model, stage_one=self.is_stage_one)
        if self.args.n_gpu > 1 and getattr(self.model.config, "lexicon_fusion", "none") != "none":
            raise ConfigError(
                f"{self.args.n_gpu} GPUs in one process would divide the words of a batch: start "
                "with torchrun, a process for each, or set CUDA_VISIBLE_DEVICES to one of them"
            )

    def compute_loss(
        self, model: nn.Module, inputs: dict, return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """The loss, in training that of weighted sentences; see `Trainer.compute_loss`."""
        if self.tag_weights is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        # With labels: of several processes, each must find the transitions among what `forward`
        # has used.
        outputs = model(**inputs)
        tagger = self.accelerator.unwrap_model(model)
        loss = weighted_loss(tagger, outputs["logits"], inputs, self.tag_weights)
        return (loss, outputs) if return_outputs else loss

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.evaluation_loop`, without what an interrupted evaluation has counted."""
        scores: Any = getattr(self.compute_metrics, "__self__", self.compute_metrics)
        if hasattr(scores, "reset"):
            scores.reset()
        return super().evaluation_loop(*args, **kwargs)

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint)
        fault = weights_fault(best) if (best / SEAL).exists() else None
        if fault is not None:
            raise ConfigError(
                f"{best} holds the best model, but {fault}; train again: what is damaged is passed "
                "over"
            )
        super()._load_best_model()

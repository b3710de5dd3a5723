"""The Trainer of all phases: its batches depend only on data, seed and epoch."""

from collections.abc import Sequence
from typing import Any

from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from contrastive_ner.training.batches import EpochBatches
from contrastive_ner.training.checked import CheckedTrainer


class SentenceTrainer(CheckedTrainer):
    """The standard `Trainer`, except that its batches depend only on data, seed and epoch.

    See `sentence_batches`. A run resumed in the middle of an epoch therefore sees exactly the
    remaining sentences, and several processes share each batch equally.
    """

    def sampler(self) -> EpochBatches:
        """Batch sampler of the training data."""
        sentences = [[0] * len(feature["input_ids"]) for feature in self.train_dataset]
        return self._sampler(sentences, paired=False)

    def _sampler(self, sentences: Sequence[Sequence[int]], *, paired: bool) -> EpochBatches:
        size, process, processes = (
            self.args.per_device_train_batch_size,
            self.args.process_index,
            self.args.world_size,
        )
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return EpochBatches(
            sentences, size, seed, paired=paired, process=process, processes=processes
        )

    def get_train_dataloader(self) -> DataLoader:
        """Loader of the batches that `sampler` draws."""
        loader = self._plain_loader(self.train_dataset, batch_sampler=self.sampler())
        # num_processes=1, because the sampler already yields this process's part only.
        return prepare_data_loader(
            loader, device=self.args.device, num_processes=1, process_index=0, put_on_device=True
        )

    def _plain_loader(self, dataset: Any, **sampling: Any) -> DataLoader:
        return DataLoader(
            dataset,
            collate_fn=self._collated,
            pin_memory=self.args.dataloader_pin_memory,
            num_workers=self.args.dataloader_num_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            persistent_workers=self.args.dataloader_persistent_workers,
            **sampling,
        )

    def _collated(self, rows: list[dict]) -> Any:
        """A batch of the collator's, without other columns if `remove_unused_columns` is on."""
        if self.args.remove_unused_columns:
            self._set_signature_columns_if_needed()
            used = {*self._signature_columns, "labels", "word_mask"}
            rows = [{name: row[name] for name in row if name in used} for row in rows]
        return self.data_collator(rows)

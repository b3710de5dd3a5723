from .data.bio import bio_labels_of as bio_labels_of
from .data.bio import with_bio_tags as with_bio_tags
from .data.descriptions import read_types as read_types
from .data.documents import join_documents as join_documents
from .data.readers import Layout as Layout
from .data.readers import read_records as read_records
from .data.records import (
    Mention as Mention,
)
from .data.records import (
    Record as Record,
)
from .data.records import (
    entity_types as entity_types,
)
from .data.records import (
    outermost as outermost,
)
from .data.schemes import bio_labels as bio_labels
from .data.writers import write_records as write_records
from .errors import (
    ConfigError as ConfigError,
)
from .errors import (
    DataError as DataError,
)
from .errors import (
    RepositoryError as RepositoryError,
)
from .errors import (
    UserError as UserError,
)
from .evaluation.metrics import span_scores as span_scores
from .library.ner_trainer import NerTrainer as NerTrainer
from .models.lexicon_ner import Lexicon as Lexicon
from .models.matching_ner import LexiconReader as LexiconReader
from .models.modeling_binder import BinderConfig as BinderConfig
from .models.modeling_binder import BinderModel as BinderModel
from .models.modeling_nerco import (
    NercoConfig as NercoConfig,
)
from .models.modeling_nerco import (
    NercoForTokenClassification as NercoForTokenClassification,
)
from .models.modeling_nerco import (
    NercoModel as NercoModel,
)
from .models.pipeline_ner import NerPipeline as NerPipeline
from .models.pipeline_ner import text_reader as text_reader
from .models.types_binder import TypeEmbeddings as TypeEmbeddings
from .models.windows_ner import InputError as InputError
from .serving.batch_tagger import BatchTagger as BatchTagger
from .serving.inference import (
    evaluate_records as evaluate_records,
)
from .serving.inference import (
    load_pipeline as load_pipeline,
)
from .serving.inference import (
    tag_records as tag_records,
)
from .training.batches import SpanCollator as SpanCollator
from .training.batches import TagCollator as TagCollator
from .training.binder import BinderTrainer as BinderTrainer
from .training.binder import SpanCounts as SpanCounts
from .training.calibration import calibrate as calibrate
from .training.characters import character_tokenizer as character_tokenizer
from .training.config import RunConfig as RunConfig
from .training.contrastive import (
    ContrastiveTrainer as ContrastiveTrainer,
)
from .training.contrastive import (
    ContrastiveTrainingArguments as ContrastiveTrainingArguments,
)
from .training.decoding import decoded_metrics as decoded_metrics
from .training.features import span_features as span_features
from .training.features import tag_features as tag_features
from .training.joint import JointTrainer as JointTrainer
from .training.limits import fit_limits as fit_limits
from .training.losses import (
    pairwise_contrastive_loss as pairwise_contrastive_loss,
)
from .training.losses import (
    semantic_classes as semantic_classes,
)
from .training.losses import (
    supervised_contrastive_loss as supervised_contrastive_loss,
)
from .training.new_types import add_types as add_types
from .training.sentence_trainer import SentenceTrainer as SentenceTrainer
from .training.settings import load_config as load_config

__version__: str

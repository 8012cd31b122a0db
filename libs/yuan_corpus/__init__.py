"""Text to training samples: tokenizers, indexed datasets, packing, blending, loss masks.

Nothing here knows of jobs, services or torch. Failures are `CorpusError`s of one line; progress goes to an
`EventSink` of yuan_events.
"""

from yuan_corpus.blending import BlendedDataset, samples_per_dataset
from yuan_corpus.decoding import Decoding, StreamDecoder
from yuan_corpus.documents import DocumentMode, Reading
from yuan_corpus.errors import (
    CorpusError,
    IndexedDatasetError,
    SamplingError,
    TextError,
    TokenizerError,
    VocabularyError,
)
from yuan_corpus.finetuning import DocumentWindows, FinetuningSamples, MaskedSample, count_unanswered
from yuan_corpus.indexed_dataset import IndexedDataset
from yuan_corpus.indexed_dataset_writer import IndexedDatasetWriter
from yuan_corpus.indexed_layout import dtype_for_vocabulary
from yuan_corpus.infilling import Infilling
from yuan_corpus.masks import answer_flags, document_position_ids, finetuning_loss_mask, pretraining_loss_mask
from yuan_corpus.packing import PackedDataset, SampleKey, TokenSource, split_bounds
from yuan_corpus.sharded_dataset import ShardedDataset, open_dataset
from yuan_corpus.sources import RemoteFile, Source
from yuan_corpus.statistics import DatasetStatistics, count_tokens, read_counts, unigram_cross_entropy
from yuan_corpus.text_files import find_text_files
from yuan_corpus.tokenization import CorpusWork, Cutting, tokenize_corpus
from yuan_corpus.tokenizer import Tokenizer
from yuan_corpus.tokenizer_training import Algorithm, train_tokenizer

__all__ = [
    "Algorithm",
    "BlendedDataset",
    "CorpusError",
    "CorpusWork",
    "Cutting",
    "DatasetStatistics",
    "Decoding",
    "DocumentMode",
    "DocumentWindows",
    "FinetuningSamples",
    "IndexedDataset",
    "IndexedDatasetError",
    "IndexedDatasetWriter",
    "Infilling",
    "MaskedSample",
    "PackedDataset",
    "Reading",
    "RemoteFile",
    "SampleKey",
    "SamplingError",
    "ShardedDataset",
    "Source",
    "StreamDecoder",
    "TextError",
    "TokenSource",
    "Tokenizer",
    "TokenizerError",
    "VocabularyError",
    "answer_flags",
    "count_tokens",
    "count_unanswered",
    "document_position_ids",
    "dtype_for_vocabulary",
    "find_text_files",
    "finetuning_loss_mask",
    "open_dataset",
    "pretraining_loss_mask",
    "read_counts",
    "samples_per_dataset",
    "split_bounds",
    "tokenize_corpus",
    "train_tokenizer",
    "unigram_cross_entropy",
]

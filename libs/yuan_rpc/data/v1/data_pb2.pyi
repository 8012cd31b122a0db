from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeDatasetRequest(_message.Message):
    __slots__ = ("dataset", "details")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    details: bool
    def __init__(self, dataset: _Optional[str] = ..., details: _Optional[bool] = ...) -> None: ...

class DescribeDatasetResponse(_message.Message):
    __slots__ = ("reference", "digest", "tokenizer", "tokenizer_digest", "documents", "tokens", "size_bytes", "vocab_size", "eod_token_id", "statistics", "details")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    EOD_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    reference: str
    digest: str
    tokenizer: str
    tokenizer_digest: str
    documents: int
    tokens: int
    size_bytes: int
    vocab_size: int
    eod_token_id: int
    statistics: _struct_pb2.Struct
    details: DatasetDetails
    def __init__(self, reference: _Optional[str] = ..., digest: _Optional[str] = ..., tokenizer: _Optional[str] = ..., tokenizer_digest: _Optional[str] = ..., documents: _Optional[int] = ..., tokens: _Optional[int] = ..., size_bytes: _Optional[int] = ..., vocab_size: _Optional[int] = ..., eod_token_id: _Optional[int] = ..., statistics: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., details: _Optional[_Union[DatasetDetails, _Mapping]] = ...) -> None: ...

class DatasetDetails(_message.Message):
    __slots__ = ("sources", "shortest", "median", "mean", "longest", "lengths", "languages", "cleaning")
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    SHORTEST_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    LONGEST_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    LANGUAGES_FIELD_NUMBER: _ClassVar[int]
    CLEANING_FIELD_NUMBER: _ClassVar[int]
    sources: _containers.RepeatedScalarFieldContainer[str]
    shortest: int
    median: int
    mean: float
    longest: int
    lengths: _containers.RepeatedCompositeFieldContainer[LengthBucket]
    languages: _containers.RepeatedCompositeFieldContainer[LanguageShare]
    cleaning: _struct_pb2.Struct
    def __init__(self, sources: _Optional[_Iterable[str]] = ..., shortest: _Optional[int] = ..., median: _Optional[int] = ..., mean: _Optional[float] = ..., longest: _Optional[int] = ..., lengths: _Optional[_Iterable[_Union[LengthBucket, _Mapping]]] = ..., languages: _Optional[_Iterable[_Union[LanguageShare, _Mapping]]] = ..., cleaning: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class LengthBucket(_message.Message):
    __slots__ = ("first", "last", "documents", "tokens")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    first: int
    last: int
    documents: int
    tokens: int
    def __init__(self, first: _Optional[int] = ..., last: _Optional[int] = ..., documents: _Optional[int] = ..., tokens: _Optional[int] = ...) -> None: ...

class LanguageShare(_message.Message):
    __slots__ = ("language", "documents", "tokens")
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    language: str
    documents: int
    tokens: int
    def __init__(self, language: _Optional[str] = ..., documents: _Optional[int] = ..., tokens: _Optional[int] = ...) -> None: ...

class SampleDatasetRequest(_message.Message):
    __slots__ = ("dataset", "count", "seed", "max_tokens", "packed", "sequence_length")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    count: int
    seed: int
    max_tokens: int
    packed: bool
    sequence_length: int
    def __init__(self, dataset: _Optional[str] = ..., count: _Optional[int] = ..., seed: _Optional[int] = ..., max_tokens: _Optional[int] = ..., packed: _Optional[bool] = ..., sequence_length: _Optional[int] = ...) -> None: ...

class SampleDatasetResponse(_message.Message):
    __slots__ = ("document", "token_ids", "text", "tokens", "pieces", "parts", "in_loss")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    IN_LOSS_FIELD_NUMBER: _ClassVar[int]
    document: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    text: str
    tokens: int
    pieces: _containers.RepeatedScalarFieldContainer[str]
    parts: _containers.RepeatedCompositeFieldContainer[SamplePart]
    in_loss: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, document: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ..., text: _Optional[str] = ..., tokens: _Optional[int] = ..., pieces: _Optional[_Iterable[str]] = ..., parts: _Optional[_Iterable[_Union[SamplePart, _Mapping]]] = ..., in_loss: _Optional[_Iterable[bool]] = ...) -> None: ...

class SamplePart(_message.Message):
    __slots__ = ("document", "offset", "length")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    document: int
    offset: int
    length: int
    def __init__(self, document: _Optional[int] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class TokenizeRequest(_message.Message):
    __slots__ = ("tokenizer", "text")
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    tokenizer: str
    text: str
    def __init__(self, tokenizer: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class TokenizeResponse(_message.Message):
    __slots__ = ("token_ids", "pieces")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    pieces: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., pieces: _Optional[_Iterable[str]] = ...) -> None: ...

class DetokenizeRequest(_message.Message):
    __slots__ = ("tokenizer", "token_ids")
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    tokenizer: str
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, tokenizer: _Optional[str] = ..., token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class DetokenizeResponse(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

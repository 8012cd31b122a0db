from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InspectCheckpointRequest(_message.Message):
    __slots__ = ("model", "values")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    model: str
    values: bool
    def __init__(self, model: _Optional[str] = ..., values: _Optional[bool] = ...) -> None: ...

class TensorStatistics(_message.Message):
    __slots__ = ("minimum", "maximum", "mean", "standard_deviation", "zeros", "nans", "infinities")
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STANDARD_DEVIATION_FIELD_NUMBER: _ClassVar[int]
    ZEROS_FIELD_NUMBER: _ClassVar[int]
    NANS_FIELD_NUMBER: _ClassVar[int]
    INFINITIES_FIELD_NUMBER: _ClassVar[int]
    minimum: float
    maximum: float
    mean: float
    standard_deviation: float
    zeros: int
    nans: int
    infinities: int
    def __init__(self, minimum: _Optional[float] = ..., maximum: _Optional[float] = ..., mean: _Optional[float] = ..., standard_deviation: _Optional[float] = ..., zeros: _Optional[int] = ..., nans: _Optional[int] = ..., infinities: _Optional[int] = ...) -> None: ...

class TensorInfo(_message.Message):
    __slots__ = ("name", "shape", "dtype", "file", "parameters", "statistics")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    file: str
    parameters: _containers.RepeatedScalarFieldContainer[str]
    statistics: TensorStatistics
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ..., file: _Optional[str] = ..., parameters: _Optional[_Iterable[str]] = ..., statistics: _Optional[_Union[TensorStatistics, _Mapping]] = ...) -> None: ...

class FileInfo(_message.Message):
    __slots__ = ("name", "size_bytes", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    size_bytes: int
    sha256: str
    def __init__(self, name: _Optional[str] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class InspectCheckpointResponse(_message.Message):
    __slots__ = ("reference", "layout", "config", "parameters", "size_bytes", "tensors", "tensor", "stages", "step", "parameters_by_part", "values_by_dtype", "files", "unknown", "differing_copies")
    class ParametersByPartEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class ValuesByDtypeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_BY_PART_FIELD_NUMBER: _ClassVar[int]
    VALUES_BY_DTYPE_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    DIFFERING_COPIES_FIELD_NUMBER: _ClassVar[int]
    reference: str
    layout: str
    config: _struct_pb2.Struct
    parameters: int
    size_bytes: int
    tensors: _containers.RepeatedCompositeFieldContainer[TensorInfo]
    tensor: int
    stages: _containers.RepeatedScalarFieldContainer[int]
    step: int
    parameters_by_part: _containers.ScalarMap[str, int]
    values_by_dtype: _containers.ScalarMap[str, int]
    files: _containers.RepeatedCompositeFieldContainer[FileInfo]
    unknown: _containers.RepeatedScalarFieldContainer[str]
    differing_copies: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, reference: _Optional[str] = ..., layout: _Optional[str] = ..., config: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., parameters: _Optional[int] = ..., size_bytes: _Optional[int] = ..., tensors: _Optional[_Iterable[_Union[TensorInfo, _Mapping]]] = ..., tensor: _Optional[int] = ..., stages: _Optional[_Iterable[int]] = ..., step: _Optional[int] = ..., parameters_by_part: _Optional[_Mapping[str, int]] = ..., values_by_dtype: _Optional[_Mapping[str, int]] = ..., files: _Optional[_Iterable[_Union[FileInfo, _Mapping]]] = ..., unknown: _Optional[_Iterable[str]] = ..., differing_copies: _Optional[_Iterable[str]] = ...) -> None: ...

class DiffCheckpointsRequest(_message.Message):
    __slots__ = ("first", "second")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    first: str
    second: str
    def __init__(self, first: _Optional[str] = ..., second: _Optional[str] = ...) -> None: ...

class DiffCheckpointsResponse(_message.Message):
    __slots__ = ("name", "same", "remark", "largest", "relative", "values")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SAME_FIELD_NUMBER: _ClassVar[int]
    REMARK_FIELD_NUMBER: _ClassVar[int]
    LARGEST_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    name: str
    same: bool
    remark: str
    largest: float
    relative: float
    values: int
    def __init__(self, name: _Optional[str] = ..., same: _Optional[bool] = ..., remark: _Optional[str] = ..., largest: _Optional[float] = ..., relative: _Optional[float] = ..., values: _Optional[int] = ...) -> None: ...

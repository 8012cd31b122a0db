from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListTasksRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Task(_message.Message):
    __slots__ = ("name", "title", "metric", "files", "items", "choices", "programs")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    PROGRAMS_FIELD_NUMBER: _ClassVar[int]
    name: str
    title: str
    metric: str
    files: _containers.RepeatedScalarFieldContainer[str]
    items: int
    choices: bool
    programs: bool
    def __init__(self, name: _Optional[str] = ..., title: _Optional[str] = ..., metric: _Optional[str] = ..., files: _Optional[_Iterable[str]] = ..., items: _Optional[int] = ..., choices: _Optional[bool] = ..., programs: _Optional[bool] = ...) -> None: ...

class ListTasksResponse(_message.Message):
    __slots__ = ("tasks",)
    TASKS_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    def __init__(self, tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ...) -> None: ...

class GetLeaderboardRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Score(_message.Message):
    __slots__ = ("task", "value", "standard_error", "items")
    TASK_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    task: str
    value: float
    standard_error: float
    items: int
    def __init__(self, task: _Optional[str] = ..., value: _Optional[float] = ..., standard_error: _Optional[float] = ..., items: _Optional[int] = ...) -> None: ...

class Row(_message.Message):
    __slots__ = ("model", "report", "how", "published", "scores")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    HOW_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    model: str
    report: str
    how: str
    published: bool
    scores: _containers.RepeatedCompositeFieldContainer[Score]
    def __init__(self, model: _Optional[str] = ..., report: _Optional[str] = ..., how: _Optional[str] = ..., published: _Optional[bool] = ..., scores: _Optional[_Iterable[_Union[Score, _Mapping]]] = ...) -> None: ...

class GetLeaderboardResponse(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    def __init__(self, rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ...) -> None: ...

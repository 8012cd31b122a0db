import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RequestState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REQUEST_STATE_UNSPECIFIED: _ClassVar[RequestState]
    REQUEST_STATE_FILED: _ClassVar[RequestState]
    REQUEST_STATE_ACCEPTED: _ClassVar[RequestState]
    REQUEST_STATE_REJECTED: _ClassVar[RequestState]
    REQUEST_STATE_IN_CYCLE: _ClassVar[RequestState]
    REQUEST_STATE_ANSWERED: _ClassVar[RequestState]
REQUEST_STATE_UNSPECIFIED: RequestState
REQUEST_STATE_FILED: RequestState
REQUEST_STATE_ACCEPTED: RequestState
REQUEST_STATE_REJECTED: RequestState
REQUEST_STATE_IN_CYCLE: RequestState
REQUEST_STATE_ANSWERED: RequestState

class Example(_message.Message):
    __slots__ = ("input", "output")
    INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    input: str
    output: str
    def __init__(self, input: _Optional[str] = ..., output: _Optional[str] = ...) -> None: ...

class Text(_message.Message):
    __slots__ = ("scenario", "behaviour", "examples", "author")
    SCENARIO_FIELD_NUMBER: _ClassVar[int]
    BEHAVIOUR_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    scenario: str
    behaviour: str
    examples: _containers.RepeatedCompositeFieldContainer[Example]
    author: str
    def __init__(self, scenario: _Optional[str] = ..., behaviour: _Optional[str] = ..., examples: _Optional[_Iterable[_Union[Example, _Mapping]]] = ..., author: _Optional[str] = ...) -> None: ...

class Said(_message.Message):
    __slots__ = ("input", "wanted", "before", "now", "right", "held_out")
    INPUT_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    input: str
    wanted: str
    before: str
    now: str
    right: bool
    held_out: bool
    def __init__(self, input: _Optional[str] = ..., wanted: _Optional[str] = ..., before: _Optional[str] = ..., now: _Optional[str] = ..., right: _Optional[bool] = ..., held_out: _Optional[bool] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("published", "model", "why", "changelog", "examples")
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    CHANGELOG_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    published: bool
    model: str
    why: str
    changelog: str
    examples: _containers.RepeatedCompositeFieldContainer[Said]
    def __init__(self, published: _Optional[bool] = ..., model: _Optional[str] = ..., why: _Optional[str] = ..., changelog: _Optional[str] = ..., examples: _Optional[_Iterable[_Union[Said, _Mapping]]] = ...) -> None: ...

class Happening(_message.Message):
    __slots__ = ("at", "who", "what", "revision", "why")
    AT_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    who: str
    what: str
    revision: int
    why: str
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., who: _Optional[str] = ..., what: _Optional[str] = ..., revision: _Optional[int] = ..., why: _Optional[str] = ...) -> None: ...

class TeachingRequest(_message.Message):
    __slots__ = ("id", "state", "revision", "text", "filed_by", "filed_at", "reviewer", "reviewed_at", "why", "cycle", "gathered_at", "answer", "answered_at", "history")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FILED_BY_FIELD_NUMBER: _ClassVar[int]
    FILED_AT_FIELD_NUMBER: _ClassVar[int]
    REVIEWER_FIELD_NUMBER: _ClassVar[int]
    REVIEWED_AT_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    CYCLE_FIELD_NUMBER: _ClassVar[int]
    GATHERED_AT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_AT_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: RequestState
    revision: int
    text: Text
    filed_by: str
    filed_at: _timestamp_pb2.Timestamp
    reviewer: str
    reviewed_at: _timestamp_pb2.Timestamp
    why: str
    cycle: str
    gathered_at: _timestamp_pb2.Timestamp
    answer: Answer
    answered_at: _timestamp_pb2.Timestamp
    history: _containers.RepeatedCompositeFieldContainer[Happening]
    def __init__(self, id: _Optional[str] = ..., state: _Optional[_Union[RequestState, str]] = ..., revision: _Optional[int] = ..., text: _Optional[_Union[Text, _Mapping]] = ..., filed_by: _Optional[str] = ..., filed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reviewer: _Optional[str] = ..., reviewed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., why: _Optional[str] = ..., cycle: _Optional[str] = ..., gathered_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ..., answered_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., history: _Optional[_Iterable[_Union[Happening, _Mapping]]] = ...) -> None: ...

class FileRequest(_message.Message):
    __slots__ = ("text", "by")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    text: Text
    by: str
    def __init__(self, text: _Optional[_Union[Text, _Mapping]] = ..., by: _Optional[str] = ...) -> None: ...

class FileResponse(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: TeachingRequest
    def __init__(self, request: _Optional[_Union[TeachingRequest, _Mapping]] = ...) -> None: ...

class EditRequest(_message.Message):
    __slots__ = ("id", "text", "by")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    id: str
    text: Text
    by: str
    def __init__(self, id: _Optional[str] = ..., text: _Optional[_Union[Text, _Mapping]] = ..., by: _Optional[str] = ...) -> None: ...

class EditResponse(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: TeachingRequest
    def __init__(self, request: _Optional[_Union[TeachingRequest, _Mapping]] = ...) -> None: ...

class ReviewRequest(_message.Message):
    __slots__ = ("id", "accept", "why", "revision", "by")
    ID_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    id: str
    accept: bool
    why: str
    revision: int
    by: str
    def __init__(self, id: _Optional[str] = ..., accept: _Optional[bool] = ..., why: _Optional[str] = ..., revision: _Optional[int] = ..., by: _Optional[str] = ...) -> None: ...

class ReviewResponse(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: TeachingRequest
    def __init__(self, request: _Optional[_Union[TeachingRequest, _Mapping]] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: TeachingRequest
    def __init__(self, request: _Optional[_Union[TeachingRequest, _Mapping]] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("states", "page_size", "page_token")
    STATES_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedScalarFieldContainer[RequestState]
    page_size: int
    page_token: str
    def __init__(self, states: _Optional[_Iterable[_Union[RequestState, str]]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("requests", "next_page_token")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[TeachingRequest]
    next_page_token: str
    def __init__(self, requests: _Optional[_Iterable[_Union[TeachingRequest, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

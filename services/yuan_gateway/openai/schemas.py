"""Bodies of requests. An unknown field is refused: what is not understood is not answered as if it were.

Beside OpenAI's fields stand vLLM's for what OpenAI's cannot say.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Text = Annotated[str, Field(max_length=2**24)]

MOST_PROMPTS = 128


class Body(BaseModel):
    """A request's body."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Body):
    """How a stream ends; `continuous_usage_stats` is vLLM's."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class JsonSchema(Body):
    """A schema that the answer follows."""

    name: str = "schema"
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema", default_factory=dict)
    strict: bool | None = None


class ResponseFormat(Body):
    """What the text must be: anything, a JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class StructuredOutputs(Body):
    """vLLM's: one of a JSON schema, a regular expression, a choice."""

    json_: dict[str, Any] | str | None = Field(alias="json", default=None)
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1, max_length=1024)] | None = None
    json_object: bool | None = None


class Sampling(Body):
    """What completions and chats have in common."""

    model: Annotated[str, Field(max_length=300)] = ""
    max_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: Int32 | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    response_format: ResponseFormat | None = None
    # Of vLLM.
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    length_penalty: float | None = None
    min_tokens: Int32 | None = None
    stop_token_ids: list[TokenId] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    use_beam_search: bool | None = None
    best_of: Int32 | None = None
    priority: Int32 | None = None
    structured_outputs: StructuredOutputs | None = None
    # What OpenAI's clients may send and nothing here depends on.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None


class CompletionRequest(Sampling):
    """`POST /v1/completions`."""

    prompt: (
        Text
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Text], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=MOST_PROMPTS)]
    )
    echo: bool | None = None
    logprobs: Int32 | None = None
    prompt_logprobs: Int32 | None = None
    suffix: Literal[""] | None = None


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class ChatMessage(Body):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]
    name: str | None = None


class ChatRequest(Sampling):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Int32 | None = None
    # Refused unless they say that there are none.
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None
    parallel_tool_calls: bool | None = None


class TokenizeRequest(Body):
    """`POST /tokenize`."""

    model: Annotated[str, Field(max_length=300)] = ""
    prompt: Text | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)] | None = None
    return_token_strs: bool | None = None
    # Of vLLM; here a text has no special tokens but those that stand in it.
    add_special_tokens: bool | None = None


class DetokenizeRequest(Body):
    """`POST /detokenize`."""

    model: Annotated[str, Field(max_length=300)] = ""
    tokens: list[TokenId]

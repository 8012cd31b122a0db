"""Messages of a chat as the document that the model goes on writing.

As in Yuan's training data: `question<sep>answer`, turns as lines. Instructions of system and developer stand before the
question that follows them.
"""

from collections.abc import Sequence

from yuan_gateway.errors import Refused
from yuan_gateway.openai.schemas import ChatMessage

SEPARATOR = "<sep>"


def text_of(message: ChatMessage) -> str:
    """Returns what a message says."""
    if isinstance(message.content, str):
        return message.content
    return "".join(part.text for part in message.content)


def document_of(messages: Sequence[ChatMessage]) -> str:
    """Returns the text that an answer continues.

    Raises:
        Refused: if nobody asks anything.
    """
    written: list[str] = []
    question: list[str] = []
    for message in messages:
        if message.role != "assistant":
            question.append(text_of(message))
            continue
        written.append("\n".join(question) + SEPARATOR + text_of(message) + "\n")
        question = []
    if not any(question):
        raise Refused("messages: the last one must be a question of the user's", param="messages")
    return "".join(written) + "\n".join(question) + SEPARATOR

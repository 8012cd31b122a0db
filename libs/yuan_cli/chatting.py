"""`yuan chat`: questions and answers with a served model, as a document that the model goes on writing.

A turn is `question<sep>answer`, as in Yuan's training data (its fine-tuning masks what is before `<sep>`); turns are
lines. What does not fit into the context any more, the oldest turns, is left out.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from yuan_cli.inference import ServedModel, write_text
from yuan_events import InputError
from yuan_rpc import RpcFailed
from yuan_rpc.inference.v1 import inference_pb2

SEPARATOR = "<sep>"

HELP_LINE = "/reset forgets what was said, /exit or Ctrl-D leaves, Ctrl-C stops an answer"


@dataclass
class Conversation:
    """What was said so far.

    Attributes:
        model: who answers.
        sampling: how; its max_tokens are kept free for the answer.
        turns: questions with their answers.
        forgotten: turns that do not fit any more.
    """

    model: ServedModel
    sampling: inference_pb2.SamplingParams
    turns: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    forgotten: int = 0

    def reset(self) -> None:
        """Forgets all turns."""
        self.turns, self.forgotten = [], 0

    def prompt(self, question: str) -> str:
        """Returns the text that an answer continues: as many of the newest turns as leave room for it.

        Raises:
            InputError: if the question alone is too long.
        """
        longest = self.model.info.max_model_len
        room = longest - min(self.sampling.max_tokens, longest // 2)
        tokens = 0
        for first in range(self.forgotten, len(self.turns) + 1):
            told = "".join(f"{asked}{SEPARATOR}{answer}\n" for asked, answer in self.turns[first:])
            text = f"{told}{question}{SEPARATOR}"
            tokens = self.model.count_tokens(text)
            if tokens <= room:
                self.forgotten = first
                return text
        raise InputError(f"the question has {tokens} tokens; {room} of the context's {longest} are left for it")

    def ask(self, question: str) -> Iterator[str]:
        """Yields the pieces of an answer; it is remembered as far as it came."""
        prompt = self.prompt(question)
        pieces: list[str] = []
        try:
            for part in self.model.stream(prompt, self.sampling):
                pieces.append(part.text)
                yield part.text
        finally:
            self.turns.append((question, "".join(pieces)))


def chat(conversation: Conversation) -> int:
    """Talks with the user until they leave."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        # Lines can be edited and fetched again then.
        import readline  # noqa: F401, PLC0415  # pyright: ignore[reportUnusedImport]

        info = conversation.model.info
        _note(f"{conversation.model.name} ({info.artifact}, context {info.max_model_len} tokens); {HELP_LINE}")
    while True:
        try:
            if not _turn(conversation, "> " if is_terminal else ""):
                return 0
        except EOFError:
            if is_terminal:
                sys.stdout.write("\n")
            return 0
        except KeyboardInterrupt:
            _note("\n/exit or Ctrl-D leaves")


def _turn(conversation: Conversation, prompt: str) -> bool:
    """Takes one line from the user and does what it says; False: they leave."""
    line = input(prompt).strip()
    if line == "/exit":
        return False
    if line == "/reset":
        conversation.reset()
    elif line.startswith("/"):
        _note(f"no command {line.split()[0]}; {HELP_LINE}")
    elif line:
        _answer(conversation, line)
    return True


def _answer(conversation: Conversation, question: str) -> None:
    before = conversation.forgotten
    try:
        for piece in conversation.ask(question):
            write_text(piece)
    except KeyboardInterrupt:
        _note(" (stopped)")
    except (RpcFailed, InputError) as error:
        # One question that cannot be answered does not end a conversation.
        _note(str(error))
        return
    sys.stdout.write("\n")
    sys.stdout.flush()
    if conversation.forgotten > before:
        _note(f"(the context is full: the first {conversation.forgotten} turns are left out)")


def _note(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()

"""Conversations in all formats that files use, as turns of one form.

A turn is a role and a text. Whatever else a message holds that carries meaning (tool calls, a tool's name) is written
into the turn's text as one line of canonical JSON, so that two responses which differ only there differ; the message
as it came stays beside it, for export. What cannot be kept is refused.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bgpm.data.schema import Message, transcript
from bgpm.errors import DataError

# What data sets call speakers that chat templates know by other names, and what such templates know but the loop not.
DIALECT = {
    **{role: role for role in ("system", "user", "assistant", "tool")},  # in any case: Assistant
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "ai", "bard", "bing", "chatbot", "bot", "model", "function_call"), "assistant"),
    "observation": "tool",
}
ROLES = DIALECT | {"function": "tool", "ipython": "tool", "developer": "system"}
EXTRAS = (
    "name",
    "tool_calls",
    "function_call",
    "tool_call_id",
    "refusal",
)  # keys of a message that its text shows as JSON
NAMES = (("role", "content"), ("from", "value"))  # how files call a turn's speaker and text
TEXTS = ("text", "input_text", "output_text")  # types of a content part that is text

# How a list of messages begins where a table's cell holds it as text, and one message alone.
_LIST = re.compile(r"\s*\[\s*\{\s*[\"'](role|content|from|value)[\"']\s*:")
_ONE = re.compile(r"\s*\{\s*[\"'](role|content|from|value)[\"']\s*:")
# A list of objects, and one that was written as JSON twice: of messages where all of them have a known speaker.
_OBJECTS = re.compile(r"\s*\[\s*\{\s*[\"']\w+[\"']\s*:|\s*\"\s*\[\s*\{\s*(\\\"|')\w+(\\\"|')\s*:")

Ignored = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message.

    Attributes:
        role: ``system``, ``user``, ``assistant`` or ``tool``, or a role of the file's own.
        content: Its text, with what else it says as a last line of JSON.
        given: The message as it came, without null keys; None where the file has a text and no message.
    """

    role: str
    content: str
    given: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def message(self) -> Message:
        """Role and text."""
        return self.role, self.content

    @property
    def added(self) -> bool:
        """Whether the turn stands in no message of the file: it tells of a column."""
        return self.given is not None and not self.given

    def as_given(self) -> dict[str, Any]:
        """The message as it came, under the names role and content, or one made of role and text."""
        if self.given is None:
            return {"role": self.role, "content": self.content}
        names = next((pair for pair in NAMES if pair[0] in self.given), NAMES[0])
        rest = {key: value for key, value in self.given.items() if key not in names}
        speaker = self.given[names[0]]
        return {
            "role": self.role if speaker.lower() in DIALECT else speaker,
            "content": self.given.get(names[1]),
            **rest,
        }


def canonical(value: Any) -> str:
    """JSON that is the same for equal values: sorted keys, no null keys, no spare blanks."""
    return json.dumps(without_nulls(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def without_nulls(value: Any) -> Any:
    """The value without keys whose value is null: Arrow fills absent keys with them."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def messages_in(value: Any, place: str, column: str) -> Any:
    """A column's value with messages in it, if it holds messages in another format.

    Text in which a whole list of messages stands, as JSON or as Python writes it, is parsed; a dict of lists becomes a
    list of dicts; one message becomes a list of one. Any other value is passed on, prose and ``[1, 2]`` too.

    Raises:
        DataError: If a text begins like a list of messages and cannot be parsed.
    """
    if isinstance(value, str) and (_LIST.match(value) or _ONE.match(value)):
        value = _parsed(value, place, column)
    elif isinstance(value, str) and _OBJECTS.match(value):
        value = _spoken(value, value)
    if isinstance(value, Mapping):
        for speaker, text in NAMES:
            lists = [value.get(speaker), value.get(text)]
            if all(isinstance(item, list) for item in lists):
                return _transposed(value, place, column)
            if value.get(speaker) is not None:
                return [value]
    return value


def _parsed(text: str, place: str, column: str) -> Any:
    """Messages that stand in a text, or the text itself where it holds other structure, such as a response in JSON."""
    found = parsed_list(text)
    if found is None and _LIST.match(text):
        raise DataError(
            f"{place}: {column}: begins like a list of messages and cannot be read as one, neither as JSON nor as "
            f"Python: {show(text)}; write the column as JSON: json.dumps(messages)"
        )
    messages = [found] if isinstance(found, Mapping) else found
    return messages if isinstance(messages, list) and all(map(_is_message, messages)) else text


def _spoken(text: str, whole: str) -> Any:
    """Messages that stand in a text, if all have a known speaker: any other list of objects may be a response."""
    found = parsed_list(text)
    if isinstance(found, str) and text is whole:
        return _spoken(found, whole)
    spoken = isinstance(found, list) and all(_is_message(item) and role_of(item) in ROLES.values() for item in found)
    return found if spoken else whole


def role_of(message: Mapping[str, Any]) -> str | None:
    """Who speaks in a message, by the name that we have for it, or by the file's own; None where it does not say."""
    speaker = next((message[name] for name, _ in NAMES if message.get(name) is not None), None)
    return ROLES.get(speaker.lower(), speaker) if isinstance(speaker, str) else None


def parsed_list(text: str) -> Any:
    """What a text says as JSON or as a Python literal; None where it is neither.

    A list of texts with nothing between them is none, though Python joins them: NumPy writes lists so.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            found = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    return None if _joins_texts(text.strip()) else found


def _joins_texts(literal: str) -> bool:
    """Whether two items of a list in a Python literal are texts side by side."""
    opened, last = [""], ""
    for token in tokenize.generate_tokens(io.StringIO(literal).readline):
        if token.type == tokenize.STRING and last == "text" and opened[-1] == "[":
            return True
        if token.type == tokenize.OP and token.string in "([{":
            opened.append(token.string)
        elif token.type == tokenize.OP and token.string in ")]}":
            opened.pop()
        if token.type != tokenize.NL:
            last = "text" if token.type == tokenize.STRING else ""
    return False


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and any(speaker in value and text in value for speaker, text in NAMES)


def _transposed(columns: Mapping[str, Any], place: str, column: str) -> list[dict[str, Any]]:
    """A list of messages from a dict of lists, as Arrow holds a sequence of structs."""
    lists = {name: values for name, values in columns.items() if values is not None}
    sizes = {len(values) if isinstance(values, list) else -1 for values in lists.values()}
    if len(sizes) != 1 or -1 in sizes:
        raise DataError(f"{place}: {column}: expected as many roles as contents, got {show(columns)}")
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def turns_of(
    value: Any, place: str, column: str, ignore: Collection[str] = (), ignored: Ignored | None = None
) -> tuple[Turn, ...]:
    """Turns from a list of messages.

    Args:
        value: Messages with role and content (or from and value), in any dress of `messages_in`.
        ignore: Keys of messages that may be left out.
        ignored: Told the key and the place of each that was.

    Raises:
        DataError: Naming the place, and the key or part that would be lost.
    """
    value = messages_in(value, place, column)
    if not isinstance(value, list) or not value:
        raise DataError(f"{place}: {column}: expected text or a list of messages, got {show(value)}")
    return tuple(_turn(message, place, column, ignore, ignored) for message in value)


def _turn(message: Any, place: str, column: str, ignore: Collection[str], ignored: Ignored | None) -> Turn:
    if not isinstance(message, Mapping):
        raise DataError(f"{place}: {column}: expected messages with role and content as text, got {show(message)}")
    given = without_nulls(message)
    names = next((pair for pair in NAMES if pair[0] in given), NAMES[0])
    speaker = given.get(names[0])
    extras = {key: _structure(given[key]) for key in EXTRAS if given.get(key) not in (None, "", [], {})}
    content = given.get(names[1], "" if {"tool_calls", "function_call", "refusal"} & extras.keys() else None)
    if not isinstance(speaker, str) or not isinstance(content, str | list):
        raise DataError(f"{place}: {column}: expected messages with role and content as text, got {show(message)}")

    def check_keys(of: Mapping[str, Any], known: Collection[str]) -> None:
        for key in sorted(of.keys() - set(known)):
            if of[key] in ("", [], {}):
                continue
            if key not in ignore:
                raise DataError(
                    f"{place}: {column}: a message has the key {key!r}, which would be lost: {show(of[key])}; take it "
                    f"out, or list it in pool.ignore_keys if it carries no meaning"
                )
            if ignored:
                ignored(key, place)

    text = content if isinstance(content, str) else _parts(content, place, column, check_keys)
    check_keys(given, (*names, *EXTRAS))
    if extras:
        text = "\n".join(part for part in (text, canonical(extras)) if part)
    return Turn(ROLES.get(speaker.lower(), speaker), text, given)


def _structure(value: Any) -> Any:
    """Tool calls as structure, where a table holds them as text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        found = parsed_list(value)
        return value if found is None else found
    return value


def _parts(
    parts: Sequence[Any], place: str, column: str, check_keys: Callable[[Mapping[str, Any], Collection[str]], None]
) -> str:
    """Text parts, joined by a line end."""
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and part.get("type") in TEXTS and isinstance(part.get("text"), str):
            check_keys(part, ("type", "text"))
            texts.append(part["text"])
        else:
            kind = part.get("type", "none") if isinstance(part, Mapping) else type(part).__name__
            raise DataError(
                f"{place}: {column}: a content part of type {kind!r}: only text parts can be read: {show(part)}; take "
                "such rows out, or put a description of the part into a text part"
            )
    return "\n".join(texts)


def with_system(turns: tuple[Turn, ...], system: Any, place: str) -> tuple[Turn, ...]:
    """A conversation under the system prompt of a column of its own.

    Raises:
        DataError: If the conversation begins with another one.
    """
    if not isinstance(system, str):
        raise DataError(f"{place}: system: expected text, got {show(system)}")
    if not system.strip():
        return turns
    if turns[0].role == "system":
        if turns[0].content != system:
            raise DataError(
                f"{place}: the column system and the conversation's own system turn differ: {show(system)} and "
                f"{show(turns[0].content)}; keep one of them"
            )
        return turns
    return (Turn("system", system), *turns)


def with_tools(turns: tuple[Turn, ...], tools: Any) -> tuple[Turn, ...]:
    """A conversation whose system turn lists the tools at hand, as canonical JSON."""
    tools = without_nulls(_structure(tools))
    if tools in (None, "", [], {}):
        return turns
    text = f"Tools: {tools if isinstance(tools, str) else canonical(tools)}"
    if turns[0].role == "system":
        first = turns[0]
        whole = "\n\n".join(part for part in (first.content, text) if part)
        return (Turn("system", whole, first.as_given() if first.given is None else first.given), *turns[1:])
    return (Turn("system", text, {}), *turns)


def joined(prompt: tuple[Turn, ...], start: tuple[Turn, ...], place: str) -> tuple[Turn, ...]:
    """The prompt column and the beginning that both conversations share, in order and nothing twice.

    The conversations may repeat the prompt, whole or its end, or go on where it stops.

    Raises:
        DataError: If the two cannot be joined.
    """
    n = len(prompt)
    if any(_same(prompt, start[at : at + n]) for at in range(len(start) - n + 1)):
        return start
    for shared in range(min(n, len(start)), 0, -1):
        if _same(prompt[-shared:], start[:shared]):
            return (*prompt, *start[shared:])
    if prompt[-1].role in ("assistant", "system") and start[0].role == "user":
        return (*prompt, *start)
    raise DataError(
        f"{place}: the prompt column and the conversations do not fit together: the prompt ends with "
        f"{show(prompt[-1].content)} ({prompt[-1].role}), the conversations begin with {show(start[0].content)} "
        f"({start[0].role}); give whole conversations and no prompt column, or responses alone"
    )


def _same(a: Iterable[Turn], b: Iterable[Turn]) -> bool:
    return all(x.role == y.role and x.content.strip() == y.content.strip() for x, y in zip(a, b, strict=True))


def response_text(turns: Sequence[Turn]) -> str:
    """A response of one turn as it stands; of more turns whole, the later ones as a transcript."""
    first, *later = turns
    if first.role != "assistant":
        return transcript([turn.message for turn in turns])
    return "\n\n".join([first.content, *(transcript([turn.message]) for turn in later)])


def show(value: Any) -> str:
    """A value for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

"""Codecs with hooks of the user's own: `save` and `load`."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from typed_sessions.codecs import DecodeRefused, HookedCodec, TypedCodec
from typed_sessions.errors import KeyTypeError


def save_json(value: object) -> bytes:
    return json.dumps(value).encode()


def load_json(data: bytes) -> object:
    return json.loads(data)


async def save_later(value: object) -> bytes:
    return save_json(value)


def save_in_disguise(value: object) -> object:
    return save_later(value)


def save_nothing(value: int) -> bytes:
    return b"%d" % (1 // value)


class Saver:
    async def __call__(self, value: object) -> bytes:
        return save_json(value)


def hooked(save: object = save_json, load: object = load_json) -> HookedCodec[Any]:
    """A codec with hooks that a type checker would not let through."""
    return HookedCodec[Any](cast("Any", save), cast("Any", load), False)


def test_hooks_are_called_with_the_value_and_with_the_bytes() -> None:
    """`load` gets bytes whatever the store handed out, and `builtins` is the bytes as they are."""
    codec = HookedCodec(save_json, load_json, deterministic=True)
    data = codec.accept({"a": [1]})
    assert data == codec.encode({"a": [1]}) == b'{"a": [1]}'
    assert codec.decode(data) == codec.decode(memoryview(data)) == {"a": [1]}
    assert codec.builtins(memoryview(data)) == data
    assert (codec.mutable, codec.exact, codec.comparable) == (True, None, True)
    assert HookedCodec(save_json, load_json).comparable is False


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("{}", r"save must return bytes, it returned str: did you pass json.dumps\? use lambda v: json.dumps\(v\).encode\(\)"),
        (None, "it returned NoneType: did you pass a function that writes to a file"),
        (bytearray(b"a"), r"it returned bytearray: return bytes\(...\) of it"),
        (5, "it returned int"),
    ],
)
def test_save_must_return_bytes(result: object, text: str) -> None:
    """The text says what came instead, and which mistake it probably is."""

    def save(_value: object) -> object:
        return result

    with pytest.raises(KeyTypeError, match=text):
        hooked(save=save).accept(1)


@pytest.mark.parametrize("hook", [save_later, Saver()])
def test_hooks_that_are_async_are_refused_at_the_declaration(hook: object) -> None:
    """Nobody would await them."""
    with pytest.raises(KeyTypeError, match=r"save must be a plain function, .*async"):
        hooked(save=hook)
    with pytest.raises(KeyTypeError, match=r"load must be a plain function, .*async"):
        hooked(load=hook)


def test_a_coroutine_that_comes_back_is_closed() -> None:
    """A plain function may still return one: no warning about it, only the error."""
    with pytest.raises(KeyTypeError, match="coroutine: hooks are called without await"):
        hooked(save=save_in_disguise).accept(1)
    with pytest.raises(DecodeRefused, match="coroutine"):
        hooked(load=save_in_disguise).decode(b"")


def test_hooks_that_cannot_be_called_are_refused_at_the_declaration() -> None:
    """`save=json.dump` wants a file too, and no type checker notices."""
    with pytest.raises(KeyTypeError, match=r"save is called with the value alone and returns bytes; json.dump: missing"):
        hooked(save=json.dump)
    with pytest.raises(KeyTypeError, match="load is called with the bytes alone"):
        hooked(load=lambda: 1)
    with pytest.raises(KeyTypeError, match="load must be a function, it is str"):
        hooked(load="json.loads")
    HookedCodec(bytes, int)


def test_what_save_raises_is_left_alone() -> None:
    """It is raised in the user's own assignment, where it belongs."""
    with pytest.raises(ZeroDivisionError):
        HookedCodec(save_nothing, int).accept(0)


@pytest.mark.parametrize("error", [ValueError("secret"), KeyError("x"), RecursionError(), SystemError()])
def test_what_load_raises_is_a_refusal(error: Exception) -> None:
    """The value counts as absent; the error is the cause, and its text, which may quote the data, is not repeated."""

    def load(_data: bytes) -> int:
        raise error

    with pytest.raises(DecodeRefused) as caught:
        hooked(load=load).decode(b"1")
    assert caught.value.__cause__ is error
    assert "secret" not in str(caught.value)


def test_interrupts_are_not_refusals() -> None:
    """Neither ^C nor the end of a thread is taken for a damaged value."""

    def load(_data: bytes) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hooked(load=load).decode(b"1")


def test_codecs_say_what_they_are() -> None:
    """In a traceback or a test."""
    assert repr(TypedCodec(list[int])) == "TypedCodec(list[int])"
    assert repr(TypedCodec(int)) == "TypedCodec(int)"
    assert "save_json" in repr(HookedCodec(save_json, load_json))

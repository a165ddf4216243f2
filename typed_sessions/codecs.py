"""How one value becomes bytes and comes back as the same kind of value: typed (msgspec decides) or hooked (the user's functions do).

A codec knows a type or two functions, and nothing else: no key, no session, no store, no lock, no clock.

What a codec promises:

1. What `decode` returns is a T; the bytes may come from anywhere. Anything else that can happen to hostile bytes is `DecodeRefused`.
2. What `accept` takes is a T that the next request gets back as the same kind of value; anything else is `KeyTypeError` at the assignment,
   where the mistake is, and not a value that is missing one request later.
3. A type whose values cannot keep 1 and 2 is refused when the codec is built, and the text names the part of the type that is to blame.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, Generic, NoReturn, Protocol, TypeAlias, TypeVar, cast, final, get_origin
from uuid import UUID

import msgspec
from msgspec import inspect as shapes
from typing_extensions import TypeForm

from .carriable import FOR_KEY, Advice, Parts, Records, describe, is_value, not_a_type, reason, why_not
from .errors import KeyTypeError

T = TypeVar("T")

_MAX_DEPTH = 256
"""Containers within containers that `accept` allows: well inside Python's recursion limit, whatever the stack at the next decode."""


class DecodeRefused(ValueError):
    """The bytes do not decode as the type (or the `load` hook refused them): the value counts as absent. `__cause__` tells more."""


class Codec(Protocol[T]):
    """What a key asks of its codec."""

    @property
    def mutable(self) -> bool:
        """False if no value of the type can be changed in place, so that looking for such changes can be left out."""
        ...

    @property
    def exact(self) -> type | None:
        """A class for which `type(value) is exact` proves that the value is a T, if there is one."""
        ...

    @property
    def comparable(self) -> bool:
        """Whether two encodings of an unchanged value, in one process, are the same bytes."""
        ...

    @property
    def repeatable(self) -> bool:
        """Whether decoding the same bytes twice gives the same value; if not, a part of it is made anew each time, such as an id."""
        ...

    def accept(self, value: T, /) -> bytes:
        """The bytes for a value that is being assigned. Raises KeyTypeError if the next request would not get the same kind of value."""
        ...

    def encode(self, value: T, /) -> bytes:
        """The bytes for a value that is a T already. Raises KeyTypeError if it cannot be encoded."""
        ...

    def decode(self, data: bytes | memoryview, /) -> T:
        """The value. Raises DecodeRefused, and nothing else, if the bytes are not those of a T."""
        ...

    def builtins(self, data: bytes | memoryview, /) -> object:
        """What the bytes hold without regard to T, for an `upgrade` function. Raises DecodeRefused if it cannot be read."""
        ...


# -- typed values --------------------------------------------------------------------------------------------------------------------------


def _refuse(value: object) -> NoReturn:
    """What msgspec cannot encode. Some texts of frameworks, such as Django's, are what they were when `str` has been called on them."""
    plain = "; str.__str__(value) is the text alone" if issubclass(type(value), str) else ""
    raise TypeError(f"Encoding objects of type {describe(type(value))} is unsupported{plain}")


_encoder: Final = msgspec.msgpack.Encoder(enc_hook=_refuse)
_untyped: Final = msgspec.msgpack.Decoder()


@final
class TypedCodec(Generic[T]):
    """Values of a type that msgspec can carry, as MessagePack.

    `TypedCodec(form)` raises KeyTypeError if the type cannot be carried; `advice` is what to do then.
    """

    __slots__ = ("_abstract", "_decode", "_encode", "_name", "_records", "comparable", "exact", "form", "mutable", "repeatable")

    def __init__(self, form: TypeForm[T], /, advice: Advice = FOR_KEY) -> None:
        self.form: TypeForm[T] = form
        self._name = describe(form)
        if isinstance(form, TypeVar) or (get_origin(form) is not None and getattr(form, "__parameters__", None)):
            raise KeyTypeError(f"{self._name} has a type variable in it: write the type that stands for it")
        if isinstance(form, str):
            raise KeyTypeError(f"{form!r} is a type written as text, which cannot be looked up from here: give the type itself")
        try:
            info = shapes.type_info(form)
            decoder = cast("msgspec.msgpack.Decoder[T]", msgspec.msgpack.Decoder(cast("Any", form)))
        except Exception as error:  # msgspec evaluates annotations, so whatever they raise arrives here
            if is_value(form):
                raise KeyTypeError(not_a_type(form)) from None  # msgspec's own text has the value in it
            raise KeyTypeError(why_not(self._name, error, advice)) from error
        parts = Parts(form, info, advice)
        self.comparable: bool = True
        self.mutable: bool = parts.mutable
        self.repeatable: bool = parts.repeatable
        self.exact: type | None = parts.exact
        self._records = parts.records
        self._abstract = parts.abstract
        self._encode = _encoder.encode
        self._decode = decoder.decode

    def __repr__(self) -> str:
        return f"TypedCodec({self._name})"

    def encode(self, value: T, /) -> bytes:
        """MessagePack. Raises KeyTypeError for what msgspec cannot encode: an int beyond 64 bits, a lone surrogate, another class."""
        try:
            return self._encode(value)
        except MemoryError:
            raise
        except Exception as error:
            raise KeyTypeError(f"a value for {self._name} cannot be encoded ({describe(type(value))}): {reason(error)}") from error

    def accept(self, value: T, /) -> bytes:
        """Encode a value, and prove that the next request gets the same kind of value back.

        That the bytes decode as T is not enough: a dict encodes like a dataclass, a UUID like a str, a subclass like its base, without the
        fields that it adds. So the decoded value is laid beside the given one, and wherever their classes differ the value is refused.
        Allowed are an int for a float (PEP 484), and what is read back as a list or set for a tuple or frozenset: inside a value anywhere,
        at its top if T is abstract (`Sequence[int]`, `Any`). What is in the elements of a set is not compared.
        """
        data = self.encode(value)
        if type(value) is self.exact:
            return data
        try:
            decoded = self._decode(data)
            found = _difference(value, decoded, self._records, abstract=self._abstract)
        except MemoryError:
            raise
        except Exception as error:
            given = describe(type(value))
            raise KeyTypeError(f"the value is not of the type {self._name} ({given} was given): {reason(error)}") from error
        if found is not None:
            path, why = found
            raise KeyTypeError(f"the value is not of the type {self._name}: value{path} {why}")
        return data

    def decode(self, data: bytes | memoryview, /) -> T:
        """A T, or DecodeRefused."""
        try:
            return self._decode(data)
        except Exception as error:  # a class's own __post_init__ may raise anything, and too deep nesting is a RecursionError
            raise DecodeRefused(f"not a value of the type {self._name}: {reason(error)}") from error

    def builtins(self, data: bytes | memoryview, /) -> object:
        """Dictionaries, lists, text, numbers: what the bytes say without a type."""
        try:
            return _untyped.decode(data)
        except Exception as error:
            raise DecodeRefused(f"not MessagePack: {reason(error)}") from error


# -- hooked values -------------------------------------------------------------------------------------------------------------------------


@final
class HookedCodec(Generic[T]):
    """Values that the user's functions turn into bytes and back.

    What `save` raises is left alone, since it is raised in the user's own assignment. What `load` raises is a stored value that cannot be
    read, which is `DecodeRefused`. `deterministic` promises that `save` gives the same bytes for an unchanged value, and for each that
    `load` makes of the same bytes.
    """

    __slots__ = ("_load", "_save", "comparable", "exact", "mutable", "repeatable")

    def __init__(self, save: Callable[[T], bytes], load: Callable[[bytes], T], deterministic: bool = False) -> None:
        self._save = save
        self._load = load
        _check_hook("save", save, "the value")
        _check_hook("load", load, "the bytes")
        self.comparable: bool = deterministic
        self.repeatable: bool = True
        self.mutable: bool = True
        self.exact: type | None = None

    def __repr__(self) -> str:
        return f"HookedCodec({describe(self._save)}, {describe(self._load)})"

    def encode(self, value: T, /) -> bytes:
        """What `save` returned. Raises KeyTypeError if that is not bytes."""
        data = cast("object", self._save(value))
        if isinstance(data, bytes):
            return data
        raise KeyTypeError(_not_bytes(data))

    def accept(self, value: T, /) -> bytes:
        """The same as `encode`: only the user's functions know what a T is."""
        return self.encode(value)

    def decode(self, data: bytes | memoryview, /) -> T:
        """What `load` returned. Raises DecodeRefused for any exception in it."""
        try:
            value = self._load(bytes(data))
        except Exception as error:
            raise DecodeRefused(f"{describe(self._load)} refused the stored bytes: {type(error).__name__}") from error
        if inspect.iscoroutine(value):
            value.close()
            raise DecodeRefused(f"{describe(self._load)} returned a coroutine; hooks are called without await")
        return value

    def builtins(self, data: bytes | memoryview, /) -> bytes:
        """The bytes: only the user's functions know more."""
        return bytes(data)


def _check_hook(name: str, hook: object, argument: str) -> None:
    if not callable(hook):
        raise KeyTypeError(f"{name} must be a function, it is {describe(type(hook))}")
    called: object = type(hook).__call__  # of an object that can be called
    if any(inspect.iscoroutinefunction(f) or inspect.isasyncgenfunction(f) for f in (hook, called)):
        raise KeyTypeError(f"{name} must be a plain function, {describe(hook)} is async: hooks are called without await")
    try:
        signature = inspect.signature(hook)
    except (ValueError, TypeError):  # many functions written in C have none
        return
    try:
        signature.bind(object())
    except TypeError as error:
        expected = "bytes" if name == "save" else "the value"
        raise KeyTypeError(f"{name} is called with {argument} alone and returns {expected}; {describe(hook)}: {error}") from error


def _not_bytes(data: object) -> str:
    text = f"save must return bytes, it returned {describe(type(data))}"
    if inspect.iscoroutine(data):
        data.close()
        return f"{text}: hooks are called without await"
    if isinstance(data, str):
        return f"{text}: did you pass json.dumps? use lambda v: json.dumps(v).encode()"
    if isinstance(data, (bytearray, memoryview)):
        return f"{text}: return bytes(...) of it"
    if data is None:
        return f"{text}: did you pass a function that writes to a file, or forget its return?"
    return text


# -- whether two values are of one kind ----------------------------------------------------------------------------------------------------

_SCALARS: Final[frozenset[type]] = frozenset({type(None), bool, int, float, str, bytes, datetime, date, time, timedelta, UUID, Decimal})

_WIDER: Final[frozenset[tuple[type, type]]] = frozenset({(int, float)})
_PLAINER: Final[frozenset[tuple[type, type]]] = _WIDER | {(tuple, list), (frozenset, set)}

_Found: TypeAlias = tuple[str, str]


def _difference(value: object, decoded: object, records: Records, *, abstract: bool = True, depth: int = 0) -> _Found | None:
    """Where the classes in two values differ first, and how: (path, text), or None."""
    kind = type(decoded)
    if type(value) is not kind and (type(value), kind) not in (_PLAINER if abstract else _WIDER):
        given, back = describe(type(value)), describe(kind)
        return "", f"is of the class {given} and would be read back as {back}; assign a value of the latter class"
    if kind in _SCALARS:
        return None
    if depth >= _MAX_DEPTH:
        return "", f"is nested deeper than {_MAX_DEPTH} levels"
    names = records.get(kind)
    if names is not None:
        for name in names:
            found = _difference(getattr(value, name), getattr(decoded, name), records, depth=depth + 1)
            if found is not None:
                return f".{name}{found[0]}", found[1]
        return None
    if not isinstance(decoded, (list, tuple, dict, set, frozenset)):
        return None
    pair = cast("tuple[Collection[object], Collection[object]]", (value, decoded))
    if len(pair[0]) != len(pair[1]):
        return "", "would lose items: some names are not in the type, or some items are encoded alike"
    if isinstance(decoded, dict):
        given_dict, back_dict = cast("tuple[dict[object, object], dict[object, object]]", pair)
        found = _in_items(given_dict.keys(), back_dict.keys(), records, depth, ".keys()")
        if found is None:
            found = _in_items(given_dict.values(), back_dict.values(), records, depth, ".values()")
        return found
    if isinstance(decoded, (set, frozenset)):
        return _in_set(pair[0], pair[1])
    return _in_items(pair[0], pair[1], records, depth)


def _in_items(given: Collection[object], back: Collection[object], records: Records, depth: int, part: str = "") -> _Found | None:
    kinds = set(map(type, back))
    if kinds <= _SCALARS and kinds == set(map(type, given)):  # the common case, in C
        return None
    for number, (one, other) in enumerate(zip(given, back, strict=True)):
        found = _difference(one, other, records, depth=depth + 1)
        if found is not None:
            return f"{part}[{number}]{found[0]}", found[1]
    return None


def _in_set(given: Collection[object], back: Collection[object]) -> _Found | None:
    kinds = set(map(type, back))
    for kind in set(map(type, given)) - kinds:
        if not any((kind, other) in _PLAINER for other in kinds):
            return "{...}", f"is of the class {describe(kind)} and would be read back as {' or '.join(sorted(map(describe, kinds)))}"
    return None

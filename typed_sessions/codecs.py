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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, MutableSequence, MutableSet, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import UnionType
from typing import Annotated, Any, Final, Generic, Protocol, TypeAlias, TypeVar, Union, cast, final, get_args, get_origin
from uuid import UUID

import msgspec
from msgspec import inspect as shapes
from typing_extensions import TypeForm

from .errors import KeyTypeError

T = TypeVar("T")

_MAX_DEPTH = 256
"""Containers within containers that `accept` allows: well inside Python's recursion limit, whatever the stack at the next decode."""

_WAY_OUT = "give functions of your own for it (save= and load=), or keep it in this process only (resident=True)"


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

_encoder: Final = msgspec.msgpack.Encoder()
_untyped: Final = msgspec.msgpack.Decoder()


@final
class TypedCodec(Generic[T]):
    """Values of a type that msgspec can carry, as MessagePack.

    `TypedCodec(form)` raises KeyTypeError if the type cannot be carried.
    """

    __slots__ = ("_abstract", "_decode", "_encode", "_name", "_records", "comparable", "exact", "form", "mutable")

    def __init__(self, form: TypeForm[T], /) -> None:
        self.form: TypeForm[T] = form
        self._name = _describe(form)
        if isinstance(form, TypeVar) or (get_origin(form) is not None and getattr(form, "__parameters__", None)):
            raise KeyTypeError(f"{self._name} has a type variable in it: write the type that stands for it")
        if isinstance(form, str):
            raise KeyTypeError(f"{form!r} is a type written as text, which cannot be looked up from here: give the type itself")
        try:
            info = shapes.type_info(form)
            decoder = cast("msgspec.msgpack.Decoder[T]", msgspec.msgpack.Decoder(cast("Any", form)))
        except Exception as error:  # msgspec evaluates annotations, so whatever they raise arrives here
            raise KeyTypeError(_why_not(self._name, error)) from error
        parts = _Parts(self._name)
        parts.visit(info, "")
        self.comparable: bool = True
        self.mutable: bool = parts.mutable
        self.exact: type | None = next((cls for shape, cls in _EXACT if info == shape), None)
        self._records = parts.records
        self._abstract = any(origin in _ABSTRACT for origin in _origins(form))
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
            raise KeyTypeError(f"a value for {self._name} cannot be encoded ({_describe(type(value))}): {_reason(error)}") from error

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
            given = _describe(type(value))
            raise KeyTypeError(f"the value is not of the type {self._name} ({given} was given): {_reason(error)}") from error
        if found is not None:
            path, why = found
            raise KeyTypeError(f"the value is not of the type {self._name}: value{path} {why}")
        return data

    def decode(self, data: bytes | memoryview, /) -> T:
        """A T, or DecodeRefused."""
        try:
            return self._decode(data)
        except Exception as error:  # a class's own __post_init__ may raise anything, and too deep nesting is a RecursionError
            raise DecodeRefused(f"not a value of the type {self._name}: {_reason(error)}") from error

    def builtins(self, data: bytes | memoryview, /) -> object:
        """Dictionaries, lists, text, numbers: what the bytes say without a type."""
        try:
            return _untyped.decode(data)
        except Exception as error:
            raise DecodeRefused(f"not MessagePack: {_reason(error)}") from error


# -- hooked values -------------------------------------------------------------------------------------------------------------------------


@final
class HookedCodec(Generic[T]):
    """Values that the user's functions turn into bytes and back.

    What `save` raises is left alone, since it is raised in the user's own assignment. What `load` raises is a stored value that cannot be
    read, which is `DecodeRefused`. `deterministic` promises that `save` gives the same bytes for an unchanged value.
    """

    __slots__ = ("_load", "_save", "comparable", "exact", "mutable")

    def __init__(self, save: Callable[[T], bytes], load: Callable[[bytes], T], deterministic: bool = False) -> None:
        _check_hook("save", save, "the value")
        _check_hook("load", load, "the bytes")
        self._save = save
        self._load = load
        self.comparable: bool = deterministic
        self.mutable: bool = True
        self.exact: type | None = None

    def __repr__(self) -> str:
        return f"HookedCodec({_describe(self._save)}, {_describe(self._load)})"

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
            raise DecodeRefused(f"{_describe(self._load)} refused the stored bytes: {type(error).__name__}") from error
        if inspect.iscoroutine(value):
            value.close()
            raise DecodeRefused(f"{_describe(self._load)} returned a coroutine; hooks are called without await")
        return value

    def builtins(self, data: bytes | memoryview, /) -> bytes:
        """The bytes: only the user's functions know more."""
        return bytes(data)


def _check_hook(name: str, hook: object, argument: str) -> None:
    if not callable(hook):
        raise KeyTypeError(f"{name} must be a function, it is {_describe(type(hook))}")
    called: object = type(hook).__call__  # of an object that can be called
    if any(inspect.iscoroutinefunction(f) or inspect.isasyncgenfunction(f) for f in (hook, called)):
        raise KeyTypeError(f"{name} must be a plain function, {_describe(hook)} is async: hooks are called without await")
    try:
        signature = inspect.signature(hook)
    except (ValueError, TypeError):  # many functions written in C have none
        return
    try:
        signature.bind(object())
    except TypeError as error:
        expected = "bytes" if name == "save" else "the value"
        raise KeyTypeError(f"{name} is called with {argument} alone and returns {expected}; {_describe(hook)}: {error}") from error


def _not_bytes(data: object) -> str:
    text = f"save must return bytes, it returned {_describe(type(data))}"
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


# -- what a type is made of ----------------------------------------------------------------------------------------------------------------

_EXACT: Final[tuple[tuple[shapes.Type, type], ...]] = (
    # An annotation with a constraint (`Meta(ge=0)`) has another shape, and so is not found here.
    (shapes.IntType(), int),
    (shapes.StrType(), str),
    (shapes.BytesType(), bytes),
    (shapes.FloatType(), float),
    (shapes.BoolType(), bool),
)

_ABSTRACT: Final[frozenset[object]] = frozenset(
    {Any, object, Collection, Sequence, MutableSequence, AbstractSet, MutableSet, Mapping, MutableMapping}
)

_Records: TypeAlias = dict[type, tuple[str, ...]]


@final
class _Parts:
    """One walk over all parts of a type: refuses what cannot be carried, finds out if values can be changed in place, collects classes."""

    __slots__ = ("_name", "_seen", "mutable", "records")

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: set[object] = set()  # recursive types come back to where they were
        self.mutable = False
        self.records: _Records = {}

    def visit(self, info: shapes.Type, path: str) -> None:
        match info:
            case shapes.Metadata(type=inner):
                self.visit(inner, path)
            case shapes.UnionType(types=members) | shapes.TupleType(item_types=members):
                for number, member in enumerate(members):
                    self.visit(member, path if isinstance(info, shapes.UnionType) else f"{path or 'tuple'}[{number}]")
            case shapes.ListType(item_type=item):
                self.mutable = True
                self.visit(item, f"{path or 'list'}[...]")
            case shapes.VarTupleType(item_type=item):
                self.visit(item, f"{path or 'tuple'}[...]")
            case shapes.SetType(item_type=item) | shapes.FrozenSetType(item_type=item):
                self.mutable = self.mutable or isinstance(info, shapes.SetType)
                self._in_set(item, f"{path or 'set'}[...]")
                self.visit(item, f"{path or 'set'}[...]")
            case shapes.DictType(key_type=key, value_type=item):
                self.mutable = True
                self._as_key(key, f"{path or 'dict'}[key]")
                self.visit(key, f"{path or 'dict'}[key]")
                self.visit(item, f"{path or 'dict'}[...]")
            case shapes.TypedDictType() | shapes.NamedTupleType() | shapes.DataclassType() | shapes.StructType():
                self._class(info)
            case shapes.AnyType() | shapes.ByteArrayType():
                self.mutable = True
            case shapes.CustomType(cls=cls):
                # `dict[str, object]` is how careful people write `dict[str, Any]`, and every value is an object.
                if cls is not object:
                    self._refuse(path, cls)
                self.mutable = True
            case _:
                if not isinstance(info, _IMMUTABLE):
                    self._refuse(path, _WRAPPERS.get(type(info), type(info)))

    def _class(self, info: shapes.TypedDictType | shapes.NamedTupleType | shapes.DataclassType | shapes.StructType) -> None:
        if info.cls in self._seen:  # the class, or one parametrization of it
            return
        self._seen.add(info.cls)
        cls = cast("type", get_origin(info.cls) or info.cls)
        if isinstance(info, shapes.TypedDictType):
            self.mutable = True
        else:
            self.records[cls] = tuple(field.name for field in info.fields)
        if isinstance(info, (shapes.DataclassType, shapes.StructType)):
            self.mutable = self.mutable or not _frozen(cls)
        if hasattr(cls, "__attrs_attrs__"):
            private = next((field.name for field in info.fields if field.name.startswith("_")), None)
            if private is not None:
                why = "of an attrs class, msgspec leaves fields with an underscore out: name it without, or"
                raise KeyTypeError(f"{self._name} cannot be carried: {cls.__qualname__}.{private}: {why} {_WAY_OUT}")
        for field in info.fields:
            self.visit(field.type, f"{cls.__qualname__}.{field.name}")

    def _in_set(self, info: shapes.Type, path: str) -> None:
        culprit = _unhashable(info)
        if culprit is not None:
            raise KeyTypeError(f"{self._name} cannot be carried: {path}: {culprit} is not hashable (a frozen class or a tuple is)")

    def _as_key(self, info: shapes.Type, path: str) -> None:
        culprit = _unhashable(info, keys=True)
        if culprit is not None:
            why = "is not hashable, or becomes a map, which no `upgrade` function could get as a key: use a tuple or a NamedTuple"
            raise KeyTypeError(f"{self._name} cannot be carried: {path}: {culprit} {why}")

    def _refuse(self, path: str, cls: type) -> None:
        where = f"{path}: " if path else ""
        hint = _INSTEAD.get(cls, _WAY_OUT)
        raise KeyTypeError(f"{self._name} cannot be carried: {where}{_describe(cls)} is not a type that msgspec can restore: {hint}")


_IMMUTABLE: Final[tuple[type[shapes.Type], ...]] = (
    shapes.NoneType,
    shapes.BoolType,
    shapes.IntType,
    shapes.FloatType,
    shapes.StrType,
    shapes.BytesType,
    shapes.DateTimeType,
    shapes.DateType,
    shapes.TimeType,
    shapes.TimeDeltaType,
    shapes.UUIDType,
    shapes.DecimalType,
    shapes.EnumType,
    shapes.LiteralType,
)

_WRAPPERS: Final[dict[type, type]] = {
    # Views of the message, or undecoded parts of it: they would promise nothing about what is in them, and keep its buffer alive.
    shapes.MemoryViewType: memoryview,
    shapes.RawType: msgspec.Raw,
    shapes.ExtType: msgspec.msgpack.Ext,
}

_INSTEAD: Final[dict[type, str]] = {
    memoryview: "use bytes",
    msgspec.Raw: "use bytes",
    msgspec.msgpack.Ext: "use bytes",
    Iterable: "use Sequence",
    Iterator: "use Sequence",
    complex: "use tuple[float, float], or " + _WAY_OUT,
}


def _frozen(cls: type) -> bool:
    config: object = getattr(cls, "__struct_config__", None) or getattr(cls, "__dataclass_params__", None)
    return getattr(config, "frozen", False) is True


def _unhashable(info: shapes.Type, *, keys: bool = False) -> str | None:
    """The part of a type that cannot be in a set or, with `keys`, be a key of a dictionary that is read without its type."""
    match info:
        case shapes.Metadata(type=inner) | shapes.VarTupleType(item_type=inner) | shapes.FrozenSetType(item_type=inner):
            return _unhashable(inner, keys=keys)
        case shapes.UnionType(types=members) | shapes.TupleType(item_types=members):
            return next((culprit for member in members if (culprit := _unhashable(member, keys=keys)) is not None), None)
        case shapes.ListType() | shapes.SetType() | shapes.DictType() | shapes.ByteArrayType():
            return type(info).__name__.removesuffix("Type").lower()
        case shapes.StructType(cls=cls, array_like=array_like):
            config = cls.__struct_config__
            return _describe(cls) if (config.eq and not config.frozen) or (keys and not array_like) else None
        case shapes.TypedDictType(cls=cls) | shapes.DataclassType(cls=cls):
            return _describe(cls) if keys or getattr(get_origin(cls) or cls, "__hash__", None) is None else None
        case _:
            return None


def _origins(form: object) -> Iterator[object]:
    """The classes a type form comes down to at its top: `Sequence[int] | None` gives `Sequence` and `NoneType`."""
    origin = get_origin(form)
    if origin is Annotated:
        yield from _origins(get_args(form)[0])
    elif origin is Union or origin is UnionType:
        for member in get_args(form):
            yield from _origins(member)
    elif (alias := getattr(form, "__supertype__", None) or getattr(origin or form, "__value__", None)) is not None:
        yield from _origins(alias)
    else:
        yield origin or form


# -- whether two values are of one kind ----------------------------------------------------------------------------------------------------

_SCALARS: Final[frozenset[type]] = frozenset({type(None), bool, int, float, str, bytes, datetime, date, time, timedelta, UUID, Decimal})

_WIDER: Final[frozenset[tuple[type, type]]] = frozenset({(int, float)})
_PLAINER: Final[frozenset[tuple[type, type]]] = _WIDER | {(tuple, list), (frozenset, set)}

_Found: TypeAlias = tuple[str, str]


def _difference(value: object, decoded: object, records: _Records, *, abstract: bool = True, depth: int = 0) -> _Found | None:
    """Where the classes in two values differ first, and how: (path, text), or None."""
    kind = type(decoded)
    if type(value) is not kind and (type(value), kind) not in (_PLAINER if abstract else _WIDER):
        given, back = _describe(type(value)), _describe(kind)
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


def _in_items(given: Collection[object], back: Collection[object], records: _Records, depth: int, part: str = "") -> _Found | None:
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
            return "{...}", f"is of the class {_describe(kind)} and would be read back as {' or '.join(sorted(map(_describe, kinds)))}"
    return None


# -- words ---------------------------------------------------------------------------------------------------------------------------------


def _describe(thing: object) -> str:
    """A class, a type form or a function as a reader would write it."""
    name = getattr(thing, "__qualname__", None)
    if not isinstance(name, str) or get_origin(thing) is not None:
        return str(thing).replace("typing.", "")
    module = getattr(thing, "__module__", None)
    return name if module in ("builtins", None) else f"{module}.{name}"


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeError):  # its own text may quote the value
        return "a text in it is not valid Unicode"
    return str(error) or type(error).__name__


def _why_not(name: str, error: Exception) -> str:
    reason = f"{name} cannot be carried: {_reason(error)}"
    if isinstance(error, NameError):
        return f"{reason}. Its annotations must be resolvable here: declare the key after every class it mentions, and those in a module"
    if isinstance(error, TypeError) and "unions may not contain more than one" in str(error):
        return (
            f"{reason}. The members of a union are told apart by their encoding, and these are encoded alike: "
            f"make them msgspec.Struct classes with tag=True, or {_WAY_OUT}"
        )
    return f"{reason}. Otherwise {_WAY_OUT}"

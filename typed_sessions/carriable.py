"""What a type is made of, as msgspec reads it: which types it can carry, and what a codec has to know of one.

A type whose values would not come back as what they were is refused here, and the text names the part of it that is to blame.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, MutableSequence, MutableSet, Sequence
from collections.abc import Set as AbstractSet
from types import UnionType
from typing import Annotated, Any, Final, NamedTuple, TypeAlias, Union, cast, final, get_args, get_origin

import msgspec
from msgspec import inspect as shapes

from .errors import KeyTypeError


class Advice(NamedTuple):
    """What to do instead, where a type cannot be carried: it depends on who wants to carry it."""

    whatever: str
    """What works for any type."""
    models: str
    """What works for a pydantic model, of the name `{model}`."""
    parts: str
    """The same for a type that has models in it, `{form}`."""


FOR_KEY: Final = Advice(
    "give functions of your own for it (save= and load=), or keep it in this process only (resident=True)",
    'its own functions do it, Key("m", save=lambda m: m.model_dump_json().encode(), load={model}.model_validate_json, deterministic=True)',
    'pydantic does it, adapter = TypeAdapter({form}) and Key("m", save=adapter.dump_json, load=adapter.validate_json, deterministic=True)',
)
FOR_LIST: Final = Advice(
    'make bytes of each element yourself, ListKey("l", bytes), or keep them all under one key, Key("l", save=..., load=...) with functions '
    'for a list of them, or Key("l", list, resident=True) in this process only',
    'append what its own functions give, ListKey("l", bytes) with m.model_dump_json().encode() and {model}.model_validate_json(element)',
    "append what pydantic gives, adapter = TypeAdapter({form}) and "
    'ListKey("l", bytes) with adapter.dump_json(value) and adapter.validate_json(element)',
)
FOR_STEP: Final = Advice(
    *["give the function that older code has for it, load= to Upgrades or save= to Downgrade, in the place of the type"] * 3
)

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

_EMPTY: Final[tuple[object, ...]] = (msgspec.NODEFAULT, list, dict, set, tuple, frozenset, bytearray, bytes, str, int, float, bool)
"""Factories of defaults that give the same each time."""
_AFTER_READING: Final = ("__post_init__", "__attrs_pre_init__", "__attrs_post_init__")

Records: TypeAlias = dict[type, tuple[str, ...]]


@final
class Parts:
    """One walk over all parts of a type. Raises `KeyTypeError` for one that cannot be carried."""

    __slots__ = ("_advice", "_form", "_name", "_seen", "abstract", "exact", "mutable", "records", "repeatable")

    def __init__(self, form: object, info: shapes.Type, advice: Advice) -> None:
        self._advice = advice
        self._form = form
        self._name = describe(form)
        self._seen: set[object] = set()  # recursive types come back to where they were
        self.mutable: bool = False
        """Whether a value of the type, or a part of it, can be changed in place."""
        self.repeatable: bool = True
        """Whether reading the same bytes twice gives the same; a class that runs code when it is read may draw an id, or the time."""
        self.records: Records = {}
        """The classes in it that have fields, with the fields' names."""
        self.exact: type | None = next((cls for shape, cls in _EXACT if info == shape), None)
        """A class for which `type(value) is exact` proves that the value is of the type, if there is one."""
        self.abstract: bool = any(origin in _ABSTRACT for origin in _origins(form))
        """Whether it says what can be done with a value (`Sequence[int]`), and not which class it has."""
        self._visit(info, "")

    def _visit(self, info: shapes.Type, path: str) -> None:
        match info:
            case shapes.Metadata(type=inner):
                self._visit(inner, path)
            case shapes.UnionType(types=members) | shapes.TupleType(item_types=members):
                for number, member in enumerate(members):
                    self._visit(member, path if isinstance(info, shapes.UnionType) else f"{path or 'tuple'}[{number}]")
            case shapes.ListType(item_type=item):
                self.mutable = True
                self._visit(item, f"{path or 'list'}[...]")
            case shapes.VarTupleType(item_type=item):
                self._visit(item, f"{path or 'tuple'}[...]")
            case shapes.SetType(item_type=item) | shapes.FrozenSetType(item_type=item):
                self.mutable = self.mutable or isinstance(info, shapes.SetType)
                self._in_set(item, f"{path or 'set'}[...]")
                self._visit(item, f"{path or 'set'}[...]")
            case shapes.DictType(key_type=key, value_type=item):
                self.mutable = True
                self._as_key(key, f"{path or 'dict'}[key]")
                self._visit(key, f"{path or 'dict'}[key]")
                self._visit(item, f"{path or 'dict'}[...]")
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
                raise KeyTypeError(f"{self._name} cannot be carried: {cls.__qualname__}.{private}: {why} {self._advice.whatever}")
        if isinstance(info, shapes.StructType) and info.tag_field is not None:
            _make_found(info.tag_field)
        for field in info.fields:
            _make_found(field.name)
            self._visit(field.type, f"{cls.__qualname__}.{field.name}")
            if not _gives_the_same(field.default_factory, self.records):
                self.repeatable = False
        if any(hasattr(cls, name) for name in _AFTER_READING):
            self.repeatable = False

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
        advice = self._advice
        hint = _INSTEAD.get(cls)
        if hint is None and all(callable(getattr(cls, name, None)) for name in _OF_MODELS):
            hint = advice.models.format(model=cls.__name__) if self._form is cls else advice.parts.format(form=_short(self._form))
        elif cls is complex:
            hint = f"use tuple[float, float], or {advice.whatever}"
        raise KeyTypeError(
            f"{self._name} cannot be carried: {where}{describe(cls)} is not a type that msgspec can restore: {hint or advice.whatever}"
        )


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
}

_FORMS: Final = ("typing", "types", "typing_extensions", "annotationlib")
"""Where the classes of type forms are from, such as those of `int | None` and `Literal["a"]`."""

_OF_MODELS: Final = ("model_dump_json", "model_validate_json")
"""What pydantic's models are known by, without importing it."""

# The errors of msgspec's that quote the value; what they say of its place stays.
_QUOTED: Final = re.compile(r"\A(Invalid (?:enum )?value) .*?( - at (?:`key` in )?`\$[^`']*`)?\Z", re.DOTALL)


def _make_found(name: str) -> None:
    """Let msgspec find a field in what it reads (its pull request 1126).

    It compares the name's UTF-8, which a `str` of other letters than ASCII's has only when it was asked for once, as by writing it. Until
    then the field counts as missing: silently, if it has a default.
    """
    if not name.isascii():
        msgspec.msgpack.encode(name)


def _gives_the_same(factory: object, records: Collection[object]) -> bool:
    """Whether a default that is made when it is needed is the same each time, as far as can be told: a class of fields tells for itself."""
    return factory in _EMPTY or get_origin(factory) in _EMPTY or (isinstance(factory, type) and factory in records)


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
            return describe(cls) if (config.eq and not config.frozen) or (keys and not array_like) else None
        case shapes.TypedDictType(cls=cls) | shapes.DataclassType(cls=cls):
            return describe(cls) if keys or getattr(get_origin(cls) or cls, "__hash__", None) is None else None
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


def describe(thing: object) -> str:
    """A class, a type form or a function as a reader would write it."""
    name = getattr(thing, "__qualname__", None)
    if not isinstance(name, str) or get_origin(thing) is not None:
        return str(thing).replace("typing.", "")
    module = getattr(thing, "__module__", None)
    return name if module in ("builtins", None) else f"{module}.{name}"


def _short(form: object) -> str:
    """A type form as it is written where its classes are at hand."""
    return form.__name__ if isinstance(form, type) and get_origin(form) is None else re.sub(r"(?:\w+\.|<locals>\.)+(?=\w)", "", str(form))


def reason(error: Exception) -> str:
    """What an error of msgspec's says, and never a value: it goes into logs, and what a visitor has written may be long, or private."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeError):  # its own text may quote the value
        return "a text in it is not valid Unicode"
    return _QUOTED.sub(r"\1\2", str(error)) or type(error).__name__


def is_value(form: object) -> bool:
    """Whether it is no type at all, in whatever way types are written: the first value that a key is to have, its default, `[int]`."""
    return not isinstance(form, type) and type(form).__module__ not in _FORMS


def not_a_type(value: object) -> str:
    """What to say of a value where a type belongs; it is not shown."""
    return (
        f"expected a type, such as int, list[str] or a dataclass; not a value of type {describe(type(value))}. "
        "A key has no default: that is given where it is read, session.get(key, default)"
    )


def why_not(name: str, error: Exception, advice: Advice) -> str:
    """What to say of a type that msgspec refused with an error."""
    text = f"{name} cannot be carried: {reason(error)}"
    if isinstance(error, NameError):
        return f"{text}. Its annotations must be resolvable here: declare the key after every class it mentions, and those in a module"
    if isinstance(error, TypeError) and "unions may not contain more than one" in str(error):
        return (
            f"{text}. The members of a union are told apart by their encoding, and these are encoded alike: "
            f"make them msgspec.Struct classes with tag=True, or {advice.whatever}"
        )
    return f"{text}. Otherwise {advice.whatever}"

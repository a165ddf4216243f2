"""Keys: values of their own that carry a name, a type, a codec and hooks, and the registry that keeps their names apart.

It knows how one value is declared, encoded and brought forward; not sessions, stores or requests.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, Final, Generic, Literal, NoReturn, TypeAlias, TypeVar, cast, final, overload

from typing_extensions import Self, TypeForm, override

from .carriable import FOR_LIST
from .codecs import DecodeRefused, HookedCodec, TypedCodec
from .declared import caller, file_of, hook_name, in_module, misfit, only_options, type_name, unfinished_too
from .errors import DuplicateKeyError, KeyTypeError
from .forks import tell_of_forks
from .habits import INSTEAD_OF_OPTIONS
from .record import FIELD_HOOKED, field_head
from .upgrades import Downgrade, Upgrades

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MAX_NAME = 64
"""The longest name of a key, in characters."""
MAX_VERSION = 65_535

Codec: TypeAlias = TypedCodec[T] | HookedCodec[T]
Delete: TypeAlias = Callable[[T], Awaitable[None] | None]
NoClient: TypeAlias = Callable[[T], Awaitable[bool] | bool]

_missing: Final = object()
_PLAIN: Final = "must be a plain function: it runs while a value is read, which never waits"


class _Declared:
    """What is declared once in a process: unchangeable, and its own copy."""

    __slots__ = ()

    @override
    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{self!r} cannot be changed: a key is what it was declared as")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    @override
    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot be pickled: a process declares its keys itself, by importing the module that does")


class KeyView(Generic[T_co]):
    """A key as reading takes it: that of a `list[str]` will do where an `Iterable[str]` is wanted. Writing takes the `Key`.

    Without it mypy refuses `sorted(session[names])`: it takes the type that is wanted for the key's, which is invariant.
    """

    __slots__ = ()


@final
class Key(_Declared, KeyView[T]):
    """The key of one value of type `T` in every session.

    Three kinds:

    * typed, `Key("visits", int)`: encoded and validated by msgspec. What msgspec cannot carry is refused here;
    * hooked, `Key("photo", save=Photo.to_png, load=Photo.from_png)`: `save(value) -> bytes`, `load(bytes) -> value`;
    * resident, `Key("db", Connection, resident=True)`: any object; it stays in this process and is never stored.

    cleanup_no_client  called with the value when the session's last client leaves, and when the session ends; True keeps it, False drops
                       it. A process that stops is no such leaving for what is stored outside of it
    cleanup_delete     called with the value when the session ends, unless `cleanup_no_client` has dropped it. Neither is called for a value
                       that is replaced or deleted before
    version, upgrade   bring a value that older code has stored forward when it is read: `upgrade(old, version)`, a function of what was
                       encoded, or a chain of typed steps, `Upgrades(OldType, to_the_next)`
    was, downgrade     the name that the key had before: both are kept up to date until the code that knows the old one is gone, and with
                       it `was=`; `downgrade=Downgrade(OldType, back)` gives that code a value that it can read
    merge              `merge(base, mine, theirs)` makes one of two changes in place; without it the last wins, and `LostUpdate` tells
    deterministic      promises that `save` gives equal bytes for equal values, so that changes in place of a hooked value are noticed

    Raises `KeyTypeError` for a declaration that cannot work, `DuplicateKeyError` for a name that another key has.
    """

    __slots__ = (
        "cleanup_delete",
        "cleanup_no_client",
        "codec",
        "direct",
        "downgrade",
        "has_hooks",
        "head",
        "immutable",
        "kind",
        "merge",
        "name",
        "signature",
        "upgrade",
        "version",
        "was",
        "where",
    )

    name: str
    was: str | None
    kind: Literal["typed", "hooked", "resident"]
    codec: Codec[T] | None
    version: int
    upgrade: Callable[[Any, int], T] | Upgrades[T] | None  # Any: builtins of whatever type the older code had
    downgrade: Downgrade[T] | None
    merge: Callable[[T, T, T], T] | None
    cleanup_delete: Delete[T] | None
    cleanup_no_client: NoClient[T] | None
    has_hooks: bool
    immutable: bool
    """No value of it can be changed in place."""
    direct: bool
    """Immutable, and stored under one name: what is read of it needs no second look."""
    head: bytes
    """What a field that was written by this declaration begins with, behind its revision."""
    where: str
    signature: tuple[object, ...]

    @overload
    def __init__(
        self,
        name: str,
        type: TypeForm[T],
        /,
        *,
        version: int = 1,
        upgrade: Callable[[Any, int], T] | Upgrades[T] | None = None,  # Any: builtins of whatever type the older code had
        was: str | None = None,
        downgrade: Downgrade[T] | None = None,
        merge: Callable[[T, T, T], T] | None = None,
        cleanup_delete: Delete[T] | None = None,
        cleanup_no_client: NoClient[T] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        type: TypeForm[T],
        /,
        *,
        resident: Literal[True],
        cleanup_delete: Delete[T] | None = None,
        cleanup_no_client: NoClient[T] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        /,
        *,
        save: Callable[[T], bytes],
        load: Callable[[bytes], T],
        version: int = 1,
        upgrade: Callable[[bytes, int], T] | Upgrades[T] | None = None,
        was: str | None = None,
        downgrade: Downgrade[T] | None = None,
        merge: Callable[[T, T, T], T] | None = None,
        deterministic: bool = False,
        cleanup_delete: Delete[T] | None = None,
        cleanup_no_client: NoClient[T] | None = None,
    ) -> None: ...
    @only_options(KeyTypeError, INSTEAD_OF_OPTIONS)
    def __init__(
        self,
        name: str,
        type: object = _missing,
        /,
        *,
        save: Callable[[T], bytes] | None = None,
        load: Callable[[bytes], T] | None = None,
        resident: bool = False,
        version: int = 1,
        upgrade: Callable[[Any, int], T] | Upgrades[T] | None = None,  # Any: see the overloads
        was: str | None = None,
        downgrade: Downgrade[T] | None = None,
        merge: Callable[[T, T, T], T] | None = None,
        deterministic: bool = False,
        cleanup_delete: Delete[T] | None = None,
        cleanup_no_client: NoClient[T] | None = None,
    ) -> None:
        where, module = caller()
        _check_first(name, where)
        codec: Codec[T] | None
        kind: Literal["typed", "hooked", "resident"]
        if save is not None or load is not None:
            kind = "hooked"
            if type is not _missing:
                _refuse(name, where, "give either a type or save= and load=, not both")
            if save is None or load is None:
                _refuse(name, where, f"save= and load= come together; {'save' if save is None else 'load'}= is missing")
            for option, hook in (("save", save), ("load", load)):
                if not callable(hook):
                    _refuse(name, where, f"{option}= must be a function, not {hook!r}")
            try:
                codec = HookedCodec(save, load, deterministic)
            except KeyTypeError as problem:
                _refuse(name, where, str(problem))
        elif type is _missing:
            _refuse(
                name,
                where,
                f'a key needs a type, Key("{name}", int); or hooks, Key("{name}", save=..., load=...); '
                f"or both a type and resident=True, for an object that stays in this process",
            )
        elif resident:
            kind, codec = "resident", None
        else:
            kind = "typed"
            try:
                codec = TypedCodec(cast("TypeForm[T]", type))
            except KeyTypeError as problem:
                raise KeyTypeError(f'Key("{name}") declared at {where}: {problem}') from problem
        if kind != "hooked" and deterministic:
            _refuse(name, where, "deterministic= goes with save= and load=")
        if kind == "resident" and (upgrade is not None or merge is not None or was is not None or version != 1):
            _refuse(name, where, "a resident value is never stored: version=, upgrade=, was= and merge= do not apply to it")
        if inspect.iscoroutinefunction(merge):
            _refuse(name, where, f"merge= {_PLAIN}")
        for option, other, given in (
            ("merge", merge, ("base", "mine", "theirs")),
            ("cleanup_delete", cleanup_delete, ("value",)),
            ("cleanup_no_client", cleanup_no_client, ("value",)),
        ):
            if other is not None and not callable(other):
                _refuse(name, where, f"{option}= must be a function, not {other!r}")
            why = None if other is None else misfit(other, len(given))
            if why is not None:
                _refuse(name, where, f"{option}= is called as {option}({', '.join(given)}): {why}")
        _check_name_and_version(name, version, where)
        _check_upgrade(name, where, upgrade, version)
        if was is not None:
            _check_name_and_version(was, version, where, "was=")
            if was == name:
                _refuse(name, where, "was= is the name that the key had before, not the one it has")
        if downgrade is not None:
            if not isinstance(cast("object", downgrade), Downgrade):
                _refuse(name, where, f"downgrade= must be Downgrade(OldType, function), not {downgrade!r}")
            if was is None:
                _refuse(name, where, "downgrade= is for code that knows the key by another name: give was= with it")
            first = upgrade.first if isinstance(upgrade, Upgrades) else 1
            if upgrade is None or not first <= downgrade.version < version:
                _refuse(
                    name,
                    where,
                    f"{downgrade!r} is for code whose values are of version {downgrade.version}: give a newer version=, "
                    "and upgrade= for what that code writes",
                )

        set_ = object.__setattr__
        set_(self, "name", name)
        set_(self, "was", was)
        set_(self, "kind", kind)
        set_(self, "codec", codec)
        set_(self, "version", version)
        set_(self, "upgrade", upgrade)
        set_(self, "downgrade", downgrade)
        set_(self, "merge", merge)
        set_(self, "cleanup_delete", cleanup_delete)
        set_(self, "cleanup_no_client", cleanup_no_client)
        set_(self, "has_hooks", cleanup_delete is not None or cleanup_no_client is not None)
        set_(self, "immutable", codec is not None and not codec.mutable)
        set_(self, "direct", self.immutable and was is None)
        set_(self, "head", field_head(version, FIELD_HOOKED if self.has_hooks else 0))
        set_(self, "where", where)
        hooks = (*map(hook_name, (save, load, merge, cleanup_delete, cleanup_no_client)), _upgrade_name(upgrade))
        back = None if downgrade is None else downgrade.signature
        parts = (kind, "" if type is _missing else type_name(type), version, was, back, *hooks)
        set_(self, "signature", (*(in_module(part, module) for part in parts), file_of(where, module)))
        _register(self)

    @override
    @unfinished_too
    def __repr__(self) -> str:
        return f"<{self.kind} Key {self.name!r} declared at {self.where}>"

    def load(self, payload: bytes, version: int) -> T:
        """The value of a stored payload, brought forward if it is of an older version. Raises `DecodeRefused` and nothing else."""
        codec = self.codec
        if codec is None:
            raise DecodeRefused(f"{self!r} is resident: nothing of it is ever stored")
        if version == self.version:
            return codec.decode(payload)
        return _brought_forward(codec, self.upgrade, payload, version, self.version)


@final
class ListKey(_Declared, Generic[T]):
    """The key of many values of type `T`, in order, each of them stored for itself. `session[key]` is a `SessionList`.

    Two requests that append both succeed, and one that removes takes away only what it has seen. Elements are values, not places:
    changing one in place is not noticed. `version` and `upgrade` are those of `Key`, for each element. Raises like `Key`.
    """

    __slots__ = ("codec", "name", "signature", "upgrade", "version", "where")

    name: str
    codec: TypedCodec[T]
    version: int
    upgrade: Callable[[Any, int], T] | Upgrades[T] | None  # Any: builtins of whatever type the older code had
    where: str
    signature: tuple[object, ...]

    @only_options(KeyTypeError, INSTEAD_OF_OPTIONS)
    def __init__(
        self,
        name: str,
        type: TypeForm[T],
        /,
        *,
        version: int = 1,
        upgrade: Callable[[Any, int], T] | Upgrades[T] | None = None,  # Any: as above
    ) -> None:
        where, module = caller()
        _check_first(name, where)
        try:
            codec = TypedCodec(type, FOR_LIST)
        except KeyTypeError as problem:
            raise KeyTypeError(f'ListKey("{name}") declared at {where}: {problem}') from problem
        _check_name_and_version(name, version, where)
        _check_upgrade(name, where, upgrade, version)
        set_ = object.__setattr__
        set_(self, "name", name)
        set_(self, "codec", codec)
        set_(self, "version", version)
        set_(self, "upgrade", upgrade)
        set_(self, "where", where)
        parts = ("list", type_name(type), version, _upgrade_name(upgrade))
        set_(self, "signature", (*(in_module(part, module) for part in parts), file_of(where, module)))
        _register(self)

    @override
    @unfinished_too
    def __repr__(self) -> str:
        return f"<ListKey {self.name!r} declared at {self.where}>"

    def load(self, payload: bytes, version: int) -> T:
        """The value of one stored element. Raises `DecodeRefused` and nothing else."""
        if version == self.version:
            return self.codec.decode(payload)
        return _brought_forward(self.codec, self.upgrade, payload, version, self.version)


def _brought_forward(
    codec: Codec[T], upgrade: Callable[[Any, int], T] | Upgrades[T] | None, payload: bytes, version: int, current: int
) -> T:
    """The value of a payload of another version (rule 4). Raises `DecodeRefused` and nothing else."""
    if version > current:
        raise DecodeRefused(f"stored as version {version}, and this code knows version {current} at most")
    if upgrade is None:
        raise DecodeRefused(f"stored as version {version}; the key is of version {current} and has no upgrade=")
    try:
        if isinstance(upgrade, Upgrades):
            value: T = upgrade.bring_forward(payload, version)
        else:
            value = upgrade(codec.builtins(payload), version)
        codec.accept(value)
    except DecodeRefused as problem:
        raise DecodeRefused(f"stored as version {version}: {problem}") from problem
    except Exception as problem:
        raise DecodeRefused(f"upgrade from version {version}: {type(problem).__name__}: {problem}") from problem
    return value


AnyKey: TypeAlias = Key[Any] | ListKey[Any]  # Any: of whatever type; for what only names or removes
"""A key of either sort, for what only looks a name up or removes."""

_registry: dict[str, AnyKey] = {}
_renamed: dict[str, Key[Any]] = {}  # Any: as above
"""By the name that a key had before (`was=`)."""


@final
class _Registering:
    """Who declares a key."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        tell_of_forks(self)

    def after_fork(self) -> None:
        """In the child of a fork."""
        self.lock = threading.Lock()


_registering = _Registering()


def known_key(name: str) -> AnyKey | None:
    """The key that this process has declared under a name."""
    return _registry.get(name)


def key_of(stored_name: str) -> AnyKey | None:
    """The key of a stored field: the one of that name, or the one that had it before."""
    return _registry.get(stored_name) or _renamed.get(stored_name)


def known_keys() -> list[AnyKey]:
    """All keys that this process has declared."""
    return list(_registry.values())


def somebody_cleans_up() -> bool:
    """Whether a key of this process has a `cleanup_no_client`."""
    return any(isinstance(key, Key) and key.cleanup_no_client is not None for key in list(_registry.values()))


@contextmanager
def isolated_keys() -> Generator[None]:
    """For tests: keys declared inside are forgotten at the end, so that another test can use their names."""
    with _registering.lock:
        before, renamed_before = dict(_registry), dict(_renamed)
    try:
        yield
    finally:
        with _registering.lock:
            _registry.clear()
            _registry.update(before)
            _renamed.clear()
            _renamed.update(renamed_before)


def _register(key: AnyKey) -> None:
    was = key.was if isinstance(key, Key) else None
    with _registering.lock:
        for name in (key.name, was):
            earlier = None if name is None else key_of(name)
            if earlier is not None and (earlier.name, earlier.signature) != (key.name, key.signature):
                in_one_file = earlier.signature[-1] == key.signature[-1]
                edited = ". If it is one key, edited and reloaded: start the process anew" if in_one_file else ""
                raise DuplicateKeyError(
                    f"the name {name!r} is taken: declared at {earlier.where} as {_describe(earlier)}, and again at {key.where} as "
                    f"{_describe(key)}; two keys of one name could read each other's values, so rename one{edited}"
                )
        # The same declaration again is a reload: the newer object's hooks are the ones to run.
        _registry[key.name] = key
        if isinstance(key, Key) and was is not None:
            _renamed[was] = key


def _describe(key: AnyKey) -> str:
    kind = "a list" if isinstance(key, ListKey) else f"a {key.kind} key"
    of = f" of {key.signature[1]}" if key.signature[1] else ""
    was = f", {key.name!r} that was {key.was!r}" if isinstance(key, Key) and key.was is not None else ""
    return f"{kind}{of}, version {key.version}{was}"


def _check_first(name: object, where: str) -> None:
    if not isinstance(name, str):
        raise KeyTypeError(f'Key({name!r}, ...) declared at {where}: the name comes first, as in Key("visits", int)')


def _check_name_and_version(name: str, version: int, where: str, option: str = "") -> None:
    if type(name) is not str or not name or len(name) > MAX_NAME or not name.isprintable():
        raise KeyTypeError(f"Key({option}{name!r}) declared at {where}: a name is a str of 1 to {MAX_NAME} printable characters")
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise KeyTypeError(f'Key("{name}", version={version!r}) declared at {where}: a version is a whole number, 1 to {MAX_VERSION}')


def _check_upgrade(name: str, where: str, upgrade: object, version: int) -> None:
    if upgrade is None:
        return
    if isinstance(upgrade, Upgrades):
        if upgrade.version != version:
            _refuse(name, where, f"version={version}, and {upgrade!r} leads to version {upgrade.version}: give version={upgrade.version}")
        return
    if not callable(upgrade):
        _refuse(name, where, f"upgrade= must be a function or Upgrades, not {upgrade!r}")
    if inspect.iscoroutinefunction(upgrade):
        _refuse(name, where, f"upgrade= {_PLAIN}")
    why = misfit(upgrade, 2)
    if why is not None:
        step = "; a step that takes the old value alone goes into a chain, upgrade=Upgrades(OldType, step)"
        _refuse(name, where, f"upgrade= is called as upgrade(old, version), with what was stored: {why}{step}")
    if version == 1:
        _refuse(name, where, "upgrade= brings older versions forward: give version=2 or more with it")


def _upgrade_name(upgrade: object) -> str | None:
    return upgrade.signature if isinstance(upgrade, Upgrades) else hook_name(upgrade)


def _refuse(name: object, where: str, why: str) -> NoReturn:
    raise KeyTypeError(f"Key({name!r}) declared at {where}: {why}")

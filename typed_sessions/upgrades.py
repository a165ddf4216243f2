"""Functions between the versions of a value, each with the type that it takes and gives: forward for us, and back for older code.

They know how the values of older code are encoded; not keys, names, sessions or stores.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from typing import Any, Generic, NamedTuple, TypeVar, cast, final, overload

from typing_extensions import TypeForm, override

from .carriable import FOR_STEP
from .codecs import DecodeRefused, HookedCodec, TypedCodec
from .declared import caller, hook_name, unfinished_too
from .errors import KeyTypeError

S = TypeVar("S")
T = TypeVar("T")
U = TypeVar("U")


class _Step(NamedTuple):
    codec: TypedCodec[Any] | HookedCodec[Any]  # Any: each step has types of its own; the overloads below make them fit
    function: Callable[[Any], Any]


@final
class Upgrades(Generic[T]):
    """How values of each older version become a `T`: the type that they were stored as, and the function to the next version.

    `Key("cart", Cart, version=3, upgrade=Upgrades(CartV1, to_2).then(CartV2, to_3))` reads version 1 as a `CartV1`, gives it to `to_2`,
    and what that returns to `to_3`; version 2 is read as a `CartV2` and goes to `to_3` alone. A type checker sees that the steps fit
    each other, and that the last one gives what the key is for. The chain begins with `version` (1); a value that is older than that
    counts as absent, and `ValueRefused` tells. An older class need not be kept: `dict[str, int]` reads what it was encoded as.

    Values that were stored by hooks take the function that read them instead of a type: `Upgrades(to_2, load=from_json)`.

    Steps are plain functions, for they run while a value is read, and may run again for the same value. One that raises has the value
    refused. Raises `KeyTypeError` for a type that cannot be carried, and for a step that is no plain function.
    """

    __slots__ = ("_steps", "first", "where")

    first: int
    """The oldest version that can be read."""
    where: str
    _steps: tuple[_Step, ...]

    @overload
    def __init__(self, type: TypeForm[S], step: Callable[[S], T], /, *, version: int = 1) -> None: ...
    @overload
    def __init__(self, step: Callable[[S], T], /, *, load: Callable[[bytes], S], version: int = 1) -> None: ...
    def __init__(self, first: object, second: object = None, /, *, load: Callable[[bytes], object] | None = None, version: int = 1) -> None:
        self.where = caller()[0]
        if type(version) is not int or version < 1:
            raise KeyTypeError(f"Upgrades declared at {self.where}: version={version!r}, expected the number of the oldest version")
        self.first = version
        self._steps = (self._checked(version, first, second, load),)

    @overload
    def then(self, type: TypeForm[T], step: Callable[[T], U], /) -> Upgrades[U]: ...
    @overload
    def then(self, step: Callable[[T], U], /, *, load: Callable[[bytes], T]) -> Upgrades[U]: ...
    def then(self, first: object, second: object = None, /, *, load: Callable[[bytes], T] | None = None) -> Upgrades[Any]:
        """A chain that is one version longer: how values of the version that this one leads to were stored, and what makes them newer."""
        longer: Upgrades[Any] = copy(self)
        longer._steps = (*self._steps, self._checked(self.version, first, second, load))
        return longer

    def _checked(self, version: int, first: object, second: object, load: Callable[[bytes], object] | None) -> _Step:
        where = f"Upgrades declared at {self.where}, from version {version}"
        return _step(where, first, second, None if load is None else HookedCodec(_never_saved, load))

    @property
    def version(self) -> int:
        """The version that the chain leads to."""
        return self.first + len(self._steps)

    @property
    def signature(self) -> str:
        """What tells one declaration from another: the names of the steps."""
        return f"from {self.first}: " + ", ".join(hook_name(step.function) or "" for step in self._steps)

    def bring_forward(self, payload: bytes, version: int) -> T:
        """The value of a payload stored as `version`. Raises `DecodeRefused` if it is none of that version's, and what a step raises."""
        if version < self.first:
            raise DecodeRefused(f"the upgrades declared at {self.where} begin with version {self.first}")
        steps = self._steps[version - self.first :]
        value: Any = steps[0].codec.decode(payload)  # Any: of the type of the version at hand
        for step in steps:
            value = step.function(value)
        return cast("T", value)

    @override
    @unfinished_too
    def __repr__(self) -> str:
        return f"<Upgrades from version {self.first} to {self.version} declared at {self.where}>"


@final
class Downgrade(Generic[T]):
    """What code that knows only the old name of a key is given of a `T`, while both run on one store (a rolling deployment).

    `Key("basket", Basket, version=2, was="cart", upgrade=Upgrades(Cart, to_basket), downgrade=Downgrade(Cart, to_cart))` stores a
    `Basket` as "basket", and what `to_cart` makes of it as "cart", of version 1. What older code writes comes back through `upgrade`.

    For older code with hooks, the function that it saved with: `Downgrade(to_cart, save=Cart.to_json)`. If the function raises, that is
    logged, and older code keeps the value that it had. Raises `KeyTypeError` like `Upgrades`.
    """

    __slots__ = ("_step", "version", "where")

    version: int
    where: str
    _step: _Step

    @overload
    def __init__(self, type: TypeForm[S], step: Callable[[T], S], /, *, version: int = 1) -> None: ...
    @overload
    def __init__(self, step: Callable[[T], S], /, *, save: Callable[[S], bytes], version: int = 1) -> None: ...
    def __init__(
        self,
        first: object,
        second: object = None,
        /,
        *,
        save: Callable[[Any], bytes] | None = None,  # Any: see the overloads
        version: int = 1,
    ) -> None:
        self.where = caller()[0]
        if type(version) is not int or version < 1:
            raise KeyTypeError(f"Downgrade declared at {self.where}: version={version!r}, expected the number of the older version")
        self.version = version
        self._step = _step(f"Downgrade declared at {self.where}", first, second, None if save is None else HookedCodec(save, _never_loaded))

    @property
    def signature(self) -> str:
        """What tells one declaration from another: the version, and the name of the function."""
        return f"to {self.version}: {hook_name(self._step.function)}"

    def take_back(self, value: T) -> bytes:
        """The payload for older code. Raises what the function raises, and `KeyTypeError` if that gives what older code could not read."""
        return self._step.codec.accept(self._step.function(value))

    @override
    @unfinished_too
    def __repr__(self) -> str:
        return f"<Downgrade to version {self.version} declared at {self.where}>"


def _step(where: str, first: object, second: object, hooked: HookedCodec[Any] | None) -> _Step:
    function = second if hooked is None else first
    codec: TypedCodec[Any] | HookedCodec[Any]
    if hooked is not None and second is not None:
        raise KeyTypeError(f"{where}: give either a type or the older code's hook, not both")
    try:
        codec = TypedCodec(cast("TypeForm[Any]", first), FOR_STEP) if hooked is None else hooked
    except KeyTypeError as problem:
        raise KeyTypeError(f"{where}: {problem}") from problem
    if not callable(function):
        raise KeyTypeError(f"{where}: a step is a function from one version to another, not {function!r}")
    if inspect.iscoroutinefunction(function):
        raise KeyTypeError(f"{where}: {function!r} must be a plain function: it runs while a value is read or written, which never waits")
    return _Step(codec, function)


def _never_saved(value: object) -> bytes:
    raise AssertionError(f"older versions are only read here: {type(value)}")


def _never_loaded(data: bytes) -> object:
    raise AssertionError(f"older versions are only written here: {len(data)} bytes")

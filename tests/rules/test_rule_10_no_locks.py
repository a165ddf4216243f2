"""Rule 10: nothing of the user's runs while a lock is held: from inside it, another thread can use the manager for everything."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.elsewhere import Case, elsewhere
from tests.faces import Face
from tests.planting import pack, plant
from typed_sessions import (
    AddressMismatch,
    Begin,
    CommitRefused,
    CookiePolicy,
    End,
    Key,
    ListKey,
    LostUpdate,
    Rejected,
    ReusedOldId,
    Session,
    SetCookie,
    ValueRefused,
)


@pytest.fixture
def case(face: Face) -> Iterator[Case]:
    case = Case(face)
    yield case
    case.inside = True  # what is destroyed after the test calls nobody any more: the store may be gone


def test_rule_10_this_test_notices_a_lock(case: Case) -> None:
    """The helper fails when a lock is held, so that what follows proves something."""
    lock = threading.Lock()

    def work(_: Face) -> None:
        assert lock.acquire(timeout=0.2), "it cannot be had"

    with lock, pytest.raises(AssertionError, match="it cannot be had"):
        elsewhere(case.face, work)
    elsewhere(case.face, work)


# -- listeners -----------------------------------------------------------------


def on_begin(case: Case) -> None:
    case.face.manager.on(Begin, case.heard)
    with case.face.browser().visit() as session:
        session[case.note] = 1


def on_end(case: Case) -> None:
    case.face.manager.on(End, case.heard)
    with case.browser.visit() as session:
        session.end()


def on_commit_refused(case: Case) -> None:
    case.face.manager.on(CommitRefused, case.heard)
    with case.browser.visit() as session:
        session[case.note] = 1
        case.face.call(case.face.manager.end(case.handle))


def on_lost_update(case: Case) -> None:
    tags = Key("tags", list[int])
    with case.browser.visit() as session:
        session[tags] = []
    case.face.manager.on(LostUpdate, case.heard)
    first, second = case.browser.open(), case.browser.open()
    for number, turn in enumerate((first, second)):
        turn.session[tags].append(number)
    first.finish()
    second.finish()


def on_value_refused(case: Case) -> None:
    key = Key("wrong", int)
    plant(case.face, case.handle, "wrong", pack("text"))
    case.face.manager.on(ValueRefused, case.heard)
    with case.browser.visit() as session:
        assert key not in session


def on_reused_old_id(case: Case) -> None:
    old = case.browser.copy()
    with case.browser.visit() as session:
        session.renew()
    case.face.manager.on(ReusedOldId, case.heard)
    with old.visit() as session:
        assert not session.exists


def on_address_mismatch(case: Case) -> None:
    case.face.manager.on(AddressMismatch, case.heard)
    with case.browser.copy("192.0.2.1").visit() as session:
        assert not session.exists


# -- hooks ---------------------------------------------------------------------


def with_hooks(case: Case) -> None:
    """A value in the session whose hooks call."""

    def keep(value: int) -> bool:
        case.call()
        return True

    hooked = Key("hooked", int, cleanup_delete=lambda _: case.call(), cleanup_no_client=keep)
    with case.browser.visit() as session:
        session[hooked] = 1


def hooks_at_the_end(case: Case) -> None:
    with_hooks(case)
    with case.browser.visit() as session:
        session.end()
    assert case.calls >= 2


def hooks_at_a_sweep(case: Case) -> None:
    with_hooks(case)
    case.face.clock.advance(100_000)
    case.face.call(case.face.manager.sweep())
    assert case.calls >= 2


def hook_when_the_last_client_leaves(case: Case) -> None:
    with_hooks(case)
    case.face.clock.advance(331)
    case.inside = True
    case.face.call(case.face.manager.sweep())  # lets go of the address that those requests came from
    case.inside, case.calls = False, 0
    with_client(case, lambda: None)


def with_client(case: Case, close: Callable[[], None]) -> None:
    """A connection that carries the session, and then is gone."""

    async def connected() -> None:
        with case.face.manager.connect("10.1.2.3", close) as client:
            _, finish = await case.face.manager.start_check(case.browser.request(client=client))
            await finish()
        await case.face.manager.aclose()

    if case.face.kind == "async":
        case.face.call(connected())
    else:
        with case.face.manager.connect("10.1.2.3", close) as client:
            case.browser.open(client=client).finish()


def close_of_a_client(case: Case) -> None:
    with case.face.manager.connect("10.1.2.3", case.call) as client:
        case.browser.open(client=client).finish()
        case.face.call(case.face.manager.end(case.handle))


# -- codecs --------------------------------------------------------------------


def hooked_key(case: Case, which: str) -> Key[list[int]]:
    """A key of which `save` or `load` calls; armed, so that only what follows counts."""

    def save(value: list[int]) -> bytes:
        if which == "save":
            case.call()
        return bytes(value)

    def load(data: bytes) -> list[int]:
        if which == "load":
            case.call()
        return list(data)

    key = Key("codec", save=save, load=load, deterministic=True)
    case.inside = True
    with case.browser.visit() as session:
        session[key] = [1]
    case.inside, case.calls = False, 0
    return key


def save_at_an_assignment(case: Case) -> None:
    key = hooked_key(case, "save")
    with case.browser.visit() as session:
        session[key] = [2]


def save_when_a_value_is_compared(case: Case) -> None:
    key = hooked_key(case, "save")
    with case.browser.visit() as session:
        session[key].append(2)
        assert case.calls == 0


def load_at_a_look(case: Case) -> None:
    key = hooked_key(case, "load")
    with case.browser.visit() as session:
        assert session[key] == [1]


def load_when_a_commit_is_repeated(case: Case) -> None:
    key = hooked_key(case, "load")
    with case.browser.visit() as session:
        session.update(key, lambda value: [*value, 2])
        plant(case.face, case.handle, "codec", b"\x05")
        case.calls = 0
    assert case.calls >= 1


def load_for_a_listener_of_the_end(case: Case) -> None:
    key = hooked_key(case, "load")

    def read(event: End) -> None:
        assert event.session[key] == [1]

    case.face.manager.on(End, read)
    with case.browser.visit() as session:
        session.end()


def upgrade_at_a_look(case: Case) -> None:
    def upgrade(old: object, version: int) -> int:
        case.call()
        return 1

    key = Key("old", int, version=2, upgrade=upgrade)
    plant(case.face, case.handle, "old", pack("1"), version=1)
    with case.browser.visit() as session:
        assert session[key] == 1


# -- functions given to a session ----------------------------------------------


def update_function(case: Case) -> None:
    def count(n: int) -> int:
        case.call()
        return n + 1

    key = Key("counter", int)
    with case.browser.visit() as session:
        session.update(key, count, default=0)
        plant(case.face, case.handle, "counter", pack(10))
        case.calls = 0
    assert case.calls == 1  # the repetition, in the middle of the commit


def update_function_of_a_resident_value(case: Case) -> None:
    def count(n: int) -> int:
        case.call()
        return n + 1

    key = Key("counter", int, resident=True)
    with case.browser.visit() as session:
        session.update(key, count, default=0)
        case.calls = 0
    assert case.calls >= 1


def merge_function(case: Case) -> None:
    def merge(base: list[int], mine: list[int], theirs: list[int]) -> list[int]:
        case.call()
        return [*theirs, *mine]

    key = Key("merged", list[int], merge=merge)
    with case.browser.visit() as session:
        session[key] = [0]
    with case.browser.visit() as session:
        session[key].append(1)
        plant(case.face, case.handle, "merged", pack([5]))


def predicate_of_a_list(case: Case) -> None:
    def match(n: int) -> bool:
        case.call()
        return True

    facts = ListKey("facts", int)
    with case.browser.visit() as session:
        session[facts].append(1)
        session[facts].remove_where(match)


def make_of_setdefault(case: Case) -> None:
    def make() -> int:
        case.call()
        return 1

    with case.browser.visit() as session:
        session.setdefault(Key("made", int), make)


def check_of_require(case: Case) -> None:
    def check(session: Session) -> bool:
        case.call()
        return True

    with case.browser.visit() as session:
        session.require(check)


# -- functions given to a manager ----------------------------------------------


def check_of_a_filter(case: Case) -> None:
    def check(session: Session) -> bool:
        case.call()
        return True

    case.browser.open(check=check).finish()


def cookie_filter(case: Case) -> None:
    def spare(cookie: SetCookie) -> SetCookie:
        case.call()
        return cookie

    def unsound(_: Session) -> bool:
        return False

    with pytest.raises(Rejected):
        case.browser.open(headers=[("Cookie", "other=1")], check=unsound, cookie_policy=CookiePolicy(filter=spare))


def condition_of_end_all(case: Case) -> None:
    def where(_: Any) -> bool:
        case.call()
        return False

    case.face.call(case.face.manager.end_all(where))


# -- destructors ---------------------------------------------------------------


class Door:
    """A resident object whose destructor calls."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def __del__(self) -> None:
        self.case.call()


def request(case: Case, work: Callable[[Session], object]) -> None:
    """A whole request, of which nothing is left when this returns: no variable keeps its session alive."""
    turn = case.browser.open()
    work(turn.session)
    turn.finish()


def destructor_of_a_replaced_value(case: Case) -> None:
    door = Key("door", Door, resident=True)
    for _ in range(3):
        request(case, lambda session: session.__setitem__(door, Door(case)))
    assert case.calls == 2


def destructor_of_a_deleted_value(case: Case) -> None:
    door = Key("door", Door, resident=True)
    request(case, lambda session: session.__setitem__(door, Door(case)))
    request(case, lambda session: session.__delitem__(door))


def destructor_of_an_updated_value(case: Case) -> None:
    door = Key("door", Door, resident=True)
    request(case, lambda session: session.__setitem__(door, Door(case)))
    request(case, lambda session: session.update(door, lambda _: Door(case)))


def destructor_of_a_value_that_was_not_committed(case: Case) -> None:
    door = Key("door", Door, resident=True)
    turn = case.browser.open()
    turn.session[door] = Door(case)
    turn.discard()


def destructor_at_the_end(case: Case) -> None:
    door = Key("door", Door, resident=True)
    request(case, lambda session: session.__setitem__(door, Door(case)))
    request(case, lambda session: session.end())


def destructor_of_a_dropped_value(case: Case) -> None:
    def drop(_: Door) -> bool:
        return False

    door = Key("door", Door, resident=True, cleanup_no_client=drop)
    request(case, lambda session: session.__setitem__(door, Door(case)))
    case.face.clock.advance(331)  # the address counts as connected for `linger` seconds, and a tenth more
    case.face.call(case.face.manager.sweep())


def destructor_of_a_listener(case: Case) -> None:
    class Listener:
        def __call__(self, _: Begin) -> None:
            """Nothing."""

        def __del__(self) -> None:
            case.call()

    case.face.manager.on(Begin, Listener())()


PLACES: list[Callable[[Case], None]] = [
    on_begin,
    on_end,
    on_commit_refused,
    on_lost_update,
    on_value_refused,
    on_reused_old_id,
    on_address_mismatch,
    hooks_at_the_end,
    hooks_at_a_sweep,
    hook_when_the_last_client_leaves,
    close_of_a_client,
    save_at_an_assignment,
    save_when_a_value_is_compared,
    load_at_a_look,
    load_when_a_commit_is_repeated,
    load_for_a_listener_of_the_end,
    upgrade_at_a_look,
    update_function,
    update_function_of_a_resident_value,
    merge_function,
    predicate_of_a_list,
    make_of_setdefault,
    check_of_require,
    check_of_a_filter,
    cookie_filter,
    condition_of_end_all,
    destructor_of_a_replaced_value,
    destructor_of_a_deleted_value,
    destructor_of_an_updated_value,
    destructor_of_a_value_that_was_not_committed,
    destructor_at_the_end,
    destructor_of_a_dropped_value,
    destructor_of_a_listener,
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_rule_10_no_lock_is_held(case: Case, place: Callable[[Case], None]) -> None:
    """Whatever of the user's runs, another thread can meanwhile open, write, renew, end and sweep (R6, L7)."""
    place(case)
    assert case.calls >= 1


def test_rule_10_a_listener_may_use_the_store_in_its_own_thread(face: Face) -> None:
    """Locks here are not reentrant: that it comes back at all shows that none is held."""
    note = Key("note", int)
    browser, victim = face.browser(), face.browser()
    handles: list[str] = []
    for one in (browser, victim):
        with one.visit() as session:
            session[note] = 1
        with one.visit() as session:
            handles.append(session.handle)
    seen: list[bool] = []

    def end_both(event: End) -> None:
        if event.session.handle == handles[0]:
            seen.extend(face.call(face.store.end(bytes.fromhex(handle), "ended", face.clock(), 60.0)) is not None for handle in handles)

    face.manager.on(End, end_both)
    with browser.visit() as session:
        session.end()
    assert seen == [False, True]
    with victim.visit() as session:
        assert not session.exists

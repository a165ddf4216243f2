"""Rule 10: nothing of the user's runs while a lock is held: from inside it, another thread can use the manager for everything."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.faces import Browser, Face
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

PATIENCE = 10.0
"""Seconds until a thread that has not come back counts as stuck; nothing here takes a hundredth of that."""


def elsewhere(face: Face, work: Callable[[Face], object]) -> None:
    """Run `work` in another thread, upon the same manager, and wait for it. Fails if a lock keeps it from coming back."""
    problems: list[BaseException] = []

    def body() -> None:
        twin = Face(face.kind, face.store)  # an event loop of this thread's own
        twin.manager, twin.clock = face.manager, face.clock
        try:
            work(twin)
        except BaseException as problem:
            problems.append(problem)
        finally:
            if twin.loop is not None:
                twin.loop.close()

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "the manager could not be used in another thread: a lock was held"
    if problems:
        raise problems[0]


class Case:
    """A session of some browser, and a function to be called from inside of whatever is tested."""

    def __init__(self, face: Face) -> None:
        self.face = face
        self.calls = 0
        self.inside = False
        self.note = Key("note", int)
        self.busy = Key("busy", int, resident=True)
        self.browser = face.browser()
        self.other = face.browser("10.9.9.9")
        for browser in (self.browser, self.other):
            with browser.visit() as session:
                session[self.note] = 0
        with self.browser.visit() as session:
            self.handle = session.handle

    def call(self) -> None:
        """Use the manager in another thread. What that causes in turn does not do the same again."""
        self.calls += 1
        if self.inside:
            return
        self.inside = True
        try:
            elsewhere(self.face, self.work)
        finally:
            self.inside = False

    def work(self, face: Face) -> None:
        """Open, read, write, renew, create, end, list and sweep: on the session in question and on others."""
        for browser in (self.browser, self.other):
            twin = browser.copy()
            twin.face = face
            with twin.visit() as session:
                if session.exists:
                    session[self.note] = session.get(self.note, 0) + 1
                    session[self.busy] = 1
        fresh = face.browser("10.8.8.8")
        with fresh.visit() as session:
            session[self.note] = 1
            session[self.busy] = 1
        with fresh.visit() as session:
            session.renew()
        with fresh.visit() as session:
            session.end()
        face.call(face.manager.all())
        face.call(face.manager.sweep())
        face.manager.on(Begin, lambda _: None)()
        Key("declared meanwhile", int)


@pytest.fixture
def case(face: Face) -> Case:
    return Case(face)


def test_rule_10_this_test_notices_a_lock(case: Case) -> None:
    """The helper fails when a lock is held, so that what follows proves something."""
    lock = threading.Lock()
    with lock, pytest.raises(AssertionError, match="a lock was held"):
        blocked: Callable[[Face], object] = lambda _: lock.acquire(timeout=0.2) or pytest.fail("a lock was held")  # noqa: E731
        try:
            elsewhere(case.face, blocked)
        except pytest.fail.Exception as failure:
            raise AssertionError(str(failure)) from failure


# -- listeners -----------------------------------------------------------------


def on_begin(case: Case) -> None:
    case.face.manager.on(Begin, lambda _: case.call())
    with case.face.browser().visit() as session:
        session[case.note] = 1


def on_end(case: Case) -> None:
    case.face.manager.on(End, lambda _: case.call())
    with case.browser.visit() as session:
        session.end()


def on_commit_refused(case: Case) -> None:
    case.face.manager.on(CommitRefused, lambda _: case.call())
    with case.browser.visit() as session:
        session[case.note] = 1
        case.face.call(case.face.manager.end(case.handle))


def on_lost_update(case: Case) -> None:
    tags = Key("tags", list[int])
    with case.browser.visit() as session:
        session[tags] = []
    case.face.manager.on(LostUpdate, lambda _: case.call())
    first, second = case.browser.open(), case.browser.open()
    for number, turn in enumerate((first, second)):
        turn.session[tags].append(number)
    first.finish()
    second.finish()


def on_value_refused(case: Case) -> None:
    key = Key("wrong", int)
    plant(case.face, case.handle, "wrong", pack("text"))
    case.face.manager.on(ValueRefused, lambda _: case.call())
    with case.browser.visit() as session:
        assert key not in session


def on_reused_old_id(case: Case) -> None:
    old = case.browser.copy()
    with case.browser.visit() as session:
        session.renew()
    case.face.manager.on(ReusedOldId, lambda _: case.call())
    with old.visit() as session:
        assert not session.exists


def on_address_mismatch(case: Case) -> None:
    case.face.manager.on(AddressMismatch, lambda _: case.call())
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
            session, finish = await case.face.manager.start_check(case.browser.request(client=client))
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
    case.face.manager.on(End, lambda event: event.session[key])
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

    with pytest.raises(Rejected):
        case.browser.open(headers=[("Cookie", "other=1")], check=lambda _: False, cookie_policy=CookiePolicy(filter=spare))


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
    door = Key("door", Door, resident=True, cleanup_no_client=lambda _: False)
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


def test_rule_10_a_hook_may_call_back_itself(face: Face) -> None:
    """In the same thread a listener may use the store the manager works on: another manager over it answers."""
    if face.kind == "async":
        other = Face("async", face.store)
        other.clock = face.clock
    else:
        other = face
    note = Key("note", int)
    browser, victim = face.browser(), face.browser()
    handles: list[str] = []
    for one in (browser, victim):
        with one.visit() as session:
            session[note] = 1
        with one.visit() as session:
            handles.append(session.handle)
    seen: list[object] = []

    def listener(event: End) -> None:
        if event.session.handle == handles[0]:
            seen.append(Browser(face).address)
            seen.append(face.store.end(bytes.fromhex(handles[1]), "ended", face.clock(), 60.0) is not None)
            seen.append(face.store.end(bytes.fromhex(handles[0]), "ended", face.clock(), 60.0))

    face.manager.on(End, listener)
    with browser.visit() as session:
        session.end()
    assert seen == ["10.1.2.3", True, None]
    with victim.visit() as session:
        assert not session.exists
    if other is not face:
        other.close()

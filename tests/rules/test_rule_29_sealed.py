"""With `SealingKeys` values are sealed in memory and in the file, and nothing else is ever read in their place (X6)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.faces import Browser, Face
from tests.rules.restarts import Server
from typed_sessions import Key, ListKey, SealingKeys, Session, ValueRefused
from typed_sessions.record import Record

pytestmark = pytest.mark.stores("memory")

SECRET = "the treasure is under the third tree"


@pytest.fixture
def other() -> Key[str]:
    return Key("other", str)


def signed_in(face: Face, name: Key[str], text: str = SECRET) -> Browser:
    browser = face.browser()
    with browser.visit() as session:
        session[name] = text
    return browser


def stored(face: Face) -> bytes:
    """Everything that the memory store holds."""
    return b"".join(locator + packed for locator, packed in face.store.cut())


def value(browser: Browser, name: Key[str]) -> str | None:
    found: list[str | None] = []
    with browser.visit() as session:
        found.append(session.get(name))
    return found[0]


def change(face: Face, work: Callable[[dict[bytes, dict[str, bytes]]], None]) -> None:
    """Whoever can write to the store changes the fields of its records, by locator."""
    records = {locator: Record.unpack(locator, packed) for locator, packed in face.store.cut()}
    fields = {locator: dict(record.fields) for locator, record in records.items()}
    work(fields)
    face.store = type(face.store)()
    face.store.restore([record.copy(fields[locator]) for locator, record in records.items()], face.clock())
    face.manager = face.another(seal=face.manager.core.seal)


def test_rule_29_sealed_values_are_nowhere_in_the_open(make_face: Callable[..., Face], tmp_path: Path) -> None:
    """Neither in memory, nor in the snapshot or its journal; single values and list elements, before and after a renew."""
    face = make_face(seal=SealingKeys.generate())
    server = Server(face, tmp_path)
    name, facts = Key("name", str), ListKey("facts", str)
    browser = face.browser()
    with browser.visit() as session:
        session[name] = SECRET
        session[facts].append(SECRET)
    server.save()
    with browser.visit() as session:
        session.renew()
        session[facts].prepend(SECRET)
    server.save()
    server.options = {"seal": face.manager.core.seal}
    for content in (stored(face), *(file.read_bytes() for file in tmp_path.iterdir())):
        assert content
        assert SECRET.encode() not in content
    server.restart()
    with browser.visit() as session:
        assert (session[name], list(session[facts])) == (SECRET, [SECRET, SECRET])


def test_rule_29_sealed_values_work_like_others(make_face: Callable[..., Face]) -> None:
    """Rules 5 and 7: changed in place, updated, removed; a value that is only read is not written."""
    face = make_face(seal=SealingKeys.generate())
    tags, count = Key("tags", list[str]), Key("count", int)
    browser = face.browser()
    with browser.visit() as session:
        session[tags] = ["a"]
        session[count] = 1
    before = stored(face)
    with browser.visit() as session:
        assert (session[tags], session[count]) == (["a"], 1)
    assert len(stored(face)) == len(before)
    turn = browser.open()
    with browser.visit() as session:
        session[tags].append("b")
        session.update(count, lambda n: n + 1)
    turn.session.update(count, lambda n: n + 1)
    turn.finish()
    with browser.visit() as session:
        assert (session[tags], session[count]) == (["a", "b"], 3)
        del session[count]
    with browser.visit() as session:
        assert count not in session


def test_rule_29_old_keys_still_read_and_the_newest_seals(make_face: Callable[..., Face], tmp_path: Path, name: Key[str]) -> None:
    """Rotation: a new key in front; what is written from then on is sealed with it; when the old one goes, so does what only it opens."""
    old, new = os.urandom(32), os.urandom(32)
    face = make_face(seal=SealingKeys([old]))
    server = Server(face, tmp_path)
    written, untouched = signed_in(face, name), signed_in(face, name)
    server.save()
    server.options = {"seal": SealingKeys([new, old])}
    server.restart()
    assert value(untouched, name) == SECRET
    with written.visit() as session:
        session[name] = "again"
    server.save()
    server.options = {"seal": SealingKeys([new])}
    server.restart()
    assert (value(written, name), value(untouched, name)) == ("again", None)
    server.options = {"seal": SealingKeys([new, old])}
    server.restart()
    assert value(untouched, name) == SECRET  # its bytes have stayed (rule 1)


def test_rule_29_a_plain_value_is_refused(make_face: Callable[..., Face], name: Key[str], caplog: pytest.LogCaptureFixture) -> None:
    """X6: it could have been planted. It counts as absent and is reported, unless the store is just being changed over."""
    face = make_face()
    browser = signed_in(face, name)
    refused: list[ValueRefused] = []
    face.renew(seal=SealingKeys.generate())
    face.manager.on(ValueRefused, refused.append)
    assert value(browser, name) is None
    assert [(event.name, event.why) for event in refused] == [
        ("name", "it is not sealed; SealingKeys(..., read_plain=True) reads such values while a store is being sealed")
    ]
    assert "a stored value of <typed Key 'name'" in caplog.text
    face.renew(seal=SealingKeys([os.urandom(32)], read_plain=True))
    assert value(browser, name) == SECRET
    with browser.visit() as session:
        session[name] = "sealed now"
    assert b"sealed now" not in stored(face)


def test_rule_29_a_sealed_value_without_keys_is_refused(make_face: Callable[..., Face], name: Key[str]) -> None:
    """The session opens, its other values are not touched by it, and the bytes stay for a manager that has the keys."""
    face = make_face(seal=SealingKeys.generate())
    seal = face.manager.core.seal
    browser = signed_in(face, name)
    face.renew()
    with browser.visit() as session:
        assert session.exists
        assert name not in session
    face.renew(seal=seal)
    assert value(browser, name) == SECRET


Fields: TypeAlias = dict[str, bytes]
# What is put into the fields of one session and of another.
MOVES: dict[str, Callable[[Fields, Fields], tuple[Fields, Fields]]] = {
    "to another key": lambda mine, _: ({"other": mine["name"]}, {}),
    "to another session": lambda mine, _: ({}, {"other": mine["other"]}),
    "exchanged between keys": lambda mine, _: ({"name": mine["other"], "other": mine["name"]}, {}),
    "exchanged between sessions": lambda mine, theirs: ({"other": theirs["other"]}, {"other": mine["other"]}),
    "with a bit flipped": lambda mine, _: ({"other": mine["other"][:-1] + bytes([mine["other"][-1] ^ 1])}, {}),
    "cut": lambda mine, _: ({"other": mine["other"][:20]}, {}),
    "emptied": lambda mine, _: ({"other": mine["other"][:7]}, {}),
    "under a plain flag": lambda mine, _: ({"other": mine["other"][:6] + b"\0" + mine["other"][7:]}, {}),
    "of another format": lambda mine, _: ({"other": mine["other"][:7] + b"\2" + mine["other"][8:]}, {}),
}


@pytest.mark.parametrize("move", MOVES)
def test_rule_29_a_value_that_was_moved_is_refused(
    make_face: Callable[..., Face], name: Key[str], other: Key[str], move: str, caplog: pytest.LogCaptureFixture
) -> None:
    """X6: the locator and the key's name are sealed with it, and a broken seal is never read in another way."""
    caplog.set_level(logging.CRITICAL)
    face = make_face(seal=SealingKeys.generate())
    browsers = [face.browser() for _ in range(2)]
    handles: list[bytes] = []
    for number, browser in enumerate(browsers):
        with browser.visit() as session:
            session[name], session[other] = f"name {number}", f"other {number}"
        with browser.visit() as session:
            handles.append(bytes.fromhex(session.handle))

    def work(fields: dict[bytes, Fields]) -> None:
        mine, theirs = fields[handles[0]], fields[handles[1]]
        for target, moved in zip((mine, theirs), MOVES[move](mine, theirs), strict=True):
            target.update(moved)

    change(face, work)

    def allowed(number: int, key: Key[str], text: str | None) -> bool:
        """Its own value or none: never another's."""
        return text in (None, f"{key.name} {number}")

    seen: list[str | None] = []
    for number, browser in enumerate(browsers):
        for key in (name, other):
            text = value(browser, key)
            assert allowed(number, key, text), text
            seen.append(text)
    assert None in seen


def test_rule_29_list_elements_are_sealed_one_by_one(make_face: Callable[..., Face]) -> None:
    """An element of another session's list is refused; the others of the list are read."""
    face = make_face(seal=SealingKeys.generate())
    facts: ListKey[str] = ListKey("facts", str)
    browser = face.browser()

    def add(session: Session, text: str) -> None:
        session[facts].append(text)

    with browser.visit() as session:
        add(session, "one")
    face.renew(seal=SealingKeys([os.urandom(32), *face.manager.core.seal.keys]))
    with browser.visit() as session:
        add(session, "two")
    newest = face.manager.core.seal.keys[0]
    face.renew(seal=SealingKeys([newest]))
    with browser.visit() as session:
        assert list(session[facts]) == ["two"]


def test_rule_29_the_keys_are_in_no_repr_and_in_no_log(make_face: Callable[..., Face], name: Key[str]) -> None:
    """I4: nor is a value in what is said of one that was refused."""
    seal = SealingKeys.generate()
    face = make_face(seal=seal)
    refused: list[ValueRefused] = []
    browser = signed_in(face, name)
    face.renew(seal=SealingKeys.generate())
    face.manager.on(ValueRefused, refused.append)
    value(browser, name)
    texts = [repr(seal), repr(face.manager), *(repr(event) + event.why for event in refused)]
    assert len(refused) == 1
    assert not [text for text in texts if SECRET in text or seal.keys[0].hex() in text or repr(seal.keys[0])[2:12] in text]

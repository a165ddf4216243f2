"""The least that a user of the Redis server must be allowed (ACL): what the README says is enough, and none of it is too much (S8)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.faces import Face
from tests.redis_server import RedisServer
from tests.stores.faults import read, signed_in, unavailable, write
from tests.stores.records import IDLE, NOW, new, use
from typed_sessions import Key, StoreUnavailable
from typed_sessions.changes import Changes
from typed_sessions.stores.redis import RedisStore

PREFIX = "shop"
README = (Path(__file__).parents[2] / "README.md").read_text()
RULES = re.findall(r"^ACL SETUSER web on >secret (.*)$", README, re.MULTILINE)[0].split()
"""As the README has them, with the default prefix."""
ALLOWED = [rule for rule in RULES if rule.startswith("+")]
VERBS = 10
KEYS = [rule.replace("typed_sessions", PREFIX) for rule in RULES if rule.startswith("~")]


@pytest.fixture
def allow(redis_server: RedisServer) -> Iterator[Callable[..., str]]:
    """Let the user do this and nothing else; gives the server's URL for this user. The server has no script from before: EVAL is needed."""
    client = redis_server.client()
    client.script_flush()

    def rules(*rules: str) -> str:
        client.execute_command("ACL", "SETUSER", "web", "reset", "on", ">secret", *rules)
        return redis_server.url.replace("//", "//web:secret@")

    yield rules
    client.execute_command("ACL", "DELUSER", "web")
    client.close()


def test_the_rules_of_the_readme(
    make: Callable[..., Face], allow: Callable[..., str], name: Key[str], caplog: pytest.LogCaptureFixture
) -> None:
    """They are enough for everything: that the store may not ask for the eviction policy is no trouble."""
    face = make(allow(*KEYS, *ALLOWED), prefix=PREFIX)
    browser = signed_in(face, name)
    write(browser, name, "bob")
    with browser.visit() as session:
        session.renew()
    assert len(face.call(face.manager.all())) == 1
    with signed_in(face, name).visit() as session:
        session.end()
    face.clock.advance(660)
    assert face.call(face.manager.sweep()) == 1
    assert caplog.records == []
    assert "secret" not in repr(face.store)


def refusals(store: RedisStore) -> list[str]:
    """Say every verb, whatever comes of it; gives what was refused."""
    plain, hooked, lasting = new(), new(hooked=True), new()
    later = NOW + 200
    refused: list[str] = []
    for verb in (
        lambda: store.create(plain, NOW),
        lambda: store.create(hooked, NOW),
        lambda: store.create(lasting, NOW),
        lambda: store.open(plain.locator, use(plain), IDLE, later),
        lambda: store.touch(hooked.locator, hooked.digest, IDLE, later),
        lambda: store.commit(lasting.locator, Changes(set_timeout=True, timeout=None), IDLE, later),
        lambda: store.scan(None, 10),
        lambda: store.end(plain.locator, "ended", later, 60),
        lambda: store.sweep(NOW + 10_000, 10, 60, 60),
        lambda: store.clear(hooked.locator, None),
    ):
        try:
            verb()
        except StoreUnavailable as problem:
            refused.append(str(problem))
    return refused


@pytest.mark.parametrize("command", ALLOWED)
def test_each_command_is_needed(allow: Callable[..., str], command: str, caplog: pytest.LogCaptureFixture) -> None:
    """Without it a verb is refused, and says what the user needs; no session counts as absent or damaged, none is lost to sweeps."""
    others = [other for other in ALLOWED if other != command]
    with closing(RedisStore(allow(*KEYS, *others), prefix=PREFIX)) as store:
        refused = refusals(store)
    assert refused
    needs = f"; what its user needs, by ACL SETUSER: {' '.join(KEYS + ALLOWED)}"
    assert all(text.endswith(needs) for text in refused)
    assert caplog.records == []


@pytest.mark.parametrize("keys", [[], ["~{another:*"]])
def test_keys_that_the_user_may_not_see(allow: Callable[..., str], keys: list[str]) -> None:
    """Those of another prefix, or none: said in the same way, with the pattern that is needed."""
    with closing(RedisStore(allow(*keys, *ALLOWED), prefix=PREFIX)) as store:
        refused = refusals(store)
    assert len(refused) == VERBS
    assert all(f"what its user needs, by ACL SETUSER: {KEYS[0]} " in text for text in refused)


@pytest.mark.parametrize("prefix", ["app[1]", "a*b?", "back\\slash", "two words"])
def test_the_rules_that_are_offered(allow: Callable[..., str], prefix: str) -> None:
    """They are enough, whatever the prefix, and let the user see no other application, not even one whose prefix begins in the same way."""
    with closing(RedisStore(allow(), prefix=prefix)) as store:
        rules = refusals(store)[0].partition("by ACL SETUSER: ")[2].split(" ")
    url = allow(*rules)
    with closing(RedisStore(url, prefix=prefix)) as store:
        assert refusals(store) == []
    for other in (f"{prefix}:eu", "app1", "aXXbX", "backslash"):
        with closing(RedisStore(url, prefix=other)) as store:
            assert len(refusals(store)) == VERBS


def test_rules_that_change_while_it_runs(make: Callable[..., Face], allow: Callable[..., str], name: Key[str]) -> None:
    """A session that cannot be read is not taken for one that is not there; when it may be read again, it is."""
    face = make(allow(*KEYS, *ALLOWED), prefix=PREFIX)
    browser = signed_in(face, name)
    allow(*KEYS, *(rule for rule in ALLOWED if rule != "+get"))
    with unavailable("refused open: .*what its user needs"):
        browser.open()
    allow(*KEYS, *ALLOWED)
    assert read(browser, name) == "ann"

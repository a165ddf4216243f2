"""Rule 26: once the headers have left, no cookie can be sent. What each filter makes of it is in tests/filters."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faces import Face
from typed_sessions import CookiePolicy, HeadersSent, Key, Session


def test_rule_26_edit_has_no_response(make_face: Callable[..., Face]) -> None:
    """`manager.edit(handle)`: whatever would need a cookie raises at the call, and the rest of the block is committed."""
    face = make_face(cookie_policy=CookiePolicy(max_age=3600))
    name = Key("name", str)
    browser = face.browser()
    with browser.visit() as session:
        session[name] = "ann"
    with browser.visit() as session:
        handle = session.handle
    refused: list[str] = []

    def work(session: Session) -> None:
        late: list[Callable[[], object]] = [
            lambda: session.renew(),
            lambda: session.renew(clear=True),
            lambda: setattr(session, "persistent", False),
        ]
        for step in late:
            with pytest.raises(HeadersSent) as caught:
                step()
            refused.append(str(caught.value))
        session.timeout = 60
        session[name] = "bob"

    face.edit(handle, work)
    assert len(refused) == 3
    assert all("headers have left" in text for text in refused)
    with browser.visit() as session:
        assert (session[name], session.timeout) == ("bob", 60)


def test_rule_26_ending_without_a_response_works(face: Face) -> None:
    """The cookies are expired by the next request that brings them."""
    name = Key("name", str)
    browser = face.browser()
    with browser.visit() as session:
        session[name] = "ann"
    with browser.visit() as session:
        handle = session.handle
    face.edit(handle, lambda session: session.end())
    turn = browser.open()
    assert not turn.session.exists
    turn.finish()
    assert browser.jar == {}

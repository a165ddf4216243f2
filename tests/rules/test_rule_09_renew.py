"""Rule 9: renew replaces the secret, keeps the locator, the data and the absolute lifetime."""

from __future__ import annotations

from tests.faces import Face
from typed_sessions import Key


def test_rule_09_renew_replaces_the_secret_and_keeps_the_data(face: Face) -> None:
    """After a renew the old cookie opens nothing, the new one opens the same session with its data (ASVS 7.2.4)."""
    user = Key("user", str)
    browser = face.browser()
    with browser.visit() as session:
        session[user] = "ann"
        handle = session.handle
    old = browser.copy()
    with browser.visit() as session:
        handle = session.handle
        session.renew()
    with old.visit() as session:
        assert not session.exists
    with browser.visit() as session:
        assert session.handle == handle
        assert session[user] == "ann"

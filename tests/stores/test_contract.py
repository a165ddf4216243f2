"""The contract of stores: what its texts say, and what a store of one's own finds beside it."""

from __future__ import annotations

import inspect

import pytest

from typed_sessions import errors
from typed_sessions.record import HOOKED
from typed_sessions.stores import base
from typed_sessions.stores.base import FIELD_HOOKED, Record, pack_field, size_of


@pytest.mark.parametrize("text", [base, base.Store.create, base.Store.commit, base.Store.end], ids=lambda text: text.__name__)
def test_the_contract_says_what_to_raise_where_an_answer_is_lost(text: object) -> None:
    """In its head, and at each verb that the managers must not repeat by themselves."""
    assert "StoreUnavailable" in (inspect.getdoc(text) or "")
    assert "unknown=True" in (inspect.getdoc(text) or "")


def test_the_contract_says_that_verbs_are_cancelled() -> None:
    """The author of an asynchronous store would not think of it."""
    assert "CancelledError" in (base.__doc__ or "")


@pytest.mark.parametrize("verb", ["create", "open", "touch", "commit", "end", "sweep", "clear", "scan", "close"])
def test_every_verb_has_a_text(verb: str) -> None:
    """Of the protocol for threads; the other one refers to it."""
    assert inspect.getdoc(getattr(base.Store, verb))


def test_a_store_imports_from_one_module() -> None:
    """The errors that it raises are those that the managers know, and each name of the module is one that it says it has."""
    assert (base.StoreFull, base.StoreUnavailable, base.TooLarge) == (errors.StoreFull, errors.StoreUnavailable, errors.TooLarge)
    assert [name for name in base.__all__ if not hasattr(base, name)] == []


def test_a_copy_of_other_fields_is_hooked_if_one_of_them_is() -> None:
    """Whoever drops the fields whose hooks have run sees at once whether the record is still to be kept; and its size is another."""
    hooked, plain = pack_field(1, 1, FIELD_HOOKED, b"1"), pack_field(1, 1, 0, b"2")
    record = Record(bytes(16), bytes(32), bytes(16), 0.0, 0.0, None, 60.0, unpacked={"h": hooked, "a": plain}, flags=HOOKED)
    record.size = size_of(record.fields)
    left = record.copy({"a": plain})
    assert (record.hooked, record.copy().hooked, left.hooked, left.copy({"h": hooked}).hooked) == (True, True, False, True)
    assert Record.unpack(bytes(16), left.pack()).size == size_of({"a": plain})
    assert left.size in (0, size_of({"a": plain}))

"""Values of other libraries' classes, and values whose next request gets something else than was set, as the README says of each."""

from __future__ import annotations

from datetime import datetime, time, timedelta, timezone
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import attrs
import pydantic.dataclasses
import pytest

from tests.faces import PEER
from typed_sessions import Key, KeyTypeError, ListKey, Request, SessionManager, Upgrades
from typed_sessions.testing import login

T = TypeVar("T")
REQUEST = Request(headers=(), peer=PEER)


class Person(pydantic.BaseModel):
    name: str
    age: int = 0


@pydantic.dataclasses.dataclass
class Positive:
    number: int

    @pydantic.field_validator("number")
    @classmethod
    def check(cls, number: int) -> int:
        if number < 0:
            raise ValueError("negative")
        return number


@attrs.define
class Place:
    name: str
    tags: list[str] = attrs.field(factory=list[str])


def next_request(key: Key[T], value: T) -> T:
    """What the next request gets."""
    sessions = SessionManager()
    cookies = login(sessions, {key: value}, address=PEER)
    headers = [("Cookie", "; ".join(f"{name}={text}" for name, text in cookies.items()))]
    session, finish = sessions.start_check(Request(headers=headers, peer=PEER))
    try:
        return session[key]
    finally:
        finish.discard()


def test_a_model_is_refused_with_the_functions_that_carry_it() -> None:
    """They are its own; the text can be copied."""
    anything: Any = Person
    with pytest.raises(KeyTypeError) as caught:
        Key("m", anything)
    advised = 'Key("m", save=lambda m: m.model_dump_json().encode(), load=Person.model_validate_json, deterministic=True)'
    assert str(caught.value).endswith(advised)
    key: Key[Person] = eval(advised)
    assert next_request(key, Person(name="ann", age=7)) == Person(name="ann", age=7)
    sessions = SessionManager()
    session, finish = sessions.start_check(REQUEST)
    session[key] = Person(name="ann")
    sessions.commit(session)
    session[key].age = 8  # in place, which is saved as it is of a dataclass
    finish()
    [stored] = sessions.all()
    assert stored[key].age == 8


def test_what_has_models_in_it_is_carried_by_an_adapter() -> None:
    """Whatever the container."""
    anything: Any = dict[str, Person | None]
    with pytest.raises(KeyTypeError) as caught:
        Key("m", anything)
    made, _, declared = str(caught.value).partition("adapter = ")[2].partition(" and ")
    adapter = eval(made, {"TypeAdapter": pydantic.TypeAdapter, "Person": Person})
    key: Key[dict[str, Person | None]] = eval(declared, {"Key": Key, "adapter": adapter})
    value = {"ann": Person(name="ann"), "bob": None}
    assert next_request(key, value) == value
    assert key.codec is not None
    assert key.codec.comparable


@pytest.mark.parametrize("of", [Person, dict[str, Person], complex, type(Ellipsis)])
def test_what_is_advised_to_a_list_is_something_that_it_has(of: Any) -> None:
    """Not save=, load= or resident=, which are those of a Key."""
    with pytest.raises(KeyTypeError) as caught:
        ListKey("l", of)
    advice = str(caught.value).partition("can restore: ")[2]
    assert 'ListKey("l", bytes)' in advice
    assert "save=" not in advice.replace('Key("l", save=..., load=...)', "")
    assert "resident=" not in advice.replace('Key("l", list, resident=True)', "")


def test_what_is_advised_to_a_step_is_something_that_it_has() -> None:
    """The function that read what older code has stored."""
    anything: Any = Person
    with pytest.raises(KeyTypeError, match=r"load= to Upgrades or save= to Downgrade, in the place of the type$"):
        Upgrades(anything, len)


def test_an_attrs_class_is_carried() -> None:
    """As any dataclass."""
    assert next_request(Key("place", Place), Place("here", ["a"])) == Place("here", ["a"])


def test_the_validators_of_a_pydantic_dataclass_do_not_run_on_reading() -> None:
    """What an assignment has made of it comes back."""
    value = Positive(1)
    value.number = -1
    assert next_request(Key("positive", Positive), value).number == -1


BERLIN = ZoneInfo("Europe/Berlin")
SUMMER = timezone(timedelta(hours=2))


@pytest.mark.parametrize("zone", [BERLIN, SUMMER, timezone.utc])
def test_an_aware_datetime_comes_back_as_the_same_instant_in_utc(zone: Any) -> None:
    """The instant is what it is; its hour is not."""
    value = datetime(2026, 7, 1, 9, 30, 1, 5, tzinfo=zone)
    found = next_request(Key("when", datetime), value)
    assert (found, found.tzinfo) == (value, timezone.utc)


def test_without_a_zone_it_comes_back_as_it_was() -> None:
    """Nobody knows which zone was meant."""
    value = datetime(2026, 7, 1, 9, 30)
    found = next_request(Key("when", datetime), value)
    assert (found, found.tzinfo) == (value, None)


@pytest.mark.parametrize(("zone", "comes_back"), [(SUMMER, SUMMER), (timezone.utc, timezone.utc), (BERLIN, None), (None, None)])
def test_a_time_keeps_an_offset_and_loses_the_name_of_a_zone(zone: Any, comes_back: Any) -> None:
    """Of a zone whose offset depends on the day."""
    found = next_request(Key("at", time), time(9, 30, tzinfo=zone))
    assert found == time(9, 30, tzinfo=comes_back)
    assert found.tzinfo == comes_back

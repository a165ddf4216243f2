"""Rule 2: two keys of one name can never read each other's value; a declaration that is repeated by a reload names the same key."""

from __future__ import annotations

import importlib
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.faces import Face
from typed_sessions import DuplicateKeyError, Key, KeyTypeError, ListKey
from typed_sessions.keys import known_key


@dataclass
class Cart:
    items: list[str] = field(default_factory=list[str])


def save(value: str) -> bytes:
    return value.encode()


def load(data: bytes) -> str:
    return data.decode()


def load_otherwise(data: bytes) -> str:
    return data.decode("latin-1")


def upgrade(old: Any, version: int) -> int:
    return int(old) + version


def upgrade_otherwise(old: Any, version: int) -> int:
    return int(old) - version


def release(value: int) -> None:
    """A hook."""


def keep(value: int) -> bool:
    return True


def merge(base: int, mine: int, theirs: int) -> int:
    return mine


# Each pair differs in one thing that a declaration is made of.
PAIRS: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "type": (lambda: Key("n", int), lambda: Key("n", str)),
    "an optional type": (lambda: Key("n", int), lambda: Key("n", int | None)),
    "element type": (lambda: Key("n", list[int]), lambda: Key("n", list[str])),
    "typed and hooked": (lambda: Key("n", str), lambda: Key("n", save=save, load=load)),
    "typed and resident": (lambda: Key("n", str), lambda: Key("n", str, resident=True)),
    "one value and many": (lambda: Key("n", int), lambda: ListKey("n", int)),
    "one list and many values": (lambda: ListKey("n", int), lambda: Key("n", list[int])),
    "element type of many": (lambda: ListKey("n", int), lambda: ListKey("n", str)),
    "version": (lambda: Key("n", int), lambda: Key("n", int, version=2)),
    "version of many": (lambda: ListKey("n", int), lambda: ListKey("n", int, version=2)),
    "load": (lambda: Key("n", save=save, load=load), lambda: Key("n", save=save, load=load_otherwise)),
    "upgrade": (lambda: Key("n", int, version=2, upgrade=upgrade), lambda: Key("n", int, version=2, upgrade=upgrade_otherwise)),
    "merge": (lambda: Key("n", int), lambda: Key("n", int, merge=merge)),
    "cleanup_delete": (lambda: Key("n", int, cleanup_delete=release), lambda: Key("n", int)),
    "cleanup_no_client": (lambda: Key("n", int), lambda: Key("n", int, cleanup_no_client=keep)),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_rule_02_a_second_key_of_a_name_is_refused(pair: tuple[Callable[[], object], Callable[[], object]]) -> None:
    """A declaration that differs in any part raises, in either order, and the first one stays the key of that name (X3, WSTG-SESS-08)."""
    first, second = pair
    earlier = first()
    with pytest.raises(DuplicateKeyError):
        second()
    assert known_key("n") is earlier


def test_rule_02_the_error_names_both_places() -> None:
    """The text says where both keys were declared, as what, and what to do."""
    first = Key("visits", int)
    with pytest.raises(DuplicateKeyError) as caught:
        Key("visits", str, version=3)
    text = str(caught.value)
    places = re.findall(rf"{re.escape(__file__)}:(\d+)", text)
    assert len(places) == 2
    assert first.where.endswith(f":{places[0]}")
    assert int(places[1]) == int(places[0]) + 2
    for part in ("'visits'", "builtins.int, version 1", "builtins.str, version 3", "rename one"):
        assert part in text


def test_rule_02_the_same_declaration_in_another_file_is_another_key() -> None:
    """Two modules that chose one name by chance are told, though their keys look alike."""
    source = "from typed_sessions import Key\nkey = Key('visits', int)\n"
    exec(compile(source, "shop.py", "exec"), {})
    with pytest.raises(DuplicateKeyError, match=r"shop\.py:2.*blog\.py:2"):
        exec(compile(source, "blog.py", "exec"), {})


def test_rule_02_a_repeated_declaration_names_the_same_key(face: Face) -> None:
    """What is written through one object is read through the other, in the same request and in the next."""
    first, second = (Key("cart", Cart) for _ in range(2))
    assert first is not second
    browser = face.browser()
    with browser.visit() as session:
        session[first] = Cart(["pen"])
        session[second].items.append("ink")
        assert session[first] is session[second]
        assert second in session
    with browser.visit() as session:
        assert session[second] == Cart(["pen", "ink"])
        assert [key.name for key in session] == ["cart"]
        del session[second]
        assert first not in session


def test_rule_02_a_repeated_list_names_the_same_list(face: Face) -> None:
    """The same holds for `ListKey`."""
    first, second = (ListKey("facts", int) for _ in range(2))
    browser = face.browser()
    with browser.visit() as session:
        session[first].append(1)
        session[second].append(2)
        assert list(session[first]) == [1, 2]
    with browser.visit() as session:
        assert list(session[second]) == [1, 2]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Write, import and (the second time) reload a module of an application."""
    path = tmp_path / "reloaded_shop.py"
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(source: str) -> ModuleType:
        path.write_text(source, encoding="utf-8")
        importlib.invalidate_caches()
        loaded = sys.modules.get("reloaded_shop")
        return importlib.import_module("reloaded_shop") if loaded is None else importlib.reload(loaded)

    yield write
    sys.modules.pop("reloaded_shop", None)


SHOP = """
from dataclasses import dataclass, field
from typed_sessions import Key

@dataclass
class Cart:
    items: list[str] = field(default_factory=list[str])

ended = []
cart = Key("cart", Cart, cleanup_delete=lambda cart: ended.append(cart.items))
"""


def test_rule_02_a_reload_keeps_the_data_and_takes_the_new_code(face: Face, module: Callable[[str], ModuleType]) -> None:
    """After `importlib.reload` the data is there, as the new class's, also when lines have moved; the newer hooks are the ones that run."""
    shop = module(SHOP)
    browser = face.browser()
    with browser.visit() as session:
        session[shop.cart] = shop.Cart(["pen"])
    before = shop.cart
    shop = module("# A comment moves every line.\n" + SHOP)
    assert shop.cart is not before
    with browser.visit() as session:
        assert isinstance(session[shop.cart], shop.Cart)
        assert session[shop.cart].items == ["pen"]
    with browser.visit() as session:
        session.end()
    assert shop.ended == [["pen"]]


RUN = """
from typed_sessions import ListKey, Upgrades
def newer(old: list[str]) -> Cart:
    return Cart(old)
carts = Key("carts", dict[str, Cart | None], version=2, upgrade=lambda old, version: {}, merge=lambda base, mine, theirs: theirs)
basket = Key("basket", Cart, version=2, upgrade=Upgrades(list[str], newer))
wishes = ListKey("wishes", Cart)
"""


def test_rule_02_a_file_that_is_run_and_imported_declares_its_keys_once(
    face: Face, module: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    """`uvicorn.run("shop:app")` in shop.py: the file is `__main__`, in a spawned worker `__mp_main__`, and the module `shop` too."""
    path = tmp_path / "reloaded_shop.py"
    path.write_text(SHOP + RUN, encoding="utf-8")
    for name in ("__main__", "__mp_main__"):
        runpy.run_path(str(path), run_name=name)
    shop = module(SHOP + RUN)
    assert known_key("basket") is shop.basket
    browser = face.browser()
    with browser.visit() as session:
        session[shop.carts] = {"mine": shop.Cart(["pen"])}
    with browser.visit() as session:
        assert session[shop.carts] == {"mine": shop.Cart(["pen"])}


NOTEBOOK = """
import dataclasses
from typed_sessions import DuplicateKeyError, Key
cell = '''
@dataclasses.dataclass
class Cart:
    items: list[str]
cart = Key("cart", Cart)
'''
def run(cell, name):
    exec(compile(cell, name, "exec"), globals())
for names in INPUTS:
    run(cell, names)
try:
    run(cell.replace("Cart)", "Cart, version=2)"), INPUTS[0])
except DuplicateKeyError as problem:
    print(problem)
"""


@pytest.mark.parametrize(
    "inputs",
    [("<ipython-input-2-e00e3b16747b>", "<ipython-input-3-e00e3b16747b>"), ("/tmp/ipykernel_7/1.py", "/tmp/ipykernel_7/2.py")],
    ids=["shell", "notebook"],
)
def test_rule_02_a_cell_of_a_notebook_may_be_run_again(inputs: tuple[str, str]) -> None:
    """Each run of it has a file name of its own, as each input of a shell has; a declaration that has changed is refused as ever."""
    program = NOTEBOOK.replace("INPUTS", repr(inputs))
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "the name 'cart' is taken" in said


def test_rule_02_a_reload_with_another_type_is_refused(module: Callable[[str], ModuleType]) -> None:
    """A reload that changes what a key is needs a new name or a new process; of two files one has to rename, and a new one is no help."""
    module("from typed_sessions import Key\nvisits = Key('visits', int)\n")
    with pytest.raises(DuplicateKeyError, match="visits") as elsewhere:
        Key("visits", int)
    assert "edited and reloaded" not in str(elsewhere.value)
    with pytest.raises(DuplicateKeyError, match=r"visits.*If it is one key, edited and reloaded: start the process anew"):
        module("from typed_sessions import Key\nvisits = Key('visits', str)\n")


def test_rule_02_keys_are_told_apart_by_name_alone(face: Face) -> None:
    """Names that only look alike are names of different keys (D7)."""
    names = ["n", "N", "n ", "ñ", "n\u0303", "v:n", "l:n:1", "*", "../n", "n" * 64]
    keys = [Key(name, int) for name in names]
    browser = face.browser()
    with browser.visit() as session:
        for number, key in enumerate(keys):
            session[key] = number
    with browser.visit() as session:
        assert [session[key] for key in keys] == list(range(len(keys)))


@pytest.mark.parametrize("name", ["", "n" * 65, "a\nb", "a\0b", "\x1b[31m", 3, None, b"n"], ids=repr)
def test_rule_02_a_name_is_printable_text(name: Any) -> None:
    """What could not be told apart in a message or a store is refused at the declaration (D7)."""
    for declare in (lambda: Key(name, int), lambda: ListKey(name, int)):
        with pytest.raises(KeyTypeError, match="name"):
            declare()

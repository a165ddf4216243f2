"""Which of two stored names holds the value of a renamed key (`was=`). Pure; knows fields, and no keys.

While code that knows the old name, code that knows both and code that knows the new name alone run on one store, none of them may
lose what another has done. So code that knows both writes both, and marks the new name's field as a twin and the old name's as its copy;
code that knows one name writes and removes that one, and leaves no such mark:

    new name   old name    the value
    twin       copy        the new one's: both were written together
    twin       other       the old one's: written since, by code that knows the old name alone
    other      copy        the new one's: written since, by code that knows the new name alone, or both, but whose `downgrade` failed
    twin       -           none: removed by code that knows the old name alone
    -          copy        none: removed by code that knows the new name alone
    other      other       that of the later revision; the new one's of two equal ones
    other      -           the new one's
    -          other       the old one's

The two marks differ because a key may be renamed again, and the new name then be the old one of a third: a twin in the place of a copy
has nothing to do with that third name, and is another field like any other.
"""

from __future__ import annotations

from collections.abc import Mapping

from .record import FIELD_COPY, FIELD_FLAGS_AT, FIELD_TWIN, field_revision


def holder(fields: Mapping[str, bytes], name: str, was: str) -> str | None:
    """The name under which the value is stored, or None if there is none."""
    new, old = fields.get(name), fields.get(was)
    if new is None and old is None:
        return None
    new_twin = new is not None and bool(new[FIELD_FLAGS_AT] & FIELD_TWIN)
    old_copy = old is not None and bool(old[FIELD_FLAGS_AT] & FIELD_COPY)
    if new is None or old is None:
        return None if new_twin or old_copy else was if new is None else name
    if new_twin != old_copy:
        return was if new_twin else name
    return name if new_twin or field_revision(new) >= field_revision(old) else was

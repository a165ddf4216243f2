"""How many bytes a row would take as a packed record's fields, in SQL: PostgreSQL stores count like the others, to the byte (see `limits`).

The heads of MessagePack are worked out from the lengths. That costs more than a commit should, so the commit first looks at a number that
is never too small, and asks for this one only near the bound.
"""

from __future__ import annotations

from typing import Final

MOST_EACH: Final = 32
"""More than what an entry, or an element of a list, takes in heads and numbers beside its name and its payload."""


def _text(length: str) -> str:
    return f"CASE WHEN {length} < 32 THEN 1 WHEN {length} < 256 THEN 2 WHEN {length} < 65536 THEN 3 ELSE 5 END"


def _bytes(length: str) -> str:
    return f"CASE WHEN {length} < 256 THEN 2 WHEN {length} < 65536 THEN 3 ELSE 5 END"


def _many(count: str) -> str:
    return f"CASE WHEN {count} < 16 THEN 1 WHEN {count} < 65536 THEN 3 ELSE 5 END"


def _int(number: str) -> str:
    return (
        f"CASE WHEN {number} BETWEEN -32 AND 127 THEN 1 WHEN {number} BETWEEN -128 AND 255 THEN 2 "
        f"WHEN {number} BETWEEN -32768 AND 65535 THEN 3 WHEN {number} BETWEEN -2147483648 AND 4294967295 THEN 5 ELSE 9 END"
    )


# A field is 7 bytes and its payload, of which 3 are in the payloads here, and an element is an array of four.
SIZE: Final = f"""
CREATE OR REPLACE FUNCTION {{s}}.size_{{v}}(r {{s}}.session) RETURNS int8 LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN {_many("(cardinality(r.names) + cardinality(r.list_names))")} + (
        SELECT coalesce(sum({_text("f.name")} + f.name + {_bytes("f.value")} + f.value), 0)
        FROM (SELECT octet_length(u.n), octet_length(u.p) + 4 FROM unnest(r.names, r.payloads) AS u (n, p)) AS f (name, value)
    ) + (
        SELECT coalesce(sum({_text("l.name")} + l.name + {_bytes("l.value")} + l.value), 0)
        FROM (
            SELECT octet_length(u.n), (
                SELECT 7 + {_many("count(*)")} + coalesce(sum(
                    1 + {_int("e.q")} + {_int("e.version")} + {_int("get_byte(e.p, 2)")} + {_bytes("e.value")} + e.value
                ), 0)
                FROM (
                    SELECT x.q, x.p, get_byte(x.p, 0) + 256 * get_byte(x.p, 1), octet_length(x.p) - 3
                    FROM unnest(r.element_names, r.element_sequences, r.element_payloads) AS x (n, q, p) WHERE x.n = u.n
                ) AS e (q, p, version, value)
            ) FROM unnest(r.list_names) AS u (n)
        ) AS l (name, value)
    );
END
$$
"""

"""What the PostgreSQL stores keep in the database: one table, and one function for each verb that reads before it writes. Plain text,
no driver.

A session is one row. Its key names, their revisions and their packed values are three arrays side by side; of lists each element
is an entry of its own in three more, ordered by its sequence. So a commit changes what it names, whatever others have changed, and is
one statement and one round trip: a function that locks the row, checks every revision, and then writes. A function is alone with
its row while it runs, and locks no second one (`sweep` skips what others hold), so that no two can wait for each other.

`due` says when somebody has to look at the session, at the latest. It is the only indexed column beside the key: as in a timer wheel it
moves when it comes due, or sooner if the timeout gets shorter, and otherwise a commit need not touch the index. The time is always
the caller's, never the server's. Names are bytes, because text holds no NUL here.

A later version may add columns behind those that are there, each with a default: rows are read by place, and longer ones too.

The functions carry the number of the schema in their names: code of two versions works beside each other on one table, and
`create_schema` of a later one adds its functions to those that are there. How long a function waits for what another has locked is said
by its caller, who knows what is left of its deadline: what one process has made does not hold for the others.
"""

from __future__ import annotations

from typing import Final

from ..record import NO_TAG
from .postgres_size import MOST_EACH, SIZE

VERSION: Final = 5
"""Of the functions: 1 had one wait for everybody in them, 2 refused whatever was above a bound, and cleared for a renewal that was lost,
3 gave an overlap of no length a tag, and 4 claimed once a lease what nobody could clean up after."""

TABLE: Final = """
CREATE TABLE IF NOT EXISTS {s}.session (
    locator bytea PRIMARY KEY,
    digest bytea NOT NULL,
    tag bytea NOT NULL,
    address text,
    created float8 NOT NULL,
    used float8 NOT NULL,
    timeout float8 NOT NULL,
    granularity float8 NOT NULL,
    revision int8 NOT NULL,
    flags int4 NOT NULL,
    deadline float8,
    old_digest bytea,
    old_tag bytea,
    old_until float8,
    reason int2,
    ended float8,
    claimed float8,
    names bytea[] NOT NULL,
    revisions int8[] NOT NULL,
    payloads bytea[] NOT NULL,
    list_names bytea[] NOT NULL,
    list_revisions int8[] NOT NULL,
    element_names bytea[] NOT NULL,
    element_sequences int8[] NOT NULL,
    element_payloads bytea[] NOT NULL,
    due float8
) WITH (fillfactor = 70)
"""
"""The columns are those of `Record`; a `timeout` of infinity is none, and a `due` of NULL is never. Room is left in each page for the next
version of its rows."""

INDEX: Final = """
DO $$ BEGIN
    -- CREATE INDEX IF NOT EXISTS would lock the table first: wait for whatever writes or vacuums it, and all that writes behind it.
    IF to_regclass('{s}.session_due') IS NULL THEN
        CREATE INDEX session_due ON {s}.session (due) WHERE due IS NOT NULL;
    END IF;
END $$
"""

_PATH = "search_path = pg_catalog, pg_temp"
"""What a function of ours calls by its name alone is PostgreSQL's own, whatever others have made where the user's role looks first: a
function of theirs would run with the rights of that role (CVE-2018-1058). It holds in what a verb calls, and in what that calls."""
_RETURNS = "RETURNS TABLE (said text, much int8, r {s}.session) LANGUAGE plpgsql SET {path}"
_WAIT = "PERFORM set_config('lock_timeout', p_wait::text, true);"
"""At the head of a function that a verb calls: `p_wait` is in milliseconds, and holds until the transaction ends."""

FUNCTIONS: Final = (
    SIZE,
    """
CREATE OR REPLACE FUNCTION {s}.due_{v}(r {s}.session) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$
    SELECT least(r.used + r.timeout + r.granularity, coalesce(r.deadline, 'infinity'))
$$
""",
    """
CREATE OR REPLACE FUNCTION {s}.fits_{v}(r {s}.session, p_tag bytea, p_address text, p_any bool, p_now float8)
RETURNS bool LANGUAGE sql IMMUTABLE AS $$
    -- Equality of digests of random values; the manager decides, in constant time, who is let in.
    SELECT (r.tag = p_tag OR coalesce(p_now < r.old_until AND r.old_tag = p_tag AND p_tag <> {none}, false))
        AND (p_any OR coalesce(r.address = p_address, false))
        AND p_now < least(r.used + r.timeout + r.granularity, coalesce(r.deadline, 'infinity'))
$$
""",
    # The use of a session, as `changes.apply_touch` has it.
    """
CREATE OR REPLACE FUNCTION {s}.use_{v}(INOUT r {s}.session, p_timeout float8, p_granularity float8, p_now float8) LANGUAGE plpgsql AS $$
DECLARE next float8;
BEGIN
    r.flags := r.flags | 1;
    IF p_now - r.used < 0 OR p_now - r.used >= r.granularity THEN
        r.used := p_now;
        IF r.flags & 4 = 0 THEN
            r.timeout := p_timeout;
            r.granularity := p_granularity;
        END IF;
    END IF;
    next := {s}.due_{v}(r);
    IF next < coalesce(r.due, 'infinity') THEN r.due := next; END IF;
    UPDATE {s}.session SET used = r.used, timeout = r.timeout, granularity = r.granularity, flags = r.flags, due = r.due
        WHERE locator = r.locator;
END
$$
""",
    """
CREATE OR REPLACE FUNCTION {s}.open_{v}(
    p_locator bytea, p_tag bytea, p_address text, p_any bool, p_timeout float8, p_granularity float8, p_now float8, p_wait int4
) {returns} AS $$
DECLARE used_before float8;
BEGIN
    {wait}
    SELECT * INTO r FROM {s}.session s WHERE s.locator = p_locator AND s.reason IS NULL;
    IF NOT FOUND THEN RETURN; END IF;
    said := 'open';
    much := 0;
    IF p_tag IS NOT NULL AND (r.flags & 1 = 0 OR p_now - r.used < 0 OR p_now - r.used >= r.granularity)
        AND {s}.fits_{v}(r, p_tag, p_address, p_any, p_now) THEN
        SELECT * INTO r FROM {s}.session s WHERE s.locator = p_locator AND s.reason IS NULL FOR UPDATE;
        IF NOT FOUND THEN RETURN; END IF;
        -- Somebody may have come first, and have used it, renewed it, or moved it.
        IF (r.flags & 1 = 0 OR p_now - r.used < 0 OR p_now - r.used >= r.granularity)
            AND {s}.fits_{v}(r, p_tag, p_address, p_any, p_now) THEN
            used_before := r.used;
            r := {s}.use_{v}(r, p_timeout, p_granularity, p_now);
            much := CASE WHEN r.used = used_before THEN 0 ELSE 1 END;
        END IF;
    END IF;
    RETURN NEXT;
END
$$
""",
    """
CREATE OR REPLACE FUNCTION {s}.touch_{v}(
    p_locator bytea, p_digest bytea, p_timeout float8, p_granularity float8, p_now float8, p_wait int4
) RETURNS bool LANGUAGE plpgsql SET {path} AS $$
DECLARE r {s}.session;
BEGIN
    {wait}
    SELECT * INTO r FROM {s}.session s WHERE s.locator = p_locator AND s.reason IS NULL;
    -- Twice: a sweep passes over what is locked, so nothing is locked that is over.
    FOR locked IN 0 .. 1 LOOP
        IF NOT FOUND OR p_now >= {s}.due_{v}(r)
            OR NOT (r.digest = p_digest OR coalesce(p_now < r.old_until AND r.old_digest = p_digest AND r.old_tag <> {none}, false)) THEN
            RETURN false;
        END IF;
        EXIT WHEN r.flags & 1 = 1 AND p_now - r.used >= 0 AND p_now - r.used < r.granularity;
        IF locked = 0 THEN
            SELECT * INTO r FROM {s}.session s WHERE s.locator = p_locator AND s.reason IS NULL FOR UPDATE;
        ELSE
            PERFORM {s}.use_{v}(r, p_timeout, p_granularity, p_now);
        END IF;
    END LOOP;
    RETURN true;
END
$$
""",
    """
CREATE OR REPLACE FUNCTION {s}.commit_{v}(
    p_locator bytea, p_now float8, p_timeout float8, p_granularity float8, p_clear bool, p_use bool,
    p_persistent int4, p_own_timeout float8, p_own_granularity float8,
    p_expected bytea, p_digest bytea, p_tag bytea, p_address text, p_overlap float8,
    p_names bytea[], p_bases int8[], p_payloads bytea[],
    p_lists bytea[], p_removed_names bytea[], p_removed_sequences int8[],
    p_added_names bytea[], p_added_numbers int8[], p_added_payloads bytea[],
    p_whole_names bytea[], p_whole_sequences int8[], p_whole_payloads bytea[],
    p_max_bytes int8, p_max_keys int8, p_wait int4
) {returns} AS $$
DECLARE
    renewing bool := p_expected IS NOT NULL;
    hooks bool;
    stored {s}.session;
    place int;
    next float8;
    name bytea;
BEGIN
    {wait}
    SELECT * INTO r FROM {s}.session s WHERE s.locator = p_locator AND s.reason IS NULL FOR UPDATE;
    IF NOT FOUND OR p_now >= r.deadline THEN RETURN; END IF;
    much := 0;
    IF renewing AND p_expected <> r.digest THEN
        IF p_overlap = 0 THEN
            said := 'superseded';
            RETURN NEXT;
            RETURN;
        END IF;
        renewing := false;
        p_clear := false;
    END IF;
    FOR i IN 1 .. cardinality(p_names) LOOP
        IF p_bases[i] IS NOT NULL AND p_bases[i] <> coalesce(
            r.revisions[array_position(r.names, p_names[i])], r.list_revisions[array_position(r.list_names, p_names[i])], 0
        ) THEN
            said := 'conflict';
            RETURN NEXT;
            RETURN;
        END IF;
    END LOOP;

    stored := r;
    r.revision := r.revision + 1;
    hooks := r.flags & 2 <> 0;
    IF p_clear THEN
        r.names := '{{}}'; r.revisions := '{{}}'; r.payloads := '{{}}';
        r.list_names := '{{}}'; r.list_revisions := '{{}}';
        r.element_names := '{{}}'; r.element_sequences := '{{}}'; r.element_payloads := '{{}}';
    END IF;
    FOR i IN 1 .. cardinality(p_names) LOOP
        place := array_position(r.list_names, p_names[i]);
        IF place IS NOT NULL THEN
            -- A single value in the place of a list.
            r.list_names := r.list_names[:place - 1] || r.list_names[place + 1:];
            r.list_revisions := r.list_revisions[:place - 1] || r.list_revisions[place + 1:];
            SELECT coalesce(array_agg(e.n), '{{}}'), coalesce(array_agg(e.q), '{{}}'), coalesce(array_agg(e.p), '{{}}')
                INTO r.element_names, r.element_sequences, r.element_payloads
                FROM unnest(r.element_names, r.element_sequences, r.element_payloads) AS e (n, q, p) WHERE e.n <> p_names[i];
        END IF;
        place := array_position(r.names, p_names[i]);
        IF p_payloads[i] IS NULL THEN
            IF place IS NOT NULL THEN
                r.names := r.names[:place - 1] || r.names[place + 1:];
                r.revisions := r.revisions[:place - 1] || r.revisions[place + 1:];
                r.payloads := r.payloads[:place - 1] || r.payloads[place + 1:];
            END IF;
        ELSE
            hooks := hooks OR get_byte(p_payloads[i], 2) & 1 = 1;
            place := coalesce(place, cardinality(r.names) + 1);
            r.names[place] := p_names[i];
            r.revisions[place] := r.revision;
            r.payloads[place] := p_payloads[i];
        END IF;
    END LOOP;

    IF cardinality(p_lists) > 0 THEN
        SELECT coalesce(array_agg(u.n), '{{}}'), coalesce(array_agg(u.q), '{{}}'), coalesce(array_agg(u.p), '{{}}')
            INTO r.element_names, r.element_sequences, r.element_payloads
            FROM (
                SELECT e.n, e.q, e.p FROM unnest(r.element_names, r.element_sequences, r.element_payloads) AS e (n, q, p)
                    WHERE NOT EXISTS (
                        SELECT 1 FROM unnest(p_removed_names, p_removed_sequences) AS d (n, q) WHERE d.n = e.n AND d.q = e.q
                    )
                UNION ALL
                -- Numbers count from the front (0, 1, ...) or from the back (-1, -2, ...), and sequences begin anew at each revision.
                SELECT a.n, CASE WHEN a.k < 0 THEN a.k + 1 - (r.revision << 20) ELSE a.k + (r.revision << 20) END, a.p
                    FROM unnest(p_added_names, p_added_numbers, p_added_payloads) AS a (n, k, p)
                UNION ALL
                SELECT w.n, w.q, w.p FROM unnest(p_whole_names, p_whole_sequences, p_whole_payloads) AS w (n, q, p)
            ) u;
        FOREACH name IN ARRAY p_lists LOOP
            place := array_position(r.names, name);
            IF place IS NOT NULL THEN
                -- What is no list counts as absent, and a list in its place replaces it.
                r.names := r.names[:place - 1] || r.names[place + 1:];
                r.revisions := r.revisions[:place - 1] || r.revisions[place + 1:];
                r.payloads := r.payloads[:place - 1] || r.payloads[place + 1:];
            END IF;
            place := array_position(r.list_names, name);
            IF name = ANY (r.element_names) THEN
                place := coalesce(place, cardinality(r.list_names) + 1);
                r.list_names[place] := name;
                r.list_revisions[place] := r.revision;
            ELSIF place IS NOT NULL THEN
                r.list_names := r.list_names[:place - 1] || r.list_names[place + 1:];
                r.list_revisions := r.list_revisions[:place - 1] || r.list_revisions[place + 1:];
            END IF;
        END LOOP;
    END IF;
    -- Only what grows is too large: see limits.py.
    much := cardinality(r.names) + cardinality(r.list_names);
    IF much > p_max_keys AND much > cardinality(stored.names) + cardinality(stored.list_names) THEN
        said := 'keys';
        RETURN NEXT;
        RETURN;
    END IF;
    much := {each} + (
        SELECT coalesce(sum(octet_length(f.n) + octet_length(f.p) + {each}), 0) FROM unnest(r.names, r.payloads) AS f (n, p)
    ) + (
        SELECT coalesce(sum(octet_length(e.n) + {each}), 0) FROM unnest(r.list_names) AS e (n)
    ) + (
        SELECT coalesce(sum(octet_length(e.p) + {each}), 0) FROM unnest(r.element_payloads) AS e (p)
    );
    IF much > p_max_bytes THEN
        much := {s}.size_{v}(r);
        IF much > p_max_bytes AND much > {s}.size_{v}(stored) THEN
            said := 'bytes';
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;
    much := 0;
    IF hooks THEN
        r.flags := r.flags & ~2 | CASE WHEN EXISTS (
            SELECT 1 FROM unnest(r.payloads) AS f (p) WHERE get_byte(f.p, 2) & 1 = 1
        ) THEN 2 ELSE 0 END;
    END IF;

    IF p_use AND NOT (p_now - r.used >= 0 AND p_now - r.used < r.granularity) THEN
        r.used := p_now;
        much := 1;
        IF r.flags & 4 = 0 THEN
            r.timeout := p_timeout;
            r.granularity := p_granularity;
        END IF;
    END IF;
    IF p_persistent IS NOT NULL THEN
        r.flags := r.flags & ~48 | p_persistent;
    END IF;
    IF renewing THEN
        r.old_digest := r.digest; r.old_until := p_now + p_overlap;
        r.old_tag := CASE WHEN p_overlap = 0 THEN {none} ELSE r.tag END;
        r.digest := p_digest; r.tag := p_tag; r.address := p_address;
    END IF;
    IF p_own_timeout IS NOT NULL THEN
        r.timeout := p_own_timeout;
        r.granularity := p_own_granularity;
        r.used := p_now;
        r.flags := r.flags | 4;
    END IF;
    next := {s}.due_{v}(r);
    IF next < coalesce(r.due, 'infinity') THEN r.due := next; END IF;
    UPDATE {s}.session SET
        digest = r.digest, tag = r.tag, address = r.address, used = r.used, timeout = r.timeout, granularity = r.granularity,
        revision = r.revision, flags = r.flags, old_digest = r.old_digest, old_tag = r.old_tag, old_until = r.old_until,
        names = r.names, revisions = r.revisions, payloads = r.payloads,
        list_names = r.list_names, list_revisions = r.list_revisions,
        element_names = r.element_names, element_sequences = r.element_sequences, element_payloads = r.element_payloads,
        due = r.due
        WHERE locator = p_locator;
    said := 'committed';
    RETURN NEXT;
END
$$
""",
    # End a row that its caller has locked: with hooked values it is kept, claimed, and otherwise removed.
    """
CREATE OR REPLACE FUNCTION {s}.finish_{v}(INOUT r {s}.session, p_reason int2, p_now float8, p_lease float8) LANGUAGE plpgsql AS $$
BEGIN
    r.reason := p_reason;
    r.ended := p_now;
    r.claimed := p_now + p_lease;
    IF r.flags & 2 = 0 THEN
        DELETE FROM {s}.session WHERE locator = r.locator;
    ELSE
        UPDATE {s}.session SET reason = r.reason, ended = r.ended, claimed = r.claimed, due = r.claimed WHERE locator = r.locator;
    END IF;
END
$$
""",
    """
CREATE OR REPLACE FUNCTION {s}.end_{v}(p_locator bytea, p_reason int2, p_now float8, p_lease float8, p_wait int4) {returns} AS $$
BEGIN
    {wait}
    SELECT * INTO r FROM {s}.session s WHERE s.locator = p_locator AND s.reason IS NULL FOR UPDATE;
    IF NOT FOUND THEN RETURN; END IF;
    r := {s}.finish_{v}(r, p_reason, p_now, p_lease);
    said := 'ended';
    RETURN NEXT;
END
$$
""",
    """
CREATE OR REPLACE FUNCTION {s}.sweep_{v}(p_now float8, p_limit int8, p_lease float8, p_grace float8, p_wait int4) {returns} AS $$
DECLARE looked int8 := 0;
BEGIN
    {wait}
    FOR r IN SELECT * FROM {s}.session s WHERE s.due <= p_now ORDER BY s.due LIMIT p_limit + 1 FOR UPDATE SKIP LOCKED LOOP
        looked := looked + 1;
        IF looked > p_limit THEN
            said := 'more';
            RETURN NEXT;
            RETURN;
        END IF;
        said := 'swept';
        IF r.reason IS NULL THEN
            IF p_now < {s}.due_{v}(r) THEN
                UPDATE {s}.session s SET due = nullif({s}.due_{v}(r), 'infinity') WHERE s.locator = r.locator;
                CONTINUE;
            END IF;
            r := {s}.finish_{v}(r, CASE WHEN {s}.due_{v}(r) = r.deadline THEN 2 ELSE 1 END::int2, p_now, p_lease);
        ELSIF r.flags & 2 = 0 OR p_now >= r.ended + p_grace THEN
            DELETE FROM {s}.session s WHERE s.locator = r.locator;
        ELSIF r.claimed <= p_now THEN
            -- as in `Ending.claimed_again`
            r.claimed := greatest(p_now + p_lease, least(p_now + (p_now - r.ended) / 8, r.ended + p_grace));
            UPDATE {s}.session s SET claimed = r.claimed, due = r.claimed WHERE s.locator = r.locator;
        ELSE
            UPDATE {s}.session s SET due = r.claimed WHERE s.locator = r.locator;
            CONTINUE;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$
""",
    """
CREATE OR REPLACE FUNCTION {s}.clear_{v}(p_locator bytea, p_names bytea[], p_wait int4) RETURNS void LANGUAGE plpgsql SET {path} AS $$
DECLARE
    r {s}.session;
    hooked bool := false;
BEGIN
    {wait}
    SELECT * INTO r FROM {s}.session s WHERE s.locator = p_locator AND s.reason IS NOT NULL FOR UPDATE;
    IF NOT FOUND THEN RETURN; END IF;
    IF p_names IS NOT NULL THEN
        SELECT coalesce(array_agg(f.n ORDER BY f.o), '{{}}'), coalesce(array_agg(f.v ORDER BY f.o), '{{}}'),
            coalesce(array_agg(f.p ORDER BY f.o), '{{}}'), coalesce(bool_or(get_byte(f.p, 2) & 1 = 1), false)
            INTO r.names, r.revisions, r.payloads, hooked
            FROM unnest(r.names, r.revisions, r.payloads) WITH ORDINALITY AS f (n, v, p, o) WHERE f.n <> ALL (p_names);
        SELECT coalesce(array_agg(l.n ORDER BY l.o), '{{}}'), coalesce(array_agg(l.v ORDER BY l.o), '{{}}')
            INTO r.list_names, r.list_revisions
            FROM unnest(r.list_names, r.list_revisions) WITH ORDINALITY AS l (n, v, o) WHERE l.n <> ALL (p_names);
        SELECT coalesce(array_agg(e.n), '{{}}'), coalesce(array_agg(e.q), '{{}}'), coalesce(array_agg(e.p), '{{}}')
            INTO r.element_names, r.element_sequences, r.element_payloads
            FROM unnest(r.element_names, r.element_sequences, r.element_payloads) AS e (n, q, p) WHERE e.n <> ALL (p_names);
    END IF;
    IF NOT hooked THEN
        DELETE FROM {s}.session WHERE locator = p_locator;
    ELSE
        UPDATE {s}.session SET
            names = r.names, revisions = r.revisions, payloads = r.payloads,
            list_names = r.list_names, list_revisions = r.list_revisions,
            element_names = r.element_names, element_sequences = r.element_sequences, element_payloads = r.element_payloads
            WHERE locator = p_locator;
    END IF;
END
$$
""",
)


def _call(function: str, *types: str, returns_session: bool = True) -> str:
    # With casts: a parameter that is None or an empty list does not say what it is. The last one is the wait for a lock.
    call = f"{{s}}.{function}_{{v}}({', '.join(f'%s::{kind}' for kind in (*types, 'int4'))})"
    return f"SELECT f.said, f.much, (f.r).* FROM {call} f" if returns_session else f"SELECT {call}"


CREATE: Final = f"""
INSERT INTO {{s}}.session VALUES ({", ".join(["%s"] * 14)}, NULL, NULL, NULL, {", ".join(["%s"] * 9)})
ON CONFLICT DO NOTHING RETURNING true
"""
OPEN: Final = _call("open", "bytea", "bytea", "text", "bool", "float8", "float8", "float8")
TOUCH: Final = _call("touch", "bytea", "bytea", "float8", "float8", "float8", returns_session=False)
COMMIT: Final = _call(
    "commit",
    *("bytea", "float8", "float8", "float8", "bool", "bool", "int4", "float8", "float8"),
    *("bytea", "bytea", "bytea", "text", "float8"),
    *("bytea[]", "int8[]", "bytea[]"),
    *("bytea[]", "bytea[]", "int8[]", "bytea[]", "int8[]", "bytea[]", "bytea[]", "int8[]", "bytea[]"),
    *("int8", "int8"),
)
END: Final = _call("end", "bytea", "int2", "float8", "float8")
SWEEP: Final = _call("sweep", "float8", "int8", "float8", "float8")
CLEAR: Final = _call("clear", "bytea", "bytea[]", returns_session=False)
SCAN: Final = "SELECT 'live', 0, s.* FROM {s}.session s WHERE s.locator > %s AND s.reason IS NULL ORDER BY s.locator LIMIT %s"


def filled(sql: str, schema: str) -> str:
    """A text of this module for one schema."""
    given = {"s": f'"{schema}"', "v": VERSION, "path": _PATH, "wait": _WAIT, "each": MOST_EACH, "none": f"decode('{NO_TAG.hex()}', 'hex')"}
    return sql.format(**given, returns=_RETURNS.format(**given))


def schema_sql(schema: str) -> str:
    """Everything that the stores need in the database, as one transaction; running it again changes nothing. What an earlier version has
    made stays, and works on."""
    parts = [
        "BEGIN ISOLATION LEVEL READ COMMITTED",
        f"SET LOCAL {_PATH}",
        # Two processes that start at once: CREATE ... IF NOT EXISTS is not safe against itself.
        "SELECT pg_advisory_xact_lock(hashtextextended('typed_sessions', 0))",
        f'CREATE SCHEMA IF NOT EXISTS "{schema}"',
        *(filled(statement, schema).strip() for statement in (TABLE, INDEX, *FUNCTIONS)),
        "COMMIT",
    ]
    return "".join(f"{part};\n" for part in parts)

"""Server-side HTTP sessions with typed keys: what you put into a session is what you get out of it, to a type checker and at run time.

Declare each value where modules are loaded, `visits = Key("visits", int)`. Make one manager, `sessions = SessionManager()`, or an
`AsyncSessionManager` for asyncio; give it a store to outlive the process: `SQLiteStore(path)`, `RedisStore(url)`, `PostgresStore(url)`,
or what `open_store(url)` opens.

Put a filter of `typed_sessions.filters` around the application. Inside, `current_session()` is the request's session: `session[visits]`,
`session.get(visits)`, `session.update(visits, lambda n: n + 1, default=0)`; `session.renew()` at sign-in, `session.end()` at sign-out.
A server of your own calls `sessions.start_check(request)`. What tests of an application need is in `typed_sessions.testing`.
"""

from typing import TYPE_CHECKING

from .address import AddressPolicy
from .aio import AsyncSessionManager
from .clients import Client
from .cookies import SetCookie
from .errors import (
    COMMIT_FAILURES,
    CommitFailure,
    Conflict,
    DuplicateKeyError,
    Headers,
    HeadersSent,
    KeyTypeError,
    NoPeerAddress,
    NoSession,
    NotOpened,
    PolicyError,
    Rejected,
    RejectedReason,
    SessionClosed,
    SessionEnded,
    SessionError,
    SnapshotDamaged,
    StoreFull,
    StoreUnavailable,
    TooLarge,
)
from .events import AddressMismatch, Begin, CommitRefused, End, Event, LostUpdate, ReusedOldId, ValueRefused
from .exchange import Request
from .finish import AsyncFinish, Finish
from .keys import AnyKey, Key, KeyView, ListKey
from .manager import SessionManager
from .options import SessionOptions
from .policy import CookiePolicy
from .record import EndReason
from .refusals import redirect
from .sealing import SealingKeys
from .session import Create, Error, Session, SessionList, SessionView, current_session
from .stores.base import AsyncStore, Store
from .stores.memory import MemoryStore
from .stores.sqlite import SQLiteStore
from .upgrades import Downgrade, Upgrades
from .urls import open_async_store, open_store, store_by_name

if TYPE_CHECKING:
    from .stores.postgres import AsyncPostgresStore as AsyncPostgresStore
    from .stores.postgres import PostgresStore as PostgresStore
    from .stores.redis import AsyncRedisStore as AsyncRedisStore
    from .stores.redis import RedisStore as RedisStore
else:
    # Their drivers are extras: each is imported by whoever asks for its store. Not in `__all__`, for a * asks for everything.
    __getattr__ = store_by_name

__all__ = [
    "COMMIT_FAILURES",
    "AddressMismatch",
    "AddressPolicy",
    "AnyKey",
    "AsyncFinish",
    "AsyncSessionManager",
    "AsyncStore",
    "Begin",
    "Client",
    "CommitFailure",
    "CommitRefused",
    "Conflict",
    "CookiePolicy",
    "Create",
    "Downgrade",
    "DuplicateKeyError",
    "End",
    "EndReason",
    "Error",
    "Event",
    "Finish",
    "Headers",
    "HeadersSent",
    "Key",
    "KeyTypeError",
    "KeyView",
    "ListKey",
    "LostUpdate",
    "MemoryStore",
    "NoPeerAddress",
    "NoSession",
    "NotOpened",
    "PolicyError",
    "Rejected",
    "RejectedReason",
    "Request",
    "ReusedOldId",
    "SQLiteStore",
    "SealingKeys",
    "Session",
    "SessionClosed",
    "SessionEnded",
    "SessionError",
    "SessionList",
    "SessionManager",
    "SessionOptions",
    "SessionView",
    "SetCookie",
    "SnapshotDamaged",
    "Store",
    "StoreFull",
    "StoreUnavailable",
    "TooLarge",
    "Upgrades",
    "ValueRefused",
    "current_session",
    "open_async_store",
    "open_store",
    "redirect",
]

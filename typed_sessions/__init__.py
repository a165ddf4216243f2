"""Server-side HTTP sessions with typed keys. The names below are the public ones; see the README for how they go together."""

from .address import AddressPolicy
from .aio import AsyncFinish, AsyncSessionManager
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
    SessionClosed,
    SessionEnded,
    SessionError,
    SnapshotDamaged,
    StoreFull,
    StoreUnavailable,
    TooLarge,
)
from .events import AddressMismatch, Begin, CommitRefused, End, Event, LostUpdate, ReusedOldId, ValueRefused
from .exchange import Request, redirect
from .keys import AnyKey, Key, KeyView, ListKey
from .manager import Finish, SessionManager
from .options import SessionOptions
from .policy import CookiePolicy
from .sealing import SealingKeys
from .session import Create, Error, Session, SessionList, SessionView, current_session
from .stores.base import AsyncStore, Store
from .stores.memory import MemoryStore
from .stores.sqlite import SQLiteStore
from .upgrades import Downgrade, Upgrades
from .urls import open_async_store, open_store

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

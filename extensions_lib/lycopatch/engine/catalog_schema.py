"""The tables of the catalog on disk. They hold nothing that can not be read from the networks again.

``files``: one row for each network; ``search``: the text that searches look at; ``file_tags``: for filters;
``details``: what is wanted for one network at a time; ``seen``, temporary and per connection: which files are in the
folders of this catalog (others may be another program's).
"""

from __future__ import annotations

import sqlite3

SCHEMA = 1
"""Grows with every change of the tables. An older database is made again, a newer one is left to its program."""

MARK = 0x4C79636F
"""``application_id`` of our databases: "Lyco"."""

_TABLES = """
CREATE TABLE files (
    id INTEGER PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,      -- a BLOB where the name is no valid Unicode; see path_of()
    folder TEXT NOT NULL,           -- label and folders below it: "Lora/styles"
    stem TEXT NOT NULL,             -- printable
    relative TEXT NOT NULL,         -- printable; below the folder, without extension
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    beside TEXT NOT NULL,           -- state of side-cars and previews; empty: there are none
    added REAL NOT NULL,            -- when it was first seen, Unix seconds
    identity TEXT NOT NULL,         -- 16 hexadecimal digits; see catalog_identity.py
    listed TEXT NOT NULL,           -- all that the scan of the folders said, to compare
    read_at REAL,                   -- when the facts below were read; NULL: not yet, or not since the file changed
    alias TEXT,
    alias_folded TEXT,
    stated_hashes TEXT NOT NULL DEFAULT '[]',   -- JSON: what the header claims
    sha256 TEXT, autov3 TEXT, autov1 TEXT,      -- computed; NULL when the file changed since
    error TEXT,                     -- the sentence that says why it can not be used
    problem TEXT,                   -- damaged, truncated, empty, too large header, downloading, not a network, pickle
    kind TEXT,                      -- algorithm of most layers: lora, loha, lokr, dylora …; dora when most have it
    label TEXT,                     -- "LoRA r32", "LoKr f8", "(IA)³"
    rank INTEGER,
    family TEXT, family_title TEXT, confidence REAL,
    families TEXT,                  -- every family that it fits: "|sd1|sd2|"
    variant TEXT,                   -- pony, illustrious, noobai
    parts TEXT,                     -- "unet", "te", "unet+te"
    layers INTEGER, keys INTEGER,
    trigger TEXT,
    tags TEXT NOT NULL DEFAULT '[]',            -- JSON: [[tag, count], …], the 20 most frequent
    weight REAL,                    -- what the user prefers
    title TEXT,
    preview TEXT, preview_kind TEXT -- path (as above) and "image" or "video"
);
CREATE INDEX files_identity ON files (identity);
CREATE INDEX files_alias ON files (alias);
CREATE INDEX files_alias_folded ON files (alias_folded);
CREATE INDEX files_unread ON files (id) WHERE read_at IS NULL;
CREATE INDEX files_failed ON files (id) WHERE error IS NOT NULL;
CREATE TABLE file_tags (tag TEXT NOT NULL, file_id INTEGER NOT NULL, PRIMARY KEY (tag, file_id)) WITHOUT ROWID;
CREATE INDEX file_tags_file ON file_tags (file_id);
CREATE TABLE details (file_id INTEGER PRIMARY KEY, metadata BLOB NOT NULL);  -- JSON, compressed with zlib
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

_SEARCH = "CREATE VIRTUAL TABLE search USING fts5 (text, tokenize = 'trigram', detail = 'none')"
# ``text LIKE '%word%'`` uses the trigrams where it can (words of three letters or more, no ESCAPE, or GLOB), and reads
# the text where it can not. The same question works on the plain table.
_PLAIN_SEARCH = "CREATE TABLE search (rowid INTEGER PRIMARY KEY, text TEXT NOT NULL)"

OF_ONE_FILE = ("search", "rowid"), ("file_tags", "file_id"), ("details", "file_id"), ("files", "id")
"""Table and column of everything that goes when a file goes."""


def create(connection: sqlite3.Connection) -> None:
    """Make the tables in an empty database, within the caller's transaction."""
    for statement in filter(str.strip, _without_comments(_TABLES).split(";")):
        connection.execute(statement)
    try:
        connection.execute(_SEARCH)
    except sqlite3.OperationalError:  # an SQLite without FTS5, or older than its trigrams (3.34)
        connection.execute(_PLAIN_SEARCH)
    connection.execute(f"PRAGMA application_id = {MARK}")
    connection.execute(f"PRAGMA user_version = {SCHEMA}")


def drop_all(connection: sqlite3.Connection) -> None:
    """Take every table out of a database, within the caller's transaction."""
    names = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL%'"
    plain = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    for question in (names, plain):  # virtual tables first: they take their own tables with them
        for (name,) in connection.execute(question).fetchall():
            connection.execute(f'DROP TABLE IF EXISTS "{name}"')


def stored_path(path: str) -> str | bytes:
    """A path as it is stored: a text, or bytes where it holds what is no character (names of other encodings)."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return path.encode("utf-8", "surrogatepass")
    return path


def path_of(stored: str | bytes) -> str:
    """The path that was stored."""
    return stored.decode("utf-8", "surrogatepass") if isinstance(stored, bytes) else stored


def _without_comments(statements: str) -> str:
    return "\n".join(line.partition("--")[0] for line in statements.splitlines())

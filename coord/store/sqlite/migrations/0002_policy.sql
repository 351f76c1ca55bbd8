CREATE TABLE policies (
    number     INTEGER PRIMARY KEY AUTOINCREMENT,
    text       BLOB NOT NULL,
    author     TEXT NOT NULL,
    reason     TEXT NOT NULL,
    at         INTEGER NOT NULL,
    state      TEXT NOT NULL,           -- active, pending, replaced, rolled back
    confirm_by INTEGER NOT NULL         -- while it is pending
) STRICT;

CREATE UNIQUE INDEX policies_in_force ON policies (state) WHERE state IN ('active', 'pending');

CREATE INDEX changes_audience ON changes (audience, revision);

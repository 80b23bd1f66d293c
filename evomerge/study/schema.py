"""The tables of a study's database, as numbered migrations.

Migration k brings a database from version k - 1 to k; `evomerge.study.database` runs each in one
transaction together with its number. A migration, once released, is never edited.
"""

from __future__ import annotations

APPLICATION_ID = 0x65766D67
"""``evmg`` in the header of the SQLite file: what tells a study from any other database."""

READABLE_BY = 1
"""The oldest version of the schema whose readers understand what this version writes."""

RACES = 3
"""The version that brought races and controls.

Earlier readers would take a stopped trial for a whole one, and show a control's on the front.
"""

_FIRST = """
-- What was fixed when the study was created (charter: JSON), and the campaign as last opened.
CREATE TABLE study (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    readable_by INTEGER NOT NULL,
    charter TEXT NOT NULL,
    campaign TEXT NOT NULL,
    source TEXT NOT NULL,
    reference BLOB
);
-- The files that decide results; changed ones are refused at resume.
CREATE TABLE inputs (
    role TEXT NOT NULL,
    file TEXT NOT NULL,
    size INTEGER NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (role, file)
);
-- Parameter names, stored once for all the candidates that share them.
CREATE TABLE names (
    id INTEGER PRIMARY KEY,
    names TEXT NOT NULL UNIQUE
);
-- Never changed after the ask. numbers: float64, as many as names; point: float64, (d,) or NULL.
CREATE TABLE candidates (
    number INTEGER PRIMARY KEY,
    origin TEXT NOT NULL,
    method TEXT NOT NULL,
    names INTEGER NOT NULL REFERENCES names (id),
    numbers BLOB NOT NULL,
    point BLOB,
    own INTEGER NOT NULL,
    note TEXT NOT NULL
);
-- Where each stands. Apart from the candidates, so that a change of state rewrites 20 bytes.
CREATE TABLE trials (
    number INTEGER PRIMARY KEY REFERENCES candidates (number),
    state TEXT NOT NULL CHECK (state IN ('pending', 'running', 'done', 'failed')),
    visible_from INTEGER,
    reason TEXT
);
CREATE INDEX trials_unseen ON trials (number) WHERE visible_from IS NULL;
CREATE INDEX trials_open ON trials (number) WHERE state IN ('pending', 'running');
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    trial INTEGER NOT NULL REFERENCES candidates (number),
    splits TEXT NOT NULL,
    worker TEXT NOT NULL,
    token TEXT NOT NULL,
    started REAL NOT NULL,
    ended REAL,
    outcome TEXT,
    seconds REAL,
    reason TEXT
);
CREATE INDEX attempts_of_trial ON attempts (trial);
CREATE INDEX attempts_running ON attempts (id) WHERE outcome IS NULL;
-- One value of one goal on one split; its items' scores lie in `scores`.
CREATE TABLE results (
    trial INTEGER NOT NULL REFERENCES candidates (number),
    split TEXT NOT NULL,
    metric TEXT NOT NULL,
    mean REAL NOT NULL,
    standard_error REAL,
    items INTEGER NOT NULL,
    attempt INTEGER REFERENCES attempts (id),
    PRIMARY KEY (trial, split, metric)
) WITHOUT ROWID;
-- float64, little-endian, in the order of the items asked.
CREATE TABLE scores (
    trial INTEGER NOT NULL,
    split TEXT NOT NULL,
    metric TEXT NOT NULL,
    items BLOB NOT NULL,
    margins BLOB,
    PRIMARY KEY (trial, split, metric)
);
-- What the study has cost, by kind, for each time that it was opened.
CREATE TABLE spend (
    session INTEGER NOT NULL,
    kind TEXT NOT NULL,
    amount REAL NOT NULL,
    PRIMARY KEY (session, kind)
);
-- Result files that a repair found and whose trial is still to be asked again.
CREATE TABLE salvage (
    attempt INTEGER PRIMARY KEY,
    trial INTEGER NOT NULL
);
CREATE INDEX salvage_of_trial ON salvage (trial);
-- Everything that happened, in order; only ever appended to.
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    trial INTEGER,
    attempt INTEGER,
    data TEXT
);
"""

_COSTS = """
-- What attempts have cost at endpoints, by kind: requests, tokens, money; attempt 0 is the
-- self-tests. Sums, copied from the file of endpoints: written again they change nothing.
CREATE TABLE costs (
    attempt INTEGER NOT NULL,
    kind TEXT NOT NULL,
    amount REAL NOT NULL,
    PRIMARY KEY (attempt, kind)
) WITHOUT ROWID;
"""

_RACES = """
-- The search items of raced trials, stage by stage. places: int32, little-endian, among the split's
-- items, fixed when the first stage begins; items and margins as in `scores`, NULL until measured.
CREATE TABLE stages (
    trial INTEGER NOT NULL REFERENCES candidates (number),
    stage INTEGER NOT NULL,
    metric TEXT NOT NULL,
    places BLOB NOT NULL,
    items BLOB,
    margins BLOB,
    attempt INTEGER REFERENCES attempts (id),
    PRIMARY KEY (trial, stage, metric)
);
-- Of a trial that was stopped before its last stage: its chance of entering the front. Its
-- results are estimates over all items, their `items` those measured, and no `scores` are there.
ALTER TABLE trials ADD COLUMN chance REAL;
"""

MIGRATIONS: tuple[str, ...] = (_FIRST, _COSTS, _RACES)
"""Migration k is at index k - 1; the schema's version is their count."""

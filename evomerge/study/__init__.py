"""The study: its database, its loop, its workers."""

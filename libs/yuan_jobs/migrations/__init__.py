"""The registry's schema as a series of steps (Alembic), run when a registry is opened.

`REVISIONS` repeats the order of the files in `versions/`, so that opening an up-to-date registry need not load
Alembic; a test keeps the two equal.
"""

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
HEAD = REVISIONS[-1]

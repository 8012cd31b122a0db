"""What only SQLite needs of whoever opens a database of it."""

import sqlite3
import time

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

SQLITE = "sqlite:///"
BUSY_TIMEOUT_S = 30.0


def use_write_ahead_log(engine: Engine) -> None:
    """Lets readers and one writer work side by side. The mode is kept in the file.

    SQLite does not wait (busy_timeout) for others when it changes the mode, so this does.

    Raises:
        DBAPIError: if the file is no database, or stays locked.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        connection = engine.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode")
            if cursor.fetchone() != ("wal",):
                cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise DBAPIError("PRAGMA journal_mode", None, error) from error
            time.sleep(0.02)
        except sqlite3.DatabaseError as error:
            raise DBAPIError("PRAGMA journal_mode", None, error) from error
        finally:
            connection.close()

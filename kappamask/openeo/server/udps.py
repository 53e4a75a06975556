"""User-defined processes that clients stored. Row 6."""

from __future__ import annotations

import json
import re
from typing import Any

from kappamask.openeo.server.database import Database
from kappamask.openeo.server.faults import ApiError

_NAME = re.compile(r"\w{1,255}", re.ASCII)


class ProcessStore:
    """The stored processes of one server.

    Parameters
    ----------
    database
        Where they are kept.
    most
        How many.
    """

    def __init__(self, database: Database, *, most: int) -> None:
        self._database = database
        self._most = most

    def put(self, identifier: str, content: dict[str, Any]) -> None:
        """Store or replace a process.

        Raises
        ------
        ApiError
            ProcessInvalid for a bad name, StorageQuotaExceeded.
        """
        if not _NAME.fullmatch(identifier):
            raise ApiError(
                "ProcessInvalid",
                "a process id is 1 to 255 letters, digits or underscores, got "
                f"{identifier[:80]!r}: rename it",
            )
        with self._database.changing() as database:
            if identifier not in self.all():
                self._database.check_count("processes", self._most)
            database.execute(
                "INSERT OR REPLACE INTO processes VALUES (?, ?)",
                [identifier, json.dumps({**content, "id": identifier})],
            )

    def all(self) -> dict[str, dict[str, Any]]:
        """Give every process by id."""
        rows = self._database.read("SELECT id, content FROM processes ORDER BY id")
        return {identifier: json.loads(content) for identifier, content in rows}

    def get(self, identifier: str) -> dict[str, Any]:
        """Find a process.

        Raises
        ------
        ApiError
            ProcessGraphNotFound.
        """
        try:
            return self.all()[identifier]
        except KeyError:
            raise ApiError(
                "ProcessGraphNotFound",
                f"the user-defined process {identifier[:80]!r} does not exist",
            ) from None

    def delete(self, identifier: str) -> None:
        """Forget a process.

        Raises
        ------
        ApiError
            ProcessGraphNotFound.
        """
        self.get(identifier)
        with self._database.changing() as database:
            database.execute("DELETE FROM processes WHERE id = ?", [identifier])

"""openEO error documents: code, HTTP status and message of what can go wrong. Row 6."""

from __future__ import annotations

import re
from typing import Any

from kappamask.base.errors import (
    InputError,
    ItemError,
    KappaMaskError,
    NoItemsError,
    UnknownNameError,
    redact,
)

# https://github.com/Open-EO/openeo-api/blob/master/errors.json, and below the line our own
STATUS = {
    "AuthenticationRequired": 401,
    "AuthenticationSchemeInvalid": 403,
    "CollectionNotFound": 404,
    "ContentTypeInvalid": 400,
    "CredentialsInvalid": 403,
    "FileNotFound": 404,
    "Internal": 500,
    "JobLocked": 400,
    "JobNotFinished": 400,
    "JobNotFound": 404,
    "JobNotStarted": 400,
    "NotFound": 404,
    "PermissionsInsufficient": 403,
    "PredefinedProcessExists": 400,
    "ProcessGraphInvalid": 400,
    "ProcessGraphMissing": 400,
    "ProcessGraphNotFound": 404,
    "ProcessInvalid": 400,
    "ProcessParameterInvalid": 400,
    "RequestTimeout": 408,
    "StorageQuotaExceeded": 400,
    "TokenInvalid": 403,
    # ---
    "MethodNotAllowed": 405,
    "NoDataAvailable": 400,
    "RequestInvalid": 400,
    "RequestTooLarge": 413,
    "ResultTooLarge": 400,
    "ServerBusy": 503,
    "TooManyRequests": 429,
}
_CODES: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((NoItemsError,), "NoDataAvailable"),
    ((InputError, UnknownNameError, ItemError), "ProcessParameterInvalid"),
    ((RecursionError,), "ProcessGraphInvalid"),  # nested too deeply
)
LONGEST = 4000  # characters of a message: an exception of a client's code may hold an array
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9]{2,63}")


class ApiError(KappaMaskError):
    """An answer other than success, as the openEO API words it.

    Parameters
    ----------
    code
        Of the openEO error list, or one of our own.
    message
        What the client shows: rule, what was got, remedy.
    status
        HTTP status; None: the one of the table, 400 for unknown codes.
    retry_after
        Seconds after which the same request may succeed.

    Examples
    --------
    >>> error = ApiError("JobNotFound", "there is no batch job 'x'")
    >>> error.status, error.document()
    (404, {'code': 'JobNotFound', 'message': "there is no batch job 'x'"})
    """

    def __init__(
        self, code: str, message: str, *, status: int | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = STATUS.get(code, 400) if status is None else status
        self.retry_after = retry_after

    def document(self) -> dict[str, Any]:
        """Give the JSON body of the answer."""
        return {"code": self.code, "message": redact(str(self))[:LONGEST]}

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to the status."""
        if self.retry_after is not None:
            return {"Retry-After": str(self.retry_after)}
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}


def of_exception(error: BaseException) -> ApiError:
    """Word any exception of an engine as an openEO error.

    Examples
    --------
    >>> of_exception(NoItemsError("nothing found")).code
    'NoDataAvailable'
    >>> print(of_exception(ZeroDivisionError("division by zero")))
    Server error: ZeroDivisionError: division by zero
    """
    if isinstance(error, ApiError):
        return error
    code = getattr(error, "code", None)
    if isinstance(code, str) and _CODE.fullmatch(code):
        return ApiError(code, str(error))
    for kinds, code in _CODES:
        if isinstance(error, kinds):
            return ApiError(code, str(error))
    told = str(error) if isinstance(error, KappaMaskError) else f"{type(error).__name__}: {error}"
    return ApiError("Internal", f"Server error: {told}")

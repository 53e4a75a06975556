"""Every answer other than success, as the openEO API words it. May import `base`."""

from __future__ import annotations

import logging
import re
import uuid
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from kappamask.base.errors import (
    InputError,
    ItemError,
    KappaMaskError,
    NoItemsError,
    UnknownNameError,
    redact,
)

LOG = logging.getLogger(__name__)
# Of https://github.com/Open-EO/openeo-api/blob/master/errors.json, and some of our own; 400 for
# all that do not stand here.
STATUS = {
    "AuthenticationRequired": 401,
    "AuthenticationSchemeInvalid": 403,
    "CredentialsInvalid": 403,
    "PermissionsInsufficient": 403,
    "TokenInvalid": 403,
    "CollectionNotFound": 404,
    "FileNotFound": 404,
    "JobNotFound": 404,
    "NotFound": 404,
    "ProcessGraphNotFound": 404,
    "MethodNotAllowed": 405,
    "RequestTimeout": 408,
    "ResultLinkExpired": 410,
    "RequestTooLarge": 413,
    "TooManyRequests": 429,
    "Internal": 500,
    "ServerBusy": 503,
    "ServerStopped": 503,
}
RETRY_SECONDS = 10  # what a client that came in vain (429, 503) is told to wait
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

    Examples
    --------
    >>> error = ApiError("JobNotFound", "there is no batch job 'x'")
    >>> error.status, error.document()
    (404, {'code': 'JobNotFound', 'message': "there is no batch job 'x'"})
    """

    def __init__(self, code: str, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = STATUS.get(code, 400) if status is None else status

    def document(self) -> dict[str, Any]:
        """Give the JSON body of the answer."""
        return {"code": self.code, "message": redact(str(self))[:LONGEST]}


def of_exception(error: BaseException) -> ApiError:
    """Word any exception, of an engine or of the framework, as an openEO error.

    Examples
    --------
    >>> of_exception(NoItemsError("nothing found")).code
    'NoDataAvailable'
    >>> print(of_exception(ZeroDivisionError("division by zero")))
    Server error: ZeroDivisionError: division by zero
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        code = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "RequestInvalid")
        text = f"this server has no such endpoint ({error.detail})"
        return ApiError(code, text, status=error.status_code)
    own = getattr(error, "code", None)
    if isinstance(own, str) and _CODE.fullmatch(own):
        return ApiError(own, str(error))
    for kinds, code in _CODES:
        if isinstance(error, kinds):
            return ApiError(code, str(error))
    told = str(error) if isinstance(error, KappaMaskError) else f"{type(error).__name__}: {error}"
    return ApiError("Internal", f"Server error: {told}")


def answer(error: Exception) -> JSONResponse:
    """Answer with an openEO error document; its id stands in the server's log too."""
    fault, identifier = of_exception(error), str(uuid.uuid4())
    content = {"id": identifier, **fault.document()}
    log = LOG.error if fault.status >= 500 else LOG.info
    log("answered %d %s (%s): %s", fault.status, fault.code, identifier, content["message"])
    headers = {"Retry-After": str(RETRY_SECONDS)} if fault.status in {429, 503} else {}
    headers |= {"WWW-Authenticate": "Bearer"} if fault.status == 401 else {}
    return JSONResponse(content, status_code=fault.status, headers=headers)

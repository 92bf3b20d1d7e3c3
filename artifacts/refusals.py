"""Why a service that has buckets refuses, by the codes of its answers, and what to do: in words of ours."""

import re

_RIGHTS = "docs/buckets.md has the rights that are needed"
_REGION = "the bucket is in another region{region}; name its own in LOOKBOOK_STORE_OPTIONS (region) or AWS_REGION"
_KEYS = "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile of ~/.aws)"
_EXPIRED = "the credentials have expired{code}; renew them and run it again: it goes on where it was"
_ARCHIVED = "the object is archived{code}, in Glacier say; restore it from there, and run it again when it is back"
_ENCRYPTED = (
    "the key that encrypts the object can't be used{code}; look at the key, and at the rights to it (kms:Decrypt, "
)
_ENCRYPTED += "kms:GenerateDataKey)"
_CLOSED = "the provider has closed the account or the bucket{code}; ask there"
_FULL = "the service's disk, or what it allows, is full{code}; make room there"
_CLOCK = "this machine's clock is wrong; set it"

_CAUSES = {
    "AccessDenied": "the credentials are refused{code}; " + _RIGHTS,
    "AuthorizationFailure": "the credentials are refused{code}; " + _RIGHTS,
    "AuthorizationPermissionMismatch": "the credentials are refused{code}; " + _RIGHTS,
    "InvalidAccessKeyId": "the service does not know the access key{code}; mend the credentials " + _KEYS,
    "SignatureDoesNotMatch": "the secret key is not that of the access key{code}; mend the credentials " + _KEYS,
    "AuthenticationFailed": "the key is not that of the account{code}; mend the credentials",
    "InvalidToken": "the session token can't be read{code}; mend AWS_SESSION_TOKEN, or renew the credentials",
    "InvalidSecurity": "the credentials can't be read{code}; mend them " + _KEYS,
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"), _EXPIRED),
    **dict.fromkeys(("RequestTimeTooSkewed", "RequestExpired"), _CLOCK),
    **dict.fromkeys(("InvalidObjectState", "BlobArchived"), _ARCHIVED),
    **dict.fromkeys(
        (
            "PermanentRedirect",
            "AuthorizationHeaderMalformed",
            "IllegalLocationConstraintException",
            "TemporaryRedirect",
        ),
        _REGION,
    ),
    **dict.fromkeys(("AccountProblem", "AllAccessDisabled", "UserSuspended", "AccountIsDisabled"), _CLOSED),
    **dict.fromkeys(("QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"), _FULL),
    "InvalidBucketName": "no bucket can have that name{code}; mend its address",
}
"""The code of an answer -> the cause, and what to do."""

_SIGNS = {
    r"Request has expired|Request is not yet valid": _CLOCK,
    r"redirect without LOCATION": _REGION,
    r"<Code>KMS\.|kms:|AWS KMS": _ENCRYPTED,
}
"""What an answer without such a code has -> the same."""

_CODE, _IN_REGION = re.compile(r"<Code>([\w.]{1,60})</Code>"), re.compile(r"<Region>([\w-]{1,40})</Region>")


def code_in(answer: str) -> str:
    """The code of an answer that refuses; empty where it has none, as that to a HEAD."""
    return found[1] if (found := _CODE.search(answer)) else ""


def cause_of(answer: str) -> str | None:
    """Why a service refused, and what to do; None for what is no refusal that is known."""
    code = code_in(answer)
    meaning = next((meaning for sign, meaning in _SIGNS.items() if re.search(sign, answer)), _CAUSES.get(code))
    region = f", {found[1]}" if (found := _IN_REGION.search(answer)) else ""
    return meaning and meaning.format(code=f" ({code})" if code else "", region=region)

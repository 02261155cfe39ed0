"""obstore's client for an address, with credentials and endpoint from where the cloud's own tools take them.

obstore reads the environment (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ``AWS_REGION``, web identity and container
roles; ``GOOGLE_APPLICATION_CREDENTIALS`` and gcloud's own file; ``AZURE_STORAGE_ACCOUNT_NAME`` and so on). Profiles,
single sign-on, and the roles of a machine are read by boto3, as the AWS command line does.
"""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from shards.errors import PetsegError, printable
from shards.store.addresses import StoreAddress, without_secrets

INSTALL = "pip install 'petseg[s3]'"
_AWS_ITSELF = (  # obstore takes these from the environment without help
    "AWS_ACCESS_KEY_ID",
    "AWS_SKIP_SIGNATURE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_S3_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_IN_HEADERS = ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def make_client(address: StoreAddress, *, connect_seconds: float, read_seconds: float) -> Any:
    """Return obstore's client for the folder of an address; nothing is requested yet.

    Args:
        address: what :func:`shards.store.addresses.parse_address` returned.
        connect_seconds: to wait for a connection.
        read_seconds: to wait for the next bytes of a reply.

    Raises ``PetsegError`` where obstore is not installed, there are no credentials, or an option is not understood.
    """
    try:
        from obstore import store as stores
    except ImportError:
        raise PetsegError(f"{address}: reading object stores needs obstore: {INSTALL}") from None
    options: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=connect_seconds),
        "read_timeout": timedelta(seconds=read_seconds),
        "timeout": timedelta(minutes=10),  # of a whole request; the default of 30 s is too short for large parts
        "user_agent": "petseg",
    }
    # Requests are repeated, and counted, by our own loop.
    common: dict[str, Any] = {"client_options": options, "retry_config": {"max_retries": 0}}
    prefix = address.prefix or None
    try:
        match address.scheme:
            case "s3":
                arguments, endpoint = _aws_arguments(address)
                _expect_sound(address, endpoint, source=" or ".join(_S3_ENDPOINTS[:2]), texts=_IN_HEADERS)
                options["allow_http"] = (endpoint or "").startswith("http://")
                return stores.S3Store(address.host, prefix=prefix, **arguments, **common)
            case "gs":
                endpoint = os.environ.get("GOOGLE_BASE_URL")
                _expect_sound(address, endpoint, source="GOOGLE_BASE_URL")
                options["allow_http"] = (endpoint or "").startswith("http://")
                return stores.GCSStore(address.host, prefix=prefix, **common)
            case "az":
                endpoint = os.environ.get("AZURE_STORAGE_ENDPOINT") or os.environ.get("AZURE_ENDPOINT") or ""
                emulator = os.environ.get("AZURE_STORAGE_USE_EMULATOR", "").lower() in ("1", "true")
                options["allow_http"] = endpoint.startswith("http://") or emulator
                return stores.AzureStore(address.host, prefix=prefix, **common)
        options["allow_http"] = address.scheme == "http"  # to this machine only: see parse_address
        options["default_headers"] = {"Accept-Encoding": "identity"}  # else a server may compress what it sends
        return stores.HTTPStore(address.url, **common)
    except PetsegError:
        raise
    except Exception as error:  # noqa: BLE001 - of obstore's own kinds, for options it cannot use
        text = str(error).split("\n", 1)[0][:200]
        raise PetsegError(f"{address}: the store cannot be opened: {text}") from None


def _expect_sound(address: StoreAddress, endpoint: str | None, *, source: str, texts: Sequence[str] = ()) -> None:
    """Raise ``PetsegError`` for an endpoint that is no URL, and for variables with line ends: obstore would panic."""
    try:
        url = urlsplit(endpoint or "http://localhost")
        sound = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0 and " " not in url.netloc
    except ValueError:
        sound = False
    if not sound:
        raise PetsegError(
            f"{address}: the endpoint {printable(without_secrets(endpoint or ''))} ({source}) is no URL; write it as "
            "http://HOST:PORT or https://HOST"
        )
    for name in texts:
        if not os.environ.get(name, "").isprintable():
            raise PetsegError(f"{address}: {name} holds a line end or another control character; set it without")


def _aws_arguments(address: StoreAddress) -> tuple[dict[str, Any], str | None]:
    """Return what S3Store is to be given besides the environment, and the endpoint."""
    endpoint = next((os.environ[name] for name in _S3_ENDPOINTS if os.environ.get(name)), None)
    given: dict[str, Any] = {}
    # obstore would send the empty values that a shell leaves behind.
    if "AWS_PROFILE" not in os.environ and any(os.environ.get(name) for name in _AWS_ITSELF):
        return given, endpoint
    try:
        from boto3 import Session
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        return given, endpoint
    try:
        session = Session()
        provider = Boto3CredentialProvider(session)
        profile = session._session.get_scoped_config()  # the profile's part of ~/.aws/config
    except (BotoCoreError, ValueError) as error:
        reason = str(error) if isinstance(error, BotoCoreError) else "no credentials were found"
        raise PetsegError(
            f"{address}: {reason}; give them as to the AWS command line: aws configure, AWS_PROFILE, or "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for a public bucket set AWS_SKIP_SIGNATURE=true"
        ) from None
    given["credential_provider"] = provider
    if not os.environ.get("AWS_REGION") and session.region_name:
        given["region"] = session.region_name
    if endpoint is None and profile.get("endpoint_url"):
        given["endpoint"] = endpoint = profile["endpoint_url"]
    return given, endpoint

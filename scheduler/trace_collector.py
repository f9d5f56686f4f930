"""Where traces are sent, as an operator names it: a place or a package that lacks is told when settings are read."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final
from urllib.parse import urlsplit

_PATH: Final = "/v1/traces"  # OTLP/HTTP's own, https://opentelemetry.io/docs/specs/otlp/#otlphttp-request
_NEEDED: Final = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")


def read_collector_url(url: str) -> str:
    """The URL that spans are posted to: as it is where it has a path, else OTLP's own path is added.

    Raises:
        ValueError: it is none of http or https, or what sends traces is not installed; the message has no part of the
            URL.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("it is no URL, or its port is no number up to 65535") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("a collector's URL begins with http:// or https://, and names a host")
    if "@" in parts.netloc:
        raise ValueError("a name and a password go into OTEL_EXPORTER_OTLP_HEADERS, as a header")
    if not all(map(_installed, _NEEDED)):
        raise ValueError(
            "OpenTelemetry is not installed, and nothing would be sent: pip install 'tidegate[traces]'"
        )
    return parts._replace(path=_PATH).geturl() if parts.path in {"", "/"} else url


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # one that it stands in
        return False

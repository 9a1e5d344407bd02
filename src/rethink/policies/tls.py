"""The certificates that servers are verified with."""

from __future__ import annotations

import ssl
from functools import cache

import httpx2


@cache
def tls_context(trust_env: bool) -> ssl.SSLContext:
    """Return the context for connections by HTTPS. Reading the certificates takes longer than a short request, and every
    client that is opened would read them again. `trust_env`: use those that the environment names (SSL_CERT_FILE,
    SSL_CERT_DIR). They are read once, so a change of the file needs a new process.
    """
    return httpx2.create_ssl_context(trust_env=trust_env)

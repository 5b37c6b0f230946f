"""Explanation of an error in `import ollama`, which creates a client from variables that its errors do not name.

Only a failed import loads this module, so it must not import `ollama`.
"""

from __future__ import annotations

import sys


def explain(problem: Exception) -> str:
    """Return a sentence that names the variables which may cause `problem`, without keys and passwords."""
    message = ascii(str(problem))[1:-1]
    if isinstance(problem, OSError):  # includes ssl.SSLError
        return f"The certificates cannot be read ({message}): please check SSL_CERT_FILE and SSL_CERT_DIR."
    if isinstance(problem, UnicodeEncodeError):
        return "OLLAMA_API_KEY contains characters that an HTTP header cannot carry."
    if "proxy" in message:
        reason = message.partition(" URL(")[0]  # the URL of a proxy may contain a password
        return f"The URL of a proxy is invalid ({reason}): please check HTTP_PROXY, HTTPS_PROXY and ALL_PROXY."
    return f"A URL is invalid ({message}): please check OLLAMA_HOST."


def is_command() -> bool:
    """Whether Python runs `python -m ollama_compat`."""
    return ("-m", "ollama_compat") in zip(sys.orig_argv, sys.orig_argv[1:], strict=False)

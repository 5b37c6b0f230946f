"""What to do where `import ollama` fails: it makes a client at once, from variables that its errors do not name.

Imported only then, so that nothing of `ollama` may be needed here.
"""

from __future__ import annotations

import sys


def explained(problem: Exception) -> str:
    """A sentence that names the variables which `problem` is about; keys and passwords are not in it."""
    said = ascii(str(problem))[1:-1]
    if isinstance(problem, OSError):  # ssl.SSLError is one
        return f"The certificates can't be read ({said}): please check SSL_CERT_FILE and SSL_CERT_DIR."
    if isinstance(problem, UnicodeEncodeError):
        return "OLLAMA_API_KEY has characters that no HTTP header can carry."
    if "proxy" in said:
        return f"A proxy's URL is wrong ({_without_url(said)}): please check HTTP_PROXY, HTTPS_PROXY and ALL_PROXY."
    return f"A URL is wrong ({said}): please check OLLAMA_HOST."


def _without_url(said: str) -> str:
    """A password may stand in a proxy's URL."""
    return said.partition(" URL(")[0]


def is_command() -> bool:
    """Whether Python was started as `python -m ollama_compat`."""
    return ("-m", "ollama_compat") in zip(sys.orig_argv, sys.orig_argv[1:], strict=False)

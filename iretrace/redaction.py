"""Text without secrets: what a URL or a driver's error may carry, and what nobody should read in a log."""

from __future__ import annotations

import os
import re
from typing import Final

HIDDEN: Final = "***"

_PASSWORD: Final = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")
_QUERY: Final = re.compile(
    r"([?&](?:x-(?:amz|goog)-(?:signature|credential|security-token)|awsaccesskeyid|googleaccessid|signature|sig|"
    r"[a-z_-]*(?:token|secret|password|api[_-]?key))=)[^&#\s\"'<>)]+",
    re.IGNORECASE,
)
_VARIABLE: Final = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY")
_SHORTEST: Final = 8
"""A shorter value of a variable may be a word that stands in the text for itself."""


def redacted(text: str) -> str:
    """The text with ``***`` in place of secrets.

    Those are: the password of a URL, the signature, key and token of a signed one, and the values of environment
    variables that are called so (``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``, …).
    """
    text = _QUERY.sub(rf"\1{HIDDEN}", _PASSWORD.sub(rf"\1{HIDDEN}@", text))
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and value in text and _VARIABLE.search(name.upper()):
            text = text.replace(value, HIDDEN)
    return text

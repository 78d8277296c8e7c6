"""Secrets taken out of everything that is kept or shown: known token forms, and values of secret-looking variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

MASK = "[redacted]"

#: form of a token -> pattern; a group named ``secret`` limits what is masked
PATTERNS: dict[str, str] = {
    "Hugging Face": r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}\b",
    "GitHub": r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})\b",
    "GitLab": r"\bglpat-[A-Za-z0-9_-]{16,}",
    "AWS key id": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "Google": r"\bAIza[A-Za-z0-9_-]{30,}|\bya29\.[A-Za-z0-9_-]{20,}",
    "OpenAI, Anthropic": r"\bsk-(?=[A-Za-z0-9_-]*\d)[A-Za-z0-9_-]{16,}",
    "Slack": r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
    "PyPI": r"\bpypi-[A-Za-z0-9_-]{32,}",
    "Weights & Biases": r"\bwandb_v\d_[A-Za-z0-9_]{16,}",
    "JSON web token": r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+",
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    "authorization header": r"(?i)\b(?:bearer|basic|token)\s+(?P<secret>(?=[A-Za-z0-9._~+/=-]*\d)[A-Za-z0-9._~+/=-]{16,})",
    "credentials in a URL": r"(?i)\b[a-z][a-z0-9+.-]*://(?P<secret>[^\s/@:'\"]*:[^\s/@'\"]+|[^\s/@:'\"]{16,})@",
    "named value": r"(?i)\b[\w-]*(?:api[_-]?key|secret|token|passwd|password|credential)s?[\"']?\s*[=:]\s*[\"']?"
    r"(?P<secret>(?=[^\s\"',;&]*\d)(?=[^\s\"',;&]*[A-Za-z])[^\s\"',;&]{12,})",
}
_COMPILED = [re.compile(pattern, re.DOTALL) for pattern in PATTERNS.values()]
_SECRET_NAME = re.compile(r"(?i)(token|secret|passw|api_?key|access_?key|private_?key|credential|auth|cookie|dsn)")
_SHORTEST_VALUE = 8  #: shorter values of variables are words such as "true"; masking them would destroy texts


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """``text`` with every secret replaced by ``[redacted]``.

    Args:
        text: a log line, traceback, command, JSON text, ...
        environment: variables whose values are masked where the name looks secret; default: this process's.
    """
    return _redact(text, secret_values(os.environ if environment is None else environment))


def redact_all(value: Any, environment: Mapping[str, str] | None = None) -> Any:
    """Plain nested data with all its strings (keys too) redacted."""
    return _redact_all(value, secret_values(os.environ if environment is None else environment))


def has_secret(value: Any) -> bool:
    """Whether a text, or any text in plain nested data, holds what looks like a secret."""
    return redact_all(value) != value


def secret_values(environment: Mapping[str, str]) -> list[str]:
    """Values of secret-looking variables, longest first (one may contain another). Paths and plain words are none."""
    found = {v.strip() for k, v in environment.items() if _SECRET_NAME.search(k)}
    return sorted((v for v in found if len(v) >= _SHORTEST_VALUE and not _harmless(v)), key=len, reverse=True)


def _redact_all(value: Any, values: list[str]) -> Any:
    if isinstance(value, str):
        return _redact(value, values)
    if isinstance(value, Mapping):
        return {_redact_all(k, values): _redact_all(v, values) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_redact_all(v, values) for v in value)
    return value


def _redact(text: str, values: list[str]) -> str:
    if len(text) < _SHORTEST_VALUE:
        return text
    for value in values:
        text = text.replace(value, MASK)
    for pattern in _COMPILED:
        text = pattern.sub(_mask, text)
    return text


def _harmless(value: str) -> bool:
    """A path or socket (SSH_AUTH_SOCK, XAUTHORITY), or a word without digits or capitals ("password", "enabled")."""
    return value.startswith(("/", "~", "unix:")) or re.fullmatch(r"[a-z_-]{,20}", value) is not None


def _mask(match: re.Match[str]) -> str:
    if "secret" not in match.re.groupindex:
        return MASK
    start, end = (position - match.start() for position in match.span("secret"))
    return match.group()[:start] + MASK + match.group()[end:]

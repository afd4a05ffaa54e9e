"""What looks like a secret does not leave the machine."""

import re
from collections.abc import Iterable

GONE = "[redacted]"
_WORDS = r"token|passw(?:or)?d|passphrase|secret|(?:api|private|access|secret)[_-]?key|credential"
_NAMES = rf"(?:{_WORDS})s?(?:[_-](?:key|value))?"
_NAMED = re.compile(
    rf"(?i)({_NAMES})((?:\\?[\"'])?\s*[:=]\s*)(\\\".*?\\\"|\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s,;&}}\"'\]]+)"
)
"""name=value, name: value, "name": "value", and the same escaped inside a JSON text.

No part of it may run over a whole line from every position: logs hold long lines, and this reads megabytes.
"""

_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), GONE),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}"), rf"\1 {GONE}"),
    (re.compile(r"(?i)\b(authorization|set-cookie|cookie)(\\?\"?\s*[:=]\s*\\?\"?)[^\"\\\r\n]+"), rf"\1\2{GONE}"),
    (re.compile(r"(://[^/\s:@]+:)[^/\s@]+@"), rf"\1{GONE}@"),
    (re.compile(r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,})\b"), GONE),
    (re.compile(r"\b(?:sk-[\w-]{16,}|xox[abprs]-[\w-]{10,})\b"), GONE),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), GONE),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), GONE),
    (re.compile(r"\blogin-[0-9a-z]{12,}\b"), GONE),
    (re.compile(r"\bv1\.\d+\.n-[0-9a-z]+\.[0-9a-f]{64}\b"), GONE),
)


def redact(text: str, known: Iterable[str] = ()) -> str:
    """`text` without the `known` secrets, and without what has the name or the shape of one.

    It errs on the side of taking too much: a harmless value under a secret-looking name goes too.
    """
    for secret in sorted((each for each in known if len(each) >= 8), key=len, reverse=True):
        text = text.replace(secret, GONE)
    for shape, left in _SHAPES:
        text = shape.sub(left, text)
    return _NAMED.sub(_keep_quotes, text)


def _keep_quotes(match: re.Match[str]) -> str:
    name, between, value = match.groups()
    quote = next((mark for mark in ('\\"', '"', "'") if value.startswith(mark)), "")
    if not quote and '"' in between:
        quote = '\\"' if "\\" in between else '"'  # a number or word under a JSON name: what is left must stay JSON
    return f"{name}{between}{quote}{GONE}{quote}"

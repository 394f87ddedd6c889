"""Masks secrets in text: those that are known, in the forms in which they travel, and those that show what they are.

Rather too much than too little: a line that a helper cannot read is asked for again, a secret that was sent is out.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

MASK = "***"
# shorter values stand in any text by chance; they are masked where they are set, not looked for elsewhere
SHORTEST = 4
SHORTEST_LINE = 8
SHORTEST_CODED = 6
LONGEST_KEY = 250
# words that settings have as values: to look for them everywhere would leave nothing to read
WORDS = frozenset({"true", "false", "none", "null", "yes", "no", "auto", "default", "disabled", "enabled"})

STRONG = r"passw(?:or)?d|passphrase|secret|token|credential|api[_-]?key|access[_-]?key|private[_-]?key"
SECRET_NAME = re.compile(rf"{STRONG}|key|pwd|(?:^|[_.-])(?:pass|auth|dsn)(?:$|[_.-])", re.IGNORECASE)
# says where a secret is, or how large, not what it is
ABOUT = r"file|files|path|dir|port|size|type|user|name|host|enabled|days|length|timeout|count"
ABOUT_NAME = re.compile(rf"[_.-](?:{ABOUT})$", re.IGNORECASE)

URL = re.compile(r"(://[^\s/:@\"'<>]*:)[^\s\"'<>]+@(?!sha256:)")
URL_USER = re.compile(r"(\bhttps?://)[^\s/:@\"'<>]+@(?!sha256:)", re.IGNORECASE)
DIGEST_HEADER = re.compile(r"(authorization[\"'\\]*\s*[:=]\s*[\"'\\]*digest\s)[^\n]*", re.IGNORECASE)
HEADER = re.compile(
    r"(authorization[\"'\\]*\s*[:=]\s*[\"'\\\[]*(?:(?:basic|bearer|token|negotiate)\s+)?)[^\"'\\\n]+", re.IGNORECASE
)
# the look-behind makes a long word one attempt, not one for each of its letters
SETTING = re.compile(
    rf"""(?<![\w.-])(?P<name>[\w.-]*(?:{STRONG})[\w-]*)(?P<sep>[\\"']*[ \t]*(?:=>|[:=])[ \t]*)"""
    r"""(?P<value>\\?"[^"\n]*"|\\?'[^'\n]*'|[^\s,;&"'\\}\])]+)""",
    re.IGNORECASE,
)
OPTION = re.compile(rf"((?<![\w-])--[\w-]*(?:{STRONG})[ \t]+)(?!-)[^\s\"',\]]+", re.IGNORECASE)
HASH = re.compile(r"\$(?:2[abxy]|5|6|y|argon2\w*|apr1)\$[\w./$=,+-]{20,}")
WEB_TOKEN = re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*")
# the beginning of every PEM file, in base64
CODED_PEM = re.compile(r"LS0tLS1CRUdJTi[\w+/=-]*")
KEY_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----")
KEY_END = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----")
KEY_LINE = re.compile(rf"{KEY_BEGIN.pattern}[^\n]*?{KEY_END.pattern}")
KEY_BODY = re.compile(r"(?:^|\s)[A-Za-z0-9+/]{16,}={0,2}\s*$")


def is_secret(name: str) -> bool:
    """Whether a variable of this name holds a secret: DB_PASSWORD does, DB_PASSWORD_FILE says where one is."""
    return bool(SECRET_NAME.search(name)) and not ABOUT_NAME.search(name)


def values(secret: Any) -> Iterator[str]:
    """Yield the texts in a value, however deep in lists and dicts: numbers from six digits on, no words of settings."""
    if isinstance(secret, Mapping):
        for value in secret.values():
            yield from values(value)
    elif isinstance(secret, (list, tuple, set, frozenset)):
        for value in secret:
            yield from values(value)
    elif isinstance(secret, (str, int)) and not isinstance(secret, bool):
        text = str(secret)
        if text.lower() not in WORDS and (len(text) > SHORTEST + 1 or not text.isdigit()):
            yield text


def found(settings: Any) -> Iterator[str]:
    """Yield the secrets among settings: what stands under the name of one, and the passwords in URLs."""
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            yield from values(value) if is_secret(str(name)) else found(value)
    elif isinstance(settings, (list, tuple)):
        for value in settings:
            yield from found(value)
    elif isinstance(settings, str):
        for match in URL.finditer(settings):
            yield match[0][len(match[1]) : -1]


def hidden(settings: Any) -> Any:
    """Return settings with `***` for each value that stands under the name of a secret."""
    if isinstance(settings, Mapping):
        return {name: MASK if is_secret(str(name)) else hidden(value) for name, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [hidden(value) for value in settings]
    return settings


def coded(secret: bytes) -> Iterator[str]:
    """Yield what of a secret's base64 is the same wherever in a longer text it stands, and its wrapped lines."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(secret).decode()
        yield whole
        yield whole.rstrip("=")
        for width in (64, 76):
            yield from (whole[start : start + width] for start in range(0, len(whole), width))
        for ahead in range(3):
            bits = (ahead + len(secret)) * 8
            yield encode(bytes(ahead) + secret).decode()[-(-ahead * 8 // 6) : bits // 6]


def forms(secret: str) -> Iterator[str]:
    """Yield a secret as it may be spelt in files, logs and addresses; nothing that is too short to look for."""
    texts = {secret, secret.strip()}
    if "\n" in secret:
        # a log shows one line at a time, and a key's first line is every key's
        lines = (line.strip() for line in secret.splitlines())
        texts |= {line for line in lines if len(line) >= SHORTEST_LINE and not line.startswith("-----")}
    for text in texts:
        if len(text) < SHORTEST:
            continue
        once = {text, repr(text)[1:-1], shlex.quote(text), text.replace("'", "''"), text.replace("\n", "#012")}
        for ascii_only in (True, False):
            escaped = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
            # what was JSON in a log line is escaped again
            once |= {escaped, json.dumps(escaped, ensure_ascii=ascii_only)[1:-1], escaped.replace("/", "\\/")}
        for percent in (
            quote(text, safe="", errors="replace"),
            quote(text, errors="replace"),
            quote_plus(text, errors="replace"),
        ):
            once |= {percent, re.sub("%..", lambda match: match[0].lower(), percent)}
        yield from once
        raw = text.encode(errors="replace")
        for one in (raw, raw + b"\n"):
            yield from (form for form in coded(one) if len(form) >= SHORTEST_CODED)


class Mask:
    """Masks the given secrets, and what looks like one, in any text."""

    def __init__(self, secrets: Iterable[Any]) -> None:
        """Take secrets: texts, numbers, or lists and dicts of them."""
        self.needles = {form for secret in values(list(secrets)) for form in forms(secret)}

    def __call__(self, text: str) -> str:
        """Return the text with `***` in place of secrets."""
        return patterns(self.known(text))

    def known(self, text: str) -> str:
        """Mask the given secrets alone; where two overlap, both are gone."""
        spans = []
        for needle in self.needles:
            start = text.find(needle)
            while start >= 0:
                spans.append((start, start + len(needle)))
                start = text.find(needle, start + 1)
        parts, end = [], 0
        for start, stop in sorted(spans):
            if start >= end:
                parts += [text[end:start], MASK]
            end = max(end, stop)
        return "".join([*parts, text[end:]])


def patterns(text: str) -> str:
    """Mask what shows itself as a secret: private keys, headers, logins in URLs, settings, hashes and tokens."""
    text = CODED_PEM.sub(MASK, private_keys(text))
    text = HEADER.sub(rf"\1{MASK}", DIGEST_HEADER.sub(rf"\1{MASK}", text))
    text = URL_USER.sub(rf"\1{MASK}@", URL.sub(rf"\1{MASK}@", text))
    text = OPTION.sub(rf"\1{MASK}", SETTING.sub(_setting, text))
    return WEB_TOKEN.sub(MASK, HASH.sub(MASK, text))


def _setting(match: re.Match[str]) -> str:
    value = match["value"]
    bare = value.strip("\\\"'")
    if ABOUT_NAME.search(match["name"]) or bare.lower() in WORDS or not bare or bare[0] in "{[":
        return match[0]
    left = value[: len(value) - len(value.lstrip("\\\"'"))]
    right = value[len(value.rstrip("\\\"'")) :]
    return f"{match['name']}{match['sep']}{left}{MASK}{right}"


def private_keys(text: str) -> str:
    """Mask private keys in PEM, also with a log's prefix before each line, and those of which an end was cut off."""
    text = KEY_LINE.sub(MASK, text)
    if "PRIVATE KEY" not in text:
        return text
    kept: list[str] = []
    lines = text.split("\n")
    i = 0
    while i < len(lines):
        line = lines[i]
        if begin := KEY_BEGIN.search(line):
            kept.append(line[: begin.start()] + MASK)
            after = range(i + 1, min(i + LONGEST_KEY, len(lines)))
            end = next((j for j in after if KEY_END.search(lines[j])), None)
            if end is None:
                # the end was cut off, or is not there yet: what looks like a key's body goes
                lines[i + 1 : after.stop] = [_body(lines[j]) for j in after]
            else:
                i = end
        elif KEY_END.search(line):
            while kept and KEY_BODY.search(kept[-1]):
                kept.pop()
            kept.append(MASK)
        else:
            kept.append(line)
        i += 1
    return "\n".join(kept)


def _body(line: str) -> str:
    return KEY_BODY.sub(f" {MASK}", line)

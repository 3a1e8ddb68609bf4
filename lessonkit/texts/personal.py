"""Personal data in texts: found by pattern and check digit, and masked. Patterns find much, never all: look yourself too."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

__all__ = ["KINDS", "Personal", "find_personal", "mask_personal"]


@dataclass(frozen=True)
class Personal:
    """One place in a text. kind: of ``KINDS``. start, end: characters, end not included. found: what stands there."""

    kind: str
    start: int
    end: int
    found: str


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _luhn(text: str) -> bool:
    """The check digit of payment cards (ISO/IEC 7812-1, annex B)."""
    digits = [int(each) for each in reversed(_digits(text))]
    doubled = (sum(divmod(2 * each, 10)) for each in digits[1::2])
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _iban(text: str) -> bool:
    """The remainder that every IBAN leaves (ISO 13616-1: modulo 97 is 1)."""
    plain = re.sub(r"\s", "", text).upper()
    if not 15 <= len(plain) <= 34:
        return False
    return int("".join(str(int(each, 36)) for each in plain[4:] + plain[:4])) % 97 == 1


def _ip(text: str) -> bool:
    try:
        return not ipaddress.ip_address(text).is_unspecified
    except ValueError:
        return False


def _phone(text: str) -> bool:
    """8 to 15 digits (ITU-T E.164 allows 15), begun with + or 0 or grouped; a date or an amount is none."""
    count = len(_digits(text))
    if not 8 <= count <= 15 or re.fullmatch(
        r"\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{4}", text.strip()
    ):
        return False
    return text.lstrip("( ").startswith(("+", "0")) or len(re.findall(r"[ ()./-]+", text.strip())) >= 2


def _always(text: str) -> bool:
    return True


#: kind -> (pattern, check). In this order: what an earlier one has taken, a later one doesn't see.
KINDS: dict[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "email": (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), _always),
    "link": (re.compile(r"\bhttps?://[^\s<>\"')\]]+|\bwww\.[^\s<>\"')\]]+"), _always),
    "iban": (re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"), _iban),
    "card": (re.compile(r"(?<![\d-])\d(?:[ -]?\d){12,18}(?![\d-])"), _luhn),
    "ip": (re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])"), _ip),
    "social security number": (
        re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"),
        _always,
    ),
    "phone": (re.compile(r"(?<![\w+])[+(]?\d[\d ()./-]{6,20}\d(?!\w)"), _phone),
    "handle": (re.compile(r"(?<![\w@/.])@\w{2,30}\b"), _always),
}


def find_personal(text: str, kinds: Sequence[str] = tuple(KINDS)) -> list[Personal]:
    """The places that look like personal data, in the order in which they stand; none overlap."""
    taken: list[Personal] = []
    for kind in kinds:
        pattern, check = KINDS[kind]
        for match in pattern.finditer(text):
            free = all(match.end() <= each.start or match.start() >= each.end for each in taken)
            if free and check(match.group()):
                taken.append(Personal(kind, match.start(), match.end(), match.group()))
    return sorted(taken, key=lambda each: each.start)


def mask_personal(text: str, kinds: Sequence[str] = tuple(KINDS)) -> tuple[str, Counter[str]]:
    """The text with a word such as ``[email]`` in place of each, and how many of each kind there were."""
    found = find_personal(text, kinds)
    return "".join(_masked(text, found)), Counter(each.kind for each in found)


def _masked(text: str, found: list[Personal]) -> Iterator[str]:
    at = 0
    for each in found:
        yield text[at : each.start] + f"[{each.kind}]"
        at = each.end
    yield text[at:]

"""Cleans a caption as IF's training captions were cleaned: no links, markup, file names or advertising.

The rules are those of diffusers' IF pipelines (Apache 2.0), without ``ftfy``'s repair of broken encodings.
"""

import html
import re
import urllib.parse
from html.parser import HTMLParser

_DOMAIN = r"[a-z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"
_FILE_TYPES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"

# Applied in this order; each is (pattern, replacement).
_BEFORE_ENTITIES = [
    (r"<person>", "person"),
    (rf"\b(?:(?:https?|www):(?:/{{1,3}}|[a-z0-9%])|{_DOMAIN})", ""),
]
_BETWEEN = [
    (r"@\w+\b", ""),
    ("[\u31c0-\u31ff\u3200-\u4dff\u4e00-\u9fff]+", ""),
    ("[\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0"
     "\ufe31\ufe32\ufe58\ufe63\uff0d]+", "-"),
    ("[`\u00b4\u00ab\u00bb\u201c\u201d\u00a8]", '"'),
    ("[\u2018\u2019]", "'"),
    (r"&quot;?", ""),
    (r"&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.(?:{_FILE_TYPES})", ""),
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    ("[#\u00ae\u2022\u00a9\u2122&@\u00b7\u00ba\u00bd\u00be\u00bf\u00a1\u00a7~)(\\]\\[}{|\\\\/*]+", " "),
    (r"\s+\.\s+", " "),
]  # fmt: skip
_AFTER_ENTITIES = [
    (r"\b[a-z]{1,3}\d{3,15}\b", ""),
    (r"\b[a-z]+\d+[a-z]+\b", ""),
    (r"\b\d+[a-z]+\d+\b", ""),
    (r"(worldwide\s+)?(free\s+)?shipping", ""),
    (r"(free\s)?download(\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{_FILE_TYPES})(\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-z]+\d+[a-z]+\d+[a-z\d]*\b", " "),
    ("\\b\\d+\\.?\\d*[x\u0445\u00d7]\\d+\\.?\\d*\\b", ""),
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
]
_MANY_JOINTS = 3  # a caption with more hyphens and underscores than this is a file name


def clean_caption(caption: str) -> str:
    """The caption in lower case, cleaned twice, as IF cleans every prompt; apply before any weighting."""
    return _cleaned(_cleaned(caption))


def _cleaned(caption: str) -> str:
    text = urllib.parse.unquote_plus(caption).strip().lower()
    text = _replaced(text, _BEFORE_ENTITIES)
    text = _replaced(_without_tags(text), _BETWEEN)
    if len(re.findall(r"[-_]", text)) > _MANY_JOINTS:
        text = re.sub(r"[-_]", " ", text)
    text = html.unescape(html.unescape(text)).strip()
    return _replaced(text, _AFTER_ENTITIES).strip()


def _replaced(text: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


def _without_tags(text: str) -> str:
    pieces: list[str] = []
    parser = HTMLParser(convert_charrefs=True)
    parser.handle_data = pieces.append  # type: ignore[method-assign]
    parser.feed(text)
    parser.close()
    return "".join(pieces)

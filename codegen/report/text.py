"""How the report writes numbers and foreign text."""

from __future__ import annotations

from cutset.visible import visible as whole_visible

MAX_TEXT = 600
"""Longer texts are shortened in the middle: a model may carry names of any length."""


def visible(text: str) -> str:
    """Return `text` as `cutset.visible` shows it, shortened if long."""
    if len(text) > MAX_TEXT:
        half = (MAX_TEXT - 3) // 2
        text = f"{text[:half]} … {text[-half:]}"
    return whole_visible(text)


def seconds(value: float | None) -> str:
    """Return a time as people write it: ``3.21 ms``, ``45.0 µs``; a dash for none."""
    if value is None:
        return "–"
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.2f} ms" if value >= 1e-3 else f"{value * 1e6:.1f} µs"


def microseconds(value: float | None) -> str:
    """Return a time as a bare number of microseconds, for columns whose head names the unit; a dash for none."""
    return "–" if value is None else f"{value * 1e6:,.1f}"


def size(value: int | None) -> str:
    """Return a number of bytes as people write it: ``588.0 KiB``; a dash for none."""
    if value is None:
        return "–"
    if value < 1024:
        return f"{value} B"
    power = min(3, (value.bit_length() - 1) // 10)
    return f"{value / 1024**power:.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"


def rate(value: float) -> str:
    """Return requests a second, without digits that nobody could reproduce."""
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def percent(fraction: float) -> str:
    """Return a fraction as a percentage with one digit: ``0.7 %``."""
    return f"{fraction * 100:.1f} %"


def times(value: float) -> str:
    """Return a ratio: ``1.55×``."""
    return f"{value:.2f}×"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 node``, ``2,755 nodes``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"

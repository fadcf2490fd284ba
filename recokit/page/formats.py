"""Numbers, sizes and times as the page writes them."""

__all__ = ["interval", "number", "relative_change", "share", "short", "signed", "size"]

import math

_DECIMALS = 10  # from which on whole numbers are written without any, beside others too
_MINUS = "\N{MINUS SIGN}"


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with four significant digits and no more than four decimals; a dash where there is none.

    >>> number(0.83519), number(1682), number(1234567), number(12.0)
    ('0.8352', '1,682', '1,234,567', '12')
    """
    if value is None or not math.isfinite(value):
        return "–"
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    text = f"{abs(value):,.{0 if float(value).is_integer() else max(0, digits - whole)}f}"
    return f"{_MINUS}{text}" if value < 0 and text.strip("0.,") else text


def signed(value: float) -> str:
    """Return a change with its sign.

    >>> signed(0.01), signed(0.0)
    ('+0.0100', '0')
    """
    text = number(value)
    return "0" if not text.strip(f"0.,{_MINUS}") else text if text.startswith(_MINUS) else f"+{text}"


def interval(low: float | None, high: float | None) -> str:
    """Return ``low to high``, or nothing where an end is missing or both are written alike.

    >>> interval(0.99, 1.0), interval(0.99999, 1.0), interval(0.5, None)
    ('0.9900 to 1.0000', '', '')
    """
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    ends = [number(low), number(high)]
    if any("." in end for end in ends):  # as many decimals for a whole number
        ends = [
            end if "." in end or abs(value) >= _DECIMALS else f"{end}.0000"
            for end, value in zip(ends, (low, high), strict=True)
        ]
    return "" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def size(count: float) -> str:
    """Return bytes in the unit that people would say.

    >>> size(999), size(861_312), size(4_815_814)
    ('999 B', '861 kB', '4.8 MB')
    """
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def share(part: float) -> str:
    """Return a share as per cent."""
    return f"{100 * part:.1f} %"


def relative_change(new: float, old: float) -> str:
    """Return how far a count moved, as per cent of the old one.

    >>> relative_change(110, 100), relative_change(5, 5), relative_change(3, 0)
    ('+10.0 %', 'same', 'new')
    """
    if new == old:
        return "same"
    if not old:
        return "new"
    change = 100 * (new / old - 1)
    return f"{'+' if change > 0 else _MINUS}{abs(change):.1f} %"


def short(digest: str) -> str:
    """Return the first digits of a hash."""
    return digest[:10]

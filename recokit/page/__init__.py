"""One HTML page about a version, for the people who use it: what it is, what was measured, what it finds.

The page is one file that needs no network: opened from a disk, on a phone, from a store's web view. ``write_page``
makes it; ``recokit report`` is the same on the command line.
"""

__all__ = ["Texts", "write_page"]

from recokit.page.reading import Texts
from recokit.page.write import write_page

"""Looking at a set: a contact sheet (PNG), and a page to look through it in a browser (HTML).

A set's content is not trusted: whatever its names, descriptions and images hold, it is shown as text and pixels.
"""

from shards.preview.page import write_page
from shards.preview.sheet import contact_sheet

__all__ = ["contact_sheet", "write_page"]

"""What kind of file this is, by its first bytes: a file's name says what its owner believes.

``signatures`` has the kinds; ``tiff_tags`` what a TIFF says of its pixels.
"""

from shards.audit.file_kinds.signatures import file_kind

__all__ = ["file_kind"]

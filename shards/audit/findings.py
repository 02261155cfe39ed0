"""What the audit of one picture or trimap hands over: remarks and mendings, or a rejection."""

from __future__ import annotations

from dataclasses import dataclass

from shards.audit.reasons import Action

MAX_PIXELS = 2**26  # 67 million: above any photograph that one would train on, below what exhausts memory


@dataclass(frozen=True)
class Finding:
    """Something that was mended or is worth a remark; the sample is packed."""

    action: Action
    reason: str
    detail: str = ""


class RejectedError(Exception):
    """The sample must be left out, for a reason of :data:`shards.audit.reasons.REASONS`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)  # both, so that it survives pickling
        self.reason = reason
        self.detail = detail


def mended(reason: str, detail: str = "") -> Finding:
    """Return a finding for something that was changed safely."""
    return Finding("mended", reason, detail)


def check_pixels(width: int, height: int, what: str) -> None:
    """Reject a picture whose header asks for more memory than is safe."""
    if width * height > MAX_PIXELS:
        raise RejectedError(f"{what}-too-large", f"{width} x {height} pixels, at most {MAX_PIXELS} are decoded")

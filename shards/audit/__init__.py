"""The audit of what goes into a set: images and masks are decoded completely, then kept, repaired or rejected.

Every repair, rejection and warning is a finding with a reason code; nothing is changed without one.
"""

from shards.audit.findings import REASONS, Finding, RejectedError, SampleFinding
from shards.audit.image_mask_pair import AuditedPair, audit_pair

__all__ = ["REASONS", "AuditedPair", "Finding", "RejectedError", "SampleFinding", "audit_pair"]

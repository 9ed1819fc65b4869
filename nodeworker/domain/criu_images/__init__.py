"""CRIU's images as far as the worker reads them: who the processes will be, what they may do, and what is mounted."""

from __future__ import annotations

from nodeworker.domain.criu_images.privileges import read_privileges
from nodeworker.domain.criu_images.protobuf import MalformedImageError

__all__ = ["MalformedImageError", "read_privileges"]

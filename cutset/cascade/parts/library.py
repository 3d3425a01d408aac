"""The glue library by name."""

from __future__ import annotations

from collections.abc import Mapping

from cutset.cascade.parts import arrays, boxes, image, text
from cutset.cascade.parts.base import Part

PARTS: Mapping[str, Part] = {**image.PARTS, **boxes.PARTS, **arrays.PARTS, **text.PARTS}
"""Every part, in the order the schema lists them within a subject."""

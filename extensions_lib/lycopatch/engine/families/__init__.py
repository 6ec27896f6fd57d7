"""The table of base models. Add one = a file that states ``FAMILY``, a line here, a keyset in the tests."""

from __future__ import annotations

from lycopatch.engine.families import sd1, sd2, sd3, sdxl, sdxl_refiner, ssd1b
from lycopatch.engine.families.family import Family

FAMILIES: tuple[Family, ...] = (
    sd1.FAMILY,
    sd2.FAMILY,
    sdxl.FAMILY,
    sdxl_refiner.FAMILY,
    ssd1b.FAMILY,
    sd3.FAMILY,
)

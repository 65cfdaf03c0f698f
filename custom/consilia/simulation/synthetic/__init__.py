"""Phantoms: synthetic medical images with masks, drawn from a seed. No image here comes from a patient.

Five kinds imitate what a method must cope with (a shape to judge, a structure to find, scanners that differ, classes
that overlap), not what a radiologist would accept. They serve tests, examples, pictures in the documents and
pretraining; metrics on them say nothing about patients.

    phantoms = draw_phantoms("ultrasound", 100, seed=1, scanner=2)
    phantoms.images, phantoms.masks, phantoms.labels
"""

from consilia.simulation.synthetic.draw import KINDS, PhantomKind, Phantoms, draw_phantoms
from consilia.simulation.synthetic.sites import HOSPITALS, phantom_sites

__all__ = ["HOSPITALS", "KINDS", "PhantomKind", "Phantoms", "draw_phantoms", "phantom_sites"]

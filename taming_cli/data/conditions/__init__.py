"""Conditions, read from files or computed from the picture: one module per kind.

A reader takes a file's bytes and its name, and returns an upright Pillow picture of one mode, to which `images.apply`
applies the same crop as to the picture it belongs to.
"""

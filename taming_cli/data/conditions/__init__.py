"""What a sample can be asked for, read from files or made from the picture: one room per kind of condition.

A reader takes a file's bytes and its name, and returns a Pillow picture of one mode, upright, which `images.apply`
then cuts with the same crop as the picture it belongs to.
"""

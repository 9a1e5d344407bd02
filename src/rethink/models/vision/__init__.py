"""Pictures for language models that can see: their places in a prompt, and the vectors that a frozen tower makes."""

from rethink.models.vision.picture_text import PictureText, open_picture_text
from rethink.models.vision.picture_vectors import PictureVectors

__all__ = ["PictureText", "PictureVectors", "open_picture_text"]

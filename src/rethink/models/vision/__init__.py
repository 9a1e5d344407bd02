"""Images for vision-language models: their places in a prompt, and the vectors that the tower makes of them."""

from rethink.models.vision.image_text import ImageText, open_image_text
from rethink.models.vision.image_vectors import ImageVectors

__all__ = ["ImageText", "ImageVectors", "open_image_text"]

"""rethink trains language models to solve problems and to improve their own answers, and measures whether they do."""

__version__ = "0.1.0"

"""A second, independent checker of mathematical answers, for auditing the grader. Not part of the package."""

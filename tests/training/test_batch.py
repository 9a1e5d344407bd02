"""What a batch refuses to train on."""

from __future__ import annotations

import pytest

from rethink.errors import UserError
from rethink.objectives import Distill, Imitate, Update
from rethink.training.batch import refuse_overlong
from support.samples import make_sample


def test_samples_must_fit_into_the_positions() -> None:
    """Guards against replies that are given, also to a teacher, and trained at positions that the model does not have."""
    fits, too_long = (make_sample((3,) * n, prompt_ids=(2,) * 3) for n in (97, 98))
    shown = make_sample((3,) * 97, prompt_ids=(2,) * 4)
    refuse_overlong(Update("imitate", (Imitate((fits,), (1.0,)),)), 100)
    refuse_overlong(Update("imitate", (Imitate((too_long,), (1.0,)),)), None)
    for part in (Imitate((fits, too_long), (1.0, 1.0)), Distill((fits,), (shown,))):
        with pytest.raises(UserError, match=r"solve reply of problem .* has 101 tokens with its prompt, more than the"):
            refuse_overlong(Update("test", (part,)), 100)

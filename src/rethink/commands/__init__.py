"""What the commands do, one file each, and what they print."""

import logging

# `transformers` imports torchao wherever it is installed. What that has to say about kernels for GPUs that are not here, and
# torch about it, would stand on the terminal with every command.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)

"""What the commands do, one file each, and what they print."""

import logging

# `transformers` imports torchao wherever it is installed.
# Which kernels for GPUs that one cannot load here is of no interest with every command.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)

